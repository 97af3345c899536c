//! Random commands of all families are answered by repld as by redis-server.

use super::both;
use super::generator::{Kind, step};
use super::steps::{Pair, check};
use crate::random::Random;

/// Replayed by one connection after the other, with all data compared at the end of each part.
const PART: usize = 2_500;

fn run(protocol: &str, seed: u64, commands: usize) {
    let Some(servers) = both(|launcher| launcher) else { return };
    let mut random = Random::new(seed);
    let mut done = 0;
    while done < commands {
        let mut lines = Vec::new();
        while lines.len() < PART.min(commands - done) {
            lines.extend(step(&mut random, Kind::Repeatable));
        }
        println!("seed {seed}, RESP{protocol}, from command {done} on");
        check(&mut Pair::fresh(&servers, protocol), &lines);
        done += lines.len();
    }
}

#[test]
fn random_commands_are_answered_as_by_redis_in_resp2() {
    run("2", 2, 5_000);
}

#[test]
fn random_commands_are_answered_as_by_redis_in_resp3() {
    run("3", 3, 5_000);
}

/// `COMMANDS` over `SEEDS` seeds, by turns in both versions of the protocol.
#[test]
#[ignore = "takes minutes: see tests/long/differential"]
fn a_million_random_commands_are_answered_as_by_redis() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (commands, seeds) = (number("COMMANDS", 1_000_000), number("SEEDS", 20));
    let first = number("FIRST_SEED", 100);
    for seed in first..first + seeds {
        run(["2", "3"][seed % 2], seed as u64, commands / seeds);
    }
}
