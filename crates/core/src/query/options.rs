//! Options of a search, spelt `@k=50,@mode=vec` in a directory name.

use super::parse_number;
use crate::error::{Error, Result};

/// How a search ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Number of files at most.
    pub k: usize,
    /// What ranks.
    pub mode: Mode,
    /// The space of vectors; the default embedder's when absent.
    pub space: Option<String>,
    /// A directory below the scope to search in, relative to it.
    pub within: Option<String>,
    /// Hits below this score are left out.
    pub min_score: f32,
}

/// What ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Meaning and words, fused.
    Hybrid,
    /// Meaning alone.
    Vec,
    /// Words alone.
    Text,
    /// Relations, followed from what meaning and words find.
    Rel,
}

/// Files at most in one answer.
const K_MAX: usize = 10_000;

impl Default for Options {
    fn default() -> Options {
        Options {
            k: 10,
            mode: Mode::Hybrid,
            space: None,
            within: None,
            min_score: 0.0,
        }
    }
}

impl Options {
    /// Reads an options component: `@name=value`, more of them after commas, their `@` optional.
    pub fn parse(text: &str) -> Result<Options> {
        let mut options = Options::default();
        let mut at = 0;
        for part in text.split(',') {
            let (name, value) = part
                .trim_start_matches('@')
                .split_once('=')
                .ok_or_else(|| refuse(at, part, "@name=value, names: k mode space in min_score"))?;
            match name {
                "k" => {
                    options.k = parse_number(value)
                        .filter(|k| (1..=K_MAX).contains(k))
                        .ok_or_else(|| refuse(at, part, "k=1 to k=10000"))?;
                }
                "mode" => {
                    options.mode = match value {
                        "hybrid" => Mode::Hybrid,
                        "vec" => Mode::Vec,
                        "text" => Mode::Text,
                        "rel" => Mode::Rel,
                        _ => return Err(refuse(at, part, "mode=hybrid|vec|text|rel")),
                    }
                }
                "space" if !value.is_empty() => options.space = Some(value.into()),
                "in" if !value.is_empty() => options.within = Some(value.into()),
                "min_score" => {
                    options.min_score = parse_number(value)
                        .filter(|score: &f32| score.is_finite())
                        .ok_or_else(|| refuse(at, part, "min_score=NUMBER"))?;
                }
                _ => return Err(refuse(at, part, "one of k mode space in min_score, with a value")),
            }
            at += part.len() + 1;
        }
        Ok(options)
    }
}

fn refuse(at: usize, what: &str, expected: &str) -> Error {
    Error::Query {
        at,
        what: format!("option {what:?}"),
        expected: expected.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_bad_ones_refused_at_their_place() {
        let options = Options::parse("@k=50,@mode=vec,min_score=0.2,space=mine,@in=docs/a").unwrap();
        assert_eq!((options.k, options.mode, options.min_score), (50, Mode::Vec, 0.2));
        assert_eq!(
            (options.space.as_deref(), options.within.as_deref()),
            (Some("mine"), Some("docs/a"))
        );
        assert_eq!(Options::parse("@mode=rel").unwrap().mode, Mode::Rel);
        let check = |text: &str, position: usize| match Options::parse(text) {
            Err(Error::Query { at, .. }) => assert_eq!(at, position, "{text}"),
            other => panic!("{text}: {other:?}"),
        };
        check("@", 0);
        check("@k=0", 0);
        check("@k=5,@mode=none", 5);
        check("@k=5,@space=", 5);
        check("@min_score=NaN", 0);
    }
}
