//! What a request asks the two indexes: a vector, words, or both.

use std::path::PathBuf;
use std::sync::Arc;

use super::model::Model;
use super::options::Mode;
use super::parse::{Query, Term, TermKind};
use super::search::{Request, Searcher, What, vector_error};
use crate::error::{Error, Result};
use crate::ids::{FileId, PassageId};
use crate::semantic::lexical::Words;

/// What the two indexes are asked.
pub(super) struct Asked {
    pub(super) model: Arc<Model>,
    pub(super) vector: Option<Vec<f32>>,
    /// The space that the vector is of; the embedder's when absent.
    pub(super) space: Option<String>,
    pub(super) words: Words,
    /// The file that the others are compared with is not its own neighbour.
    pub(super) except: Option<FileId>,
}

impl Searcher {
    /// What a request asks the indexes.
    pub(super) fn asked(&self, request: &Request<'_>, query: &Query, scope: Option<FileId>) -> Result<Asked> {
        let model = self.model.load_full();
        let space = match &request.what {
            What::Vector {
                space: Some(space), ..
            } => Some(space.as_str()),
            _ => query.space().or(request.options.space.as_deref()),
        };
        // The embedder's own name means its space.
        let space = space
            .filter(|space| *space != model.embedder.id())
            .map(str::to_owned);
        let like = match &request.what {
            What::Vector { vector, .. } => {
                let vector = if space.is_some() {
                    vector.clone()
                } else {
                    checked(&model, vector)?
                };
                return Ok(Asked {
                    model,
                    vector: Some(vector),
                    space,
                    words: Words::default(),
                    except: None,
                });
            }
            What::Like(path) => Some(*path),
            What::Text(_) => query.like().map(PathBuf::as_path),
        };
        if let Some(path) = like {
            let base = scope.and_then(|scope| self.store.mirror().path(scope));
            let file = self.readable_file(request.caller, &base.unwrap_or_default().join(path))?;
            let vector = self.meaning_of(file, space.as_deref())?;
            return Ok(Asked {
                model,
                vector,
                space,
                words: words(query),
                except: Some(file),
            });
        }
        let text = query.text();
        if let (Some(space), false) = (&space, text.is_empty()) {
            let what =
                format!("space {space:?} has no model of its own: search it by like:PATH or by a vector");
            return Err(Error::Invalid(what));
        }
        let vector = match text.is_empty() || request.options.mode == Mode::Text {
            true => None,
            false => match embedded(&model, &text) {
                // Words find without meaning; meaning alone has nothing to fall back on.
                Err(Error::Embedder(what)) if request.options.mode == Mode::Hybrid => {
                    tracing::warn!(what, "a question was answered by words alone");
                    None
                }
                vector => vector?,
            },
        };
        let words = if request.options.mode == Mode::Vec {
            Words::default()
        } else {
            words(query)
        };
        Ok(Asked {
            model,
            vector,
            space: None,
            words,
            except: None,
        })
    }

    /// The mean of a file's passage vectors; none when it has none.
    pub(super) fn centroid(&self, model: &Model, file: FileId) -> Result<Option<Vec<f32>>> {
        let passages = self.store.read(|rows| rows.passages(file))?;
        let mut sum = vec![0.0f32; model.embedder.dim()];
        let mut one = Vec::new();
        let mut found = false;
        for row in passages.known() {
            if model
                .passages
                .get(PassageId::new(file, row.slot).0, &mut one)
                .map_err(vector_error)?
            {
                found = true;
                sum.iter_mut().zip(&one).for_each(|(sum, x)| *sum += x);
            }
        }
        Ok(found.then_some(sum))
    }
}

/// The query's vector; none for a text of unknown words, which is similar to nothing.
pub(super) fn embedded(model: &Model, text: &str) -> Result<Option<Vec<f32>>> {
    let mut vector = vec![0.0; model.embedder.dim()];
    model.embedder.embed(&[text], &mut vector)?;
    Ok(vector.iter().any(|&x| x != 0.0).then_some(vector))
}

fn checked(model: &Model, vector: &[f32]) -> Result<Vec<f32>> {
    if vector.len() == model.embedder.dim() {
        return Ok(vector.to_vec());
    }
    Err(Error::Invalid(format!(
        "vector of {} components, expected {}",
        vector.len(),
        model.embedder.dim()
    )))
}

/// The words that rank, and the phrases of which each must occur in a passage that is found by words.
fn words(query: &Query) -> Words {
    let phrase = |term: &Term| match &term.kind {
        TermKind::Phrase(text) if !term.excluded => Some(text.clone()),
        _ => None,
    };
    let all = query
        .groups
        .iter()
        .filter_map(|group| group.terms.iter().map(phrase).collect::<Option<Vec<_>>>());
    Words {
        any: query.ranking().map(str::to_owned).collect(),
        all: all.collect(),
    }
}
