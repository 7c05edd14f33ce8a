//! How fresh answers are: what they waited for, what they say is pending, and the scans that find what nobody saw.
//!
//! close(2) returns before the kernel has told us of it. So a file that is open for writing is looked at by whoever
//! waits, and counts as pending as long as it differs from what the index was told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use vexfs_vector::kernel::Kernels;

use super::{Knowledge, NEW_DIRECTORY_WAIT, SYNC_WAIT_MAX, Status};
use crate::error::{Error, Result};
use crate::ids::NodeKey;
use crate::query::answer::Answer;
use crate::query::overlay::Overlay;
use crate::query::search::Request;

impl Knowledge {
    /// Answers a request, first waiting for freshness where it asks for that. What the answer calls pending was so
    /// before it was searched for: what is missing in it is never left out of that number.
    pub fn search(&self, request: &Request<'_>) -> Result<Answer> {
        if request.fresh.require || !request.fresh.wait.is_zero() {
            self.look_at_writers();
        }
        if !request.fresh.wait.is_zero() {
            self.indexer.wait_idle(request.fresh.wait);
        }
        if let Some(scope) = request.scope
            && !self.is_catalogued(scope)?
        {
            self.indexer.wait_seen(NEW_DIRECTORY_WAIT);
        }
        let pending = self.pending()?;
        if request.fresh.require && pending > 0 {
            return Err(Error::NotFresh { pending });
        }
        let answer = self.searcher.search(request)?;
        Ok(Answer { pending, ..answer })
    }

    /// Answers a request about a tree that differs from the catalog.
    pub(crate) fn search_overlaid(&self, request: &Request<'_>, overlay: &Overlay<'_>) -> Result<Answer> {
        let pending = self.pending()?;
        let answer = self.searcher.search_overlaid(request, overlay)?;
        Ok(Answer { pending, ..answer })
    }

    /// Files that changed and cannot be found as they are; at least 1 while the tree is scanned.
    pub(super) fn pending(&self) -> Result<u64> {
        let written = self.written_unreported()?;
        let indexer = self.indexer.status();
        let busy = indexer.scanning || !self.indexer.wait_idle(Duration::ZERO);
        // A held index is never idle with its work done: what it holds back are files, and those are counted.
        let busy = busy && !self.indexer.is_paused();
        Ok((indexer.pending + written).max(u64::from(busy)))
    }

    /// Files that are being written, or were closed just now, of which the indexer has not heard.
    fn written_unreported(&self) -> Result<u64> {
        let Some(mount) = self.mount.get() else {
            return Ok(0);
        };
        let written = mount.stack.unsettled();
        let waits = |node: &NodeKey| -> Result<bool> {
            let id = self.store.read(|rows| rows.id_of(*node))?;
            let mirror = self.store.mirror();
            Ok(id
                .and_then(|id| mirror.get(id))
                .is_some_and(|node| node.state().is_awaiting()))
        };
        let mut unreported = 0;
        for node in &written {
            unreported += u64::from(!waits(node)?);
        }
        Ok(unreported)
    }

    fn is_catalogued(&self, directory: NodeKey) -> Result<bool> {
        Ok(self.store.read(|rows| rows.id_of(directory))?.is_some())
    }

    /// Reports what was written to files that are open, as far as it was written: what a program wrote before it closed
    /// a file is there when close(2) returns, although the kernel tells us of that later.
    pub fn look_at_writers(&self) {
        if let Some(mount) = self.mount.get() {
            mount.stack.settle_writers();
        }
    }

    /// Waits until every change that was seen is searchable. False when the time ran out first.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        self.indexer.wait_idle(timeout)
    }

    /// How fresh the index is.
    pub fn status(&self) -> Status {
        let counts = self.store.mirror().counts();
        let written = self.written_unreported().unwrap_or(0);
        let indexer = self.indexer.status();
        let model = self.searcher.model.load();
        Status {
            generation: self.store.generation(),
            files: counts.files,
            ready: counts.ready,
            pending: indexer.pending + written,
            queue: indexer.queue,
            failed: counts.failed,
            excluded: counts.excluded,
            passages: counts.passages,
            bytes: counts.bytes,
            scanning: indexer.scanning,
            idle: written == 0 && self.indexer.wait_idle(Duration::ZERO),
            error: indexer.error,
            embedder: model.embedder.id().to_owned(),
            dim: model.embedder.dim(),
            migration: self.migration.json(),
            mountpoint: self.options.mountpoint.clone(),
            source: self.options.source.clone(),
            store: self.options.store_location.clone(),
            socket: self.options.socket.clone(),
            simd: Kernels::get().simd().name(),
            queries: self.searcher.answered(),
            uptime_s: self.started.elapsed().as_secs(),
            passthrough: self.mount.get().map(|mount| mount.metrics.passthrough.get() != 0),
        }
    }

    /// Looks at the whole tree and returns when that is done; what changed is indexed afterwards.
    pub fn scan(&self) -> Result<()> {
        self.indexer.scan(|_| true)?;
        self.scanned.store(true, Ordering::Release);
        Ok(())
    }

    /// Begins to look at the whole tree: what changed while nobody watched is pending from now on, and indexed
    /// afterwards.
    pub fn scan_in_background(&self) -> Result<()> {
        let scan = self.indexer.begin_scan()?;
        let (indexer, scanned) = (self.indexer.clone(), self.scanned.clone());
        std::thread::Builder::new()
            .name("vexfs-scan".into())
            .spawn(move || match indexer.follow_scan(scan, |_| true) {
                Ok(()) => scanned.store(true, Ordering::Release),
                Err(Error::Stopped) => {}
                Err(error) => tracing::error!(%error, "the scan of the tree failed"),
            })?;
        Ok(())
    }

    /// Whether the whole tree has been looked at since the start: what changed while nobody watched is in the catalog.
    pub(super) fn is_scanned(&self) -> bool {
        self.scanned.load(Ordering::Acquire)
    }

    /// Waits until what was reported of a file so far can be found.
    pub fn wait_file(&self, node: NodeKey) {
        if !self.indexer.wait_file(node, SYNC_WAIT_MAX) {
            tracing::warn!(ino = node.ino, "a closed file is not searchable yet");
        }
    }
}
