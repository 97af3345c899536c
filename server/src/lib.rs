//! repld: a replicating server that speaks the Redis protocol.
//!
//! # A tour
//! A request's way: [`net`](crate) reads bytes and lets [`resp`] find requests in them; the table in [`command`] says what
//! each may do; a handler changes the [`keyspace`] and returns an effect; [`instance`] commits the effect to the stream of
//! [`replication`]; replies go out when the input is drained. A replica is fed from the stream's backlog by a cursor, and
//! brought up from an image that [`snapshot`] takes without a fork and [`rdb`] encodes. What is to outlive the machine's
//! power goes into the append-only file of [`aof`].
//!
//! Everything but the shell in `net` is functions of values: time and bytes come in, bytes and actions come out.

#[macro_use]
pub mod planted;

pub mod aof;
pub mod client;
pub mod command;
pub mod config;
pub mod delays;
pub mod functions;
pub mod geohash;
pub mod glob;
pub mod info;
pub mod instance;
pub mod keyspace;
pub mod log;
pub mod long_double;
mod net;
pub mod notify;
pub mod number;
pub mod oom_score;
mod prefetch;
mod priority;
pub mod pubsub;
pub mod rdb;
pub mod replication;
pub mod resp;
pub mod salvage;
pub mod slowlog;
pub mod snapshot;
pub mod tracking;
pub mod value;

use std::ffi::OsString;
use std::process::ExitCode;

use config::Config;
use log::log;
use replication::Remains;

const USAGE: &str = "\
Usage: repld [CONF] [--directive value ...]
       repld - [--directive value ...]       the configuration comes from standard input
       repld --salvage DIR [CONF] [--directive value ...]
                                             hands out the backlog of the dead server of that directory
       repld -v | --version
       repld -h | --help

Examples:
       repld                                 listens on 127.0.0.1:6379 with the defaults
       repld /etc/repld.conf
       repld --port 6380 --replicaof \"127.0.0.1 6379\"
       repld --salvage /var/lib/repld --port 6380

Directives are those of redis.conf.
";

/// Runs the server as its command line says and returns its exit code when it has shut down.
///
/// `arguments` are those after the program's name: `[--salvage DIR] [CONF] [--directive value …]`.
pub fn run(mut arguments: Vec<OsString>) -> ExitCode {
    match arguments.first().and_then(|argument| argument.to_str()) {
        Some("-v" | "--version") if arguments.len() == 1 => {
            println!(
                "repld v={} (speaks the protocol of Redis v={})",
                env!("CARGO_PKG_VERSION"),
                instance::REDIS_VERSION
            );
            return ExitCode::SUCCESS;
        }
        Some("-h" | "--help") if arguments.len() == 1 => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let remains = match open_remains(&mut arguments) {
        Ok(remains) => remains,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let config = match Config::load(&arguments, &mut std::io::stdin()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match start(config, remains) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a ghost hands out, if the command line asks for one.
fn open_remains(arguments: &mut Vec<OsString>) -> Result<Option<Remains>, String> {
    let Some(place) = salvage::take_option(arguments)? else { return Ok(None) };
    salvage::open(&place).map(Some).map_err(|error| format!("{error}\nhint: {}", error.hint()))
}

fn start(config: Config, remains: Option<Remains>) -> Result<(), String> {
    log::set_level(config.loglevel);
    let logfile = config.logfile.as_ref().map(|path| config.dir.join(path));
    log::set_file(logfile.as_deref())
        .map_err(|error| format!("can't open the log file {}: {error}", logfile.unwrap_or_default().display()))?;
    log!(Warning, "oO0OoO0OoO0Oo repld is starting oO0OoO0OoO0Oo");
    log!(
        Warning,
        "repld version={}, Redis version={}, pid={}, just started",
        env!("CARGO_PKG_VERSION"),
        instance::REDIS_VERSION,
        std::process::id()
    );
    if let Some(Remains { history, start, end, .. }) = &remains {
        log!(Warning, "Ghost master of {}: serves offsets {start} to {end} of a dead server's backlog", history.replid);
    }
    // Where the kernel has to clear two megabytes at once, a write waits milliseconds for its memory.
    if config.disable_thp
        && let Err(error) = rustix::thread::disable_transparent_huge_pages(true)
    {
        log!(Warning, "The kernel can't be kept from giving this process huge pages: {error}");
    }
    net::serve(config, remains)
}
