//! The file of the graph: which rows it has under which keys, how wide its walks must be, and the graph itself.

use std::io;
use std::path::{Path, PathBuf};

use super::super::vamana::Beams;
use super::super::{SpaceConfig, State};
use super::Indexing;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::segment::sealed::{Kind, Label, Sealed, Writer};
use crate::storage::Storage;

mod tag {
    pub(super) const SEGMENTS: u32 = 1;
    pub(super) const KEYS: u32 = 2;
    pub(super) const BEAMS: u32 = 3;
    pub(super) const GRAPH: u32 = 4;
}

/// The path of a graph in a space's directory.
pub(in crate::space) fn graph_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.graph"))
}

impl Indexing {
    /// Writes all of it.
    pub(super) fn write(
        &self,
        storage: &dyn Storage,
        path: &Path,
        number: u64,
        config: SpaceConfig,
        state: &State,
    ) -> Result<()> {
        let mut out = Writer::create(storage, path, label(number, config))?;
        let indexed = || {
            state
                .files
                .iter()
                .filter_map(|view| Some((&view.segment, view.keys.as_ref()?)))
        };
        out.section(tag::SEGMENTS)?;
        for (segment, keys) in indexed() {
            out.put(bytemuck::cast_slice(&[
                segment.number(),
                keys.of_row.len() as u64,
            ]))?;
        }
        out.section(tag::KEYS)?;
        for (_, keys) in indexed() {
            out.put(bytemuck::cast_slice(&keys.of_row))?;
        }
        out.section(tag::BEAMS)?;
        out.put(bytemuck::cast_slice(&[
            self.beams.usual as u64,
            self.beams.high as u64,
        ]))?;
        out.section(tag::GRAPH)?;
        let mut adapter = Sink {
            out: &mut out,
            failed: None,
        };
        let written = self.graph.write_to(&mut adapter);
        match (written, adapter.failed) {
            (Err(_), Some(e)) => Err(e),
            (Err(e), None) => Err(Error::io("write", path, e)),
            (Ok(()), _) => out.seal(),
        }
    }
}

/// A graph as read from a file.
pub(super) struct Stored {
    pub(super) graph: Graph,
    pub(super) beams: Beams,
    /// Number of each segment, and the keys of its rows.
    pub(super) segments: Vec<(u64, Vec<u32>)>,
}

/// Reads a graph into memory, all of it verified.
pub(super) fn read_graph(
    storage: &dyn Storage,
    path: &Path,
    number: u64,
    config: SpaceConfig,
) -> Result<Stored> {
    let file = Sealed::open(storage, path, label(number, config))?;
    file.scrub();
    let bad = |what: &str| Error::corrupt(path, what);
    if let Some(at) = file.bad_blocks().first() {
        return Err(bad(&format!(
            "the checksum of the block at byte {at} does not fit"
        )));
    }
    let section = |tag| file.section(tag).ok_or_else(|| bad("a section is missing"));
    let uneven = || bad("a section has an impossible length");
    let table: &[[u64; 2]] =
        bytemuck::try_cast_slice(&file.map()[section(tag::SEGMENTS)?]).map_err(|_| uneven())?;
    let mut keys: &[u32] =
        bytemuck::try_cast_slice(&file.map()[section(tag::KEYS)?]).map_err(|_| uneven())?;
    let mut segments = Vec::new();
    for &[number, rows] in table {
        let (of_row, rest) = keys.split_at_checked(rows as usize).ok_or_else(uneven)?;
        segments.push((number, of_row.to_vec()));
        keys = rest;
    }
    let beams: &[[u64; 2]] =
        bytemuck::try_cast_slice(&file.map()[section(tag::BEAMS)?]).map_err(|_| uneven())?;
    let &[[usual, high]] = beams else {
        return Err(uneven());
    };
    let beams = Beams {
        usual: usual as usize,
        high: high as usize,
    };
    let graph = Graph::read(&file.map()[section(tag::GRAPH)?]).map_err(|e| bad(&e.to_string()))?;
    if graph.dim() != config.dim || graph.measure() != config.measure {
        return Err(bad("it belongs to another space"));
    }
    Ok(Stored {
        graph,
        beams,
        segments,
    })
}

fn label(number: u64, config: SpaceConfig) -> Label {
    Label {
        kind: Kind::Graph,
        number,
        rows: 0,
        shape: config.shape(),
    }
}

/// A sealed file's section as somewhere to write to.
struct Sink<'a> {
    out: &'a mut Writer,
    failed: Option<Error>,
}

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.out.put(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(e) => {
                self.failed = Some(e);
                Err(io::Error::other("the file cannot be written"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
