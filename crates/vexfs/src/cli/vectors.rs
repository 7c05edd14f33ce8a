//! `vexfs vec import` and `export`: many vectors at once.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use vexfs_vector::io::{Entries, Format};

use super::attributes::Common;
use super::failure::{Failure, NO_HITS};
use super::output::exact_path;
use super::place::{Found, text};

/// Numbers that are sent in one request, and set in one commit: about a megabyte of JSON.
const BATCH_NUMBERS: usize = 64 << 10;

/// The arguments of `vec import`.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The vectors: .npy, .fvecs, or JSON lines {"path", "vector"}; - reads lines from standard input
    file: PathBuf,
    /// The directory below which the files are
    #[arg(default_value = ".")]
    path: PathBuf,
    /// For .npy and .fvecs: the files, a path a line, in the order of the vectors
    #[arg(long, value_name = "FILE")]
    paths: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// The arguments of `vec export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The directory whose files' vectors are exported
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Write to this file, .npy or .fvecs or JSON lines, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the files' paths here, a path a line, in the order of the vectors
    #[arg(long, value_name = "FILE")]
    paths: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// A file below the directory, and its vector.
type Row = (PathBuf, Vec<f32>);

pub(crate) fn import(args: &ImportArgs) -> Result<u8, Failure> {
    let found = args.common.at.find(&args.path)?;
    let mut input: Box<dyn BufRead> = match args.file == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(open(&args.file)?)),
    };
    let wrong = |what: String| Failure::usage(format!("{}: {what}", args.file.display()));
    let rows: Box<dyn Iterator<Item = Result<Row, Failure>>> = match Format::of(&args.file, 0) {
        format @ (Format::Npy | Format::Fvecs) => {
            let list = args.paths.as_deref().ok_or_else(|| {
                wrong("--paths names the files, a path a line, in the order of the vectors".into())
            })?;
            let paths = BufReader::new(open(list)?)
                .lines()
                .collect::<io::Result<Vec<_>>>()
                .map_err(|e| Failure::from_io(&e, list))?;
            let entries: Vec<_> = Entries::read(format, &mut *input)
                .map_err(|e| wrong(e.to_string()))?
                .collect();
            if entries.iter().all(Result::is_ok) && entries.len() != paths.len() {
                let (vectors, names) = (entries.len(), paths.len());
                return Err(wrong(format!(
                    "{vectors} vectors, but {names} paths in {}",
                    list.display()
                )));
            }
            Box::new(paths.into_iter().zip(entries).map(move |(path, entry)| {
                let entry = entry.map_err(|e| wrong(e.to_string()))?;
                Ok((path.into(), entry.vector))
            }))
        }
        _ => Box::new((1..).zip(input.lines()).filter_map(move |(number, line)| {
            let line = match line {
                Ok(line) if line.trim().is_empty() => return None,
                Ok(line) => line,
                Err(e) => return Some(Err(e.into())),
            };
            Some(read_line(&line).map_err(|what| wrong(format!("line {number}: {what}"))))
        })),
    };
    let mut batch = Batch {
        found: &found,
        space: args.common.space(),
        vectors: Vec::new(),
        numbers: 0,
        set: 0,
    };
    for row in rows {
        let (path, vector) = row?;
        batch.add(&path, &vector)?;
    }
    batch.send()?;
    writeln!(io::stdout().lock(), "{}", batch.set)?;
    Ok(if batch.set == 0 { NO_HITS } else { 0 })
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|e| Failure::from_io(&e, path))
}

fn read_line(line: &str) -> Result<Row, String> {
    #[derive(serde::Deserialize)]
    struct Line {
        path: PathBuf,
        vector: Vec<f32>,
    }
    let line: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
    Ok((line.path, line.vector))
}

/// Vectors on their way to the daemon: some thousand numbers a commit. What was sent stays when a later batch fails.
struct Batch<'a> {
    found: &'a Found,
    space: &'a str,
    vectors: Vec<Value>,
    numbers: usize,
    set: usize,
}

impl Batch<'_> {
    fn add(&mut self, path: &Path, vector: &[f32]) -> Result<(), Failure> {
        let below = self.found.below_root.join(path);
        self.vectors
            .push(json!({ "path": text(&below)?, "vector": vector }));
        self.numbers += vector.len().max(1);
        match self.numbers >= BATCH_NUMBERS {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn send(&mut self) -> Result<(), Failure> {
        if self.vectors.is_empty() {
            return Ok(());
        }
        let vectors = std::mem::take(&mut self.vectors);
        let count = vectors.len();
        let body = json!({ "space": self.space, "vectors": vectors });
        let sent = self.found.client.post("/v1/vectors/import", &body);
        sent.map_err(|mut failure| {
            failure.message = format!("after {} vectors: {}", self.set, failure.message);
            failure
        })?;
        self.set += count;
        self.numbers = 0;
        Ok(())
    }
}

pub(crate) fn export(args: &ExportArgs) -> Result<u8, Failure> {
    let found = args.common.at.find(&args.path)?;
    let format = args
        .output
        .as_deref()
        .map_or(Format::JsonLines, |file| Format::of(file, 0));
    let mut out: Box<dyn Write> = match &args.output {
        Some(file) => Box::new(io::BufWriter::new(
            File::create(file).map_err(|e| Failure::from_io(&e, file))?,
        )),
        None => Box::new(io::BufWriter::new(io::stdout().lock())),
    };
    let mut paths: Option<Box<dyn Write>> = match &args.paths {
        Some(file) => {
            let file = File::create(file).map_err(|e| Failure::from_io(&e, file))?;
            Some(Box::new(io::BufWriter::new(file)))
        }
        None => None,
    };
    let packed = matches!(format, Format::Npy | Format::Fvecs);
    let (mut after, mut count, mut numbers) = (json!(0), 0usize, Vec::new());
    let mut dim = 0;
    while !after.is_null() {
        let body = json!({ "space": args.common.space(), "after": after });
        let page = found.client.post("/v1/vectors/export", &body)?;
        for one in page["vectors"].as_array().into_iter().flatten() {
            let path = exact_path(one);
            let Ok(below) = path.strip_prefix(&found.below_root) else {
                continue;
            };
            let vector: Vec<f32> = one["vector"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|x| x.as_f64().map(|x| x as f32))
                .collect();
            count += 1;
            dim = vector.len();
            if let Some(paths) = &mut paths {
                writeln!(paths, "{}", below.display())?;
            }
            match packed {
                true => numbers.extend(vector),
                false => writeln!(out, "{}", json!({ "path": text(below)?, "vector": vector }))?,
            }
        }
        after = page["next"].clone();
    }
    if packed {
        vexfs_vector::io::write(format, dim, &numbers, &mut *out)
            .map_err(|e| Failure::usage(e.to_string()))?;
    }
    out.flush()?;
    if let Some(paths) = &mut paths {
        paths.flush()?;
    }
    Ok(if count == 0 { NO_HITS } else { 0 })
}
