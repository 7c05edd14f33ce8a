//! The text of a file.

use std::ffi::OsStr;
use std::path::Path;

use crate::semantic::passages::Form;

/// Bytes at the beginning of a file in which a zero byte says that it is not text.
const BINARY_WINDOW: usize = 8 << 10;

/// A text, and how it is built.
pub(super) struct Text {
    pub(super) text: String,
    pub(super) form: Form,
}

/// Why there is none.
pub(super) enum Unreadable {
    /// The file is of a kind that has no text.
    NoText(&'static str),
}

/// Reads a file's content as text.
pub(super) fn of(name: &OsStr, content: Vec<u8>) -> Result<Text, Unreadable> {
    if content[..content.len().min(BINARY_WINDOW)].contains(&0) {
        return Err(Unreadable::NoText("binary"));
    }
    let form = match Path::new(name).extension().and_then(OsStr::to_str) {
        Some("md" | "markdown") => Form::Markdown,
        Some("rs" | "py" | "c" | "h" | "js" | "ts" | "go" | "java" | "cpp" | "sh") => Form::Code,
        _ => Form::Prose,
    };
    let text =
        String::from_utf8(content).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Ok(Text { text, form })
}
