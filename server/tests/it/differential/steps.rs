//! Runs scripts on two servers in step, says where their answers differ, and makes a long script that differs short.

use std::io;
use std::time::{Duration, Instant};

use super::comparison::{Tree, same};
use super::words_of;
use crate::client::{Client, encode, shown};
use crate::server::Server;

/// So many requests are on their way at once.
const BATCH: usize = 50;
/// A script is made shorter for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// More than one command each, made of what servers answer.
const COMPOSITES: [&str; 6] = ["SCAN-ALL", "HSCAN-ALL", "SSCAN-ALL", "ZSCAN-ALL", "SPOP-AND-ADD", "SAMPLE"];

pub fn is_composite(line: &str) -> bool {
    COMPOSITES.iter().any(|name| line.split(' ').next() == Some(name))
}

/// Two answers that should be equal.
#[derive(Debug)]
pub struct Difference {
    /// Which line of the script was answered.
    pub index: usize,
    pub text: String,
}

/// Two connections to each of two servers.
pub struct Pair<'a> {
    servers: &'a [Server; 2],
    protocol: &'a str,
    connections: [Connection; 2],
}

/// One to each server.
struct Connection {
    clients: [Client; 2],
    /// What `MULTI` has queued.
    queued: Vec<String>,
}

impl Connection {
    fn open(servers: &[Server; 2], protocol: &str) -> Connection {
        let clients = servers.each_ref().map(|server| {
            let mut client = server.connect();
            // The reply tells the server's version: it cannot be equal.
            client.call(&["HELLO", protocol]);
            client
        });
        Connection { clients, queued: Vec::new() }
    }

    /// Runs lines that have been split already; an error names the line by its index.
    fn batch(&mut self, lines: &[&str]) -> Result<(), Difference> {
        let requests: Vec<u8> = lines.iter().flat_map(|line| encode(&words_of(line))).collect();
        for client in &mut self.clients {
            let _ = client.send(&requests);
        }
        lines.iter().enumerate().try_for_each(|(index, line)| {
            let [ours, theirs] = self.clients.each_mut().map(Client::reply);
            self.compare(line, ours, theirs).map_err(|text| Difference { index, text })
        })
    }

    fn compare(&mut self, line: &str, ours: io::Result<Vec<u8>>, theirs: io::Result<Vec<u8>>) -> Result<(), String> {
        let unanswered = |error| format!("{line}: {error}");
        let (ours, theirs) = (ours.map_err(unanswered)?, theirs.map_err(unanswered)?);
        let trees = [Tree::parse(&ours), Tree::parse(&theirs)];
        let different = || Err(format!("{line}: the answer is {} instead of {}", shown(&ours), shown(&theirs)));
        let [our_tree, their_tree] = &trees;
        let name = line.split(' ').next().unwrap_or_default();
        let is_same = match name.to_ascii_uppercase().as_str() {
            "EXEC" if our_tree.nodes().len() == self.queued.len() && their_tree.nodes().len() == self.queued.len() => {
                let pairs = our_tree.nodes().iter().zip(their_tree.nodes());
                self.queued.iter().zip(pairs).all(|(line, (ours, theirs))| same(line, ours, theirs))
            }
            _ => same(line, our_tree, their_tree),
        };
        match theirs.as_slice() {
            b"+QUEUED\r\n" => self.queued.push(line.into()),
            _ if ["EXEC", "DISCARD"].iter().any(|other| name.eq_ignore_ascii_case(other)) => self.queued.clear(),
            _ => {}
        }
        if is_same { Ok(()) } else { different() }
    }

    fn composite(&mut self, line: &str) -> Result<(), String> {
        let words = words_of(line);
        let (name, arguments) = (words[0].as_slice(), &words[1..]);
        match name {
            b"SCAN-ALL" => self.scan_all(line, b"SCAN", &[], arguments),
            b"SPOP-AND-ADD" => self.pop_and_add(line, &arguments[0], &arguments[1..]),
            b"SAMPLE" => self.sample(line, arguments),
            _ => self.scan_all(line, &name[..5], &arguments[..1], &arguments[1..]),
        }
    }

    /// What a whole scan returns is the same; how it is divided, and in what order it comes, is the table's.
    fn scan_all(&mut self, line: &str, name: &[u8], key: &[Vec<u8>], options: &[Vec<u8>]) -> Result<(), String> {
        let group = if name == b"HSCAN" || name == b"ZSCAN" { 2 } else { 1 };
        let [ours, theirs] = self.clients.each_mut().map(|client| -> Vec<Vec<Vec<u8>>> {
            let (mut found, mut cursor) = (Vec::new(), b"0".to_vec());
            loop {
                let reply = Tree::parse(&client.call(&[&[name.to_vec()][..], key, &[cursor], options].concat()));
                let [_, elements] = reply.nodes() else { return vec![vec![format!("{reply:?}").into_bytes()]] };
                found.extend(elements.strings().chunks(group).map(<[Vec<u8>]>::to_vec));
                cursor = reply.strings()[0].clone();
                if cursor == b"0" {
                    found.sort();
                    // An element may come twice.
                    found.dedup();
                    return found;
                }
            }
        });
        if ours == theirs { Ok(()) } else { Err(format!("{line}: found are {ours:?} instead of {theirs:?}")) }
    }

    /// What is popped was there, and is put back.
    fn pop_and_add(&mut self, line: &str, key: &[u8], count: &[Vec<u8>]) -> Result<(), String> {
        let mut answers = self.clients.each_mut().map(|client| {
            let before = Tree::parse(&client.call(&[b"SMEMBERS", key])).strings();
            let reply = Tree::parse(&client.call(&[&[b"SPOP".to_vec(), key.to_vec()][..], count].concat()));
            let popped = reply.strings();
            let after = Tree::parse(&client.call(&[b"SMEMBERS", key])).strings();
            let is_right = popped.iter().all(|member| before.contains(member) && !after.contains(member))
                && after.len() + popped.len() == before.len();
            if !before.is_empty() {
                client.call(&[&[b"SADD".to_vec(), key.to_vec()][..], &before].concat());
            }
            (is_right, popped.len(), matches!(reply, Tree::Leaf(b'-', _)).then(|| format!("{reply:?}")))
        });
        let [ours, theirs] = &mut answers;
        if ours == theirs && ours.0 { Ok(()) } else { Err(format!("{line}: {ours:?} instead of {theirs:?}")) }
    }

    /// `SAMPLE command reader key count`: what a command has chosen is part of what the reader finds.
    fn sample(&mut self, line: &str, arguments: &[Vec<u8>]) -> Result<(), String> {
        let [command, reader, arguments @ ..] = arguments else { panic!("{line}: a command and a reader") };
        let [ours, theirs] = self.clients.each_mut().map(|client| {
            let chosen = Tree::parse(&client.call(&[std::slice::from_ref(command), arguments].concat())).strings();
            let all = match reader.as_slice() {
                b"KEYS-ALL" => client.call(&["KEYS", "*"]),
                b"ZRANGE-ALL" => client.call(&[b"ZRANGE", arguments[0].as_slice(), b"0", b"-1"]),
                _ => client.call(&[reader, &arguments[0]]),
            };
            let all = Tree::parse(&all).strings();
            (chosen.iter().all(|element| all.contains(element)), chosen.len())
        });
        if ours == theirs && ours.0 { Ok(()) } else { Err(format!("{line}: {ours:?} instead of {theirs:?}")) }
    }
}

impl<'a> Pair<'a> {
    /// With empty databases.
    pub fn fresh(servers: &'a [Server; 2], protocol: &'a str) -> Pair<'a> {
        servers.iter().for_each(|server| server.connect().ok("FLUSHALL"));
        Pair { servers, protocol, connections: std::array::from_fn(|_| Connection::open(servers, protocol)) }
    }

    /// Runs a script up to the first difference.
    pub fn run(&mut self, lines: &[String]) -> Result<(), Difference> {
        let split = |line: &'_ String| line.strip_prefix("2> ").is_some();
        let mut start = 0;
        while start < lines.len() {
            let second = split(&lines[start]);
            let command = |index: usize| lines[index].strip_prefix("2> ").unwrap_or(&lines[index]);
            let connection = &mut self.connections[usize::from(second)];
            let at = |difference: Difference| Difference { index: start + difference.index, ..difference };
            if is_composite(command(start)) {
                connection.composite(command(start)).map_err(|text| Difference { index: start, text })?;
                start += 1;
                continue;
            }
            let is_part = |index: &usize| split(&lines[*index]) == second && !is_composite(command(*index));
            let batch: Vec<&str> = (start..lines.len().min(start + BATCH)).take_while(is_part).map(command).collect();
            connection.batch(&batch).map_err(at)?;
            start += batch.len();
        }
        Ok(())
    }

    /// Where the contents of both servers differ, if they do.
    pub fn compare_data(&mut self) -> Result<(), String> {
        super::compare_data(self.servers)
    }

    fn again(&self) -> Pair<'a> {
        Pair::fresh(self.servers, self.protocol)
    }
}

/// The whole of a script and its end: the answers and then the contents.
fn difference(pair: &mut Pair, lines: &[String]) -> Option<String> {
    match pair.run(lines) {
        Err(difference) => Some(difference.text),
        Ok(()) => pair.compare_data().err(),
    }
}

/// Runs a script; a difference is told as the shortest script found that shows one.
pub fn check(pair: &mut Pair, lines: &[String]) {
    let failed = match pair.run(lines) {
        Err(difference) => Some((difference.index + 1, difference.text)),
        Ok(()) => pair.compare_data().err().map(|text| (lines.len(), text)),
    };
    if let Some((length, text)) = failed {
        let script = shrink(&lines[..length], |lines| difference(&mut pair.again(), lines).is_some());
        let shortest = difference(&mut pair.again(), &script);
        panic!("line {length}: {text}\nthe shortest script:\n{}\n{}", script.join("\n"), shortest.unwrap_or_default());
    }
}

/// Leaves out what can be left out so that the script still fails: ever smaller pieces, to single lines (delta
/// debugging: Zeller, Hildebrandt: "Simplifying and Isolating Failure-Inducing Input", 2002).
pub fn shrink(lines: &[String], mut fails: impl FnMut(&[String]) -> bool) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut script = lines.to_vec();
    let mut piece = script.len().div_ceil(2);
    while piece > 0 {
        let mut end = script.len();
        let before = script.len();
        while end > 0 && Instant::now() < deadline {
            let start = end.saturating_sub(piece);
            let rest = [&script[..start], &script[end..]].concat();
            if !rest.is_empty() && fails(&rest) {
                script = rest;
            }
            end = start;
        }
        piece = if piece == 1 && script.len() < before { 1 } else { piece / 2 };
        if Instant::now() >= deadline {
            break;
        }
    }
    script
}

#[test]
fn a_failing_script_is_made_as_short_as_it_can_be() {
    let script: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let fails = |lines: &[String]| ["17", "56", "99"].iter().all(|line| lines.iter().any(|other| other == line));
    assert_eq!(shrink(&script, fails), ["17", "56", "99"]);
}
