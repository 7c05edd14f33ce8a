//! Open files and directories of the control tree.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::saved::Draft;
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::knowledge::Feed;

/// How long a read of a feed waits: a reader that was killed is held no longer than this.
const FEED_WAIT: Duration = Duration::from_millis(900);

/// An entry of an open directory.
pub(super) struct DirRow {
    pub(super) name: OsString,
    /// `S_IFDIR`, `S_IFREG` or `S_IFLNK`.
    pub(super) kind: u32,
    pub(super) ino: Ino,
}

/// What an open file or directory holds.
pub(super) enum Handle {
    /// A text made at open.
    Text(Vec<u8>),
    /// A list made at opendir.
    Dir(Vec<DirRow>),
    /// Lines that arrive while it is open.
    Events(Feed),
    /// A saved query being written.
    Draft(Draft),
}

#[derive(Default)]
pub(super) struct Handles {
    open: Mutex<HashMap<u64, Arc<Handle>>>,
    last: AtomicU64,
}

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let fh = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(fh, Arc::new(handle));
        fh
    }

    pub(super) fn get(&self, fh: u64) -> Result<Arc<Handle>> {
        self.open.lock().get(&fh).cloned().ok_or(Error::Os(libc::EBADF))
    }

    pub(super) fn remove(&self, fh: u64) {
        self.open.lock().remove(&fh);
    }

    pub(super) fn read(&self, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        match &*self.get(fh)? {
            Handle::Text(text) => Ok(part(text, offset, size)),
            Handle::Draft(draft) => Ok(part(&draft.bytes(), offset, size)),
            Handle::Events(feed) => Ok(feed.read(size as usize, FEED_WAIT)),
            Handle::Dir(_) => Err(Error::Os(libc::EISDIR)),
        }
    }

    pub(super) fn dir(&self, fh: u64) -> Result<DirRows> {
        let handle = self.get(fh)?;
        match &*handle {
            Handle::Dir(_) => Ok(DirRows(handle)),
            _ => Err(Error::Os(libc::ENOTDIR)),
        }
    }
}

/// The rows of an open directory, shared with the handle.
pub(super) struct DirRows(Arc<Handle>);

impl std::ops::Deref for DirRows {
    type Target = [DirRow];

    fn deref(&self) -> &[DirRow] {
        match &*self.0 {
            Handle::Dir(rows) => rows,
            _ => &[],
        }
    }
}

fn part(text: &[u8], offset: u64, size: u32) -> Vec<u8> {
    let start = (offset as usize).min(text.len());
    let end = start.saturating_add(size as usize).min(text.len());
    text[start..end].to_vec()
}
