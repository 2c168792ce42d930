//! What was decided lately, to be shown: so many decisions as fit into an answer, and no more than
//! [`COUNT_MAX`].

use crate::base::time::UnixSeconds;
use crate::cluster::client::Decided;
use crate::cluster::decide::Note;
use std::collections::VecDeque;

/// Decisions that are remembered.
const COUNT_MAX: usize = 1000;
/// Bytes that they have together, as JSON. An answer has them as a text, in which half of them are
/// escaped at most.
const BYTES_MAX: usize = 480 << 10;
/// Longest words of one decision. Some are a server's own.
const WORDS_MAX: usize = 2 << 10;

/// See the module.
#[derive(Default)]
pub struct Lately {
    /// Oldest first, each as JSON.
    decided: VecDeque<String>,
    bytes: usize,
}

impl Lately {
    /// This was decided just now, and is in the map of that version.
    pub fn note(&mut self, version: u64, note: &Note) {
        let mut words = note.words.clone();
        words.truncate(words.floor_char_boundary(WORDS_MAX));
        let decided = Decided { at: UnixSeconds::now().0, version, shards: note.shards.to_string(), words };
        let text = serde_json::to_string(&decided).expect("a decision has no part that JSON cannot say");
        self.bytes += text.len() + 1;
        self.decided.push_back(text);
        while self.decided.len() > COUNT_MAX || self.bytes > BYTES_MAX {
            self.bytes -= self.decided.pop_front().map_or(0, |oldest| oldest.len() + 1);
        }
    }

    /// As a list in JSON.
    pub fn to_text(&self) -> String {
        let decided: Vec<&str> = self.decided.iter().map(String::as_str).collect();
        format!("[{}]", decided.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shards::ShardSet;
    use crate::cluster::wire::Message;

    /// Words that take most room where they are a text within a text.
    #[test]
    fn what_is_remembered_fits_into_an_answer_and_is_the_latest() {
        let shards = (0..1024).step_by(2).fold(ShardSet::default(), |all, one| all.with(ShardSet::one(one)));
        for words in ["why", &"\"\\\u{1}".repeat(2000)] {
            let mut lately = Lately::default();
            (1..=3000).for_each(|version| lately.note(version, &Note { shards, words: words.into() }));
            let answer = Message::Answer { is_done: true, body: lately.to_text() };
            assert!(answer.to_bytes().is_ok(), "{} bytes", lately.to_text().len());
            let told: Vec<Decided> = serde_json::from_str(&lately.to_text()).unwrap();
            assert!((30..=COUNT_MAX).contains(&told.len()), "{}", told.len());
            let versions = 3001 - told.len() as u64..=3000;
            assert!(told.iter().map(|one| one.version).eq(versions));
        }
    }
}
