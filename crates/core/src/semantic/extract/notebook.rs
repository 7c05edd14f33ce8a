//! Jupyter notebooks (nbformat 4, and 3): Markdown cells as they are, code cells in fences, text outputs.

use serde::Deserialize;

use super::Unreadable;

#[derive(Deserialize)]
struct Notebook {
    #[serde(default)]
    cells: Vec<Cell>,
    #[serde(default)]
    worksheets: Vec<Worksheet>,
}

#[derive(Deserialize)]
struct Worksheet {
    #[serde(default)]
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    #[serde(default)]
    cell_type: String,
    /// `input` in nbformat 3.
    #[serde(default, alias = "input")]
    source: Lines,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    #[serde(default)]
    text: Lines,
}

/// Text, whole or as a list of lines.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lines {
    Whole(String),
    Each(Vec<String>),
    Other(serde::de::IgnoredAny),
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::Whole(String::new())
    }
}

impl Lines {
    fn text(&self) -> String {
        match self {
            Lines::Whole(text) => text.clone(),
            Lines::Each(lines) => lines.concat(),
            Lines::Other(_) => String::new(),
        }
    }
}

/// Bytes of one printed output that are kept: the head says what it is, the rest is data.
const OUTPUT_BYTES_MAX: usize = 1000;

pub(super) fn to_markdown(content: &[u8]) -> Result<String, Unreadable> {
    let notebook: Notebook =
        serde_json::from_slice(content).map_err(|e| Unreadable::failed("notebook", e))?;
    let mut out = String::new();
    let cells = notebook
        .cells
        .iter()
        .chain(notebook.worksheets.iter().flat_map(|sheet| &sheet.cells));
    for cell in cells {
        let source = cell.source.text();
        if cell.cell_type == "code" {
            out.push_str("```\n");
            out.push_str(&source);
            out.push_str("\n```\n");
            for output in &cell.outputs {
                let text = output.text.text();
                let end = (0..=text.len().min(OUTPUT_BYTES_MAX))
                    .rev()
                    .find(|at| text.is_char_boundary(*at));
                out.push_str(&text[..end.unwrap_or(0)]);
                out.push('\n');
            }
        } else {
            out.push_str(&source);
            out.push('\n');
        }
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_one_another() {
        let notebook = r##"{"cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "about rivers"]},
            {"cell_type": "code", "source": "x = 1\nprint(x)", "outputs": [{"text": ["1\n"]}, {"data": {"image/png": "AAAA"}}]}
        ], "nbformat": 4}"##;
        assert_eq!(
            to_markdown(notebook.as_bytes()).unwrap(),
            "# Title\nabout rivers\n\n```\nx = 1\nprint(x)\n```\n1\n\n\n\n"
        );
        assert!(matches!(to_markdown(b"{"), Err(Unreadable::Failed(_))));
        let deep = "[".repeat(100_000);
        assert!(matches!(to_markdown(deep.as_bytes()), Err(Unreadable::Failed(_))));
    }
}
