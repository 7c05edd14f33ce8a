//! Transactions: many changes of files that become visible together or not at all.
//!
//! A transaction is a copy-on-write view of the tree ([`View`]) over a stage beside the store, on the backing tree's own
//! filesystem. A commit is a list of steps, each of which moves something between stage and tree and can be repeated
//! ([`step`]). The list is made from what is staged ([`plan`]), compared with the tree as it is now ([`conflict`]),
//! written down in one commit of the store, and then carried out while no request passes the [`Gate`]; after a crash
//! whatever was written down is carried out at the next start ([`desk`]).

mod conflict;
mod desk;
mod diff;
mod gate;
mod git;
mod layers;
mod links;
mod meaning;
mod patch;
mod plan;
mod rebase;
mod settle;
mod step;
mod teller;
mod told;
mod transaction;
mod view;

pub use desk::Desk;
pub use gate::Gate;
pub use links::{End, Link, StagedLinks, Way};
pub use rebase::How;
pub use teller::{Teller, Work};
pub use told::Said;
pub use transaction::{Status, Txn};
pub use view::{TTL as VIEW_TTL, View};

/// How a staged name differs from the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The base has no such name.
    Added,
    /// The name leads to other content or attributes.
    Changed,
    /// The name is gone.
    Removed,
}

impl Difference {
    /// The letter that stands before the path in lists.
    pub fn letter(self) -> char {
        match self {
            Difference::Added => 'A',
            Difference::Changed => 'M',
            Difference::Removed => 'D',
        }
    }
}
