//! Frozen result lists: what a directory of results shows between two openings of it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use parking_lot::Mutex;

use super::names::{link_name, link_target};
use super::node::Listing;
use crate::query::answer::{Answer, Hit};

/// Lists kept for later lookups. A list is a few kilobytes; this many serve any number of shells at once.
const LISTS_MAX: usize = 1_024;

/// An answer with the names under which its hits are listed.
pub(super) struct ResultList {
    pub(super) answer: Answer,
    names: Vec<OsString>,
    by_name: HashMap<OsString, usize>,
    targets: Vec<Vec<u8>>,
}

impl ResultList {
    /// Names the hits. `depth` is how far the links stand below the scope, whose path is `scope`.
    pub(super) fn new(answer: Answer, scope: &std::path::Path, depth: usize) -> ResultList {
        let ranks = answer.hits.len();
        let names: Vec<OsString> = answer
            .hits
            .iter()
            .enumerate()
            .map(|(i, hit)| link_name(i + 1, ranks, hit.score, &hit.path))
            .collect();
        let targets = answer
            .hits
            .iter()
            .map(|hit| link_target(depth, hit.path.strip_prefix(scope).unwrap_or(&hit.path)))
            .collect();
        let by_name = names.iter().cloned().zip(0..).collect();
        ResultList {
            answer,
            names,
            by_name,
            targets,
        }
    }

    /// The link names, best first.
    pub(super) fn names(&self) -> &[OsString] {
        &self.names
    }

    /// The hit behind a link name, with its rank from 1.
    pub(super) fn hit(&self, name: &OsStr) -> Option<(usize, &Hit)> {
        self.by_name.get(name).map(|&i| (i + 1, &self.answer.hits[i]))
    }

    /// Where a link leads.
    pub(super) fn target(&self, name: &OsStr) -> Option<&[u8]> {
        self.by_name.get(name).map(|&i| self.targets[i].as_slice())
    }
}

/// The last list of each directory and caller, the least recently used forgotten first.
#[derive(Default)]
pub(super) struct Lists {
    lists: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    by_key: HashMap<(Arc<Listing>, u32), (Arc<ResultList>, u64)>,
    clock: u64,
}

impl Lists {
    pub(super) fn get(&self, listing: &Arc<Listing>, uid: u32) -> Option<Arc<ResultList>> {
        let mut recent = self.lists.lock();
        recent.clock += 1;
        let now = recent.clock;
        let (list, used) = recent.by_key.get_mut(&(listing.clone(), uid))?;
        *used = now;
        Some(list.clone())
    }

    pub(super) fn put(&self, listing: Arc<Listing>, uid: u32, list: Arc<ResultList>) {
        let mut recent = self.lists.lock();
        recent.clock += 1;
        let now = recent.clock;
        recent.by_key.insert((listing, uid), (list, now));
        if recent.by_key.len() > LISTS_MAX {
            let mut ages: Vec<u64> = recent.by_key.values().map(|(_, used)| *used).collect();
            let middle = ages.len() / 2;
            let (_, &mut median, _) = ages.select_nth_unstable(middle);
            recent.by_key.retain(|_, (_, used)| *used > median);
        }
    }
}
