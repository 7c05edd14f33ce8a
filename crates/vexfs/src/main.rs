//! The command `vexfs`.

fn main() -> std::process::ExitCode {
    vexfs::cli::run(std::env::args_os())
}
