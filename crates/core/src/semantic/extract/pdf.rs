//! PDF. The parser panics on malformed files by policy: it runs only in a worker.

use super::Unreadable;

pub(super) fn to_text(content: &[u8]) -> Result<String, Unreadable> {
    let pages =
        pdf_extract::extract_text_from_mem_by_pages(content).map_err(|e| Unreadable::failed("pdf", e))?;
    Ok(pages.join("\n\n"))
}
