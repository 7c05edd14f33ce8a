//! What "near" means: the three measures and the pair (id, distance) that every search returns.

use serde::{Deserialize, Serialize};

/// How two vectors are compared. Whatever the measure, a smaller distance is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Squared Euclidean distance, `sum (a_i - b_i)^2`.
    L2,
    /// Negative inner product, `-sum a_i b_i`.
    Dot,
    /// `1 - cos(a, b)`; a vector of length zero is at distance 1 from everything.
    Cosine,
}

impl Measure {
    /// The name used on the command line and in manifests: `l2`, `dot`, `cosine`.
    pub fn name(self) -> &'static str {
        match self {
            Measure::L2 => "l2",
            Measure::Dot => "dot",
            Measure::Cosine => "cosine",
        }
    }

    /// The measure called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Measure> {
        [Measure::L2, Measure::Dot, Measure::Cosine]
            .into_iter()
            .find(|m| m.name() == name)
    }

    /// The cosine distance from an inner product and the two squared lengths.
    pub(crate) fn cosine_of(dot: f32, aa: f32, bb: f32) -> f32 {
        let norms = (aa as f64 * bb as f64).sqrt();
        if norms > 0.0 {
            (1.0 - dot as f64 / norms) as f32
        } else {
            1.0
        }
    }
}

/// One answer of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// The caller's id.
    pub id: u64,
    /// The distance under the space's [`Measure`]; smaller is nearer.
    pub distance: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for m in [Measure::L2, Measure::Dot, Measure::Cosine] {
            assert_eq!(Measure::from_name(m.name()), Some(m));
        }
        assert_eq!(Measure::from_name("hamming"), None);
    }

    #[test]
    fn zero_vector_is_at_cosine_distance_one() {
        assert_eq!(Measure::cosine_of(0.0, 0.0, 3.0), 1.0);
        assert_eq!(Measure::cosine_of(2.0, 4.0, 1.0), 0.0);
    }
}
