//! From a query to a ranked list of files.

pub(crate) mod access;
pub mod answer;
pub mod ask;
mod asked;
mod filter;
pub mod fuse;
pub mod kinds;
pub mod model;
pub mod options;
pub(crate) mod overlay;
pub mod parse;
mod quantity;
mod related;
mod remembered;
pub mod search;
pub(crate) mod sight;
pub mod snippet;
pub mod spaces;

fn parse_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
