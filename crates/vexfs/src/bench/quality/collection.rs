//! A judged collection in the layout of BEIR.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Documents, queries, and which document answers which query how well.
pub struct Collection {
    /// The documents; they are known by their place in this list.
    pub documents: Vec<Document>,
    queries: Vec<Query>,
    /// By query id: grade above 0 by document.
    grades: HashMap<String, HashMap<usize, f64>>,
}

/// A document.
#[derive(Clone, Debug, Deserialize)]
pub struct Document {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

#[derive(Deserialize)]
struct Query {
    #[serde(rename = "_id")]
    id: String,
    text: String,
}

/// A query that has relevant documents.
pub struct Judged<'c> {
    /// The query.
    pub text: String,
    /// Grades of the relevant documents.
    pub grades: &'c HashMap<usize, f64>,
}

impl Document {
    /// Its name as a file: the id, where that can be one.
    pub fn file_name(&self) -> String {
        let safe = |c: char| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        };
        format!("{}.txt", self.id.chars().map(safe).collect::<String>())
    }

    /// Its content as a file: the title on a line of its own, a blank line, the text.
    pub fn content(&self) -> String {
        match self.title.trim() {
            "" => self.text.clone(),
            title => format!("{title}\n\n{}\n", self.text),
        }
    }
}

impl Collection {
    /// Reads a directory.
    pub fn read(dir: &Path) -> Result<Collection> {
        let documents: Vec<Document> = lines(&dir.join("corpus.jsonl"))?;
        let queries = lines(&dir.join("queries.jsonl"))?;
        let numbers: HashMap<&str, usize> = documents
            .iter()
            .zip(0..)
            .map(|(d, n)| (d.id.as_str(), n))
            .collect();
        if numbers.len() != documents.len() {
            bail!(
                "{}: two documents have one _id",
                dir.join("corpus.jsonl").display()
            );
        }
        let grades = ["qrels.tsv", "qrels/test.tsv"].map(|name| dir.join(name));
        let Some(path) = grades.iter().find(|path| path.exists()) else {
            bail!("{}: neither qrels.tsv nor qrels/test.tsv", dir.display());
        };
        let grades = judgements(path, &numbers)?;
        Ok(Collection {
            documents,
            queries,
            grades,
        })
    }

    /// The queries that have a relevant document, in the file's order.
    pub fn judged_queries(&self) -> Vec<Judged<'_>> {
        let judged = |query: &Query| {
            let grades = self.grades.get(&query.id)?;
            Some(Judged {
                text: query.text.clone(),
                grades,
            })
        };
        self.queries.iter().filter_map(judged).collect()
    }
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut values = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| path.display().to_string())?;
        if !line.trim().is_empty() {
            let value = serde_json::from_str(&line);
            values.push(value.with_context(|| format!("{}:{}", path.display(), number + 1))?);
        }
    }
    Ok(values)
}

/// Reads query, document and grade, separated by tabs, below a heading. Judgements of documents that are not in the
/// collection are left out, as trec_eval does; grades of 0 mean "not relevant".
fn judgements(path: &Path, numbers: &HashMap<&str, usize>) -> Result<HashMap<String, HashMap<usize, f64>>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut grades: HashMap<String, HashMap<usize, f64>> = HashMap::new();
    for (number, line) in text.lines().enumerate().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [query, document, grade] = columns[..] else {
            bail!(
                "{}:{}: expected query, document, grade",
                path.display(),
                number + 1
            );
        };
        let grade: f64 = grade
            .trim()
            .parse()
            .with_context(|| format!("{}:{}: grade", path.display(), number + 1))?;
        if let (Some(document), true) = (numbers.get(document), grade > 0.0) {
            grades
                .entry(query.to_owned())
                .or_default()
                .insert(*document, grade);
        }
    }
    Ok(grades)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, judgements: &str) {
        let corpus = "{\"_id\": \"a/1\", \"title\": \"T\", \"text\": \"one\"}\n\n{\"_id\": \"b\", \"text\": \"two\"}\n";
        std::fs::write(dir.join("corpus.jsonl"), corpus).unwrap();
        let queries = "{\"_id\": \"q\", \"text\": \"what\"}\n{\"_id\": \"r\", \"text\": \"who\"}\n";
        std::fs::write(dir.join("queries.jsonl"), queries).unwrap();
        std::fs::write(dir.join("qrels.tsv"), judgements).unwrap();
    }

    #[test]
    fn a_directory_becomes_documents_and_judged_queries() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "query-id\tcorpus-id\tscore\nq\tb\t2\nq\ta/1\t0\nq\tgone\t1\n",
        );
        let collection = Collection::read(dir.path()).unwrap();
        let names: Vec<String> = collection.documents.iter().map(Document::file_name).collect();
        assert_eq!(names, ["a_1.txt", "b.txt"]);
        assert_eq!(collection.documents[0].content(), "T\n\none\n");
        let judged = collection.judged_queries();
        assert_eq!((judged.len(), judged[0].text.as_str()), (1, "what"));
        assert_eq!(judged[0].grades, &HashMap::from([(1, 2.0)]));
    }

    #[test]
    fn malformed_collections_are_refused_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Collection::read(dir.path()).is_err());
        for (judgements, place) in [("h\nq\tb\n", "qrels.tsv:2"), ("h\nq\tb\tx\n", "qrels.tsv:2")] {
            write(dir.path(), judgements);
            let error = format!("{:#}", Collection::read(dir.path()).err().unwrap());
            assert!(error.contains(place), "{error}");
        }
    }
}
