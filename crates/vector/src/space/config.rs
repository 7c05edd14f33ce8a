//! What a space holds, and how the database treats it.

use crate::error::{Error, Result};
use crate::measure::Measure;

/// The largest dimension of a vector.
pub const DIM_MAX: usize = 16_384;

/// How the components of the exact rows are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Element {
    /// 4 bytes, as given.
    F32 = 0,
    /// 2 bytes, IEEE half precision: relative error 2^-11, magnitudes up to 65504.
    F16 = 1,
    /// 1 byte and one scale per vector: error up to 1/254 of the vector's largest component.
    I8 = 2,
}

impl Element {
    /// Bytes of one component.
    pub fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 => 2,
            Element::I8 => 1,
        }
    }
}

/// The shape of a space. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceConfig {
    /// Components of a vector, 1 to [`DIM_MAX`].
    pub dim: usize,
    /// How two vectors are compared.
    pub measure: Measure,
    /// How the exact rows are stored.
    pub element: Element,
}

impl SpaceConfig {
    /// A space of `f32` rows.
    pub fn new(dim: usize, measure: Measure) -> SpaceConfig {
        SpaceConfig {
            dim,
            measure,
            element: Element::F32,
        }
    }

    pub(crate) fn check(self) -> Result<SpaceConfig> {
        if (1..=DIM_MAX).contains(&self.dim) {
            return Ok(self);
        }
        Err(Error::BadConfig(format!(
            "dimension {} is not in 1..={DIM_MAX}",
            self.dim
        )))
    }

    /// Dimension, element and measure as numbers on disk.
    pub(crate) fn shape(self) -> [u32; 3] {
        let measure = match self.measure {
            Measure::L2 => 0,
            Measure::Dot => 1,
            Measure::Cosine => 2,
        };
        [self.dim as u32, self.element as u32, measure]
    }

    /// The inverse of [`SpaceConfig::shape`].
    pub(crate) fn from_shape([dim, element, measure]: [u32; 3]) -> Option<SpaceConfig> {
        let element = [Element::F32, Element::F16, Element::I8]
            .into_iter()
            .find(|&e| e as u32 == element)?;
        let measure = *[Measure::L2, Measure::Dot, Measure::Cosine].get(measure as usize)?;
        SpaceConfig {
            dim: dim as usize,
            measure,
            element,
        }
        .check()
        .ok()
    }

    /// Bytes of one stored row, without norm and scale.
    pub(crate) fn row_bytes(self) -> usize {
        self.dim * self.element.size()
    }
}

/// How a database is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether a commit is durable when it returns. If not, commits survive the death of the process but not of the
    /// machine until `flush`.
    pub durable: bool,
    /// Rows kept in memory before they are written as a segment, in bytes. Replaying that much is what an open after
    /// a crash may cost, and scanning that much is what a search pays for rows not yet in an approximate index.
    pub memory_bytes: usize,
    /// The most bytes per second that background merging writes; 0 means no limit.
    pub merge_bytes_per_s: u64,
    /// Spaces with fewer rows in files have no graph: scans answer.
    pub graph_rows: usize,
    /// Whether a thread of the database flushes, merges and indexes in the background. Without it the caller calls
    /// `maintain`, and a commit that finds the memory full flushes it itself.
    pub background: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            durable: true,
            memory_bytes: 16 << 20,
            merge_bytes_per_s: 0,
            // A scan of so many rows takes less than 0.2 ms.
            graph_rows: 32_768,
            background: true,
        }
    }
}
