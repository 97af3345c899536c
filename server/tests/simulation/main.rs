//! Whole groups of servers in one thread: real instances, a virtual network and virtual time, everything that happens
//! chosen by a seed. Bytes are cut, delayed and lost, nodes are killed and started again, redirected and promoted, while
//! clients write. Then all is put into one tree and becomes quiet, and everyone must have the same.
//!
//! `SEED=n cargo test -p repld --test simulation one_seed -- --nocapture` runs one seed and prints what happened.
//! `SEEDS=n` sets how many [`all_seeds_end_equal`] runs; `tests/long/simulate` does that in release.

mod check;
mod network;
mod node;
mod random;
mod world;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use node::Figures;
use world::{Outcome, run};

/// What every run of the ordinary tests tries.
const SEEDS: u64 = 1000;

/// A directory for the nodes' files, in memory if this machine has that.
fn directory() -> tempfile::TempDir {
    repld::log::set_level(repld::log::Level::Warning);
    repld::log::set_file(Some(Path::new("/dev/null"))).expect("a place where nothing is kept");
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).expect("a temporary directory")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Runs seeds from 0 on until one fails, on all cores. `before` is called in each thread.
fn first_failure(seeds: u64, before: impl Fn() + Sync) -> (Figures, Option<Outcome>) {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        before();
        let directory = directory();
        let mut figures = Figures::default();
        let mut failure = None;
        while failure.is_none() && !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let outcome = run(seed, directory.path(), false);
            figures.add(&outcome.figures);
            if outcome.result.is_err() {
                failed.store(true, Ordering::Relaxed);
                // The same again, with what happened.
                failure = Some(run(seed, directory.path(), true));
            }
        }
        (figures, failure)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut figures = Figures::default();
        let mut failures = Vec::new();
        for worker in workers {
            let (counted, failure) = worker.join().expect("no node panics");
            figures.add(&counted);
            failures.extend(failure);
        }
        failures.sort_by_key(|failure| failure.seed);
        (figures, failures.into_iter().next())
    })
}

fn report(outcome: &Outcome) -> String {
    let Err(what) = &outcome.result else { return format!("seed {}: all is well", outcome.seed) };
    format!("seed {}: {what}\nthe last events:\n{}", outcome.seed, outcome.events.join("\n"))
}

#[test]
fn all_seeds_end_equal() {
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let started = std::time::Instant::now();
    let (figures, failure) = first_failure(seeds, || {});
    if let Some(failure) = failure {
        panic!("{}", report(&failure));
    }
    println!("{seeds} seeds in {:.1} s; {figures:?}", started.elapsed().as_secs_f64());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let directories = [directory(), directory()];
    for seed in 0..20 {
        let [first, second] = directories.each_ref().map(|directory| run(seed, directory.path(), false).trace);
        assert_eq!(first, second, "seed {seed}");
    }
    let [one, other] = [1, 2].map(|seed| run(seed, directories[0].path(), false).trace);
    assert_ne!(one, other);
}

/// For people: see above.
#[test]
fn one_seed() {
    let Some(seed) = number("SEED") else { return };
    let directory = directory();
    let outcome = run(seed, directory.path(), true);
    println!("{}", outcome.events.join("\n"));
    if outcome.result.is_err() {
        panic!("{}", report(&outcome));
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn every_planted_bug_is_found() {
    use repld::planted::{Bug, plant};
    const SEEDS_MAX: u64 = 10_000;
    for bug in Bug::ALL {
        let (_, failure) = first_failure(SEEDS_MAX, || plant(Some(bug)));
        let Some(failure) = failure else { panic!("{bug:?} is not found in {SEEDS_MAX} seeds") };
        println!("{bug:?} is found by seed {}: {}", failure.seed, failure.result.unwrap_err());
    }
}
