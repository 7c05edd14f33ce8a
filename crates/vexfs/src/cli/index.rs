//! `vexfs status` and `vexfs index`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use vexfs_core::query::answer::path_text;

use super::client::percent;
use super::failure::{Failure, NOT_FRESH};
use super::place::{At, Found};

/// Say how fresh the index is
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// A path in the mount
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Show progress until every file is searchable
    #[arg(short, long)]
    watch: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

/// Work on the derived indexes
#[derive(Subcommand, Debug)]
pub(crate) enum IndexCommand {
    /// Say why a file is searchable, or why not
    Why {
        /// The file
        path: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Compare the derived indexes with what they follow from. Exit code 2 when they do not agree
    Verify {
        /// A path in the mount
        #[arg(default_value = ".")]
        path: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Make the derived indexes anew from the files and from what was set
    Rebuild {
        /// A path in the mount
        #[arg(default_value = ".")]
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
}

pub(crate) fn status(args: &StatusArgs) -> Result<u8, Failure> {
    let found = args.at.find(&args.path)?;
    if args.watch {
        watch(&found)?;
    }
    let status = found.client.get("/v1/status")?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{status}")?;
    } else {
        out.write_all(status["text"].as_str().unwrap_or_default().as_bytes())?;
    }
    Ok(0)
}

/// Waits until every file is searchable, with a progress bar where there is somebody to see it.
pub(crate) fn watch(found: &Found) -> Result<(), Failure> {
    let bar = ProgressBar::new(0);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} files, {elapsed}");
    bar.set_style(
        style
            .map_err(|e| Failure::usage(e.to_string()))?
            .progress_chars("=> "),
    );
    // Once: a file that a program keeps open and goes on writing would never be all searchable.
    let mut writers = true;
    loop {
        let body = json!({ "wait_ms": 200, "writers": writers });
        let status = found.client.post("/v1/wait", &body)?;
        writers = false;
        let (files, pending) = (count(&status, "files"), count(&status, "pending"));
        bar.set_length(files);
        bar.set_position(files.saturating_sub(pending));
        bar.set_message(if status["scanning"] == true {
            "scanning"
        } else {
            "indexing"
        });
        if status["idle"] == true {
            bar.finish_and_clear();
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn count(status: &Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or(0)
}

pub(crate) fn index(command: &IndexCommand) -> Result<u8, Failure> {
    match command {
        IndexCommand::Why { path, json, at } => {
            let found = at.find(path)?;
            let at = percent(std::os::unix::ffi::OsStrExt::as_bytes(
                found.below_root.as_os_str(),
            ));
            let why = found.client.get(&format!("/v1/index/why?path={at}"))?;
            let mut out = std::io::stdout().lock();
            if *json {
                writeln!(out, "{why}")?;
            } else {
                writeln!(
                    out,
                    "{}: {}",
                    path_text(path),
                    why["state"].as_str().unwrap_or("unknown")
                )?;
                writeln!(
                    out,
                    "  {} passages, generation {}",
                    count(&why, "passages"),
                    count(&why, "generation")
                )?;
            }
            Ok(0)
        }
        IndexCommand::Verify { path, json, at } => {
            super::check::verdict(path, at, *json, "/v1/index/verify", &json!({}))
        }
        IndexCommand::Rebuild { path, at } => {
            let found = at.find(path)?;
            found.client.post("/v1/index/rebuild", &json!({}))?;
            watch(&found)?;
            let status = found.client.get("/v1/status")?;
            Ok(if count(&status, "pending") == 0 {
                0
            } else {
                NOT_FRESH
            })
        }
    }
}
