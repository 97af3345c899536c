//! What reads bytes from outside.

use std::fs;

use repld::aof::{Manifest, Restore};
use repld::config::Config;
use repld::instance::Instance;
use repld::rdb::{Checksum, Decoder, restore};
use repld::resp::{Limits, RequestParser};
use repld::value::SmallForms;
use tempfile::TempDir;

use crate::random::Random;

/// A Unix time in milliseconds.
const NOW_MS: i64 = 1_800_000_000_000;
/// No string may be longer, so that a request cannot ask for more than a file of requests holds.
const STRING_BYTES_MAX: i64 = 16 << 10;

thread_local! {
    /// Where the append-only file is that is being read: in memory if that can be, so that the disk is not what is waited
    /// for. A reader writes nothing there.
    static DIRECTORY: TempDir =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory");
}

/// A connection that receives in pieces.
pub fn requests(input: &[u8], random: &mut Random) -> bool {
    let limits = Limits { bulk_bytes_max: 512 << 20, authenticated: random.below(8) > 0 };
    let (mut parser, mut buffer, mut start) = (RequestParser::default(), Vec::new(), 0);
    for piece in pieces(input, random) {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&mut buffer, start, limits) {
                Err(_) => return false,
                Ok(None) => break,
                Ok(Some(request)) => {
                    for span in parser.spans(&request) {
                        assert!((span.start + span.len) as usize <= request.len, "an argument lies within its request");
                    }
                    start = request.start + request.len;
                    assert!(start <= buffer.len(), "a request lies within what was received");
                    parser.forget_requests();
                }
            }
        }
    }
    true
}

/// An image that arrives in pieces.
pub fn image(input: &[u8], random: &mut Random) -> bool {
    let mut decoder = Decoder::new(SmallForms::default());
    for piece in pieces(input, random) {
        decoder.feed(piece);
        loop {
            match decoder.next_item() {
                Err(_) => return false,
                Ok(None) => break,
                Ok(Some(_)) => {}
            }
        }
    }
    decoder.finish().is_ok()
}

/// The payload of a `RESTORE` whose checksum is taken to be right: anybody can compute one.
pub fn payload(input: &[u8], _random: &mut Random) -> bool {
    restore(input, SmallForms::default(), Checksum::Ignored).is_ok()
}

/// The only part of an append-only file.
pub fn append_only_file(input: &[u8], random: &mut Random) -> bool {
    let mut config = Config::default();
    config.dir = DIRECTORY.with(|directory| directory.path().to_path_buf());
    config.proto_max_bulk_len = STRING_BYTES_MAX as _;
    config.repl_backlog_size = 16 << 10;
    let parts = config.dir.join(&config.appenddirname);
    fs::create_dir_all(&parts).expect("a directory");
    let (name, kind) = (format!("{}.1.aof", config.appendfilename), random.pick(&["b", "i"]));
    fs::write(parts.join(&name), input).expect("a written file");
    let manifest = Manifest::parse(format!("file {name} seq 1 type {kind}\n").as_bytes()).expect("a right manifest");
    let mut instance = Instance::new(config, NOW_MS, repld::instance::Random::new([1, 2]));
    let Ok(mut load) = Restore::begin(&instance, &manifest) else { return false };
    loop {
        match load.step(&mut instance) {
            Ok(None) => {}
            end => return end.is_ok(),
        }
    }
}

/// All of the input, in up to four pieces.
fn pieces<'a>(input: &'a [u8], random: &mut Random) -> Vec<&'a [u8]> {
    let (mut rest, mut pieces) = (input, Vec::new());
    for _ in 0..random.below(4) {
        let (piece, after) = rest.split_at(random.below(rest.len() + 1));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}
