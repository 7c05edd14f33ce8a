//! The store: rows of what we were told, in a directory of our own.

pub mod dir;
