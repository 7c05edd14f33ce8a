//! Office documents and books: ZIP archives of XML, turned into Markdown.
//!
//! Parts are inflated one by one under one bound, so that a bomb ends there.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::{Cursor, Read};

use zip::ZipArchive;

use super::sniff::Office;
use super::xml::{Node, walk};
use super::{Unreadable, decode, html};

/// Bytes of XML that give one byte of text at most, in documents seen; the bound on what is inflated.
const XML_BYTES_PER_TEXT_BYTE: usize = 8;
/// Parts of one document: slides, sheets, chapters.
const PARTS_MAX: usize = 10_000;

pub(super) fn to_markdown(kind: Office, content: &[u8], text_bytes_max: usize) -> Result<String, Unreadable> {
    let archive = ZipArchive::new(Cursor::new(content)).map_err(|e| Unreadable::failed("zip", e))?;
    let mut parts = Parts {
        archive,
        left: text_bytes_max.saturating_mul(XML_BYTES_PER_TEXT_BYTE),
    };
    let mut out = String::new();
    match kind {
        Office::Docx => word(&parts.read("word/document.xml")?, &mut out)?,
        Office::OpenDocument => open_document(&parts.read("content.xml")?, &mut out)?,
        Office::Pptx => {
            for (number, part) in parts.numbered("ppt/slides/slide") {
                let _ = write!(out, "\n## Slide {number}\n\n");
                word(&parts.read(&part)?, &mut out)?;
            }
        }
        Office::Xlsx => workbook(&mut parts, &mut out)?,
        Office::Epub => book(&mut parts, &mut out)?,
    }
    let end = (0..=out.len().min(text_bytes_max))
        .rev()
        .find(|at| out.is_char_boundary(*at));
    out.truncate(end.unwrap_or(0));
    Ok(out)
}

/// The archive, and how much may still be inflated.
struct Parts<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    left: usize,
}

impl Parts<'_> {
    fn read(&mut self, name: &str) -> Result<String, Unreadable> {
        let part = self
            .archive
            .by_name(name)
            .map_err(|e| Unreadable::failed(name, e))?;
        let mut bytes = Vec::new();
        part.take(self.left as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Unreadable::failed(name, e))?;
        if bytes.len() > self.left {
            return Err(Unreadable::Failed(format!(
                "{name}: larger than it may be when inflated"
            )));
        }
        self.left -= bytes.len();
        decode::text(&bytes)
    }

    /// The parts `<prefix><number>.xml` in the order of their numbers.
    fn numbered(&self, prefix: &str) -> Vec<(u32, String)> {
        let mut found: Vec<(u32, String)> = self
            .archive
            .file_names()
            .flatten()
            .filter_map(|name| {
                let number = name.strip_prefix(prefix)?.strip_suffix(".xml")?.parse().ok()?;
                Some((number, name.into_owned()))
            })
            .take(PARTS_MAX)
            .collect();
        found.sort_unstable();
        found
    }
}

/// WordprocessingML, and DrawingML of slides: paragraphs `p`, runs of text `t`, heading styles.
fn word(document: &str, out: &mut String) -> Result<(), Unreadable> {
    let mut in_text = false;
    walk(document, |node| match node {
        Node::Start("t", _) => in_text = true,
        Node::End("t") => in_text = false,
        Node::Text(text) if in_text => out.push_str(text),
        Node::Start("pStyle", attributes) => {
            let style = attributes.get("val").unwrap_or_default();
            let level = style.strip_prefix("Heading").and_then(|level| level.parse().ok());
            heading(level.or((style == "Title").then_some(1)), out);
        }
        Node::Start("tab", _) => out.push('\t'),
        Node::Start("br" | "cr", _) => out.push('\n'),
        Node::End("tc") => out.push('\t'),
        Node::End("p") => out.push_str("\n\n"),
        _ => {}
    })
}

fn heading(level: Option<usize>, out: &mut String) {
    if let Some(level @ 1..=6) = level {
        out.push_str(&"######"[..level]);
        out.push(' ');
    }
}

/// OpenDocument text, slides and tables: `h` and `p`, spaces and tabs as elements, rows of cells.
fn open_document(document: &str, out: &mut String) -> Result<(), Unreadable> {
    let (mut depth, mut in_cell) = (0usize, false);
    walk(document, |node| match node {
        Node::Start("h", attributes) => {
            depth += 1;
            heading(
                attributes
                    .get("outline-level")
                    .and_then(|level| level.parse().ok()),
                out,
            );
        }
        Node::Start("p", _) => depth += 1,
        Node::End("h" | "p") => {
            depth = depth.saturating_sub(1);
            out.push_str(if in_cell { " " } else { "\n\n" });
        }
        Node::Text(text) if depth > 0 => out.push_str(text),
        Node::Start("s", _) if depth > 0 => out.push(' '),
        Node::Start("tab", _) => out.push('\t'),
        Node::Start("line-break", _) => out.push('\n'),
        Node::Start("table-cell", _) => in_cell = true,
        Node::End("table-cell") => {
            in_cell = false;
            out.push('\t');
        }
        Node::End("table-row") => {
            out.truncate(out.trim_end_matches('\t').len());
            out.push('\n');
        }
        _ => {}
    })
}

/// SpreadsheetML: one line a row, cells apart by tabs. Text stands in a table of its own and is named by number.
fn workbook(parts: &mut Parts<'_>, out: &mut String) -> Result<(), Unreadable> {
    let shared = match parts.read("xl/sharedStrings.xml") {
        Ok(document) => shared_strings(&document)?,
        Err(_) => Vec::new(),
    };
    for (number, part) in parts.numbered("xl/worksheets/sheet") {
        let _ = write!(out, "\n## Sheet {number}\n\n");
        let document = parts.read(&part)?;
        let (mut shared_cell, mut in_value, mut value) = (false, false, String::new());
        walk(&document, |node| match node {
            Node::Start("c", attributes) => shared_cell = attributes.get("t").as_deref() == Some("s"),
            Node::Start("v" | "t", _) => in_value = true,
            Node::Text(text) if in_value => value.push_str(text),
            Node::End("v" | "t") => in_value = false,
            Node::End("c") => {
                let text = std::mem::take(&mut value);
                let named = text
                    .trim()
                    .parse::<usize>()
                    .ok()
                    .filter(|_| shared_cell)
                    .and_then(|n| shared.get(n));
                out.push_str(named.unwrap_or(&text));
                out.push('\t');
            }
            Node::End("row") => {
                out.truncate(out.trim_end_matches('\t').len());
                out.push('\n');
            }
            _ => {}
        })?;
    }
    Ok(())
}

fn shared_strings(document: &str) -> Result<Vec<String>, Unreadable> {
    let mut strings = Vec::new();
    let (mut in_text, mut current) = (false, String::new());
    walk(document, |node| match node {
        Node::Start("t", _) => in_text = true,
        Node::End("t") => in_text = false,
        Node::Text(text) if in_text => current.push_str(text),
        Node::End("si") => strings.push(std::mem::take(&mut current)),
        _ => {}
    })?;
    Ok(strings)
}

/// EPUB: the chapters in the order of the spine.
fn book(parts: &mut Parts<'_>, out: &mut String) -> Result<(), Unreadable> {
    let mut package = String::new();
    walk(&parts.read("META-INF/container.xml")?, |node| {
        if let Node::Start("rootfile", attributes) = node {
            package = attributes.get("full-path").unwrap_or_default();
        }
    })?;
    let (mut files, mut spine, mut titled) = (HashMap::new(), Vec::new(), false);
    walk(&parts.read(&package)?, |node| match node {
        Node::Start("item", attributes) => {
            if let (Some(id), Some(href)) = (attributes.get("id"), attributes.get("href")) {
                files.insert(id, href);
            }
        }
        Node::Start("itemref", attributes) => spine.extend(attributes.get("idref")),
        Node::Start("title", _) => titled = out.is_empty(),
        Node::Text(text) if titled => {
            let _ = write!(out, "# {}\n\n", text.trim());
            titled = false;
        }
        _ => {}
    })?;
    let folder = package.rsplit_once('/').map_or("", |(folder, _)| folder);
    for href in spine.iter().filter_map(|id| files.get(id)).take(PARTS_MAX) {
        let name = if folder.is_empty() {
            href.clone()
        } else {
            format!("{folder}/{href}")
        };
        out.push_str(&html::to_markdown(&parts.read(&name)?));
        out.push_str("\n\n");
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use zip::write::SimpleFileOptions;

    use super::*;

    pub(in super::super) fn archive(parts: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in parts {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(content.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn check(kind: Office, parts: &[(&str, &str)], expect: &str) {
        assert_eq!(to_markdown(kind, &archive(parts), 1 << 20).as_deref(), Ok(expect));
    }

    #[test]
    fn word_documents_keep_headings_and_paragraphs() {
        let document = r#"<w:document xmlns:w="x"><w:body>
            <w:p><w:pPr><w:pStyle w:val="Heading2"/></w:pPr><w:r><w:t>Floods</w:t></w:r></w:p>
            <w:p><w:r><w:t xml:space="preserve">A river </w:t></w:r><w:r><w:t>&amp; its plain&#46;</w:t></w:r></w:p></w:body></w:document>"#;
        check(
            Office::Docx,
            &[("word/document.xml", document)],
            "## Floods\n\nA river & its plain.\n\n",
        );
    }

    #[test]
    fn slides_come_in_the_order_of_their_numbers() {
        let slide = |text| format!("<p:sld><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:sld>");
        let parts = [
            ("ppt/slides/slide10.xml", slide("ten")),
            ("ppt/slides/slide2.xml", slide("two")),
        ];
        let parts: Vec<(&str, &str)> = parts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        check(
            Office::Pptx,
            &parts,
            "\n## Slide 2\n\ntwo\n\n\n## Slide 10\n\nten\n\n",
        );
    }

    #[test]
    fn tables_are_lines_of_cells() {
        let strings = "<sst><si><t>river</t></si><si><r><t>le</t></r><r><t>vel</t></r></si></sst>";
        let sheet = r#"<worksheet><sheetData><row><c t="s"><v>0</v></c><c t="s"><v>1</v></c></row><row><c><v>3.5</v></c></row></sheetData></worksheet>"#;
        check(
            Office::Xlsx,
            &[
                ("xl/sharedStrings.xml", strings),
                ("xl/worksheets/sheet1.xml", sheet),
            ],
            "\n## Sheet 1\n\nriver\tlevel\n3.5\n",
        );
    }

    #[test]
    fn open_documents_keep_headings_paragraphs_and_rows() {
        let content = r#"<office:body><text:h text:outline-level="1">Floods</text:h><text:p>A<text:s/>river<text:tab/>x</text:p>
            <table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></office:body>"#;
        check(
            Office::OpenDocument,
            &[("content.xml", content)],
            "# Floods\n\nA river\tx\n\na \tb \n",
        );
    }

    #[test]
    fn books_follow_their_spine() {
        let container =
            r#"<container><rootfiles><rootfile full-path="OEBPS/p.opf"/></rootfiles></container>"#;
        let package = r#"<package><metadata><dc:title>Of rivers</dc:title></metadata><manifest><item id="b" href="b.xhtml"/><item id="a" href="a.xhtml"/></manifest>
            <spine><itemref idref="a"/><itemref idref="b"/></spine></package>"#;
        let parts = [
            ("META-INF/container.xml", container),
            ("OEBPS/p.opf", package),
            ("OEBPS/b.xhtml", "<h1>Second</h1>"),
            ("OEBPS/a.xhtml", "<h1>First</h1><p>text</p>"),
        ];
        check(
            Office::Epub,
            &parts,
            "# Of rivers\n\n# First\n\ntext\n\n# Second\n\n",
        );
    }

    #[test]
    fn bombs_and_broken_archives_are_refused() {
        let bomb = archive(&[("word/document.xml", &" ".repeat(10_000_000))]);
        assert!(bomb.len() < 100_000);
        assert!(matches!(
            to_markdown(Office::Docx, &bomb, 1 << 20),
            Err(Unreadable::Failed(_))
        ));
        let good = archive(&[("word/document.xml", "<p><t>x</t></p>")]);
        for cut in 0..good.len() {
            let _ = to_markdown(Office::Docx, &good[..cut], 1 << 20);
        }
        assert!(matches!(
            to_markdown(Office::Docx, b"PK\x03\x04", 1 << 20),
            Err(Unreadable::Failed(_))
        ));
        let wrong = archive(&[("other.xml", "")]);
        assert!(matches!(
            to_markdown(Office::Docx, &wrong, 1 << 20),
            Err(Unreadable::Failed(_))
        ));
    }
}
