//! The FUSE adapter: decode a request, call the engine, reply. And mounting, as mount(8) does it.

pub mod adapter;
mod error;
mod fusermount;
pub mod mountinfo;
pub mod mounting;
pub mod options;
pub mod place;
pub mod session;
pub mod unmounting;

pub use adapter::{Adapter, AdapterOptions, KernelCache, stack_options};
pub use error::{MountError, Result};
pub use fuser::{Filesystem, Notifier};
