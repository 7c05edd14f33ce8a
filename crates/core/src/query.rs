//! From a query to a ranked list of files.

pub mod answer;
pub mod ask;
pub mod fuse;
pub mod kinds;
pub mod options;
pub mod parse;
mod quantity;
pub mod snippet;

fn parse_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
