//! From bytes to something that can be found: extraction, passages, embedding, the lexical index.
//!
//! Everything here is derived from files and can be rebuilt from them.

pub mod embed;
pub mod extract;
pub mod indexer;
pub mod lexical;
pub mod passages;
pub mod scan;
