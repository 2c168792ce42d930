//! Sizes as operators write them: bytes, or with k, m or g.

/// Read a size in bytes, as -I takes it: `1048576`, `512k`, `1m`.
pub fn parse(text: &str) -> Result<usize, String> {
    let wrong = || format!("\"{text}\" is no size; write bytes, or a number with k, m or g, for example 1m");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: usize = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: usize = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_nonsense() {
        for (text, bytes) in [("1", 1), ("1024", 1024), ("2k", 2048), ("1M", 1 << 20), ("3g", 3 << 30)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "1kb", "-1", "1.5m", "99999999999g", "1 m"] {
            assert!(parse(text).is_err_and(|error| error.contains("for example")), "{text}");
        }
    }
}
