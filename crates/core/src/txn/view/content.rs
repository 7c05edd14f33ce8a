//! Content that comes from elsewhere, not from a program that writes.

use std::os::fd::{AsFd, BorrowedFd};

use super::View;
use crate::Error;
use crate::Result;
use crate::fs::Reopen;
use crate::fs::copy::copy_content;
use crate::ids::Ino;

impl View {
    /// Replaces the content of a regular file by the first `size` bytes of another one, sharing blocks where the
    /// filesystem can. After an error the file has a part of them.
    pub fn put_content(&self, ino: Ino, from: BorrowedFd<'_>, size: u64) -> Result<()> {
        let _still = self.still()?;
        let upper = self.copy_up(ino, false)?;
        self.reserve(size)?;
        let opened = self.upper.open(upper, libc::O_RDWR, Reopen::Daemon)?;
        let copied = match &opened.file {
            Some(to) => rustix::fs::ftruncate(to, 0)
                .map_err(Error::from)
                .and_then(|()| copy_content(from, to.as_fd(), size)),
            None => Err(Error::Os(libc::EBADF)),
        };
        self.upper.release(upper, opened.fh)?;
        copied
    }
}
