//! Whatever random commands make of a master's data, its replica has the same: repld as the replica of others, and
//! others as replicas of repld; with a link that is cut on the way, and after a promotion.

use super::generator::{Kind as Script, step};
use super::{DATABASES, words_of};
use crate::client::{Client, encode, shown};
use crate::random::Random;
use crate::server::{Kind, Server, wait_until};

const COMMANDS: usize = 3_000;
/// So many requests are on their way at once.
const BATCH: usize = 50;

type Data = Vec<(Vec<u8>, [Vec<u8>; 2])>;

/// Two connections, as scripts are written for them.
struct Writer {
    clients: [Client; 2],
    random: Random,
    /// A command that is left out.
    except: Option<&'static str>,
}

impl Writer {
    fn new(server: &Server, random: Random, except: Option<&'static str>) -> Writer {
        Writer { clients: [server.connect(), server.connect()], random, except }
    }

    fn write(&mut self, commands: usize) {
        let except = self.except;
        let is_written = |line: &str| {
            !super::steps::is_composite(line)
                && !is_untold(line)
                && except.is_none_or(|except| !line.starts_with(except))
        };
        let mut done = 0;
        while done < commands {
            let steps = (0..BATCH).flat_map(|_| step(&mut self.random, Script::Lively));
            let lines: Vec<String> = steps.filter(|line| is_written(line.trim_start_matches("2> "))).collect();
            done += lines.len();
            let mut sent = [0, 0];
            for line in &lines {
                let (index, command) = line.strip_prefix("2> ").map_or((0, line.as_str()), |command| (1, command));
                self.clients[index].send(&encode(&words_of(command))).expect("a live server");
                sent[index] += 1;
            }
            for (client, sent) in self.clients.iter_mut().zip(sent) {
                (0..sent).for_each(|_| drop(client.reply().expect("a reply")));
            }
        }
    }
}

/// A string grows for a number that then does not fit: the masters but repld do not tell their replicas of that.
fn is_untold(line: &str) -> bool {
    line.starts_with("BITFIELD ") && line.contains("OVERFLOW FAIL")
}

fn follows(master_kind: Kind, replica_kind: Kind, seed: u64, commands: usize) {
    let (Some(master), Some(replica)) = (master_kind.server(), replica_kind.server()) else { return };
    println!("seed {seed}");
    let is_told_all = master_kind == Kind::Repld;
    let master = master.start();
    // Redis 7.0 sets a stream's last id below those that were deleted, and so does repld; Valkey refuses to, whoever says it.
    let except = [master_kind, replica_kind].contains(&Kind::Valkey).then_some("XSETID");
    let mut writer = Writer::new(&master, Random::new(seed), except);
    writer.write(commands / 4);
    // What is there already comes as an image.
    let replica = replica.replica_of(&master).start();
    writer.write(commands / 4);
    wait_until_equal(is_told_all, &master, &replica);
    // More than one, where FLUSHALL has ended the first in its middle: it kills the child process that makes the image. repld has
    // none.
    let full_syncs = number(&master, "sync_full");
    assert!(full_syncs == 1 || master_kind != Kind::Repld, "{full_syncs} full syncs");
    cut(&master);
    writer.write(commands / 4);
    wait_until_equal(is_told_all, &master, &replica);
    assert_eq!(number(&master, "sync_full"), full_syncs, "the cut link is continued");

    // The roles change: the old master follows, and keeps what the other was not told.
    replica.connect().ok("REPLICAOF NO ONE");
    let Writer { random, .. } = writer;
    master.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", replica.port()));
    let mut writer = Writer::new(&replica, random, except);
    writer.write(commands / 4);
    wait_until_equal(false, &replica, &master);
}

fn cut(master: &Server) {
    let mut client = master.connect();
    wait_until("there is a link to cut", || client.run("CLIENT KILL TYPE replica") != ":0\r\n");
}

fn number(server: &Server, field: &str) -> u64 {
    server.connect().info(field).parse().expect("a number")
}

/// Waits until the replica has all that the master has, and holds every key's content and deadline against the master's.
fn wait_until_equal(is_told_all: bool, master: &Server, replica: &Server) {
    let (mut upstream, mut downstream) = (master.connect(), replica.connect());
    wait_until("the link is up", || downstream.info("master_link_status") == "up");
    // What has expired is deleted on the way, and not by our looking at it.
    wait_until("the short deadlines are over", || upstream.data_is_settled(DATABASES));
    wait_until("the replica has caught up", || {
        upstream.info("master_repl_offset") == downstream.info("master_repl_offset")
    });
    for database in 0..DATABASES {
        let [ours, theirs] =
            [&mut upstream, &mut downstream].map(|client| told_data(is_told_all, client.data(database)));
        let only_in = |these: &Data, those: &Data| -> Vec<String> {
            let differing = these.iter().filter(|entry| !those.contains(entry));
            differing
                .map(|(key, [contents, deadline])| {
                    format!("{}: {} {}", shown(key), contents.escape_ascii(), shown(deadline))
                })
                .collect()
        };
        let differing = [only_in(&ours, &theirs), only_in(&theirs, &ours)].concat();
        assert!(differing.is_empty(), "database {database} differs:\n{}", differing.join("\n"));
    }
}

/// The data without what the masters but repld do not tell their replicas of the groups of streams: how many entries
/// were read, consumers that were made by reading nothing, and that a consumer has read its own entries again.
fn told_data(is_told_all: bool, mut data: Data) -> Data {
    if !is_told_all {
        for (_, [contents, _]) in data.iter_mut().filter(|(_, [contents, _])| contents.starts_with(b"length\n")) {
            let lines: Vec<&[u8]> = contents.split(|byte| *byte == b'\n').collect();
            *contents = told(&lines).join(&b"\n"[..]);
        }
    }
    data
}

fn told<'a>(mut lines: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut told = Vec::new();
    while let [first, rest @ ..] = lines {
        lines = match rest {
            [_, rest @ ..] if [&b"entries-read"[..], b"lag"].contains(first) => rest,
            [_, b"pel-count", b":0", b"pending", rest @ ..] if *first == b"name" => rest,
            // When an entry was delivered, and how often.
            [_, rest @ ..] if first.len() == 14 && first[0] == b':' => rest,
            rest => {
                told.push(*first);
                rest
            }
        };
    }
    told
}

#[test]
fn a_repld_replica_has_what_random_commands_made_on_redis() {
    follows(Kind::Redis, Kind::Repld, 1, COMMANDS);
}

#[test]
fn a_repld_replica_has_what_random_commands_made_on_valkey() {
    follows(Kind::Valkey, Kind::Repld, 2, COMMANDS);
}

#[test]
fn a_redis_replica_has_what_random_commands_made_on_repld() {
    follows(Kind::Repld, Kind::Redis, 3, COMMANDS);
}

#[test]
fn a_valkey_replica_has_what_random_commands_made_on_repld() {
    follows(Kind::Repld, Kind::Valkey, 4, COMMANDS);
}

/// Valkey refuses them since 9.0.
#[test]
fn hexadecimal_numbers_arrive_at_a_valkey_replica() {
    let (Some(master), Some(replica)) = (Kind::Repld.server(), Kind::Valkey.server()) else { return };
    let master = master.start();
    let replica = replica.replica_of(&master).start();
    let mut client = master.connect();
    for (command, reply) in [
        ("ZADD z 0x10 a -0x1p-1 b +0xff 0x1f", ":3"),
        ("ZINCRBY z 0x2 a", "$2\r\n18"),
        ("ZRANGESTORE range z (0x1 0x20 BYSCORE", ":1"),
        ("ZADD members 0 0x1e 0 0x1f", ":2"),
        ("ZRANGESTORE later members (0x1e + BYLEX", ":1"),
        ("ZUNIONSTORE union 2 z range WEIGHTS 0x2 0x3", ":3"),
        ("ZREMRANGEBYSCORE z 0x12 (0xff", ":1"),
    ] {
        assert_eq!(client.run(command), format!("{reply}\r\n"), "{command}");
    }
    wait_until_equal(true, &master, &replica);
}

/// `COMMANDS` each, in each direction.
#[test]
#[ignore = "takes minutes: see tests/long/differential"]
fn replicas_have_what_many_random_commands_made() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (commands, seed) = (number("COMMANDS", 100_000), number("FIRST_SEED", 100) as u64);
    for (master, replica) in [
        (Kind::Redis, Kind::Repld),
        (Kind::Valkey, Kind::Repld),
        (Kind::Repld, Kind::Redis),
        (Kind::Repld, Kind::Valkey),
    ] {
        println!("a {replica:?} follows a {master:?}");
        follows(master, replica, seed, commands);
    }
}
