//! The files in a transaction's directory: what is to be known of it, as text.

use std::fmt::Write;

use crate::Result;
use crate::txn::{Teller, Txn};

/// A file of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Status = 2,
    Diff = 3,
    Conflicts = 4,
    Meaning = 5,
    Patch = 6,
}

impl Report {
    /// All of them with their names.
    pub(super) const ALL: [(Report, &str); 5] = [
        (Report::Status, "status"),
        (Report::Diff, "diff"),
        (Report::Conflicts, "conflicts"),
        (Report::Meaning, "meaning"),
        (Report::Patch, "patch"),
    ];

    /// Its text, as it is now.
    pub(super) fn render(self, txn: &Txn, teller: &dyn Teller) -> Result<Vec<u8>> {
        let mut text = String::new();
        match self {
            Report::Patch => return txn.patch(),
            Report::Status => {
                let status = txn.status(teller)?;
                let _ = writeln!(
                    text,
                    "base_generation {}\nchanged {}\ntold {}\nconflicts {}\nbytes {}\nquota {}\nstrict {}\nowner {}\nbegun {}\nexpires {}",
                    status.base_generation,
                    status.changed,
                    status.told,
                    status.conflicts,
                    status.bytes,
                    status.quota,
                    u8::from(status.strict),
                    status.owner,
                    status.begun.secs,
                    status.expires
                );
            }
            Report::Diff => {
                for (path, difference) in txn.differences()? {
                    let _ = writeln!(text, "{} {}", difference.letter(), path.display());
                }
            }
            Report::Meaning => {
                for (path, distance) in txn.moved(teller)? {
                    let distance = distance.map_or("-    ".to_owned(), |distance| format!("{distance:.3}"));
                    let _ = writeln!(text, "{distance} {}", path.display());
                }
            }
            Report::Conflicts => {
                for path in txn.conflicts(teller)? {
                    let _ = writeln!(text, "{}", path.display());
                }
            }
        }
        Ok(text.into_bytes())
    }
}
