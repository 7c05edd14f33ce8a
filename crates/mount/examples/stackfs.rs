//! The filesystem alone, without index and control directory, in the foreground: for conformance suites and for
//! measuring what the stack costs.
//!
//!     stackfs SOURCE MOUNTPOINT [-o options]

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, mpsc};

use vexfs_core::change::{Change, ChangeSink};
use vexfs_core::engine::Engine;
use vexfs_core::fs::Stack;
use vexfs_core::ids::NodeKey;
use vexfs_core::metrics::Metrics;
use vexfs_mount::options::MountOptions;
use vexfs_mount::place::Place;
use vexfs_mount::session::Session;
use vexfs_mount::{Adapter, AdapterOptions, mounting, stack_options};

/// Nobody listens.
struct Unheard;

impl ChangeSink for Unheard {
    fn maybe_changed(&self, _node: NodeKey) {}
    fn changed(&self, _change: Change) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (source, mountpoint, lists) = match &arguments[..] {
        [source, mountpoint] => (source, mountpoint, vec![]),
        [source, mountpoint, o, list] if o == "-o" => (source, mountpoint, vec![list.as_os_str()]),
        _ => return Err("usage: stackfs SOURCE MOUNTPOINT [-o options]".into()),
    };
    let options = MountOptions::parse(lists)?;
    let place = Place::find(Path::new(source), Path::new(mountpoint))?;
    let stack_options = stack_options(&place, &options)?;
    let root = place.source_dir.try_clone()?;
    let stack = Stack::new(root, stack_options, Arc::new(Unheard))?;
    let metrics = Arc::new(Metrics::new());
    let engine = Arc::new(Engine::new(Arc::new(stack), None, metrics));
    let adapter = Adapter::new(engine.clone(), AdapterOptions::from(&options));
    let kernel_cache = adapter.kernel_cache();
    let mounted = mounting::mount(&place, &options)?;
    let (tell, ended) = mpsc::channel();
    let session = Session::start(adapter, mounted, &options, move |outcome| {
        let _ = tell.send(outcome);
    })?;
    kernel_cache.connect(session.notifier());
    let outcome = ended.recv()?;
    session.join();
    if std::env::var_os("STACKFS_METRICS").is_some() {
        let mut text = String::new();
        engine.prometheus(&mut text);
        eprint!("{text}");
    }
    Ok(outcome?)
}
