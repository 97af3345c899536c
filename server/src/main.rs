//! The `repld` program.

fn main() -> std::process::ExitCode {
    repld::run(std::env::args_os().skip(1).collect())
}
