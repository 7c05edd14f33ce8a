//! Vectors in the files of other programs: `.npy`, `.fvecs`, `.ivecs`, raw `f32` and JSON lines.
//!
//! ```no_run
//! # use vexfs_vector::{Space, io::{Format, import}};
//! # fn f(space: &Space) -> vexfs_vector::Result<()> {
//! let file = std::fs::File::open("base.fvecs").expect("it is there");
//! let mut input = std::io::BufReader::new(file);
//! import(space, Format::Fvecs, &mut input, 0, &mut |progress| {
//!     eprintln!("{} vectors", progress.vectors);
//!     true
//! })?;
//! # Ok(())
//! # }
//! ```

mod jsonl;
mod npy;
mod raw;
mod vecs;

use std::io::{BufRead, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::space::{Batch, DIM_MAX, Snapshot, Space};

/// Components in one commit of an import: 4 MiB, so that a sync is cheap beside it and memory stays small.
const BATCH_COMPONENTS: usize = 1 << 20;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// NumPy, one array of shape (rows, components) in C order of `<f4`, `<f2`, `<f8` or `|i1`. Written as `<f4`.
    Npy,
    /// Each vector as `i32` number of components, then so many `f32`, little-endian.
    Fvecs,
    /// Each vector as `i32` number of components, then so many `i32`, little-endian: lists of neighbours. Read only.
    Ivecs,
    /// Nothing but `f32` components, little-endian.
    RawF32 {
        /// Components of a vector.
        dim: usize,
    },
    /// One object per line, `{"id": 7, "vector": [0.5, 1]}`; reading does without the id.
    JsonLines,
}

impl Format {
    /// The format that a file's name says: `.npy`, `.fvecs`, `.ivecs`, `.jsonl`, `.ndjson`; anything else is raw.
    pub fn of(path: &Path, dim: usize) -> Format {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Format::Npy,
            Some("fvecs") => Format::Fvecs,
            Some("ivecs") => Format::Ivecs,
            Some("jsonl" | "ndjson") => Format::JsonLines,
            _ => Format::RawF32 { dim },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Npy => "npy",
            Format::Fvecs => "fvecs",
            Format::Ivecs => "ivecs",
            Format::RawF32 { .. } => "raw f32",
            Format::JsonLines => "JSON lines",
        }
    }
}

/// How far an import or export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Vectors done.
    pub vectors: u64,
    /// All vectors, where the format says so beforehand.
    pub total: Option<u64>,
}

/// A vector of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its id, in formats that have one.
    pub id: Option<u64>,
    /// Its components.
    pub vector: Vec<f32>,
}

/// The vectors of a file, in order. After an error there are no more.
pub struct Entries<'a> {
    format: Format,
    input: &'a mut dyn BufRead,
    kind: Kind,
    read: u64,
    failed: bool,
}

enum Kind {
    Npy(npy::Header),
    Vecs,
    Raw(usize),
    Lines,
}

impl<'a> Entries<'a> {
    /// Starts reading: an `.npy` header is read now.
    pub fn read(format: Format, input: &'a mut dyn BufRead) -> Result<Entries<'a>> {
        let kind = match format {
            Format::Npy => Kind::Npy(npy::Header::read(input)?),
            Format::Fvecs | Format::Ivecs => Kind::Vecs,
            Format::RawF32 { dim } if (1..=DIM_MAX).contains(&dim) => Kind::Raw(dim),
            Format::RawF32 { dim } => {
                return Err(Error::BadConfig(format!(
                    "dimension {dim} is not in 1..={DIM_MAX}"
                )));
            }
            Format::JsonLines => Kind::Lines,
        };
        Ok(Entries {
            format,
            input,
            kind,
            read: 0,
            failed: false,
        })
    }

    /// The number of vectors, where the format says so beforehand.
    pub fn total(&self) -> Option<u64> {
        match &self.kind {
            Kind::Npy(header) => Some(header.rows),
            _ => None,
        }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>> {
        let vector = match &self.kind {
            Kind::Lines => return jsonl::read(self.input, self.read),
            Kind::Npy(header) if header.rows == self.read => return Ok(None),
            Kind::Npy(header) => header.row(self.input, self.read)?,
            Kind::Vecs => vecs::read(self.input, self.read, self.format == Format::Ivecs)?,
            Kind::Raw(dim) => raw::read(self.input, self.read, *dim)?,
        };
        Ok(vector.map(|vector| Entry { id: None, vector }))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.failed {
            return None;
        }
        let entry = self.next_entry();
        self.failed = entry.is_err();
        self.read += 1;
        entry.transpose()
    }
}

/// Inserts the vectors of a file. Those without an id are numbered from `first_id`. `progress` is called after every
/// commit and stops the import by returning `false`. Returns the number of vectors.
///
/// An error leaves what was committed before: [`Error::BadInput`] names the place in the file.
pub fn import(
    space: &Space,
    format: Format,
    input: &mut dyn BufRead,
    first_id: u64,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<u64> {
    let mut entries = Entries::read(format, input)?;
    let total = entries.total();
    let (mut batch, mut vectors) = (Batch::new(), 0);
    let full = (BATCH_COMPONENTS / space.config().dim).max(1);
    loop {
        let entry = entries.next().transpose()?;
        if let Some(entry) = &entry {
            batch.upsert(entry.id.unwrap_or(first_id + vectors), &entry.vector);
            vectors += 1;
        }
        if batch.upserts() == full || entry.is_none() {
            space
                .apply(&batch)
                .map_err(|e| name_place(e, format, vectors, batch.upserts()))?;
            batch = Batch::new();
            if !progress(Progress { vectors, total }) {
                return Err(Error::Cancelled);
            }
        }
        if entry.is_none() {
            return Ok(vectors);
        }
    }
}

/// An error of a batch as one of the file.
fn name_place(error: Error, format: Format, vectors: u64, in_batch: usize) -> Error {
    match error {
        Error::WrongDimension { .. } | Error::NotFinite { .. } | Error::TooLarge { .. } => {
            let at = format!("vectors {} to {vectors}", vectors + 1 - in_batch as u64);
            Error::BadInput {
                format: format.name(),
                at,
                what: error.to_string(),
            }
        }
        other => other,
    }
}

/// Writes the vectors of a snapshot in ascending order of ids. Only JSON lines keep the ids. `progress` is called
/// every few thousand vectors and stops the export by returning `false`. Returns the number of vectors.
pub fn export(
    snapshot: &Snapshot,
    format: Format,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<u64> {
    let failed = |e| Error::io("write", Path::new("the export"), e);
    let dim = snapshot.config().dim;
    let mut ids: Vec<u64> = snapshot.ids().collect();
    ids.sort_unstable();
    let total = ids.len() as u64;
    match format {
        Format::Npy => npy::write_header(out, total, dim).map_err(failed)?,
        Format::Ivecs => {
            return Err(Error::BadConfig(
                "ivecs hold lists of numbers, not vectors".into(),
            ));
        }
        Format::RawF32 { dim: wanted } if wanted != dim => {
            return Err(Error::WrongDimension {
                expected: dim,
                found: wanted,
            });
        }
        _ => {}
    }
    let mut vector = Vec::with_capacity(dim);
    for (done, &id) in (1..).zip(&ids) {
        vector.clear();
        snapshot.get(id, &mut vector)?;
        let written = match format {
            Format::Fvecs => vecs::write(out, &vector),
            Format::JsonLines => jsonl::write(out, id, &vector),
            _ => out.write_all(bytemuck::cast_slice(&vector)),
        };
        written.map_err(failed)?;
        if (done % 4096 == 0 || done == total)
            && !progress(Progress {
                vectors: done,
                total: Some(total),
            })
        {
            return Err(Error::Cancelled);
        }
    }
    out.flush().map_err(failed)?;
    Ok(total)
}

/// Writes vectors of `dim` components that stand one after another, in a format without ids.
pub fn write(format: Format, dim: usize, vectors: &[f32], out: &mut dyn Write) -> Result<()> {
    let failed = |e| Error::io("write", Path::new("the export"), e);
    match format {
        Format::Npy => {
            let rows = vectors.len().checked_div(dim).unwrap_or(0);
            npy::write_header(out, rows as u64, dim)
                .and_then(|()| out.write_all(bytemuck::cast_slice(vectors)))
                .map_err(failed)
        }
        Format::Fvecs => {
            let mut rows = vectors.chunks_exact(dim.max(1));
            rows.try_for_each(|row| vecs::write(out, row)).map_err(failed)
        }
        Format::RawF32 { .. } => out.write_all(bytemuck::cast_slice(vectors)).map_err(failed),
        Format::Ivecs | Format::JsonLines => Err(Error::BadConfig(format!(
            "vectors alone are not written as {}",
            format.name()
        ))),
    }
}

/// Fills `bytes`; `false` if the input ends before the first of them. An end in the middle is an error.
fn fill(input: &mut dyn BufRead, bytes: &mut [u8], format: &'static str, row: u64) -> Result<bool> {
    let mut filled = 0;
    while filled < bytes.len() {
        match input.read(&mut bytes[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(bad(format, row, "the file ends in the middle of a vector")),
            Ok(more) => filled += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", Path::new("the import"), e)),
        }
    }
    Ok(true)
}

fn bad(format: &'static str, row: u64, what: impl Into<String>) -> Error {
    Error::BadInput {
        format,
        at: format!("vector {}", row + 1),
        what: what.into(),
    }
}
