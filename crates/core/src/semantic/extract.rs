//! From a file's bytes to its text.
//!
//! What a file is, is told by its first bytes, then by its name. Plain text, Markdown, code, HTML and notebooks are
//! read here, by walks that are linear and do not recurse. Formats with a parser of their own (PDF, office documents,
//! books, mail, gzip) are hostile until proved otherwise and are read in a process that may do nothing but read its
//! input and write its output ([`workers`]): a crash, a hang or a bomb costs one file. So are the parsers of programming
//! languages, which say where a source may be cut; what they cannot read is cut by the look of its lines.

mod decode;
mod html;
mod mail;
mod notebook;
mod office;
mod parsers;
#[cfg(feature = "pdf")]
mod pdf;
mod roff;
mod sniff;
mod syntax;
mod worker;
mod workers;
mod xml;

use std::ffi::OsStr;

pub use sniff::{Format, format_of};
pub use worker::worker_main;
use workers::Reading;
pub use workers::{Limits, Workers, declare_worker};

use super::embed::WordPiece;
use super::passages::{self, Form, Mark, Passage};

/// A text, and how it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// The text, in UTF-8.
    pub text: String,
    /// How it is built; documents with headings come as Markdown.
    pub form: Form,
    /// Where a parser of its language says that it may be cut.
    marks: Option<Vec<Mark>>,
}

impl Extracted {
    fn new(text: String, form: Form) -> Extracted {
        Extracted {
            text,
            form,
            marks: None,
        }
    }

    /// The text cut into passages.
    pub fn passages(&self, tokenizer: &WordPiece) -> Vec<Passage> {
        match &self.marks {
            Some(marks) => passages::split_at(&self.text, marks, tokenizer),
            None => passages::split(&self.text, self.form, tokenizer),
        }
    }
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has text, perhaps none of it.
    Text(Extracted),
    /// It is of a kind that has no text: `image`, `audio`, `video`, `archive`, `font`, `program`, `binary`.
    NoText(&'static str),
    /// It should have text and could not be read: why, in a few words. Worth another try only when the file changes.
    Failed(String),
}

/// Takes the text out of a file.
pub fn extract(name: &OsStr, content: &[u8], workers: &Workers) -> Outcome {
    match format_of(name, content) {
        Format::Nothing(kind) => Outcome::NoText(kind),
        format if format.is_guarded() => match workers.run(format, name, content) {
            Ok(Reading::Text(extracted)) => Outcome::Text(extracted),
            Ok(Reading::NoText(kind)) => Outcome::NoText(kind),
            Err(why) => Outcome::Failed(why),
        },
        format => match read(format, name, content, workers.limits().text_bytes) {
            Ok(mut extracted) => {
                if extracted.form == Form::Code {
                    let language = syntax::language_of(name);
                    extracted.marks = language.and_then(|of| workers.marks(of, &extracted.text));
                }
                Outcome::Text(extracted)
            }
            Err(Unreadable::NoText(kind)) => Outcome::NoText(kind),
            Err(Unreadable::Failed(why)) => Outcome::Failed(why),
        },
    }
}

/// Why a format's reader gave no text.
#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    NoText(&'static str),
    Failed(String),
}

impl Unreadable {
    fn failed(what: &str, error: impl std::fmt::Display) -> Unreadable {
        Unreadable::Failed(format!("{what}: {error}"))
    }
}

/// Reads one format, here or in a worker. At most `text_bytes_max` bytes of text come out of the formats that can
/// grow; what follows is cut off.
fn read(
    format: Format,
    name: &OsStr,
    content: &[u8],
    text_bytes_max: usize,
) -> Result<Extracted, Unreadable> {
    let plain = Extracted::new;
    Ok(match format {
        Format::Nothing(kind) => return Err(Unreadable::NoText(kind)),
        Format::Plain(form) => plain(decode::text(content)?, form),
        Format::Html => plain(html::to_markdown(&decode::text(content)?), Form::Markdown),
        Format::Roff => plain(roff::to_markdown(&decode::text(content)?), Form::Markdown),
        Format::Notebook => plain(notebook::to_markdown(content)?, Form::Markdown),
        Format::Office(kind) => plain(
            office::to_markdown(kind, content, text_bytes_max)?,
            Form::Markdown,
        ),
        Format::Mail => plain(mail::to_markdown(content)?, Form::Markdown),
        #[cfg(feature = "pdf")]
        Format::Pdf => plain(pdf::to_text(content)?, Form::Prose),
        #[cfg(not(feature = "pdf"))]
        Format::Pdf => return Err(Unreadable::NoText("pdf")),
        Format::Gzip => {
            let inner = gunzip(content, text_bytes_max)?;
            let name = std::path::Path::new(name).file_stem().unwrap_or(name);
            match format_of(name, &inner) {
                Format::Gzip => return Err(Unreadable::NoText("archive")),
                format => read(format, name, &inner, text_bytes_max)?,
            }
        }
    })
}

/// Inflates one member, up to a bound; what follows is cut off.
fn gunzip(content: &[u8], bytes_max: usize) -> Result<Vec<u8>, Unreadable> {
    use std::io::Read;
    let mut inner = Vec::new();
    flate2::read::GzDecoder::new(content)
        .take(bytes_max as u64)
        .read_to_end(&mut inner)
        .map_err(|e| Unreadable::failed("gzip", e))?;
    Ok(inner)
}

#[cfg(test)]
mod tests;
