//! A piece of memory, aligned to a cache line and cleared once.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment of every block: a cache line, so that two threads' buffers never share one, and what 512-bit loads want.
const ALIGNMENT: usize = 64;

/// Memory that one owner may read and write.
#[derive(Debug)]
pub(super) struct Block {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a block is the only owner of its memory, as Box<[u8]> is.
unsafe impl Send for Block {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for Block {}

impl Block {
    /// Allocates `bytes` (more than 0) bytes of zeros.
    pub(super) fn new(bytes: usize) -> Block {
        let layout = Block::layout(bytes);
        // SAFETY: the layout's size is not zero: `layout` asserts it.
        let at = unsafe { alloc_zeroed(layout) };
        match NonNull::new(at) {
            Some(at) => Block { at, bytes },
            None => handle_alloc_error(layout),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address, which tells blocks apart while they live.
    #[cfg(feature = "bench")]
    pub(super) fn address(&self) -> usize {
        self.at.as_ptr() as usize
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: `at` points to `bytes` bytes, initialised when allocated, owned by self.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.bytes) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.bytes) }
    }

    fn layout(bytes: usize) -> Layout {
        assert!(bytes > 0);
        Layout::from_size_align(bytes, ALIGNMENT).expect("a slice's length fits isize")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `at` came from alloc_zeroed with this layout and is freed once.
        unsafe { dealloc(self.at.as_ptr(), Block::layout(self.bytes)) }
    }
}
