//! `vexfs check` and `vexfs index verify`: does everything agree?

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::failure::{ERROR, Failure};
use super::place::At;

/// Compare files, store and indexes with one another
///
/// Looks at the whole tree, the pages of the store, the checksum of every file of the indexes, and the contents of every
/// file. Changes nothing. Exit code 0 when all agrees, 2 when not.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// A path in the mount
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Compare sizes and times of files, not their contents
    #[arg(long)]
    quick: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

pub(crate) fn check(args: &CheckArgs) -> Result<u8, Failure> {
    verdict(
        &args.path,
        &args.at,
        args.json,
        "/v1/check",
        &json!({ "quick": args.quick }),
    )
}

/// Asks for a verdict and prints it: what was compared, then a line a fault.
pub(crate) fn verdict(path: &Path, at: &At, as_json: bool, route: &str, body: &Value) -> Result<u8, Failure> {
    let verdict = at.find(path)?.client.post(route, body)?;
    let sound = verdict["sound"] == true;
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{verdict}")?;
    } else {
        let counts = verdict["counts"].as_object().into_iter().flatten();
        let counts: Vec<String> = counts.map(|(name, count)| format!("{count} {name}")).collect();
        writeln!(
            out,
            "{}: {}",
            if sound { "sound" } else { "faults" },
            counts.join(", ")
        )?;
        for fault in verdict["faults"].as_array().into_iter().flatten() {
            let text = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
            writeln!(out, "{}: {}", text("part"), text("fault"))?;
        }
        if !sound {
            writeln!(
                out,
                "vexfs index rebuild makes vectors, words and derived relations anew"
            )?;
        }
    }
    Ok(if sound { 0 } else { ERROR })
}
