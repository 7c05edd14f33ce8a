//! The command line: one file a family of commands.

mod attributes;
mod check;
pub(crate) mod client;
mod completions;
mod doctor;
mod export;
pub(crate) mod failure;
mod grep;
mod index;
mod mount;
mod mounts;
mod output;
mod place;
mod relations;
mod search;
mod serve;
mod snapshots;
mod spaces;
mod top;
mod try_command;
mod txn;
mod umount;
mod vectors;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vexfs_core::semantic::extract::{declare_worker, worker_main};

/// The hidden subcommand as which this program reads hostile files for its daemon.
const EXTRACT_WORKER: &str = "extract-worker";

/// A filesystem in which every file can be found by meaning
#[derive(Parser, Debug)]
#[command(name = "vexfs", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Mounts(mounts::MountsArgs),
    Search(search::SearchArgs),
    Ask(search::AskArgs),
    Like(search::LikeArgs),
    Grep(grep::GrepArgs),
    Status(index::StatusArgs),
    #[command(subcommand)]
    Index(index::IndexCommand),
    #[command(subcommand)]
    Vec(attributes::VecCommand),
    Tag(attributes::TagArgs),
    Relate(relations::RelateArgs),
    Unrelate(relations::UnrelateArgs),
    Related(relations::RelatedArgs),
    #[command(subcommand)]
    Space(spaces::SpaceCommand),
    #[command(subcommand)]
    Snapshot(snapshots::SnapshotCommand),
    Top(top::TopArgs),
    #[command(subcommand)]
    Txn(txn::TxnCommand),
    Try(try_command::TryArgs),
    Check(check::CheckArgs),
    Doctor(doctor::DoctorArgs),
    Export(export::ExportArgs),
    Serve(serve::ServeArgs),
    #[cfg(feature = "bench")]
    Bench(BenchArgs),
    Completions(completions::CompletionsArgs),
}

/// Measure, as performance_benchmark does: --help says what
#[cfg(feature = "bench")]
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
struct BenchArgs {
    /// The words of performance_benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Runs one command and gives its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|word| word == EXTRACT_WORKER) {
        return worker_main(&args[2..]);
    }
    declare_worker(EXTRACT_WORKER);
    let args = as_subcommand(args);
    let mounting = args
        .get(1)
        .is_some_and(|word| word == "mount" || word == "umount");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, mounting),
    };
    match cli.command {
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Mounts(args) => mounts::run(&args),
        Command::Search(args) => ended(search::search(&args)),
        Command::Ask(args) => ended(search::ask(&args)),
        Command::Like(args) => ended(search::like(&args)),
        Command::Grep(args) => ended(grep::grep(&args)),
        Command::Status(args) => ended(index::status(&args)),
        Command::Index(command) => ended(index::index(&command)),
        Command::Vec(command) => ended(attributes::vec(&command)),
        Command::Tag(args) => ended(attributes::tag(&args)),
        Command::Relate(args) => ended(relations::relate(&args)),
        Command::Unrelate(args) => ended(relations::unrelate(&args)),
        Command::Related(args) => ended(relations::related(&args)),
        Command::Space(command) => ended(spaces::space(&command)),
        Command::Snapshot(command) => ended(snapshots::snapshot(&command)),
        Command::Top(args) => ended(top::top(&args)),
        Command::Txn(command) => ended(txn::run(&command)),
        Command::Try(args) => ended(try_command::run(&args)),
        Command::Check(args) => ended(check::check(&args)),
        Command::Doctor(args) => ended(doctor::doctor(&args)),
        Command::Export(args) => ended(export::export(&args)),
        Command::Serve(args) => ended(serve::serve(&args)),
        #[cfg(feature = "bench")]
        Command::Bench(args) => crate::bench::command(args.words),
        Command::Completions(args) => {
            let command = <Cli as clap::CommandFactory>::command();
            ended(completions::completions(&args, command))
        }
    }
}

/// The exit code of a command.
fn ended(result: Result<u8, failure::Failure>) -> ExitCode {
    result.map_or_else(failure::Failure::report, ExitCode::from)
}

/// Help and version go to standard output and are no error. A wrong call is 1 in mount(8)'s world, 2 elsewhere.
fn usage(error: &clap::Error, mounting: bool) -> ExitCode {
    // A closed pipe: whoever asked for help has seen enough.
    let _ = error.print();
    match (error.use_stderr(), mounting) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(1),
        (true, false) => ExitCode::from(2),
    }
}

/// Turns the call of mount(8) and fstab, `vexfs SOURCE MOUNTPOINT -o OPTIONS`, into `vexfs mount ...`.
///
/// It is taken for one if the program is called `mount.vexfs`, or if the first word is no command and either looks
/// like a path or comes with `-o`. So a misspelt command is still reported as such.
fn as_subcommand(mut args: Vec<OsString>) -> Vec<OsString> {
    let Some(first) = args.get(1) else { return args };
    let program = args.first().and_then(|p| std::path::Path::new(p).file_name());
    let helper = program.is_some_and(|name| name == "mount.vexfs" || name == "mount.fuse.vexfs");
    let known = <Cli as clap::CommandFactory>::command()
        .get_subcommands()
        .any(|c| first == c.get_name());
    let path = first.as_encoded_bytes().contains(&b'/') || first == OsStr::new(".");
    let with_options = args.iter().any(|word| word.as_encoded_bytes().starts_with(b"-o"));
    let option = first.as_encoded_bytes().starts_with(b"-");
    let asks_for_help = ["-h", "--help", "-V", "--version", "help"]
        .iter()
        .any(|word| first == word);
    if !asks_for_help && (helper || (!known && !option && (path || with_options))) {
        args.insert(1, OsString::from("mount"));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn becomes_mount(line: &str) -> bool {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        as_subcommand(words.clone()) != words
    }

    #[test]
    fn the_shape_of_fstab_is_a_mount() {
        for line in [
            "vexfs /src /mnt -o rw,dev",
            "vexfs src mnt -o rw",
            "vexfs ./src mnt",
            "mount.vexfs src mnt",
            "/sbin/mount.vexfs src mnt -n -o ro",
            "mount.vexfs -n src mnt",
        ] {
            assert!(becomes_mount(line), "{line}");
        }
    }

    #[test]
    fn commands_and_misspelt_commands_are_not() {
        for line in [
            "vexfs mount /a /b",
            "vexfs serach words",
            "vexfs --help",
            "vexfs",
            "vexfs umount /a -o x",
        ] {
            assert!(!becomes_mount(line), "{line}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
