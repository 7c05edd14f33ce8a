//! A set of changes that becomes one commit.

use std::ops::Range;

use super::{Element, SpaceConfig};
use crate::error::{Error, Result};
use crate::journal::{self, Encoded};

/// Changes that are committed together or not at all. Deletions happen before insertions, so that one batch can
/// replace a range of ids.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ranges: Vec<Range<u64>>,
    deletes: Vec<u64>,
    upserts: Vec<u64>,
    components: Vec<f32>,
    dim: Option<usize>,
    /// The first length that differs from `dim`.
    ragged: Option<usize>,
    tag: Option<u64>,
}

impl Batch {
    /// No changes.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Inserts a vector, or replaces the one with this id. Of several with one id the last counts.
    pub fn upsert(&mut self, id: u64, vector: &[f32]) -> &mut Batch {
        match self.dim {
            Some(dim) if dim != vector.len() => self.ragged = self.ragged.or(Some(vector.len())),
            _ => self.dim = Some(vector.len()),
        }
        self.upserts.push(id);
        self.components.extend_from_slice(vector);
        self
    }

    /// Deletes a vector. An id that is not there is fine.
    pub fn delete(&mut self, id: u64) -> &mut Batch {
        self.deletes.push(id);
        self
    }

    /// Deletes all ids of a range.
    pub fn delete_range(&mut self, ids: Range<u64>) -> &mut Batch {
        self.ranges.push(ids);
        self
    }

    /// A number stored with the commit, readable as `committed_tag` from the moment of the commit and after reopening:
    /// the caller's own position in its own journal, so that it knows what is here.
    pub fn tag(&mut self, tag: u64) -> &mut Batch {
        self.tag = Some(tag);
        self
    }

    /// Vectors to insert or replace.
    pub fn upserts(&self) -> usize {
        self.upserts.len()
    }

    /// Whether there is nothing to commit, not even a tag.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.deletes.is_empty() && self.upserts.is_empty() && self.tag.is_none()
    }

    /// Checks the batch against a space and encodes it as a journal record.
    pub(crate) fn record(&self, config: SpaceConfig) -> Result<Encoded> {
        if let Some(found) = self
            .ragged
            .or(self.dim)
            .filter(|&found| found != config.dim || self.ragged.is_some())
        {
            return Err(Error::WrongDimension {
                expected: config.dim,
                found,
            });
        }
        check_components(&self.components, config)?;
        journal::encode(
            &self.ranges,
            &self.deletes,
            &self.upserts,
            &self.components,
            self.tag,
        )
    }
}

/// Refuses what cannot be stored. The error names the component within its vector.
fn check_components(components: &[f32], config: SpaceConfig) -> Result<()> {
    if let Some(at) = first_not_finite(components) {
        return Err(Error::NotFinite {
            component: at % config.dim,
        });
    }
    if config.element == Element::F16 {
        let largest = half::f16::MAX.to_f32();
        if let Some(at) = components.iter().position(|x| x.abs() > largest) {
            return Err(Error::TooLarge {
                component: at % config.dim,
            });
        }
    }
    Ok(())
}

/// The place of the first NaN or infinity.
pub(crate) fn first_not_finite(components: &[f32]) -> Option<usize> {
    // 0 times a finite number is 0, else NaN, and a NaN stays in a sum: this loop has no branches.
    let spoiled = |chunk: &[f32]| chunk.iter().map(|x| x * 0.0).sum::<f32>() != 0.0;
    let chunk = components.chunks(64).position(spoiled)? * 64;
    components[chunk..]
        .iter()
        .position(|x| !x.is_finite())
        .map(|at| chunk + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_not_finite_wherever_it_stands() {
        for len in [1, 63, 64, 65, 200] {
            assert_eq!(first_not_finite(&vec![f32::MAX; len]), None);
            for at in 0..len {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut components = vec![1.0; len];
                    components[at] = bad;
                    assert_eq!(first_not_finite(&components), Some(at));
                }
            }
        }
    }
}
