//! Embedders: texts in, vectors of unit length out.

pub mod endpoint;
pub mod profile;
pub mod static_model;
pub mod wordpiece;

pub use endpoint::Endpoint;
pub use profile::Profile;
pub use static_model::StaticModel;
pub use wordpiece::WordPiece;

use crate::error::Result;

/// Turns texts into vectors that can be compared by their dot product.
pub trait Embedder: Send + Sync {
    /// The name that is stored beside the vectors; vectors of different ids are never compared.
    fn id(&self) -> &str;
    /// Components of a vector.
    fn dim(&self) -> usize;
    /// The share of the vectors in the fused score, 0..=1; the rest belongs to the words.
    fn hybrid_weight(&self) -> f32;
    /// WordPiece tokens of a text that are looked at; what follows them is ignored.
    fn tokens_max(&self) -> usize;
    /// Embeds `texts` into the rows of `out` (`texts.len()` x `dim`, row-major, unit length). A text without any
    /// known token gives a row of zeros, which is similar to nothing. After an error the content of `out` is
    /// undefined.
    fn embed(&self, texts: &[&str], out: &mut [f32]) -> Result<()>;
}

/// Embeds nothing: files are found by their words alone.
pub struct NoEmbedder;

impl Embedder for NoEmbedder {
    fn id(&self) -> &str {
        "none"
    }

    fn dim(&self) -> usize {
        1
    }

    fn hybrid_weight(&self) -> f32 {
        0.0
    }

    fn tokens_max(&self) -> usize {
        0
    }

    fn embed(&self, _: &[&str], out: &mut [f32]) -> Result<()> {
        out.fill(0.0);
        Ok(())
    }
}

impl<E: Embedder> Embedder for &E {
    fn id(&self) -> &str {
        (**self).id()
    }

    fn dim(&self) -> usize {
        (**self).dim()
    }

    fn hybrid_weight(&self) -> f32 {
        (**self).hybrid_weight()
    }

    fn tokens_max(&self) -> usize {
        (**self).tokens_max()
    }

    fn embed(&self, texts: &[&str], out: &mut [f32]) -> Result<()> {
        (**self).embed(texts, out)
    }
}
