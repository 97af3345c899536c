//! The `replctl` program: what to do is parsed, done by one subcommand, and ends in one exit code.

mod cli;
mod ui;

use std::process::ExitCode;

/// The server allocates on its hot path, and this very program is the server under `replctl serve`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(arguments) = cli::serve::fast_path(std::env::args_os()) {
        return cli::serve::run(arguments);
    }
    replctl::host::is_replctl_itself();
    cli::completions::answer_the_shell();
    let cli = match cli::Cli::from_command_line() {
        Ok(cli) => cli,
        Err(usage) => return cli::report_usage(&usage).into(),
    };
    let printer = ui::Printer::new(&cli.global);
    let code = cli.run(&printer).unwrap_or_else(|error| cli::report_failure(error, &printer));
    printer.finish(code).into()
}
