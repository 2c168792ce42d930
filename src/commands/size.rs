//! Sizes as operators write them: bytes, or with k, m or g.

use crate::base::limits::{ITEM_BYTES_MAX, ITEM_BYTES_MIN};

/// Read -I: a size within memcached's bounds, which are refused in its words.
pub fn parse_item(text: &str) -> Result<usize, String> {
    match parse(text)? {
        ..ITEM_BYTES_MIN => Err(format!(
            "Item max size cannot be less than {ITEM_BYTES_MIN} bytes: \"{text}\" is too small; write {ITEM_BYTES_MIN} or more"
        )),
        bytes @ ITEM_BYTES_MIN..=ITEM_BYTES_MAX => Ok(bytes),
        _ => {
            Err(format!("Cannot set item size limit higher than a gigabyte: \"{text}\" is too large; write 1g or less"))
        }
    }
}

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
    fn an_item_has_memcacheds_bounds() {
        for (text, bytes) in [("1024", 1024), ("1k", 1024), ("512m", 512 << 20), ("1024m", 1 << 30), ("1g", 1 << 30)] {
            assert_eq!(parse_item(text), Ok(bytes), "{text}");
        }
        for text in ["0", "8", "1023"] {
            let error = parse_item(text).unwrap_err();
            assert!(error.starts_with("Item max size cannot be less than 1024 bytes"), "{text}: {error}");
        }
        for text in ["1073741825", "1025m", "1500m", "2g"] {
            let error = parse_item(text).unwrap_err();
            assert!(error.starts_with("Cannot set item size limit higher than a gigabyte"), "{text}: {error}");
        }
        assert!(parse_item("1x").is_err());
    }

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
