//! `vexfs space`: sets of vectors that programs put on files.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use super::client::percent;
use super::failure::Failure;
use super::place::{At, Found};

/// Spaces of vectors
#[derive(Subcommand, Debug)]
pub(crate) enum SpaceCommand {
    /// List the spaces: name, dimension, measure, number of vectors
    List {
        /// A path in the mount
        #[arg(default_value = ".")]
        path: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Make a space. The first vector of a space would make it too, compared by cosine
    Create {
        /// Its name
        name: String,
        /// Numbers in each vector
        #[arg(long, value_name = "N")]
        dim: u32,
        /// How vectors are compared
        #[arg(long, value_enum, default_value = "cosine")]
        measure: Measure,
        /// A path in the mount
        #[arg(default_value = ".")]
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Go over to another embedder: `built-in`, or a profile (NAME.json in ~/.config/vexfs/embedders or
    /// /etc/vexfs/embedders). Questions are answered from the old vectors until all new ones are there
    Migrate {
        /// The embedder
        to: String,
        /// Do not wait until it is done
        #[arg(long)]
        background: bool,
        /// A path in the mount
        #[arg(default_value = ".")]
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Remove a space with all its vectors
    Drop {
        /// Its name
        name: String,
        /// A path in the mount
        #[arg(default_value = ".")]
        path: PathBuf,
        #[command(flatten)]
        at: At,
    },
}

/// A measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Measure {
    Cosine,
    Dot,
    L2,
}

impl Measure {
    fn word(self) -> &'static str {
        match self {
            Measure::Cosine => "cosine",
            Measure::Dot => "dot",
            Measure::L2 => "l2",
        }
    }
}

pub(crate) fn space(command: &SpaceCommand) -> Result<u8, Failure> {
    match command {
        SpaceCommand::List { path, json, at } => {
            let answer = at.find(path)?.client.get("/v1/spaces")?;
            let mut out = std::io::stdout().lock();
            if *json {
                writeln!(out, "{answer}")?;
                return Ok(0);
            }
            for space in answer["spaces"].as_array().into_iter().flatten() {
                let text = |name: &str| match &space[name] {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                // The space of user.vexfs.vec has no name.
                let name = Some(text("name")).filter(|name| !name.is_empty());
                writeln!(
                    out,
                    "{}\t{}\t{}\t{}",
                    name.as_deref().unwrap_or("(default)"),
                    text("dim"),
                    text("measure"),
                    text("vectors"),
                )?;
            }
        }
        SpaceCommand::Create {
            name,
            dim,
            measure,
            path,
            at,
        } => {
            let body = json!({ "name": name, "dim": dim, "measure": measure.word() });
            at.find(path)?.client.post("/v1/spaces", &body)?;
        }
        SpaceCommand::Migrate {
            to,
            background,
            path,
            at,
        } => {
            let found = at.find(path)?;
            found.client.post("/v1/spaces/migrate", &json!({ "to": to }))?;
            if !background {
                watch(&found, to)?;
            }
        }
        SpaceCommand::Drop { name, path, at } => {
            let target = format!("/v1/spaces?name={}", percent(name.as_bytes()));
            at.find(path)?.client.bytes("DELETE", &target, b"")?;
        }
    }
    Ok(0)
}

/// Waits until a migration is over, with a progress bar where there is somebody to see it.
fn watch(found: &Found, to: &str) -> Result<(), Failure> {
    let bar = ProgressBar::new(0).with_message(format!("embedding with {to}"));
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    loop {
        let migration = &found.client.get("/v1/status")?["migration"];
        bar.set_length(migration["all"].as_u64().unwrap_or(0));
        bar.set_position(migration["done"].as_u64().unwrap_or(0));
        if migration["running"] != true {
            bar.finish_and_clear();
            return match migration["error"].as_str() {
                Some(error) => Err(Failure::usage(format!("the embedder stays as it was: {error}"))),
                None => Ok(()),
            };
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
