//! What is agreed with the kernel when a session begins.

use fuser::{InitFlags, KernelConfig};

use super::AdapterOptions;

/// The largest write and read: 256 pages, the kernel's default limit. Eight times the old 128 KiB, and 1.9 times as
/// fast for sequential writes.
pub(super) const TRANSFER_MAX: u32 = 1 << 20;

/// Background requests (readahead, mostly) that the kernel may have under way.
const BACKGROUND_MAX: u16 = 64;

/// What we ask of the kernel, if it has it, and nothing else: some capabilities that the library would accept refuse
/// callers, or hang the first setxattr. ATOMIC_O_TRUNC is left out because a file would be
/// truncated before the kernel finds that it is being executed (O_RDONLY | O_TRUNC).
const CAPABILITIES: [InitFlags; 7] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // The backing filesystem applies the umask, since a default ACL overrides it.
    InitFlags::FUSE_DONT_MASK,
    // Else every write begins with a request for security.capability; module `set_id` of the stack keeps the promise.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Inodes are forgotten; a handle to one would not lead back to it.
    InitFlags::FUSE_NO_EXPORT_SUPPORT,
];

/// Answers the kernel's greeting; `trusted` says that nobody changes the backing tree unnoticed. Gives whether files may be
/// passed through.
pub(super) fn negotiate(config: &mut KernelConfig, options: &AdapterOptions, trusted: bool) -> bool {
    for capability in CAPABILITIES {
        // What this kernel lacks it does without.
        let _ = config.add_capabilities(capability);
    }
    if options.default_permissions {
        // It implies the check of permissions, so it is not for mounts without it.
        let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
    }
    if !trusted {
        // Cached pages go when the attributes show that somebody else wrote the file.
        let _ = config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA);
    }
    // The values are within the limits of the library, which says so otherwise and keeps its own.
    let _ = config.set_max_write(TRANSFER_MAX);
    let _ = config.set_max_background(BACKGROUND_MAX);
    options.passthrough
        && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        && config.set_max_stack_depth(1).is_ok()
}
