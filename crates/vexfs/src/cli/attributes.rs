//! `vexfs vec` and `vexfs tag`: what is set on files, under the names that setfattr(1) uses too.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::client::percent;
use super::failure::{Failure, NO_HITS};
use super::place::{At, Found};
use super::vectors;

/// Vectors set on files
#[derive(Subcommand, Debug)]
pub(crate) enum VecCommand {
    /// Set a file's vector: f32 little endian, JSON or NPY
    Set {
        /// The file
        path: PathBuf,
        /// The vector: a JSON array, @FILE, or - for standard input
        vector: String,
        #[command(flatten)]
        common: Common,
    },
    /// Print a file's vector
    Get {
        /// The file
        path: PathBuf,
        /// f32 little endian instead of JSON
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Set the vectors of many files
    Import(vectors::ImportArgs),
    /// Print the vectors of a space
    Export(vectors::ExportArgs),
    /// Remove a file's vector
    Rm {
        /// The file
        path: PathBuf,
        #[command(flatten)]
        common: Common,
    },
}

/// The space, and where to look.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// The space of vectors
    #[arg(long)]
    space: Option<String>,
    #[command(flatten)]
    pub(crate) at: At,
}

impl Common {
    /// The space's name; that of `user.vexfs.vec` has none.
    pub(crate) fn space(&self) -> &str {
        self.space.as_deref().unwrap_or("")
    }

    fn name(&self) -> String {
        match &self.space {
            Some(space) => format!("user.vexfs.vec.{space}"),
            None => "user.vexfs.vec".into(),
        }
    }
}

/// Tag files, or list a file's tags
#[derive(Args, Debug)]
pub(crate) struct TagArgs {
    /// The file
    path: PathBuf,
    /// Tags to add; -TAG removes one. None lists them
    #[arg(allow_hyphen_values = true)]
    tags: Vec<String>,
    #[command(flatten)]
    at: At,
}

pub(crate) fn vec(command: &VecCommand) -> Result<u8, Failure> {
    match command {
        VecCommand::Set { path, vector, common } => {
            let value = read_vector(vector)?;
            let found = common.at.find(path)?;
            found
                .client
                .bytes("PUT", &target(&found, &common.name()), &value)?;
            Ok(0)
        }
        VecCommand::Get { path, raw, common } => {
            let found = common.at.find(path)?;
            let value = found.client.bytes("GET", &target(&found, &common.name()), b"")?;
            let mut out = std::io::stdout().lock();
            if *raw {
                out.write_all(&value)?;
            } else {
                let (parts, _) = value.as_chunks::<4>();
                let vector: Vec<f32> = parts.iter().map(|b| f32::from_le_bytes(*b)).collect();
                writeln!(out, "{}", serde_json::json!(vector))?;
            }
            Ok(0)
        }
        VecCommand::Import(args) => vectors::import(args),
        VecCommand::Export(args) => vectors::export(args),
        VecCommand::Rm { path, common } => {
            let found = common.at.find(path)?;
            found
                .client
                .bytes("DELETE", &target(&found, &common.name()), b"")?;
            Ok(0)
        }
    }
}

fn read_vector(vector: &str) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    match vector.strip_prefix('@') {
        Some(file) => {
            value = std::fs::read(file).map_err(|e| Failure::from_io(&e, Path::new(file)))?;
        }
        None if vector == "-" => {
            std::io::stdin().lock().take(1 << 20).read_to_end(&mut value)?;
        }
        None => value.extend_from_slice(vector.as_bytes()),
    }
    Ok(value)
}

fn target(found: &Found, name: &str) -> String {
    let path = percent(found.below_root.as_os_str().as_bytes());
    format!("/v1/xattr?path={path}&name={}", percent(name.as_bytes()))
}

pub(crate) fn tag(args: &TagArgs) -> Result<u8, Failure> {
    let found = args.at.find(&args.path)?;
    for tag in &args.tags {
        let (method, tag) = match tag.strip_prefix('-') {
            Some(tag) => ("DELETE", tag),
            None => ("PUT", tag.as_str()),
        };
        found
            .client
            .bytes(method, &target(&found, &format!("user.vexfs.tag.{tag}")), b"1")?;
    }
    if !args.tags.is_empty() {
        return Ok(0);
    }
    let path = percent(found.below_root.as_os_str().as_bytes());
    let names = found.client.get(&format!("/v1/xattrs?path={path}"))?;
    let mut tags = 0;
    let mut out = std::io::stdout().lock();
    for name in names
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
    {
        if let Some(tag) = name.strip_prefix("user.vexfs.tag.") {
            writeln!(out, "{tag}")?;
            tags += 1;
        }
    }
    Ok(if tags == 0 { NO_HITS } else { 0 })
}
