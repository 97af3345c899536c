//! repld: a replicating server that speaks the Redis protocol.

pub mod config;
pub mod glob;
pub mod log;
pub mod long_double;

/// Runs the server as its command line says and returns its exit code when it has shut down.
///
/// `arguments` are those after the program's name: `[CONF] [--directive value …]`.
pub fn run(arguments: Vec<std::ffi::OsString>) -> std::process::ExitCode {
    let _ = arguments;
    std::process::ExitCode::FAILURE
}
