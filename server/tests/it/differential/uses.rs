//! Which keys a command uses: what `OBJECT IDLETIME` and `OBJECT FREQ` say behind it is what they say on a real
//! `redis-server`. Only is a key used once at most by a command, where Redis counts each look.

use std::collections::BTreeSet;

use super::comparison::Tree;
use super::words_of;
use crate::client::{Client, encode, shown, strings};
use crate::server::{Kind, Server};

/// A command per line, of every command with keys. Each is also tried with each key absent, and of a wrong type.
const COMMANDS: &str = include_str!("uses.txt");

/// Commands that redis-server 7.0 has not, and valkey-server has.
const OF_FIELDS: &str = "\
HEXPIRE h 100 FIELDS 1 f1
HEXPIRE h 0 FIELDS 1 f1
HEXPIRE h 100 XX FIELDS 1 f1
HEXPIREAT h 4102444800 FIELDS 1 nofield
HEXPIRETIME h FIELDS 1 f1
HGETDEL h FIELDS 1 f1
HGETDEL h FIELDS 1 nofield
HGETEX h FIELDS 1 f1
HGETEX h FIELDS 1 nofield
HGETEX h PX 100000 FIELDS 1 f1
HPERSIST h FIELDS 1 f1
HPEXPIRE h 100000 FIELDS 1 f1
HPEXPIREAT h 4102444800000 FIELDS 1 f1
HPEXPIRETIME h FIELDS 1 f1
HPTTL h FIELDS 1 f1
HSETEX h EX 100 FIELDS 1 f1 new
HSETEX h FNX FIELDS 1 f1 new
HSETEX h FXX FIELDS 1 f9 new
HTTL h FIELDS 1 f1";

/// What the keys hold. They are numbered where a command takes several of a type, and `e` has a deadline; those of any
/// other name are absent.
const DATA: [&str; 24] = [
    "SET s text",
    "SET s2 texture",
    "SET e text EX 1000",
    "SET n 12",
    "SET w_1 12",
    "SET w_one 12",
    "SET bits aaaa",
    "PFADD hll a b c",
    "PFADD hll2 c d e",
    "RPUSH l one two three",
    "RPUSH l2 four",
    "SADD t 1 2",
    "SADD t2 2 3",
    "ZADD z 1 one 2 two 3 three",
    "ZADD z2 1 one 4 four",
    "HSET h f1 1 f2 2 f3 3",
    "HSET h2 f1 1",
    "XADD x 1-1 field value",
    "XADD x 2-1 field value",
    "XGROUP CREATE x grp 0",
    "XREADGROUP GROUP grp con COUNT 1 STREAMS x >",
    "XADD x2 1-1 field value",
    "XGROUP CREATE x2 grp $",
    "GEOADD g 13.36 38.11 Palermo 15.08 37.50 Catania",
];
const ABSENT: &str = "absent";

/// Commands of which no key can be told here, and why.
const LEFT_OUT: [(&str, &[&str]); 3] = [
    ("there is no Lua", &["eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"]),
    ("they give the keys their times themselves", &["migrate", "restore", "restore-asking"]),
    ("their keys are channels", &["spublish", "ssubscribe", "sunsubscribe"]),
];

/// What is noted of a key's use.
#[derive(Clone, Copy, PartialEq)]
enum Noted {
    /// When it was, under `allkeys-lru`.
    Recency,
    /// How many there were, under `allkeys-lfu`.
    Frequency,
}

impl Noted {
    fn policy(self) -> &'static str {
        match self {
            Noted::Recency => "allkeys-lru",
            Noted::Frequency => "allkeys-lfu",
        }
    }

    /// What `OBJECT` and `RESTORE` call it.
    fn name(self) -> &'static str {
        match self {
            Noted::Recency => "IDLETIME",
            Noted::Frequency => "FREQ",
        }
    }

    /// How often a key was used whose number was 100 and is this now; negative if it was made anew.
    fn uses(self, number: i64) -> i64 {
        match self {
            // Nobody waits for 50 seconds.
            Noted::Recency => i64::from(number < 50),
            Noted::Frequency => number - 100,
        }
    }
}

/// Commands of which not the same lookups are counted as hits and misses: Redis looks twice for what `XREAD` reads, and for
/// a key that it sorts out before.
const COUNTED_OTHERWISE: [&str; 5] = ["OBJECT", "SCAN", "SPOP", "XREAD", "XREADGROUP"];

/// One of the two servers, and how to give it the data anew.
struct Subject {
    _server: Server,
    client: Client,
    noted: Noted,
    names: Vec<Vec<u8>>,
    /// Requests that restore every key as one that was used long ago.
    reset: Vec<u8>,
}

impl Subject {
    fn start(kind: Kind, noted: Noted) -> Option<Subject> {
        // Under these policies redis-server lets no two keys share a number. Each use counts, and none is forgotten.
        let launcher = kind.server()?.directive("maxmemory", "1gb").directive("maxmemory-policy", noted.policy());
        let server = launcher.directive("lfu-log-factor", "0").directive("lfu-decay-time", "0").start();
        let mut client = server.connect();
        for line in DATA {
            let reply = client.run(line);
            assert!(!reply.starts_with('-'), "{line}: {reply}");
        }
        let mut names: Vec<Vec<u8>> = strings(&client.call(&["KEYS", "*"])).iter().map(|name| name.to_vec()).collect();
        names.sort();
        let mut reset = encode(&["FLUSHALL"]);
        for name in &names {
            let payload = client.call(&[b"DUMP".as_slice(), name]);
            let payload = strings(&payload)[0].to_vec();
            let ttl: &[u8] = if name == b"e" { b"1000000" } else { b"0" };
            reset.extend(encode(&[b"RESTORE".as_slice(), name, ttl, &payload, noted.name().as_bytes(), b"100"]));
        }
        Some(Subject { _server: server, client, noted, names, reset })
    }

    /// What a command does to the data as they were.
    fn done(&mut self, command: &[Vec<u8>]) -> Done {
        let mut requests = self.reset.clone();
        requests.extend(encode(&["CONFIG", "RESETSTAT"]));
        requests.extend(encode(command));
        requests.extend(encode(&["INFO", "stats"]));
        for name in &self.names {
            requests.extend(encode(&[b"OBJECT".as_slice(), self.noted.name().as_bytes(), name]));
        }
        self.client.send(&requests).expect("a live server");
        let mut replies = (0..self.names.len() + 2).map(|_| self.client.reply().expect("a reply"));
        assert!(replies.all(|reply| reply == b"+OK\r\n"), "all keys are restored");
        let [reply, stats] = [(); 2].map(|()| self.client.reply().expect("a reply"));
        let stats = String::from_utf8(stats).expect("text");
        let stat = |name: &str| stats.lines().find(|line| line.starts_with(name)).expect("a field").to_owned();
        let lookups = ["keyspace_hits:", "keyspace_misses:"].map(stat);
        let uses = self.names.iter().filter_map(|name| {
            let number = self.client.reply().expect("a reply");
            let number = std::str::from_utf8(&number).expect("a number").trim_end().strip_prefix(':');
            let uses = number.map(|number| self.noted.uses(number.parse().expect("a number")));
            (uses != Some(0)).then(|| (String::from_utf8_lossy(name).into_owned(), uses))
        });
        Done { reply, uses: uses.collect(), lookups }
    }
}

/// What a command has done.
struct Done {
    reply: Vec<u8>,
    /// The keys that it has used, and how often, or removed.
    uses: Vec<(String, Option<i64>)>,
    /// How many hits and misses are counted.
    lookups: [String; 2],
}

/// The command, and the same with each of its keys exchanged for one that is absent or of another type.
fn variants(command: &[Vec<u8>], server: &mut Client) -> Vec<Vec<Vec<u8>>> {
    let asked: Vec<Vec<u8>> = [b"COMMAND".to_vec(), b"GETKEYS".to_vec()].into_iter().chain(command.to_vec()).collect();
    let reply = server.call(&asked);
    let keys: BTreeSet<&[u8]> =
        if reply.starts_with(b"*") { strings(&reply).into_iter().collect() } else { BTreeSet::new() };
    let mut variants = vec![command.to_vec()];
    for key in keys {
        let other: &[u8] = if key.starts_with(b"l") { b"s" } else { b"l" };
        for replacement in [ABSENT.as_bytes(), other] {
            let exchanged = |word: &Vec<u8>| if word == key { replacement.to_vec() } else { word.clone() };
            variants.push(command.iter().map(exchanged).collect());
        }
    }
    variants
}

#[test]
fn every_command_uses_the_keys_that_it_uses_on_redis_server() {
    [Noted::Recency, Noted::Frequency].into_iter().for_each(|noted| compare(COMMANDS, Kind::Redis, noted));
}

#[test]
fn commands_of_fields_use_the_keys_that_they_use_on_valkey_server() {
    [Noted::Recency, Noted::Frequency].into_iter().for_each(|noted| compare(OF_FIELDS, Kind::Valkey, noted));
}

fn compare(commands: &str, peer: Kind, noted: Noted) {
    let start = |kind| Subject::start(kind, noted);
    let (Some(mut ours), Some(mut theirs)) = (start(Kind::Repld), start(peer)) else { return };
    let mut differences = Vec::new();
    for line in commands.lines() {
        let command = words_of(line);
        for (index, variant) in variants(&command, &mut theirs.client).iter().enumerate() {
            let Done { reply, uses: mut expected, lookups } = theirs.done(variant);
            expected.iter_mut().for_each(|(_, uses)| *uses = uses.map(|uses| uses.min(1)));
            // One of the two is not known under each policy.
            let is_error = reply.starts_with(b"-") && !line.starts_with("OBJECT ");
            assert!(index > 0 || !is_error, "{line}: {}", shown(&reply));
            let found = ours.done(variant);
            let text = String::from_utf8_lossy(&variant.join(&b' ')).into_owned();
            if found.uses != expected {
                differences.push(format!("{text}: {:?} instead of {expected:?}", found.uses));
            }
            let is_counted = !COUNTED_OTHERWISE.contains(&line.split(' ').next().unwrap_or(line));
            if is_counted && found.lookups != lookups {
                differences.push(format!("{text}: {:?} instead of {lookups:?}", found.lookups));
            }
        }
    }
    let (policy, differences) = (noted.policy(), differences.join("\n"));
    assert!(differences.is_empty(), "with {policy} these differ:\n{differences}");
}

#[test]
fn every_command_with_keys_is_tried_for_the_keys_that_it_uses() {
    let Some(theirs) = Kind::Redis.server() else { return };
    let theirs = theirs.start();
    let table = Tree::parse(&theirs.connect().call(&["COMMAND"]));
    let tried: BTreeSet<String> = COMMANDS
        .lines()
        .flat_map(|line| {
            let words: Vec<String> = line.split(' ').map(str::to_ascii_lowercase).collect();
            [words[0].clone(), format!("{}|{}", words[0], words[1])]
        })
        .collect();
    let mut forgotten = Vec::new();
    let mut commands: Vec<&Tree> = table.nodes().iter().collect();
    while let Some(command) = commands.pop() {
        let [name, .., specifications, subcommands] = command.nodes() else { panic!("a command has ten elements") };
        commands.extend(subcommands.nodes());
        let name = String::from_utf8_lossy(name.text()).into_owned();
        let is_left_out = LEFT_OUT.iter().any(|(_, names)| names.contains(&name.as_str()));
        if !specifications.nodes().is_empty() && !is_left_out && !tried.contains(&name) {
            forgotten.push(name);
        }
    }
    assert!(forgotten.is_empty(), "{forgotten:?}");
}
