//! What kind of file it is.

use std::ffi::OsStr;
use std::path::Path;

use crate::semantic::passages::Form;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text as it stands.
    Plain(Form),
    /// A web page.
    Html,
    /// A manual page.
    Roff,
    /// A Jupyter notebook.
    Notebook,
    /// A ZIP archive of XML.
    Office(Office),
    /// A message (RFC 5322).
    Mail,
    /// Portable document format.
    Pdf,
    /// One compressed file.
    Gzip,
    /// Nothing to read: what it is instead.
    Nothing(&'static str),
}

/// The ZIP archives that are documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Office {
    /// Word processor (ECMA-376).
    Docx,
    /// Slides (ECMA-376).
    Pptx,
    /// Tables (ECMA-376).
    Xlsx,
    /// Any OpenDocument file.
    OpenDocument,
    /// A book.
    Epub,
}

impl Format {
    /// Whether its reader runs in a worker process.
    pub fn is_guarded(self) -> bool {
        matches!(
            self,
            Format::Office(_) | Format::Mail | Format::Pdf | Format::Gzip
        )
    }
}

/// Bytes at the beginning in which a zero byte says "not text". Git looks at as many.
const BINARY_WINDOW: usize = 8000;

const CODE: &str = " rs py pyi js mjs cjs ts tsx jsx c h cc cpp cxx hh hpp hxx go java kt kts scala swift rb php pl pm lua r \
     jl hs ml mli fs fsx cs vb clj cljs ex exs erl hrl dart zig nim v sv vhd asm s sh bash zsh fish ps1 sql vue svelte \
     css scss less cmake gradle proto thrift el lisp scm rkt tcl m mm cu cl nix tf d ";

/// Tells the format by content and name.
pub fn format_of(name: &OsStr, content: &[u8]) -> Format {
    let lower = name.to_string_lossy().to_lowercase();
    let extension = Path::new(&lower)
        .extension()
        .and_then(OsStr::to_str)
        .unwrap_or("");
    let head = &content[..content.len().min(BINARY_WINDOW)];
    if let Some(format) = by_magic(head, extension) {
        return format;
    }
    if head.contains(&0) && !has_utf16_mark(head) {
        return Format::Nothing("binary");
    }
    match extension {
        "md" | "markdown" | "mdx" | "mkd" => Format::Plain(Form::Markdown),
        "html" | "htm" | "xhtml" => Format::Html,
        "ipynb" => Format::Notebook,
        "eml" => Format::Mail,
        "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "man" if is_roff(head) => Format::Roff,
        "svg" => Format::Nothing("image"),
        _ if !extension.is_empty() && CODE.contains(&format!(" {extension} ")) => Format::Plain(Form::Code),
        _ if matches!(
            lower.as_str(),
            "makefile" | "dockerfile" | "rakefile" | "justfile"
        ) =>
        {
            Format::Plain(Form::Code)
        }
        _ if head.starts_with(b"#!") => Format::Plain(Form::Code),
        _ if begins_like_html(head) => Format::Html,
        _ => Format::Plain(Form::Prose),
    }
}

fn by_magic(head: &[u8], extension: &str) -> Option<Format> {
    if head.starts_with(b"%PDF-") {
        return Some(Format::Pdf);
    }
    if head.starts_with(b"\x1f\x8b") {
        let archive = matches!(extension, "tgz" | "svgz");
        return Some(if archive {
            Format::Nothing("archive")
        } else {
            Format::Gzip
        });
    }
    if head.starts_with(b"PK\x03\x04") {
        return Some(match extension {
            "docx" | "docm" | "dotx" => Format::Office(Office::Docx),
            "pptx" | "pptm" | "ppsx" => Format::Office(Office::Pptx),
            "xlsx" | "xlsm" => Format::Office(Office::Xlsx),
            "odt" | "ods" | "odp" | "odg" | "ott" => Format::Office(Office::OpenDocument),
            "epub" => Format::Office(Office::Epub),
            _ => Format::Nothing("archive"),
        });
    }
    let found = infer::get(head)?;
    Some(Format::Nothing(match found.matcher_type() {
        infer::MatcherType::Image => "image",
        infer::MatcherType::Audio => "audio",
        infer::MatcherType::Video => "video",
        infer::MatcherType::Archive => "archive",
        infer::MatcherType::Font => "font",
        infer::MatcherType::App => "program",
        // Shell scripts, HTML and XML are text; old office formats have no reader.
        infer::MatcherType::Text => return None,
        _ => "binary",
    }))
}

fn has_utf16_mark(head: &[u8]) -> bool {
    head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff])
}

fn begins_like_html(head: &[u8]) -> bool {
    let start = head.trim_ascii_start();
    let begins = |tag: &[u8]| {
        start
            .get(..tag.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(tag))
    };
    begins(b"<!doctype html") || begins(b"<html")
}

/// A line that begins with `.TH` or `.Dd`, the title macros of man(7) and mdoc(7).
fn is_roff(head: &[u8]) -> bool {
    head.split(|b| *b == b'\n')
        .any(|line| line.starts_with(b".TH ") || line.starts_with(b".Dd "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_before_the_name() {
        let check = |name: &str, content: &[u8], expect| {
            assert_eq!(format_of(OsStr::new(name), content), expect, "{name}")
        };
        check("a.txt", b"%PDF-1.7\n", Format::Pdf);
        check("a.md", b"# hello", Format::Plain(Form::Markdown));
        check("a.RS", b"fn main() {}", Format::Plain(Form::Code));
        check("run", b"#!/bin/sh\necho", Format::Plain(Form::Code));
        check("Makefile", b"all:", Format::Plain(Form::Code));
        check("a.docx", b"PK\x03\x04....", Format::Office(Office::Docx));
        check("a.jar", b"PK\x03\x04....", Format::Nothing("archive"));
        check("a.txt", b"\x89PNG\r\n\x1a\n....", Format::Nothing("image"));
        check("a.txt", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Format::Nothing("program"));
        check("a.txt", b"a\0b", Format::Nothing("binary"));
        check("a.txt", b"\xff\xfea\0b\0", Format::Plain(Form::Prose));
        check("page", b"\n<!DOCTYPE html><p>", Format::Html);
        check("ls.1", b".\\\" comment\n.TH LS 1\n", Format::Roff);
        check("notes.1", b"first", Format::Plain(Form::Prose));
        check("changelog.gz", b"\x1f\x8b\x08", Format::Gzip);
        check("", b"", Format::Plain(Form::Prose));
    }
}
