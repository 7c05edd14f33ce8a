//! `vexfs export`: everything that is known of files, as JSON lines.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::failure::{Failure, NO_HITS};
use super::place::{At, text};

/// Print everything that is known of files as JSON lines
///
/// An object a file: path, id, size, mtime_ns, state, hash, tags, metadata, vectors by space, relations.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Directory to export
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Only files of which something was told: tags, metadata, vectors, relations
    #[arg(long)]
    told: bool,
    #[command(flatten)]
    at: At,
}

pub(crate) fn export(args: &ExportArgs) -> Result<u8, Failure> {
    let found = args.at.find(&args.path)?;
    let path = text(&found.below_root)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (mut after, mut lines) = (json!(0), 0);
    while !after.is_null() {
        let page = found
            .client
            .post("/v1/export", &json!({ "path": path, "after": after }))?;
        for file in page["files"].as_array().into_iter().flatten() {
            if !args.told || is_told(file) {
                writeln!(out, "{file}")?;
                lines += 1;
            }
        }
        after = page["next"].clone();
    }
    out.flush()?;
    Ok(if lines == 0 { NO_HITS } else { 0 })
}

fn is_told(file: &Value) -> bool {
    let filled = |name: &str| match &file[name] {
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        _ => false,
    };
    let relations = file["relations"].as_array().into_iter().flatten();
    filled("tags")
        || filled("metadata")
        || filled("vectors")
        || relations.into_iter().any(|r| r["derived"] == false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_relations_alone_are_nothing_told() {
        let mut file =
            json!({ "tags": [], "metadata": {}, "vectors": {}, "relations": [{ "derived": true }] });
        assert!(!is_told(&file));
        file["relations"] = json!([{ "derived": false }]);
        assert!(is_told(&file));
        assert!(is_told(&json!({ "tags": ["x"] })));
    }
}
