//! Finds where a text may be cut, line by line: headings, blank lines, definitions with their comments.
//!
//! It is no parser. It never looks back further than the comment above a definition, so it is linear and accepts
//! anything; a wrong guess costs a less happy cut.

use std::ops::Range;

/// How a text is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Paragraphs between blank lines.
    Prose,
    /// Markdown: `#` and underlined headings, fences.
    Markdown,
    /// Source code, of braces or of indentation.
    Code,
}

/// How good a place is for a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    /// Anywhere between words.
    Word,
    /// The end of a line or a sentence.
    Line,
    /// Where a statement begins.
    Statement,
    /// A blank line, or a definition inside another.
    Paragraph,
    /// A heading, or a definition that is in no other.
    Section,
}

/// A place before which a cut is welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Byte offset of the line that begins there.
    pub(crate) at: usize,
    pub(crate) strength: Strength,
    /// Depth of the heading: number of `#`, columns of indentation, or definitions around it. Headings of this depth
    /// and deeper end here. [`NO_LEVEL`] ends none.
    pub(crate) level: usize,
    /// The heading's text; empty when the mark is only a break.
    pub(crate) title: Range<usize>,
}

/// The level of a break that ends no heading.
const NO_LEVEL: usize = usize::MAX;

/// The marks of a text in rising order.
pub(super) fn marks(text: &str, form: Form) -> Vec<Mark> {
    match form {
        Form::Prose => prose(text),
        Form::Markdown => markdown(text),
        Form::Code => code(text),
    }
}

/// A line: its offset and its text without the line end.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = at;
        at += line.len();
        (start, line.trim_end_matches(['\n', '\r']))
    })
}

fn plain(at: usize, strength: Strength) -> Mark {
    Mark {
        at,
        strength,
        level: NO_LEVEL,
        title: at..at,
    }
}

fn titled(at: usize, strength: Strength, level: usize, line_at: usize, line: &str, title: &str) -> Mark {
    let from = line_at + (title.as_ptr().addr() - line.as_ptr().addr());
    Mark {
        at,
        strength,
        level,
        title: from..from + title.len(),
    }
}

/// Bytes of a first line that is taken for a title, and of a later one.
const TITLE_BYTES_MAX: usize = 200;
const HEADING_BYTES_MAX: usize = 100;

/// A line between blank lines is a title: of the whole text, as far as no other follows. So letters, reports and texts
/// joined into one file are found by the titles that people gave them.
fn prose(text: &str) -> Vec<Mark> {
    let mut marks = Vec::new();
    let (mut blank, mut seen, mut under_title) = (true, false, false);
    // A line with nothing before it, while it may still turn out to be a title.
    let mut alone: Option<(usize, &str)> = None;
    for (at, line) in lines(text) {
        let empty = line.trim().is_empty();
        if let Some((at, title)) = alone.take().filter(|_| empty) {
            if marks.last().is_some_and(|mark: &Mark| mark.at == at) {
                marks.pop();
            }
            marks.push(titled(at, Strength::Paragraph, 1, at, title, title.trim()));
            under_title = true;
        }
        if !empty {
            // A title is not parted from what it stands above.
            if blank && seen && !under_title {
                marks.push(plain(at, Strength::Paragraph));
            }
            under_title = false;
            let first = !seen && line.len() <= TITLE_BYTES_MAX;
            // Rules, lists and indented text are no titles.
            let later = blank && line.len() <= HEADING_BYTES_MAX && line.starts_with(char::is_alphanumeric);
            alone = (first || later).then_some((at, line));
            seen = true;
        }
        blank = empty;
    }
    marks
}

fn markdown(text: &str) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    let mut fence: Option<&str> = None;
    let mut previous: Option<(usize, &str)> = None;
    for (at, line) in lines(text) {
        let trimmed = line.trim();
        if let Some(open) = fence {
            if trimmed.starts_with(open) && trimmed.trim_start_matches(&open[..1]).is_empty() {
                fence = None;
            }
            previous = None;
            continue;
        }
        let after_blank = previous.is_some_and(|(_, line)| line.is_empty());
        if let Some(level) = heading_level(line) {
            let title = line.trim_matches(['#', ' ', '\t']);
            marks.push(titled(at, Strength::Section, level, at, line, title));
        } else if let (Some(level), Some((above, title))) = (underline_level(trimmed), previous)
            && !title.is_empty()
        {
            if marks.last().is_some_and(|mark| mark.at == above) {
                marks.pop();
            }
            marks.push(titled(
                above,
                Strength::Section,
                level,
                above,
                title,
                title.trim(),
            ));
        } else if after_blank && !trimmed.is_empty() {
            marks.push(plain(at, Strength::Paragraph));
        }
        fence = ["```", "~~~"]
            .into_iter()
            .find(|fence| trimmed.starts_with(fence));
        previous = Some((at, if trimmed.is_empty() { "" } else { line }));
    }
    marks
}

/// 1 to 6 for `# title`.
fn heading_level(line: &str) -> Option<usize> {
    let hashes = line.bytes().take_while(|b| *b == b'#').count();
    let rest = &line[hashes..];
    ((1..=6).contains(&hashes) && (rest.is_empty() || rest.starts_with([' ', '\t']))).then_some(hashes)
}

/// A line of `===` or `---` below a heading of level 1 or 2.
fn underline_level(trimmed: &str) -> Option<usize> {
    let all = |c: char| trimmed.len() >= 3 && trimmed.chars().all(|x| x == c);
    if all('=') { Some(1) } else { all('-').then_some(2) }
}

fn code(text: &str) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut lead: Option<usize> = None;
    let mut blank = false;
    for (at, line) in lines(text) {
        let body = line.trim();
        let empty = body.is_empty();
        if !empty && is_lead(body) {
            lead.get_or_insert(at);
            if blank {
                marks.push(plain(at, Strength::Paragraph));
            }
        } else if !empty {
            if is_definition(line, body) {
                let indent = line.len() - line.trim_start().len();
                let strength = if indent == 0 {
                    Strength::Section
                } else {
                    Strength::Paragraph
                };
                let from = lead.unwrap_or(at);
                marks.truncate(marks.len() - marks.iter().rev().take_while(|mark| mark.at >= from).count());
                marks.push(titled(
                    from,
                    strength,
                    indent,
                    at,
                    line,
                    body.trim_end_matches(['{', ':', ' ']),
                ));
            } else if blank {
                marks.push(plain(at, Strength::Paragraph));
            }
            lead = None;
        } else {
            lead = None;
        }
        blank = empty;
    }
    marks
}

/// Comments, attributes and decorators belong to what follows them.
fn is_lead(body: &str) -> bool {
    const LEADS: [&str; 9] = ["//", "/*", "*", "#[", "# ", "@", "--", "\"\"\"", ";;"];
    LEADS.iter().any(|lead| body.starts_with(lead)) || body == "#"
}

/// Whether the line begins a function, type, class or the like.
fn is_definition(line: &str, body: &str) -> bool {
    const KEYWORDS: [&str; 25] = [
        "fn",
        "def",
        "class",
        "struct",
        "enum",
        "trait",
        "impl",
        "interface",
        "func",
        "function",
        "module",
        "mod",
        "namespace",
        "union",
        "macro_rules!",
        "type",
        "protocol",
        "extension",
        "object",
        "record",
        "sub",
        "package",
        "defmodule",
        "defp",
        "defun",
    ];
    const MODIFIERS: [&str; 22] = [
        "pub",
        "async",
        "unsafe",
        "extern",
        "const",
        "static",
        "export",
        "default",
        "public",
        "private",
        "protected",
        "internal",
        "abstract",
        "final",
        "override",
        "virtual",
        "inline",
        "sealed",
        "data",
        "open",
        "template",
        "declare",
    ];
    const CONTROL: [&str; 12] = [
        "if", "for", "while", "switch", "return", "else", "do", "case", "try", "catch", "elif", "with",
    ];
    let mut words = body.split([' ', '\t', '(', '<']).filter(|word| !word.is_empty());
    let first = words.by_ref().find(|word| {
        let word = word.trim_end_matches(')');
        !MODIFIERS.contains(&word) && !matches!(word, "crate" | "super" | "in")
    });
    let Some(first) = first else { return false };
    if KEYWORDS.contains(&first) {
        return true;
    }
    let top = line.starts_with(|c: char| c.is_alphabetic() || c == '_');
    top && !CONTROL.contains(&first) && body.contains('(') && (body.ends_with('{') || body.ends_with(')'))
}
