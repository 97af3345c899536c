//! Lists, hashes, sets, sorted sets and streams: throughput of their commands, and what small ones take.

use anyhow::{Context, Result, ensure};

use crate::client::{self, Command, Random, SCRIPT_REQUESTS, Script, Until, key, push};
use crate::report::Rounds;
use crate::server::{Part, Server};
use crate::{Versus, load_until};

const PIPELINE: usize = 16;

/// In this order: whoever takes away or reads follows who has put there.
const COMMANDS: &[Command] = &[
    Command::Lpush,
    Command::Rpop,
    Command::Rpush,
    Command::Lpop,
    Command::Hset,
    Command::Hget,
    Command::Sadd,
    Command::Sismember,
    Command::Spop,
    Command::Zadd,
    Command::Zscore,
    Command::Zrange,
    Command::Xadd,
    Command::Xrevrange,
];

/// Aggregates that a load is spread over, and how they are called: some 16 elements come to each, or all to one.
const SPREADS: [(u64, &str); 2] = [(SCRIPT_REQUESTS / 16, "small"), (1, "large")];

/// Values of one kind to be weighed: the title, and what makes the one under a key. It returns how many requests it made.
type Make = fn(&mut Vec<u8>, &[u8], &mut Random) -> usize;

const SMALL_VALUES: &[(&str, Make)] = &[
    ("string of 8 bytes", |to, key, random| set(to, key, &random.value()[..8])),
    ("string of 64 bytes", |to, key, random| set(to, key, &[random.value(), random.value()].concat())),
    ("integer", |to, key, random| set(to, key, random.below(1 << 40).to_string().as_bytes())),
    ("hash of 5 fields", |to, key, random| hash(to, key, random, 5)),
    ("hash of 20 fields", |to, key, random| hash(to, key, random, 20)),
    ("set of 10 integers", |to, key, random| {
        collect(to, b"SADD", key, (0..10).map(|_| vec![random.below(1_000_000).to_string().into_bytes()]))
    }),
    ("set of 10 strings", |to, key, random| {
        collect(to, b"SADD", key, (0..10).map(|_| vec![random.value()[..12].to_vec()]))
    }),
    ("sorted set of 10", |to, key, random| {
        let score = |random: &mut Random| random.below(1_000_000).to_string().into_bytes();
        collect(to, b"ZADD", key, (0..10).map(|_| vec![score(random), random.value()[..12].to_vec()]))
    }),
    ("list of 10", |to, key, random| collect(to, b"RPUSH", key, (0..10).map(|_| vec![random.value()[..12].to_vec()]))),
    ("stream of 10", |to, key, random| {
        for _ in 0..10 {
            push(to, &[b"XADD", key, b"*", b"field", &random.value()[..12], b"more", &random.value()[..12]]);
        }
        10
    }),
];

fn set(to: &mut Vec<u8>, key: &[u8], value: &[u8]) -> usize {
    push(to, &[b"SET", key, value]);
    1
}

fn hash(to: &mut Vec<u8>, key: &[u8], random: &mut Random, fields: usize) -> usize {
    let field = |number| vec![format!("field{number:02}").into_bytes(), random.value()[..12].to_vec()];
    collect(to, b"HSET", key, (0..fields).map(field))
}

/// One request that gives `key` all its elements.
fn collect(to: &mut Vec<u8>, command: &[u8], key: &[u8], elements: impl Iterator<Item = Vec<Vec<u8>>>) -> usize {
    let elements: Vec<Vec<u8>> = elements.flatten().collect();
    let arguments: Vec<&[u8]> = [command, key].into_iter().chain(elements.iter().map(Vec::as_slice)).collect();
    push(to, &arguments);
    1
}

impl Versus {
    /// Every server answers the same requests, and new processes do so in every round, as in [`Versus::throughput`].
    pub fn aggregates(&mut self) -> Result<()> {
        for (keys, spread) in SPREADS {
            let scripts: Vec<_> = COMMANDS.iter().map(|&command| (command, Script::new(command, keys))).collect();
            let mut results: Vec<_> = scripts.iter().map(|_| Rounds::new(self.contestants.len())).collect();
            for _ in 0..self.rounds {
                let start = |contestant| self.start(contestant, Part::Master);
                let servers = self.contestants.iter().map(start).collect::<Result<Vec<_>>>()?;
                for ((command, script), rounds) in scripts.iter().zip(&mut results) {
                    for (index, server) in servers.iter().enumerate() {
                        let name = || format!("{command}, {}", self.contestants[index].name);
                        make_way(server, *command).with_context(name)?;
                        let until = Until::Requests(SCRIPT_REQUESTS);
                        let load = load_until(server, script, PIPELINE, until, || Ok(()));
                        rounds.push(index, load.with_context(name)?);
                    }
                }
            }
            for ((command, _), rounds) in scripts.iter().zip(&results) {
                self.report.load(&format!("{command} P={PIPELINE}, {spread}"), rounds);
            }
        }
        Ok(())
    }

    /// What small strings and small aggregates take, and what the server itself says that they do.
    pub fn small_values(&mut self) -> Result<()> {
        let keys = (self.keys / 10).max(10_000);
        for (title, make) in SMALL_VALUES {
            let rounds = self.interleave(|contestant| {
                let server = self.start(contestant, Part::Master)?;
                let before = weigh(&server)?;
                client::fill_with(server.port, keys, |to, number, random| make(to, &key(number), random))?;
                let held = server.control()?.ask(&["DBSIZE"])?;
                ensure!(held == keys.to_string(), "it holds {held} keys of {keys}");
                let after = weigh(&server)?;
                Ok([0, 1].map(|index| (after[index] - before[index]) / keys as f64))
            })?;
            self.report.figure(&format!("bytes per key: {title}"), &rounds.map(|bytes| bytes[0]));
            self.report.figure(&format!("used_memory per key: {title}"), &rounds.map(|bytes| bytes[1]));
        }
        Ok(())
    }
}

/// Resident bytes, and those that the server counts itself.
fn weigh(server: &Server) -> Result<[f64; 2]> {
    let used = server.control()?.info("memory")?.remove("used_memory").context("used_memory")?;
    Ok([server.resident_bytes()? as f64, used.parse()?])
}

/// Lets go what was left under the keys by another type's commands.
fn make_way(server: &Server, command: Command) -> Result<()> {
    if matches!(command, Command::Lpush | Command::Hset | Command::Sadd | Command::Zadd | Command::Xadd) {
        server.control()?.ask(&["FLUSHALL", "SYNC"])?;
    }
    Ok(())
}
