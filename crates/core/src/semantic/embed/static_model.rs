//! The default embedder: one row of 256 int8 numbers a token, summed and brought to unit length.
//!
//! A bag of word pieces knows no word order, but it costs microseconds a passage, needs no network and no library,
//! and together with the words it finds as well as a transformer of 22 million parameters
//! (`models/vexfs-static-256/card.json` holds how it was made and what was measured).

use std::path::Path;
use std::sync::OnceLock;

use safetensors::{Dtype, SafeTensors};

use super::{Embedder, WordPiece};
use crate::error::{Error, Result};

macro_rules! model_file {
    ($name:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../models/vexfs-static-256/",
            $name
        ))
    };
}

static SAFETENSORS: &[u8] = model_file!("model.safetensors");
static TOKENIZER: &[u8] = model_file!("tokenizer.json");
static CARD: &[u8] = model_file!("card.json");

/// A model of the model2vec format: tensor `embeddings` (int8, tokens x dimensions), tensor `weights` (f32, one a
/// token), a WordPiece tokenizer, a card.
pub struct StaticModel {
    id: String,
    dim: usize,
    hybrid_weight: f32,
    /// Row-major, `tokens x dim`; borrowed from the executable for the built-in model, so only touched pages are read.
    rows: std::borrow::Cow<'static, [u8]>,
    /// Offset of the tensor in `rows`.
    rows_at: usize,
    weights: Vec<f32>,
    tokenizer: WordPiece,
}

#[derive(serde::Deserialize)]
struct Card {
    name: String,
    hybrid_weight: f32,
}

impl StaticModel {
    /// The model that is compiled in, loaded at the first call.
    pub fn built_in() -> &'static StaticModel {
        static MODEL: OnceLock<StaticModel> = OnceLock::new();
        MODEL.get_or_init(|| {
            StaticModel::from_files(SAFETENSORS.into(), TOKENIZER, CARD)
                .expect("the files in models/vexfs-static-256 are checked by a test")
        })
    }

    /// Loads `model.safetensors`, `tokenizer.json` and `card.json` from a directory.
    pub fn load(dir: &Path) -> Result<StaticModel> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))
        };
        StaticModel::from_files(
            read("model.safetensors")?.into(),
            &read("tokenizer.json")?,
            &read("card.json")?,
        )
    }

    fn from_files(
        tensors: std::borrow::Cow<'static, [u8]>,
        tokenizer: &[u8],
        card: &[u8],
    ) -> Result<StaticModel> {
        let invalid = |what: String| Error::Invalid(format!("static model: {what}"));
        let card: Card = serde_json::from_slice(card).map_err(|e| invalid(format!("card.json: {e}")))?;
        let tokenizer = WordPiece::from_json(tokenizer)?;
        let file =
            SafeTensors::deserialize(&tensors).map_err(|e| invalid(format!("model.safetensors: {e}")))?;
        let tensor = |name: &str| {
            file.tensor(name)
                .map_err(|e| invalid(format!("tensor {name}: {e}")))
        };
        let (rows, weights) = (tensor("embeddings")?, tensor("weights")?);
        let tokens = tokenizer.vocabulary_size();
        let dim = match (rows.dtype(), rows.shape(), weights.dtype(), weights.shape()) {
            (Dtype::I8, &[n, dim], Dtype::F32, &[m]) if n == tokens && m == tokens && dim > 0 => dim,
            shape => {
                return Err(invalid(format!(
                    "{shape:?} does not fit a vocabulary of {tokens}"
                )));
            }
        };
        let weights = weights
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let rows_at = rows.data().as_ptr().addr() - tensors.as_ptr().addr();
        Ok(StaticModel {
            id: card.name,
            dim,
            hybrid_weight: card.hybrid_weight,
            rows: tensors,
            rows_at,
            weights,
            tokenizer,
        })
    }

    /// Its tokenizer, by which passages are measured.
    pub fn tokenizer(&self) -> &WordPiece {
        &self.tokenizer
    }

    fn embed_one(&self, text: &str, out: &mut [f32]) {
        out.fill(0.0);
        let rows = &self.rows[self.rows_at..];
        let mut left = TOKENS_MAX;
        self.tokenizer.words(text, |word| {
            for &token in word
                .tokens
                .iter()
                .filter(|t| **t != self.tokenizer.unknown())
                .take(left)
            {
                let token = token as usize;
                add_scaled(
                    out,
                    &rows[token * self.dim..(token + 1) * self.dim],
                    self.weights[token],
                );
            }
            left = left.saturating_sub(word.tokens.len());
            left > 0
        });
        let norm = out.iter().map(|x| x * x).sum::<f32>().sqrt();
        if norm > 0.0 {
            out.iter_mut().for_each(|x| *x /= norm);
        }
    }
}

/// A bag of more tokens than this says nothing any more; it also bounds the work a text. Passages have 128.
const TOKENS_MAX: usize = 512;

impl Embedder for StaticModel {
    fn id(&self) -> &str {
        &self.id
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn hybrid_weight(&self) -> f32 {
        self.hybrid_weight
    }

    fn tokens_max(&self) -> usize {
        TOKENS_MAX
    }

    fn embed(&self, texts: &[&str], out: &mut [f32]) -> Result<()> {
        assert_eq!(out.len(), texts.len() * self.dim, "one row a text");
        for (text, row) in texts.iter().zip(out.chunks_exact_mut(self.dim)) {
            self.embed_one(text, row);
        }
        Ok(())
    }
}

/// `sum += weight * row`, the row's bytes taken as int8.
fn add_scaled(sum: &mut [f32], row: &[u8], weight: f32) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, by the line above.
        return unsafe { add_scaled_avx2(sum, row, weight) };
    }
    add_scaled_portable(sum, row, weight);
}

/// The same loop compiled for 256-bit registers. Without fused multiply-add, so results are the same everywhere.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_scaled_avx2(sum: &mut [f32], row: &[u8], weight: f32) {
    add_scaled_portable(sum, row, weight);
}

#[inline(always)]
fn add_scaled_portable(sum: &mut [f32], row: &[u8], weight: f32) {
    for (x, &byte) in sum.iter_mut().zip(row) {
        *x += weight * f32::from(byte as i8);
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let model = StaticModel::built_in();
        let mut rows = vec![0.0; 2 * model.dim()];
        model.embed(&[a, b], &mut rows).unwrap();
        let (a, b) = rows.split_at(model.dim());
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn the_card_describes_the_files() {
        let card: serde_json::Value = serde_json::from_slice(CARD).unwrap();
        for (name, bytes) in [("model.safetensors", SAFETENSORS), ("tokenizer.json", TOKENIZER)] {
            assert_eq!(card["files"][name]["bytes"], bytes.len(), "{name}");
            let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(card["files"][name]["sha256"], digest, "{name}");
        }
        let model = StaticModel::built_in();
        assert_eq!(
            (model.id(), model.dim(), model.hybrid_weight()),
            ("vexfs-static-256", 256, 0.3)
        );
    }

    #[test]
    fn near_in_meaning_is_near_in_cosine() {
        let near = cosine(
            "how do I delete a directory",
            "removing folders recursively from the file system",
        );
        let far = cosine(
            "how do I delete a directory",
            "the boundary layer of a wing in supersonic flow",
        );
        assert!(near > far + 0.15, "{near} {far}");
        assert!((cosine("same words here", "here same words") - 1.0).abs() < 1e-5);
    }

    #[test]
    fn a_text_without_known_words_is_similar_to_nothing() {
        assert_eq!(cosine("", "directory"), 0.0);
        assert_eq!(cosine("\u{0}\u{200b} ", "directory"), 0.0);
    }

    #[test]
    fn the_wide_loop_equals_the_plain_one() {
        let row: Vec<u8> = (0..=255).collect();
        for len in [1, 7, 8, 31, 255, 256] {
            let (mut plain, mut wide) = (vec![0.5; len], vec![0.5; len]);
            add_scaled_portable(&mut plain, &row[..len], 0.37);
            add_scaled(&mut wide, &row[..len], 0.37);
            assert_eq!(plain, wide);
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        for cut in [0, 7, 100, SAFETENSORS.len() - 1] {
            assert!(
                StaticModel::from_files(SAFETENSORS[..cut].into(), TOKENIZER, CARD).is_err(),
                "{cut}"
            );
        }
        assert!(StaticModel::from_files(SAFETENSORS.into(), b"{}", CARD).is_err());
        assert!(StaticModel::from_files(SAFETENSORS.into(), TOKENIZER, b"{}").is_err());
    }
}
