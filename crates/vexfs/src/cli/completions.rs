//! `vexfs completions`.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;

/// Print completions for a shell
///
/// For bash: vexfs completions bash > ~/.local/share/bash-completion/completions/vexfs
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<u8, Failure> {
    // Made whole first: the generator panics when its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "vexfs", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(0)
}
