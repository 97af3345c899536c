//! Bytes from outside, damaged at random: whatever they are, a reader of them neither panics nor hangs, and never takes
//! more memory than twice their length and a megabyte.
//!
//! Each target reads the files of its directory under `tests/corpus`, first as they are and then with seeded mutations.
//! `FUZZ_SECONDS` says for how long, in the target's own time on a processor, so that a run is as long on a busy machine;
//! without it a fixed number of inputs is tried.

mod allocation;
mod mutation;
#[path = "../it/random.rs"]
mod random;
mod target;

use std::fs;
use std::path::Path;
use std::time::Duration;

use random::Random;
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// What a reader may take beyond twice its input, in bytes.
const ROOM_BYTES: usize = 1 << 20;
/// No input keeps a reader busy for longer, in time on a processor.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads bytes in some way; tells whether they were good.
type Read = fn(&[u8], &mut Random) -> bool;

/// An ordinary run tries so many mutated inputs.
fn fuzz(name: &str, read: Read, inputs: u64) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "there is nothing to start from");
    for input in &corpus {
        assert!(read(input, &mut Random::new(0)), "what was not damaged is good: {}", input.escape_ascii());
        check(name, 0, input, read);
    }
    let begin = cpu_time();
    let end = std::env::var("FUZZ_SECONDS")
        .ok()
        .map(|text| begin + Duration::from_secs(text.parse().expect("FUZZ_SECONDS is a number")));
    let first = std::env::var("FUZZ_SEED").map_or(1, |text| text.parse().expect("FUZZ_SEED is a number"));
    let mut seed = first;
    while end.map_or(seed < first + inputs, |end| cpu_time() < end) {
        let input = mutation::mutated(&mut Random::new(seed), &corpus);
        check(name, seed, &input, read);
        seed += 1;
    }
    println!("{name}: {} inputs in {:.0} s on a processor", seed - first, (cpu_time() - begin).as_secs_f64());
}

/// How long this thread has run on a processor.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("time spent is not negative")
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut paths: Vec<_> =
        fs::read_dir(directory).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a readable file")).collect()
}

fn check(name: &str, seed: u64, input: &[u8], read: Read) {
    let begin = cpu_time();
    let peak = std::panic::catch_unwind(|| allocation::peak_of(|| _ = read(input, &mut Random::new(seed))));
    let told = |problem: &str| {
        let file = std::env::temp_dir().join(format!("repld-fuzz-{name}-{seed}"));
        fs::write(&file, input).expect("a writable temporary directory");
        panic!("{problem}: FUZZ_SEED={seed}, {} bytes, kept as {}", input.len(), file.display());
    };
    match peak {
        Err(_) => told("a panic"),
        Ok(peak) if peak > 2 * input.len() + ROOM_BYTES => told(&format!("{peak} bytes were taken")),
        Ok(_) if cpu_time() - begin > PATIENCE => told("it took too long"),
        Ok(_) => {}
    }
}

#[test]
fn requests_are_parsed_within_bounds() {
    fuzz("requests", target::requests, 5_000);
}

#[test]
fn images_are_decoded_within_bounds() {
    fuzz("rdb", target::image, 5_000);
}

#[test]
fn payloads_are_restored_within_bounds() {
    fuzz("restore", target::payload, 10_000);
}

#[test]
fn append_only_files_are_loaded_within_bounds() {
    fuzz("aof", target::append_only_file, 200);
}
