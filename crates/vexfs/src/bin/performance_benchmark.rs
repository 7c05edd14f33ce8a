//! Measures the whole system through a real mount and says what to do next.

fn main() -> std::process::ExitCode {
    // The parts that need a mount start this program again as the daemon.
    if matches!(
        std::env::args().nth(1).as_deref(),
        Some("mount" | "umount" | "extract-worker")
    ) {
        return vexfs::cli::run(std::env::args_os());
    }
    let arguments: Vec<String> = std::env::args().collect();
    if vexfs::bench::vectors::reads(&arguments) {
        return vexfs::bench::vectors::run(&std::env::args_os().collect::<Vec<_>>());
    }
    vexfs::bench::run(std::env::args_os())
}
