//! SQLite's own file layer, but for one thing: it opens the path that it is given.
//!
//! SQLite resolves every symbolic link of a database's path first. The store's path leads through a descriptor
//! (`/proc/self/fd/N`), which stands for the store directory even when a mount hides its name; resolved, it would lead
//! into that mount, and the daemon would wait for itself.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use rusqlite::ffi;

const NAME: &CStr = c"vexfs";

/// The name under which the layer is registered; registers it at the first call.
pub(super) fn name() -> &'static CStr {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(register);
    NAME
}

fn register() {
    // SAFETY: `sqlite3_vfs_find` gives the default layer, which lives as long as the process; it is plain data and is
    // copied before it is changed. The copy is leaked, because SQLite keeps the pointer for good. Its functions
    // get the copy as their first argument and use of it only `pAppData` and `mxPathname`, which are the original's.
    unsafe {
        let original = ffi::sqlite3_vfs_find(std::ptr::null());
        assert!(!original.is_null(), "SQLite is built with a file layer");
        let mut layer = *original;
        layer.zName = NAME.as_ptr();
        layer.pNext = std::ptr::null_mut();
        layer.xFullPathname = Some(given_path);
        let result = ffi::sqlite3_vfs_register(Box::leak(Box::new(layer)), 0);
        assert_eq!(
            result,
            ffi::SQLITE_OK,
            "registering a file layer only appends it to a list"
        );
    }
}

/// Gives the path back as it is.
///
/// # Safety
/// SQLite calls it with `path` ending in a zero byte and `capacity` bytes at `out`.
unsafe extern "C" fn given_path(
    _layer: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    capacity: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the caller's contract.
    unsafe {
        let bytes = CStr::from_ptr(path).to_bytes_with_nul();
        if bytes.len() > capacity as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
    }
    ffi::SQLITE_OK
}
