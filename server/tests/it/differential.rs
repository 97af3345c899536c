//! The same commands to repld and to a real `redis-server`: the replies are equal, byte for byte.

use repld::config::words;

use crate::client::{Client, encode, shown, strings};
use crate::random::Random;
use crate::server::{Kind, Server};

/// A command per line; `2>` in front sends it on a second connection. `SCAN-ALL …` follows a scan to its end.
const SCRIPT: &str = include_str!("differential.txt");

/// Replies that depend on when the command was executed may differ by so much, in their own unit.
const TIME_DEPENDENT: [(&str, i64); 4] = [("TTL", 2), ("PTTL", 2_000), ("EXPIRETIME", 2), ("PEXPIRETIME", 2_000)];

const RANDOM_COMMANDS: usize = 20_000;
const DATABASES: usize = 3;

/// Both servers, with connections in step.
struct Pair {
    servers: [Server; 2],
    first: [Client; 2],
    second: [Client; 2],
}

impl Pair {
    /// `None`, with a message, if one of them is not installed.
    fn start(protocol: &str) -> Option<Pair> {
        let servers = [Kind::Repld.server()?, Kind::Redis.server()?].map(|launcher| launcher.start());
        let connect = || {
            servers.each_ref().map(|server| {
                let mut client = server.connect();
                // The reply tells the server's version: it cannot be equal.
                client.call(&["HELLO", protocol]);
                client
            })
        };
        let (first, second) = (connect(), connect());
        Some(Pair { servers, first, second })
    }

    fn run(&mut self, line: &str) {
        let (clients, line) = match line.strip_prefix("2>") {
            Some(line) => (&mut self.second, line),
            None => (&mut self.first, line),
        };
        let words = words::split(line.as_bytes()).expect("balanced quotes");
        let [ours, theirs] = match words[0].as_slice() {
            b"SCAN-ALL" => clients.each_mut().map(|client| client.scan(&words[1..]).join(&b"\n"[..])),
            _ => clients.each_mut().map(|client| client.call(&words)),
        };
        assert!(same(&words, &ours, &theirs), "{line}: the answer is {} instead of {}", shown(&ours), shown(&theirs));
    }

    /// Compares all there is.
    fn compare_data(&mut self) {
        for database in 0..DATABASES {
            let data = self.servers.each_ref().map(|server| server.connect().data(database));
            let [ours, theirs] = &data;
            assert_eq!(ours.len(), theirs.len(), "keys of database {database}");
            for ((key, ours), (_, theirs)) in ours.iter().zip(theirs) {
                let [value, deadline] = [0, 1].map(|index| (&ours[index], &theirs[index]));
                assert_eq!(value.0, value.1, "{}", shown(key));
                assert!(same(&[b"PEXPIRETIME".to_vec()], deadline.0, deadline.1), "{}: {deadline:?}", shown(key));
            }
        }
    }
}

fn same(words: &[Vec<u8>], ours: &[u8], theirs: &[u8]) -> bool {
    let integer =
        |reply: &[u8]| -> Option<i64> { std::str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim().parse().ok() };
    let tolerance = TIME_DEPENDENT.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(&words[0]));
    match (tolerance, integer(ours), integer(theirs)) {
        (Some((_, tolerance)), Some(ours), Some(theirs)) if ours > 0 => (ours - theirs).abs() <= *tolerance,
        _ if words[0].eq_ignore_ascii_case(b"KEYS") && ours.starts_with(b"*") => sorted(ours) == sorted(theirs),
        _ => ours == theirs,
    }
}

fn sorted(reply: &[u8]) -> Vec<&[u8]> {
    let mut strings = strings(reply);
    strings.sort();
    strings
}

fn run_script(protocol: &str) {
    let Some(mut pair) = Pair::start(protocol) else { return };
    SCRIPT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).for_each(|line| pair.run(line));
    pair.compare_data();
}

#[test]
fn a_script_is_answered_as_by_redis_in_resp2() {
    run_script("2");
}

#[test]
fn a_script_is_answered_as_by_redis_in_resp3() {
    run_script("3");
}

fn run_random(protocol: &str, seed: u64) {
    let Some(mut pair) = Pair::start(protocol) else { return };
    let mut random = Random::new(seed);
    for count in 1..=RANDOM_COMMANDS {
        pair.run(&command(&mut random));
        if count % 1_000 == 0 {
            pair.compare_data();
        }
    }
}

#[test]
fn random_commands_are_answered_as_by_redis_in_resp2() {
    run_random("2", 2);
}

#[test]
fn random_commands_are_answered_as_by_redis_in_resp3() {
    run_random("3", 3);
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let Some(mut pair) = Pair::start("2") else { return };
    let mut random = Random::new(4);
    for _ in 0..20 {
        let lines: Vec<String> = (0..200).map(|_| command(&mut random)).collect();
        let words = lines.iter().map(|line| words::split(line.as_bytes()).expect("balanced quotes"));
        let words: Vec<Vec<Vec<u8>>> = words.collect();
        let requests: Vec<u8> = words.iter().flat_map(|words| encode(words)).collect();
        for client in &mut pair.first {
            client.send(&requests).expect("a live server");
        }
        for (line, words) in lines.iter().zip(&words) {
            let [ours, theirs] = pair.first.each_mut().map(|client| client.reply().expect("a reply"));
            assert!(same(words, &ours, &theirs), "{line}: {} instead of {}", shown(&ours), shown(&theirs));
        }
    }
    pair.compare_data();
}

/// A command on strings, keys or their expiry, more often right than wrong. None depends on when it is executed:
/// deadlines are far away or in the past.
fn command(random: &mut Random) -> String {
    const KEYS: [&str; 8] = ["a", "b", "c", "d", "key:1", "key:2", "\"\"", "\"with \\x00 bytes\\xff\""];
    const VALUES: [&str; 14] = [
        "0",
        "1",
        "-1",
        "10",
        "9223372036854775807",
        "-9223372036854775808",
        "1.5",
        "3.0e3",
        "hello",
        "\"\"",
        "\"  7\"",
        "007",
        "\"a\\r\\nb\"",
        "nan",
    ];
    const COUNTS: [&str; 12] =
        ["0", "1", "-1", "5", "-7", "100", "9223372036854775807", "-9223372036854775808", "x", "1.5", "\"\"", "01"];
    const SECONDS: [&str; 9] =
        ["100000", "50000", "1000000000", "0", "-1", "x", "9223372036854775807", "-9223372036854775808", "1.5"];
    const SET_OPTIONS: [&str; 12] = [
        "NX",
        "XX",
        "GET",
        "KEEPTTL",
        "EX 100000",
        "PX 200000000",
        "EXAT 33177117420",
        "PXAT 33177117420000",
        "EX 0",
        "PX x",
        "EXAT -1",
        "get",
    ];
    const GETEX_OPTIONS: [&str; 7] =
        ["PERSIST", "EX 70000", "PX 70000000", "EXAT 33177117420", "EX 0", "PXAT 1x", "NX"];
    const EXPIRE_OPTIONS: [&str; 7] = ["", "", "NX", "XX", "GT", "LT", "NX XX"];

    let key = random.pick(&KEYS);
    let other = random.pick(&KEYS);
    let value = random.pick(&VALUES);
    let count = random.pick(&COUNTS);
    let seconds = random.pick(&SECONDS);
    match random.below(44) {
        0..4 => format!("SET {key} {value}"),
        4..7 => format!(
            "SET {key} {value} {} {}",
            random.pick(&SET_OPTIONS),
            random.pick(&["", "", "GET", "NX", "KEEPTTL"])
        ),
        7 | 8 => format!("GET {key}"),
        9 => format!("{} {key} {other} absent", random.pick(&["MGET", "EXISTS", "DEL", "UNLINK", "TOUCH"])),
        10 => format!("{} {key} {value} {other} {count}", random.pick(&["MSET", "MSETNX", "MSET"])),
        11..14 => format!("{} {key}", random.pick(&["INCR", "DECR", "STRLEN", "TYPE", "PERSIST", "GETDEL"])),
        14 | 15 => format!("{} {key} {count}", random.pick(&["INCRBY", "DECRBY"])),
        16 | 17 => format!(
            "INCRBYFLOAT {key} {}",
            random.pick(&["1.5", "-0.1", "3", "1e3", "x", "nan", "inf", "1e400", "\"\""])
        ),
        18 | 19 => format!("APPEND {key} {value}"),
        20 | 21 => {
            format!("{} {key} {} {}", random.pick(&["GETRANGE", "SUBSTR"]), random.pick(&COUNTS), random.pick(&COUNTS))
        }
        22 | 23 => format!("SETRANGE {key} {} {value}", random.pick(&["0", "1", "5", "40", "-1", "536870912", "x"])),
        24 | 25 => format!("{} {key} {value}", random.pick(&["GETSET", "SETNX"])),
        26 => format!("SETEX {key} {seconds} {value}"),
        27 => format!("PSETEX {key} {}000 {value}", random.pick(&["100000", "0", "-5", "x"])),
        28 => format!("GETEX {key} {}", random.pick(&GETEX_OPTIONS)),
        29..32 => format!("EXPIRE {key} {seconds} {}", random.pick(&EXPIRE_OPTIONS)),
        32 => format!("PEXPIRE {key} {} {}", random.pick(&["90000000", "-1", "x"]), random.pick(&EXPIRE_OPTIONS)),
        33 => format!("EXPIREAT {key} {} {}", random.pick(&["33177117420", "1", "x"]), random.pick(&EXPIRE_OPTIONS)),
        34 => {
            format!("PEXPIREAT {key} {} {}", random.pick(&["33177117420000", "1", "x"]), random.pick(&EXPIRE_OPTIONS))
        }
        35..38 => format!("{} {key}", random.pick(&["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"])),
        38 => format!("{} {key} {other}", random.pick(&["RENAME", "RENAMENX"])),
        39 => format!("MOVE {key} {}", random.pick(&["0", "1", "2", "16", "-1", "x"])),
        40 => format!("SELECT {}", random.pick(&["0", "0", "1", "2", "16", "-1", "x"])),
        41 => format!("KEYS {}", random.pick(&["*", "key:*", "[a-c]", "?", "\\\\a", "*\\x00*"])),
        42 => random
            .pick(&["DBSIZE", "SWAPDB 0 1", "SWAPDB 1 2", "SWAPDB 0 99", "FLUSHDB", "PING", "TIME x", "GET"])
            .into(),
        _ => {
            // A command with the wrong number of arguments, or none at all.
            let name =
                random.pick(&["SET", "GET", "MSET", "INCRBY", "EXPIRE", "TTL", "RENAME", "NOSUCH", "\"\"", "GETEX"]);
            let words: Vec<&str> = (0..random.below(6)).map(|_| random.pick(&KEYS)).collect();
            format!("{name} {}", words.join(" "))
        }
    }
}
