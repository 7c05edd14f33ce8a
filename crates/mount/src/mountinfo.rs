//! The table of mounts as the kernel tells it in `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! Reading it asks no filesystem anything, so it works while a mount is dead or does not answer.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The type under which the kernel lists our mounts.
pub const FSTYPE: &str = "fuse.vexfs";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// `major:minor`, the `st_dev` of everything in it.
    pub device: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Type with subtype, `fuse.vexfs`.
    pub fstype: String,
    /// Its source, for our mounts SOURCE.
    pub source: OsString,
    /// Options of the mount and of the filesystem.
    pub options: String,
}

/// All mounts, the later ones on top of the earlier.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn read() -> io::Result<Vec<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// The mount that is visible at exactly this path, if one is.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn topmost_at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(read()?.into_iter().rfind(|m| m.mountpoint == path))
}

/// The mount to which an absolute path without symbolic links belongs.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn containing(path: &Path) -> io::Result<Option<MountEntry>> {
    let below = read()?.into_iter().filter(|m| path.starts_with(&m.mountpoint));
    // Of equal paths `max_by_key` gives the last, which is the one on top.
    Ok(below.max_by_key(|m| m.mountpoint.as_os_str().len()))
}

/// `36 35 98:0 /root /mountpoint options [optional fields] - fstype source super-options`
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&b| b == b' ');
    let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
    let mountpoint = PathBuf::from(unescape(fields.nth(1)?));
    let own_options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut rest = fields.skip_while(|&f| f != b"-").skip(1);
    let fstype = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = unescape(rest.next()?);
    let options = match rest.next() {
        Some(of_super) => format!("{own_options},{}", String::from_utf8_lossy(of_super)),
        None => own_options,
    };
    Some(MountEntry {
        device,
        mountpoint,
        fstype,
        source,
        options,
    })
}

/// The kernel writes space, tab, newline, backslash and `#` as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
        match octal
            .and_then(|o| std::str::from_utf8(o).ok())
            .and_then(|o| u8::from_str_radix(o, 8).ok())
        {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

impl MountEntry {
    /// Whether it is one of ours.
    pub fn is_vexfs(&self) -> bool {
        self.fstype == FSTYPE
    }

    /// SOURCE of one of our mounts.
    pub fn source_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.source.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields_are_read() {
        for optional in ["", "shared:7 master:2 "] {
            let line = format!(
                "36 35 0:98 / /mnt/a\\040b\\134 rw,noatime {optional}- fuse.vexfs /src\\011x rw,user_id=0"
            );
            let entry = parse(line.as_bytes()).expect(&line);
            let expect = MountEntry {
                device: "0:98".into(),
                mountpoint: "/mnt/a b\\".into(),
                fstype: FSTYPE.into(),
                source: "/src\tx".into(),
                options: "rw,noatime,rw,user_id=0".into(),
            };
            assert_eq!(entry, expect);
        }
    }

    #[test]
    fn broken_lines_are_passed_over() {
        for line in ["", "36", "36 35 0:98 / /mnt rw", "36 35 0:98 / /mnt rw - fuse"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn the_root_filesystem_is_found() -> io::Result<()> {
        assert!(topmost_at(Path::new("/proc"))?.is_some_and(|m| m.fstype == "proc"));
        assert!(containing(Path::new("/proc/1/status"))?.is_some_and(|m| m.mountpoint == Path::new("/proc")));
        Ok(())
    }
}
