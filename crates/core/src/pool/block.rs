//! A piece of memory, aligned to a cache line and cleared once.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::Pool;

/// What stands before the bytes of a block, in a cache line of its own: two threads' buffers never share one, and the
/// bytes begin where 512-bit loads want them.
#[derive(Debug)]
#[repr(C, align(64))]
struct Header {
    bytes: usize,
    /// Whose it is; none until it was handed out.
    pool: Option<&'static Pool>,
}

/// Memory that one owner may read and write. A handle of one word: it is moved more often than it is asked its size.
#[derive(Debug)]
pub(super) struct Block(NonNull<Header>);

// SAFETY: a block is the only owner of its memory, as Box<[u8]> is.
unsafe impl Send for Block {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for Block {}

impl Block {
    /// Allocates `bytes` bytes of zeros.
    pub(super) fn new(bytes: usize) -> Block {
        let layout = Block::layout(bytes);
        // SAFETY: the layout's size is not zero: there is a header.
        let at = unsafe { alloc_zeroed(layout) };
        let Some(at) = NonNull::new(at.cast::<Header>()) else {
            handle_alloc_error(layout)
        };
        // SAFETY: fresh memory with a header's alignment and at least its size.
        unsafe { at.write(Header { bytes, pool: None }) };
        Block(at)
    }

    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.header().bytes
    }

    /// The pool that handed it out, if one did.
    #[inline]
    pub(super) fn pool(&self) -> Option<&'static Pool> {
        self.header().pool
    }

    #[inline]
    pub(super) fn set_pool(&mut self, pool: &'static Pool) {
        // SAFETY: the header lives as long as the block, and `&mut self` is the only reference.
        unsafe { self.0.as_mut() }.pool = Some(pool);
    }

    /// The address, which tells blocks apart while they live.
    #[cfg(feature = "bench")]
    pub(super) fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: after the header are `bytes` bytes, initialised when allocated, owned by self.
        unsafe { std::slice::from_raw_parts(self.content(), self.bytes()) }
    }

    #[inline]
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.content(), self.bytes()) }
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: written when allocated, freed with the block.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn content(&self) -> *mut u8 {
        // SAFETY: the allocation goes on after the header.
        unsafe { self.0.add(1) }.as_ptr().cast()
    }

    fn layout(bytes: usize) -> Layout {
        let whole = bytes.checked_add(size_of::<Header>());
        whole
            .and_then(|whole| Layout::from_size_align(whole, align_of::<Header>()).ok())
            .expect("a slice's length fits isize")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let layout = Block::layout(self.bytes());
        // SAFETY: it came from alloc_zeroed with this layout and is freed once.
        unsafe { dealloc(self.0.as_ptr().cast(), layout) }
    }
}
