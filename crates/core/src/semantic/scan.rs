//! Looking at the backing tree: safe opens below the root ([`tree`]), and which files the index takes in ([`rules`]).

pub mod rules;
pub mod tree;
