//! The words of a command line, as getopt has them: blanks before a value do not count. Start
//! scripts and units often pass `-m 64` as one word.

use std::ffi::OsString;

/// The same words; behind `serve`, without blanks before values.
pub fn without_blanks(words: impl IntoIterator<Item = OsString>, command: &clap::Command) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    if words.get(1).is_some_and(|word| word == "serve") {
        for word in &mut words[2..] {
            if let Some(text) = word.to_str().filter(|text| text.contains(char::is_whitespace)) {
                *word = without_blank(text, command).into();
            }
        }
    }
    words
}

fn without_blank(text: &str, command: &clap::Command) -> String {
    let Some(letters) = text.strip_prefix('-') else { return text.trim_start().to_string() };
    let takes_value = |letter: char| {
        let argument = command.get_arguments().find(|argument| argument.get_short() == Some(letter));
        argument.is_some_and(|argument| argument.get_action().takes_values())
    };
    // A long name is followed by "=": its value stands as it is.
    match letters.char_indices().find(|(_, letter)| *letter == '-' || takes_value(*letter)) {
        Some((at, letter)) if letter != '-' => {
            let (flags, value) = letters.split_at(at + letter.len_utf8());
            format!("-{flags}{}", value.trim_start())
        }
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Args;
    use super::*;

    #[test]
    fn blanks_before_a_value_do_not_count() {
        let command = <Args as clap::Args>::augment_args(clap::Command::new("remora"));
        let read = |words: &[&str]| without_blanks(words.iter().map(OsString::from), &command);
        let given = ["remora", "serve", "-m 64", "-vp  11211", "-l", " 127.0.0.1", "--user=a b", "-o a, b", "-P/a b"];
        let wanted = ["remora", "serve", "-m64", "-vp11211", "-l", "127.0.0.1", "--user=a b", "-oa, b", "-P/a b"];
        assert_eq!(read(&given), wanted);
        assert_eq!(read(&["remora", "load", "-m 64"]), ["remora", "load", "-m 64"], "only what memcached's is");
    }
}
