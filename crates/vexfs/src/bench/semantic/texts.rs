//! Texts to index: English words as often as in English, some names and numbers among them, in sentences, paragraphs
//! and sections. The same number gives the same text.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;

/// Where the words are from: the project's own documents.
const SOURCES: [&str; 4] = [
    include_str!("../../../../../docs/ARCHITECTURE.md"),
    include_str!("../../../../../docs/INTERFACE.md"),
    include_str!("../../../../../docs/SEMANTICS.md"),
    include_str!("../../../../../README.md"),
];
/// One word in so many is a name or number that hardly any other text has.
const RARE: u64 = 40;
/// Files in a folder.
const FOLDER_FILES: usize = 500;

/// Makes texts.
pub(super) struct Texts {
    /// Different words, the most frequent first.
    words: Vec<String>,
}

/// Numbers without pattern (SplitMix64, Steele, Lea and Flood 2014).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

impl Texts {
    pub(super) fn new() -> Texts {
        let mut counts = std::collections::HashMap::<&str, usize>::new();
        for word in SOURCES
            .iter()
            .flat_map(|text| text.split(|c: char| !c.is_ascii_alphabetic()))
        {
            if word.len() > 1 {
                *counts.entry(word).or_default() += 1;
            }
        }
        let mut words: Vec<(&str, usize)> = counts.into_iter().collect();
        words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        Texts {
            words: words.into_iter().map(|(word, _)| word.to_lowercase()).collect(),
        }
    }

    /// A word, the frequent ones more often: the rank falls off as by Zipf's law.
    fn word(&self, numbers: &mut Numbers) -> &str {
        let share = (numbers.next() >> 11) as f64 / (1u64 << 53) as f64;
        let rank = (self.words.len() as f64).powf(share) as usize;
        &self.words[rank.min(self.words.len()) - 1]
    }

    /// A text of about so many bytes.
    pub(super) fn text(&self, number: u64, bytes: usize) -> String {
        let mut numbers = Numbers(number);
        let mut text = String::with_capacity(bytes + 200);
        let _ = writeln!(
            text,
            "# {} {} {number}\n",
            self.word(&mut numbers),
            self.word(&mut numbers)
        );
        let mut line = 0;
        while text.len() < bytes {
            for _ in 0..6 + numbers.below(14) {
                match line {
                    0 => {}
                    1..=90 => text.push(' '),
                    _ => {
                        text.push('\n');
                        line = 0;
                    }
                }
                let before = text.len();
                text.push_str(self.word(&mut numbers));
                if numbers.next().is_multiple_of(RARE) {
                    let _ = write!(text, "{}", numbers.below(10_000));
                }
                line += text.len() - before + 1;
            }
            text.push('.');
            if numbers.below(6) == 0 {
                text.push_str("\n\n");
                line = 0;
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }

    /// A question of words of middling frequency.
    pub(super) fn question(&self, numbers: &mut Numbers) -> String {
        let count = 3 + numbers.below(4);
        let words: Vec<&str> = (0..count).map(|_| self.word(numbers)).collect();
        words.join(" ")
    }

    /// Writes so many files of so many bytes, in folders, and says how many bytes that are.
    pub(super) fn plant(&self, dir: &Path, files: usize, bytes: usize) -> Result<u64> {
        let mut written = 0;
        for file in 0..files {
            let folder = dir.join(format!("part{:04}", file / FOLDER_FILES));
            if file.is_multiple_of(FOLDER_FILES) {
                fs::create_dir_all(&folder)?;
            }
            let text = self.text(file as u64, bytes);
            written += text.len() as u64;
            fs::write(folder.join(format!("note{file:06}.md")), text)?;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_repeatable_and_look_like_text() {
        let texts = Texts::new();
        assert!(texts.words.len() > 1000, "{}", texts.words.len());
        let text = texts.text(7, 20_000);
        assert_eq!(text, texts.text(7, 20_000));
        assert_ne!(text, texts.text(8, 20_000));
        assert!((20_000..20_300).contains(&text.len()), "{}", text.len());
        let words = text.split_whitespace().count();
        assert!((2_500..5_000).contains(&words), "{words}");
        assert!(text.lines().all(|line| line.len() < 140));
    }
}
