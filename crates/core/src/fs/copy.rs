//! Copying a file's content within a filesystem: shared blocks where it can, holes kept where it cannot.

use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::{Result, pool};

/// Bytes asked for in one copy_file_range(2): a signal then waits for some 100 ms at most.
const STEP_BYTES_MAX: u64 = 64 << 20;

/// Makes `to`, an empty file open for writing, a copy of the first `size` bytes of `from`. On an error `to` has a part
/// of them.
pub(crate) fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(rustix::fs::ftruncate(to, size)?);
    }
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // No holes are known: all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(data))
            .unwrap_or(size)
            .min(size);
        at = copy_range(from, to, data, end)?;
    }
    Ok(())
}

/// Copies the bytes from `at` to `end`; gives where it stopped, before `end` if the file has become shorter.
fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mut at: u64, end: u64) -> Result<u64> {
    while at < end {
        let (mut source, mut target) = (at, at);
        let step = (end - at).min(STEP_BYTES_MAX) as usize;
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), step) {
            Ok(0) => return Ok(u64::MAX),
            Ok(copied) => at += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_by_hand(from, to, at, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(end)
}

fn copy_by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mut at: u64, end: u64) -> Result<u64> {
    let mut buffer = pool::take(1 << 18);
    while at < end {
        let want = buffer.len().min((end - at) as usize);
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..want], at))?;
        if read == 0 {
            return Ok(u64::MAX);
        }
        let mut done = 0;
        while done < read {
            done +=
                rustix::io::retry_on_intr(|| rustix::io::pwrite(to, &buffer[done..read], at + done as u64))?;
        }
        at += read as u64;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(dir.path().join(name))
                .unwrap()
        };
        let from = open("from");
        from.write_all_at(b"head", 0).unwrap();
        from.write_all_at(b"tail", 10_000_000).unwrap();
        from.set_len(20_000_000).unwrap();
        let to = open("to");
        copy_content(from.as_fd(), to.as_fd(), 20_000_000).unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert!(read("from") == read("to"));
        let blocks = |file: &File| file.metadata().unwrap().blocks();
        assert!(
            blocks(&to) <= blocks(&from) + 64,
            "{} of {}",
            blocks(&to),
            blocks(&from)
        );
    }

    #[test]
    fn an_empty_file_and_bytes_copied_by_hand_are_copied_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("from");
        std::fs::write(&path, vec![7; 600_000]).unwrap();
        let (from, to) = (
            File::open(&path).unwrap(),
            File::create(dir.path().join("to")).unwrap(),
        );
        copy_content(from.as_fd(), to.as_fd(), 0).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 0);
        assert_eq!(
            copy_by_hand(from.as_fd(), to.as_fd(), 0, 600_000).unwrap(),
            600_000
        );
        assert!(std::fs::read(dir.path().join("to")).unwrap() == vec![7; 600_000]);
    }
}
