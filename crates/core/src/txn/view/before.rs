//! What base files contained when the transaction first touched them: for a patch and for a merge, when somebody else
//! has changed them since.
//!
//! All of it stands in one file of the stage, so that keeping it costs a write for each file and the commit's sync one
//! file more. What cannot be kept is missed only there.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::View;
use crate::fs::ops::Attr;
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

/// Larger files are hardly texts that somebody merges.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Bytes of all files: removing a large tree should not read it.
const BYTES_MAX: u64 = 64 << 20;

/// The file's name in the stage.
const NAME: &str = "before";

/// Contents by base inode.
pub(super) struct Contents {
    stage: OwnedFd,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    file: Option<OwnedFd>,
    end: u64,
    places: HashMap<NodeKey, (u64, u64)>,
}

impl Contents {
    pub(super) fn new(stage: OwnedFd) -> Contents {
        Contents {
            stage,
            kept: Mutex::default(),
        }
    }

    fn keep(&self, key: NodeKey, content: &[u8]) -> Result<()> {
        let mut kept = self.kept.lock();
        let len = content.len() as u64;
        if kept.end + len > BYTES_MAX {
            return Ok(());
        }
        let at = kept.end;
        if kept.file.is_none() {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            kept.file = Some(rustix::fs::openat(
                &self.stage,
                NAME,
                flags,
                Mode::from_raw_mode(0o600),
            )?);
        }
        let Some(file) = &kept.file else { return Ok(()) };
        if rustix::io::pwrite(file, content, at)? < content.len() {
            return Ok(());
        }
        kept.end += len;
        kept.places.insert(key, (at, len));
        Ok(())
    }

    fn get(&self, key: NodeKey) -> Option<Vec<u8>> {
        let kept = self.kept.lock();
        let (at, len) = *kept.places.get(&key)?;
        let mut content = vec![0; len as usize];
        let read = rustix::io::pread(kept.file.as_ref()?, &mut content[..], at).ok()?;
        (read as u64 == len).then_some(content)
    }
}

impl View {
    /// Keeps the content of a regular base file that is touched for the first time.
    pub(super) fn keep_before(&self, key: NodeKey, lower: Ino, attr: &Attr) {
        if attr.mode & libc::S_IFMT != libc::S_IFREG || attr.size > FILE_BYTES_MAX {
            return;
        }
        let kept = self
            .lower
            .backing_fd(lower)
            .and_then(|file| read(&file, attr.size))
            .and_then(|content| self.before.keep(key, &content));
        if let Err(error) = kept {
            tracing::debug!(%error, "what a file contained is not kept");
        }
    }

    /// The merge of both changes is the new base's.
    pub(in crate::txn) fn keep_anew(&self, key: NodeKey, content: &[u8]) -> Result<()> {
        self.before.keep(key, content)
    }

    /// What a base file contained when it was touched first, if it was kept.
    pub(in crate::txn) fn before(&self, key: NodeKey) -> Option<Vec<u8>> {
        self.before.get(key)
    }
}

/// The first `size` bytes of a file.
pub(in crate::txn) fn read(file: impl AsFd, size: u64) -> Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(size).map_err(|_| Error::Os(libc::EFBIG))?];
    let mut done = 0;
    while done < content.len() {
        match rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut content[done..], done as u64))? {
            0 => break,
            len => done += len,
        }
    }
    content.truncate(done);
    Ok(content)
}
