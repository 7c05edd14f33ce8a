//! Saved queries, `q/<name>/`: a query too long for a name, a vector to search by, and a feed of what changes.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use parking_lot::Mutex;

use super::handles::Handle;
use super::node::{Listing, SavedFile, Scope, Source};
use super::tree::ControlTree;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::knowledge::saved::SavedQuery;

/// Bytes of a query: enough for a whole document as the question.
const QUERY_BYTES_MAX: usize = 1 << 20;

impl SavedFile {
    /// Whether a program may write it.
    pub(super) fn is_writable(self) -> bool {
        matches!(self, SavedFile::Query | SavedFile::Vector)
    }
}

/// What a saved query's results are made from.
pub(super) fn listing(scope: Scope, name: &OsStr) -> Listing {
    Listing {
        scope,
        source: Source::Saved(name.into()),
        options: OsString::new(),
    }
}

/// A file of a saved query that is open for writing. Each write is checked and stored whole, so that its error is
/// the error of that write and never hides in close.
pub(super) struct Draft {
    name: OsString,
    file: SavedFile,
    bytes: Mutex<Vec<u8>>,
}

impl Draft {
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }
}

impl ControlTree {
    pub(super) fn saved_open_read(
        &self,
        caller: &Caller,
        scope: Scope,
        name: &OsStr,
        file: SavedFile,
    ) -> Result<Handle> {
        let saved = self.knowledge.saved_get(caller, name)?;
        Ok(match file {
            SavedFile::Query => Handle::Text(with_newline(saved.query)),
            SavedFile::Vector => Handle::Text(saved.vector),
            SavedFile::ResultsJsonl => {
                let list = self.run(caller, &Arc::new(listing(scope, name)))?;
                Handle::Text(list.answer.jsonl().into_bytes())
            }
            SavedFile::Live => Handle::Events(self.knowledge.live(*caller, scope.dir, saved)?),
        })
    }

    pub(super) fn saved_open_write(
        &self,
        caller: &Caller,
        name: &OsStr,
        file: SavedFile,
        flags: i32,
    ) -> Result<u64> {
        let saved = self.knowledge.saved_get(caller, name)?;
        let bytes = match file {
            _ if flags & libc::O_TRUNC != 0 || flags & libc::O_APPEND == 0 => Vec::new(),
            SavedFile::Query => saved.query.into_bytes(),
            _ => saved.vector,
        };
        Ok(self.handles.insert(Handle::Draft(Draft {
            name: name.into(),
            file,
            bytes: Mutex::new(bytes),
        })))
    }

    pub(super) fn saved_write(&self, caller: &Caller, fh: u64, offset: u64, data: &[u8]) -> Result<u32> {
        let handle = self.handles.get(fh)?;
        let Handle::Draft(draft) = &*handle else {
            return Err(Error::Os(libc::EBADF));
        };
        let mut bytes = draft.bytes.lock();
        let start = usize::try_from(offset).map_err(|_| Error::Os(libc::EFBIG))?;
        let end = start
            .checked_add(data.len())
            .filter(|&end| end <= QUERY_BYTES_MAX);
        let end = end.ok_or(Error::Os(libc::EFBIG))?;
        let mut next = bytes.clone();
        next.resize(next.len().max(end), 0);
        next[start..end].copy_from_slice(data);
        self.knowledge
            .saved_set(caller, &draft.name, |saved: &mut SavedQuery| match draft.file {
                SavedFile::Query => saved.set_query(&next),
                _ => saved.set_vector(&next),
            })?;
        *bytes = next;
        Ok(data.len() as u32)
    }
}

/// The mode of the files of a saved query: only their owner sees them.
pub(super) fn mode(file: SavedFile) -> u32 {
    if file.is_writable() {
        libc::S_IFREG | 0o600
    } else {
        libc::S_IFREG | 0o400
    }
}

fn with_newline(mut text: String) -> Vec<u8> {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.into_bytes()
}
