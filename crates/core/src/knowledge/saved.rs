//! Saved queries: named by their owner, kept in the store.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Knowledge;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::query::answer::name_text;
use crate::query::parse;
use crate::query::search::What;

/// Kind of the rows in which saved queries are kept.
const SAVED: &str = "query";

/// A saved query: a text, or a vector to search by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedQuery {
    /// The text in the query language, or empty.
    pub query: String,
    /// f32 little endian, or empty. It goes before the text.
    pub vector: Vec<u8>,
}

impl SavedQuery {
    /// What is searched for. A query that was made and never written is an error that says so.
    pub fn what(&self) -> Result<What<'_>> {
        if !self.vector.is_empty() {
            return Ok(What::Vector {
                space: None,
                vector: floats(&self.vector)?,
            });
        }
        if self.query.trim().is_empty() {
            return Err(Error::Invalid(
                "the query is empty: write its text to `query`".into(),
            ));
        }
        Ok(What::Text(&self.query))
    }

    /// Sets the text, which must be a query.
    pub fn set_query(&mut self, bytes: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(bytes).map_err(|e| Error::Query {
            at: e.valid_up_to(),
            what: "bytes that are not UTF-8".into(),
            expected: "UTF-8".into(),
        })?;
        let text = text.trim_end_matches('\n');
        if !text.trim().is_empty() {
            parse::parse(text)?;
        }
        self.query = text.to_owned();
        Ok(())
    }

    /// Sets the vector.
    pub fn set_vector(&mut self, bytes: &[u8]) -> Result<()> {
        floats(bytes)?;
        self.vector = bytes.to_vec();
        Ok(())
    }
}

impl Knowledge {
    /// A saved query of the caller.
    pub fn saved_get(&self, caller: &Caller, name: &OsStr) -> Result<SavedQuery> {
        let value = self
            .store
            .read(|rows| rows.saved(SAVED, &saved_key(caller, name)))?;
        let value = value.ok_or_else(|| Error::NotFound(name_text(name)))?;
        serde_json::from_slice(&value).map_err(|e| Error::Corrupt {
            what: "saved query".into(),
            at: e.to_string(),
        })
    }

    /// Makes a saved query.
    pub fn saved_create(&self, caller: &Caller, name: &OsStr) -> Result<()> {
        if self.saved_get(caller, name).is_ok() {
            return Err(Error::Exists(name_text(name)));
        }
        self.saved_put(caller, name, &SavedQuery::default())
    }

    /// Changes a saved query; an error of `change` leaves it as it was.
    pub fn saved_set(
        &self,
        caller: &Caller,
        name: &OsStr,
        change: impl FnOnce(&mut SavedQuery) -> Result<()>,
    ) -> Result<()> {
        let mut saved = self.saved_get(caller, name)?;
        change(&mut saved)?;
        self.saved_put(caller, name, &saved)
    }

    fn saved_put(&self, caller: &Caller, name: &OsStr, saved: &SavedQuery) -> Result<()> {
        let value = json!(saved).to_string();
        self.store
            .write(|tx| tx.save(SAVED, &saved_key(caller, name), Some(value.as_bytes())))?;
        Ok(())
    }

    /// Drops a saved query.
    pub fn saved_drop(&self, caller: &Caller, name: &OsStr) -> Result<()> {
        self.saved_get(caller, name)?;
        self.store
            .write(|tx| tx.save(SAVED, &saved_key(caller, name), None))?;
        Ok(())
    }

    /// Gives a saved query another name; one that has it already is an error.
    pub fn saved_rename(&self, caller: &Caller, name: &OsStr, new: &OsStr) -> Result<()> {
        let value = json!(self.saved_get(caller, name)?).to_string();
        if self.saved_get(caller, new).is_ok() {
            return Err(Error::Exists(name_text(new)));
        }
        self.store.write(|tx| {
            tx.save(SAVED, &saved_key(caller, name), None)?;
            tx.save(SAVED, &saved_key(caller, new), Some(value.as_bytes()))
        })?;
        Ok(())
    }

    /// The names of the caller's saved queries.
    pub fn saved_names(&self, caller: &Caller) -> Result<Vec<OsString>> {
        let prefix = saved_key(caller, OsStr::new(""));
        let all = self.store.read(|rows| rows.saved_all(SAVED))?;
        let names = all.iter().filter_map(|(key, _)| key.strip_prefix(&*prefix));
        Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
    }
}

/// Saved queries belong to their user.
fn saved_key(caller: &Caller, name: &OsStr) -> Vec<u8> {
    let mut key = format!("{}/", caller.uid).into_bytes();
    key.extend_from_slice(name.as_bytes());
    key
}

fn floats(bytes: &[u8]) -> Result<Vec<f32>> {
    if !bytes.len().is_multiple_of(4) {
        return Err(Error::Invalid(format!(
            "vector of {} bytes, expected f32 little endian",
            bytes.len()
        )));
    }
    let (values, _) = bytes.as_chunks::<4>();
    let vector: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match vector.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(Error::Invalid(format!("vector component {at} is not finite"))),
        None => Ok(vector),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_goes_before_the_text_and_bad_ones_change_nothing() {
        let mut saved = SavedQuery::default();
        assert!(saved.what().is_err());
        saved.set_query(b"refunds\n").unwrap();
        assert!(matches!(saved.what().unwrap(), What::Text("refunds")));
        let before = saved.clone();
        assert!(saved.set_vector(&[0, 0, 0]).is_err());
        assert!(saved.set_vector(&f32::NAN.to_le_bytes()).is_err());
        assert!(saved.set_query(b"\"no end").is_err());
        assert_eq!(saved, before);
        saved.set_vector(&1.5f32.to_le_bytes()).unwrap();
        assert!(matches!(saved.what().unwrap(), What::Vector { vector, .. } if vector == [1.5]));
    }
}
