//! Names of directory entries: bytes, one component, nothing that could lead out of the directory.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

/// Names up to this length (NAME_MAX) are turned into C strings on the stack.
const STACK_MAX: usize = 255;

/// Refuses what is not the name of one entry: empty, `.`, `..`, or with a slash or NUL in it. The kernel sends none
/// of these; a second transport might.
pub(crate) fn check(name: &OsStr) -> Result<(), Errno> {
    let bytes = name.as_bytes();
    match bytes {
        b"" | b"." | b".." => Err(Errno::INVAL),
        _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

/// Calls `f` with the name as a C string, without allocating for names that a filesystem can hold.
pub(crate) fn with_c_str<T>(name: &OsStr, f: impl FnOnce(&CStr) -> Result<T, Errno>) -> Result<T, Errno> {
    let bytes = name.as_bytes();
    if bytes.len() > STACK_MAX {
        return f(&std::ffi::CString::new(bytes).map_err(|_| Errno::INVAL)?);
    }
    let mut buffer = [0u8; STACK_MAX + 1];
    buffer[..bytes.len()].copy_from_slice(bytes);
    f(CStr::from_bytes_with_nul(&buffer[..=bytes.len()]).map_err(|_| Errno::INVAL)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for good in ["a", "...", ".a", "a b", "\u{202e}", "a\n"] {
            assert_eq!(check(OsStr::new(good)), Ok(()), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "/", "a\0b"] {
            assert_eq!(check(OsStr::new(bad)), Err(Errno::INVAL), "{bad:?}");
        }
    }

    #[test]
    fn c_strings_carry_every_byte_of_short_and_long_names() {
        for len in [0, 1, 254, 255, 256, 4000] {
            let name = vec![0xff; len];
            let copied = with_c_str(OsStr::from_bytes(&name), |c| Ok(c.to_bytes().to_vec()));
            assert_eq!(copied, Ok(name));
        }
        assert_eq!(with_c_str(OsStr::new("a\0b"), |_| Ok(())), Err(Errno::INVAL));
    }
}
