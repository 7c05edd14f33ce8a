//! `ask/<query>`: the best passages with their places, cut to a size that fits a prompt.

use std::fmt::Write;

use crate::query::answer::{Answer, path_text};

/// Bytes of an answer: about 3,000 tokens.
const ASK_BYTES_MAX: usize = 12 * 1024;

/// Renders the passages of an answer, best first: a `path:line-line (score)` header above each. A passage that
/// would not fit whole ends the text, unless it is the first, which is cut at a line.
pub fn render(answer: &Answer) -> String {
    let mut text = String::new();
    // Files that are found by name or attribute alone, or whose passages are being replaced, have nothing to show.
    let without = answer.hits.iter().filter(|hit| hit.passages.is_empty()).count();
    let nothing_to_show = match without {
        0 => String::new(),
        n => format!(", {n} more without a passage"),
    };
    let head = format!(
        "# {}\n# {} hits{nothing_to_show}, generation {}, {} pending\n",
        answer.query.replace(char::is_control, " "),
        answer.hits.len() - without,
        answer.generation,
        answer.pending
    );
    text.push_str(&head);
    let mut passages: Vec<_> = answer
        .hits
        .iter()
        .flat_map(|hit| hit.passages.iter().map(move |p| (hit, p)))
        .collect();
    passages.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
    for (hit, passage) in passages {
        let mut block = String::new();
        let stale = if hit.stale { " stale" } else { "" };
        let _ = write!(
            block,
            "\n## {}:{}-{} ({:.3}){stale}\n",
            path_text(&hit.path),
            passage.start_line,
            passage.end_line,
            passage.score
        );
        block.push_str(passage.text.trim_end());
        block.push('\n');
        if text.len() + block.len() > ASK_BYTES_MAX {
            if text.len() == head.len() {
                text.push_str(cut_at_line(&block, ASK_BYTES_MAX - text.len()));
            }
            break;
        }
        text.push_str(&block);
    }
    text
}

/// At most `bytes` of the text, ending with a line where one ends, else with a character.
fn cut_at_line(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    match text[..end].rfind('\n') {
        Some(at) if at > 0 => &text[..=at],
        _ => &text[..end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FileId, Generation};
    use crate::query::answer::{Hit, HitPassage};

    fn answer(texts: &[(&str, f32, String)]) -> Answer {
        let hits = texts
            .iter()
            .map(|(path, score, text)| Hit {
                file: FileId(1),
                path: path.into(),
                score: *score,
                score_vec: None,
                score_bm25: None,
                score_rel: None,
                passages: vec![HitPassage {
                    start_line: 3,
                    end_line: 9,
                    start_byte: 0,
                    end_byte: text.len() as u64,
                    text: text.clone(),
                    score: *score,
                }],
                stale: false,
                generation: Generation(1),
            })
            .collect();
        Answer {
            query: "how".into(),
            generation: Generation(2),
            pending: 0,
            took: Default::default(),
            truncated: false,
            hits,
        }
    }

    #[test]
    fn passages_stand_best_first_under_their_places() {
        let text = render(&answer(&[
            ("a.md", 0.5, "first\n".into()),
            ("b.md", 0.75, "second".into()),
        ]));
        let second = text.find("## b.md:3-9 (0.750)\nsecond\n").unwrap();
        assert!(
            text.find("## a.md:3-9 (0.500)\nfirst\n").unwrap() > second,
            "{text}"
        );
    }

    #[test]
    fn hits_that_have_nothing_to_show_are_counted_apart() {
        let mut answer = answer(&[("a.md", 0.5, "first\n".into()), ("b.md", 0.4, "second\n".into())]);
        assert!(render(&answer).contains("\n# 2 hits, generation 2, 0 pending\n"));
        answer.hits[1].passages.clear();
        answer.pending = 1;
        let text = render(&answer);
        assert!(
            text.contains("\n# 1 hits, 1 more without a passage, generation 2, 1 pending\n"),
            "{text}"
        );
    }

    #[test]
    fn the_text_is_bounded_and_a_first_passage_too_long_is_cut() {
        let long = "a line of text\n".repeat(2_000);
        for n in [1, 3] {
            let text = render(&answer(&vec![("a.md", 0.5, long.clone()); n]));
            assert!(text.len() <= ASK_BYTES_MAX && text.len() > ASK_BYTES_MAX / 2);
            assert!(text.ends_with("a line of text\n"));
        }
    }
}
