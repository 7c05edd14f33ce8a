//! `vexfs txn`: transactions by name, through the control directory of the mount in which one stands.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rustix::fs::XattrFlags;
use vexfs_core::store::dir::CTLNAME_DEFAULT;

use super::client::percent;
use super::failure::{CONFLICT, Failure, NO_DAEMON};
use super::place::At;

/// Change many files together or not at all
#[derive(Subcommand, Debug)]
pub(super) enum TxnCommand {
    /// Begin a transaction and print the directory in which to work
    Begin(BeginArgs),
    /// What is known of a transaction: how much it changes, its conflicts, its limits
    Status(Named),
    /// List what a transaction would change
    Diff(DiffArgs),
    /// After a conflict, take what others have committed for the base: texts get both changes, other paths stay in conflict
    Rebase(RebaseArgs),
    /// Make everything visible at once; with a conflict, list the paths and change nothing
    Commit(Named),
    /// Give everything up
    Abort(Named),
    /// List open transactions
    List {
        #[command(flatten)]
        at: InMount,
    },
}

#[derive(Args, Debug)]
pub(super) struct BeginArgs {
    #[command(flatten)]
    named: Named,
    /// A change by others of anything that it reads is a conflict too
    #[arg(long)]
    strict: bool,
    /// The bytes that it may stage
    #[arg(long, value_name = "BYTES")]
    quota: Option<u64>,
    /// The seconds after which it can no longer be committed; a week if nothing is said
    #[arg(long, value_name = "SECONDS")]
    expires: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    named: Named,
    /// Changed files by how far what they mean has moved: 0 the same, 1 nothing in common
    #[arg(long)]
    meaning: bool,
    /// A patch for `git apply` or `patch -p1`, against the files as the transaction found them
    #[arg(long, conflicts_with = "meaning")]
    patch: bool,
}

#[derive(Args, Debug)]
pub(super) struct RebaseArgs {
    #[command(flatten)]
    named: Named,
    /// Where both changed the same, the transaction wins
    #[arg(long)]
    ours: bool,
}

#[derive(Args, Debug)]
pub(super) struct Named {
    /// The name of the transaction
    name: String,
    #[command(flatten)]
    at: InMount,
}

#[derive(Args, Debug)]
pub(super) struct InMount {
    /// A directory of the mount
    #[arg(short = 'C', long = "directory", default_value = ".")]
    directory: PathBuf,
}

impl InMount {
    pub(super) fn desk(&self) -> Result<Desk, Failure> {
        Desk::find(&self.directory)
    }
}

pub(super) fn run(command: &TxnCommand) -> Result<u8, Failure> {
    match command {
        TxnCommand::Begin(args) => {
            let (desk, name) = (args.named.at.desk()?, &args.named.name);
            let root = desk.begin(name)?;
            let numbers = [
                ("strict", args.strict.then_some(1)),
                ("quota", args.quota),
                ("expires", args.expires.map(u64::from)),
            ];
            for (limit, number) in numbers {
                if let Some(number) = number {
                    desk.limit(name, limit, number)?;
                }
            }
            writeln!(io::stdout(), "{}", root.display())?;
        }
        TxnCommand::Status(named) => {
            io::stdout().write_all(&named.at.desk()?.report(&named.name, "status")?)?;
        }
        TxnCommand::Diff(args) => {
            let report = match (args.meaning, args.patch) {
                (true, _) => "meaning",
                (_, true) => "patch",
                _ => "diff",
            };
            let text = args.named.at.desk()?.report(&args.named.name, report)?;
            io::stdout().write_all(&text)?;
        }
        TxnCommand::Rebase(args) => {
            let (desk, name) = (args.named.at.desk()?, &args.named.name);
            return list_conflicts(&desk, name, desk.rebase(name, args.ours));
        }
        TxnCommand::Commit(named) => return commit(&named.at.desk()?, &named.name),
        TxnCommand::Abort(named) => named.at.desk()?.abort(&named.name)?,
        TxnCommand::List { at } => {
            for name in at.desk()?.list()? {
                writeln!(io::stdout(), "{name}")?;
            }
        }
    }
    Ok(0)
}

/// Prints what a transaction would change, a path a line.
pub(super) fn print_diff(desk: &Desk, name: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(&desk.report(name, "diff")?)?)
}

/// Commits; prints the paths of a conflict.
pub(super) fn commit(desk: &Desk, name: &str) -> Result<u8, Failure> {
    list_conflicts(desk, name, desk.commit(name))
}

fn list_conflicts(desk: &Desk, name: &str, outcome: Result<(), Failure>) -> Result<u8, Failure> {
    match outcome {
        Err(failure) if failure.code == CONFLICT => {
            io::stdout().write_all(&desk.report(name, "conflicts")?)?;
            Err(failure)
        }
        Err(failure) => Err(failure),
        Ok(()) => Ok(0),
    }
}

/// The directory of transactions of a mount.
pub(super) struct Desk {
    /// The root of the mount.
    pub(super) root: PathBuf,
    dir: PathBuf,
}

impl Desk {
    /// The desk of the mount that a directory belongs to: it stands in the tree's root, which is looked for upwards.
    pub(super) fn find(directory: &Path) -> Result<Desk, Failure> {
        let from = directory
            .canonicalize()
            .map_err(|e| Failure::from_io(&e, directory))?;
        for root in from.ancestors() {
            let dir = root.join(CTLNAME_DEFAULT).join("txn");
            if dir.join("@committed").is_dir() {
                return Ok(Desk {
                    root: root.to_owned(),
                    dir,
                });
            }
        }
        Err(Failure::no_daemon(format!(
            "{} is not in a VexFS mount with transactions",
            directory.display()
        )))
    }

    fn path(&self, name: &str) -> Result<PathBuf, Failure> {
        let is_name = !name.is_empty() && !name.contains('/') && !name.starts_with(['.', '@']);
        match is_name {
            true => Ok(self.dir.join(name)),
            false => Err(Failure::usage(format!(
                "{name:?} is no name of a transaction: expected a file name that does not begin with . or @"
            ))),
        }
    }

    /// Begins a transaction, and gives the directory that shows its tree.
    pub(super) fn begin(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name)?;
        fs::create_dir(&path).map_err(|e| Failure::from_io(&e, &path))?;
        Ok(path.join("root"))
    }

    fn limit(&self, name: &str, limit: &str, number: u64) -> Result<(), Failure> {
        let path = self.path(name)?;
        let (attribute, value) = (format!("user.vexfs.{limit}"), number.to_string());
        rustix::fs::setxattr(&path, attribute, value.as_bytes(), XattrFlags::empty())
            .map_err(|e| Failure::from_io(&e.into(), &path))
    }

    fn rebase(&self, name: &str, ours: bool) -> Result<(), Failure> {
        let path = self.path(name)?;
        let how: &[u8] = if ours { b"ours" } else { b"merge" };
        rustix::fs::setxattr(&path, "user.vexfs.rebase", how, XattrFlags::empty())
            .map_err(|e| Failure::from_io(&e.into(), &path))
    }

    pub(super) fn commit(&self, name: &str) -> Result<(), Failure> {
        let path = self.path(name)?;
        let to = self.dir.join("@committed").join(name);
        fs::rename(&path, to).map_err(|e| Failure::from_io(&e, &path))
    }

    /// Gives everything up. By rmdir(2) the kernel would forget all that was looked at in the transaction, some microseconds
    /// a file, before it returns; asked by its socket, the daemon has the kernel do so afterwards.
    pub(super) fn abort(&self, name: &str) -> Result<(), Failure> {
        let path = self.path(name)?;
        let route = format!("/v1/txn/{}", percent(name.as_bytes()));
        let found = At::default().find(&self.root);
        match found.and_then(|found| found.client.bytes("DELETE", &route, b"")) {
            Err(failure) if failure.code == NO_DAEMON => {
                fs::remove_dir(&path).map_err(|e| Failure::from_io(&e, &path))
            }
            other => other.map(|_| ()),
        }
    }

    fn report(&self, name: &str, report: &str) -> Result<Vec<u8>, Failure> {
        let path = self.path(name)?.join(report);
        fs::read(&path).map_err(|e| Failure::from_io(&e, &path))
    }

    fn list(&self) -> Result<Vec<String>, Failure> {
        let entries = fs::read_dir(&self.dir).map_err(|e| Failure::from_io(&e, &self.dir))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if name != OsStr::new("@committed") {
                names.push(name.to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_become_paths() {
        let desk = Desk {
            root: "/m".into(),
            dir: "/m/.vexfs/txn".into(),
        };
        assert_eq!(desk.path("fix").unwrap(), Path::new("/m/.vexfs/txn/fix"));
        for name in ["", "a/b", "..", "@committed"] {
            assert!(desk.path(name).is_err(), "{name}");
        }
    }
}
