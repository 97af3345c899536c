//! The same commands to repld and to a real `redis-server`: the replies are equal, byte for byte.

mod comparison;
mod coverage;
mod generator;
mod random;
mod replicated;
mod steps;
mod uses;

use repld::config::words;

use crate::client::{Client, encode, shown, strings};
use crate::random::Random;
use crate::server::{Kind, Launcher, Server, wait_until};
use comparison::Tree;
use generator::command;

/// A command per line; `2>` in front sends it on a second connection. `<` and `2<` only await what a connection is sent
/// out of turn, or what it waits for since `2!`, which sends a command that blocks. `SCAN-ALL …` follows a scan to its end.
const SCRIPT: &str = include_str!("differential.txt");

/// Replies that depend on when the command was executed may differ by so much, in their own unit.
const TIME_DEPENDENT: [(&str, i64); 4] = [("TTL", 2), ("PTTL", 2_000), ("EXPIRETIME", 2), ("PEXPIRETIME", 2_000)];

/// Replies whose elements have no order, and how many strings make one element.
const UNORDERED: [(&str, usize); 12] = [
    ("KEYS", 1),
    ("HGETALL", 2),
    ("HKEYS", 1),
    ("HVALS", 1),
    ("HSCAN", 1),
    ("SMEMBERS", 1),
    ("SINTER", 1),
    ("SUNION", 1),
    ("SDIFF", 1),
    ("SSCAN", 1),
    ("SPOP", 1),
    ("SRANDMEMBER", 1),
];

const DATABASES: usize = 3;
const PASSWORD: &str = "secret";

/// Each is sent at once, on a connection of its own that it ends with `QUIT`: everything that comes back is equal.
const CONVERSATIONS: [&str; 9] = [
    // What is not answered.
    "CLIENT REPLY OFF|SET a 1|GET a|NOSUCH|CLIENT REPLY ON|GET a",
    "CLIENT REPLY SKIP|GET a|GET a|CLIENT REPLY SKIP|CLIENT REPLY SKIP|GET a|GET a|CLIENT REPLY SKIP|CLIENT REPLY ON|GET a",
    "CLIENT REPLY OFF|CLIENT REPLY SKIP|GET a|GET a|CLIENT REPLY OFF|CLIENT REPLY maybe|CLIENT REPLY ON|PING",
    "CLIENT REPLY SKIP|MULTI|SET a 2|EXEC|PING|CLIENT REPLY OFF|MULTI|INCR a|EXEC|CLIENT REPLY ON|GET a",
    // Back to the start.
    "HELLO 3|SELECT 2|CLIENT SETNAME x|MULTI|SET a 1|RESET|GET a|CLIENT GETNAME|EXEC|CLIENT REPLY OFF|RESET|PING",
    "WATCH a|SET a 1|RESET|MULTI|PING|EXEC|SUBSCRIBE c|PSUBSCRIBE p*|RESET|GET a|PUBSUB CHANNELS|RESET x",
    // While subscribed, in either version.
    "SUBSCRIBE c|GET a|PING|PING x|MULTI|CLIENT ID|HELLO 3|NOSUCH|RESET x|SUBSCRIBE c d|UNSUBSCRIBE d|UNSUBSCRIBE|GET a",
    "HELLO 3|SUBSCRIBE c|GET a|PING|PING x|PUBSUB NUMSUB c|SUBSCRIBE c d|UNSUBSCRIBE d|PSUBSCRIBE c|HELLO 2|GET a",
    // The version changes on the way.
    "HELLO|HELLO 3|GET absent|HELLO|CONFIG GET hz|HELLO 2|GET absent|HELLO 3 SETNAME me|CLIENT GETNAME|HELLO 3 AUTH default x",
];

/// The same for servers that ask for a [`PASSWORD`].
const CONVERSATIONS_WITH_A_PASSWORD: [&str; 4] = [
    "PING|GET a|NOSUCH|GET|HELLO|HELLO 3|MULTI|EXEC|EXEC x|SUBSCRIBE c|CLIENT ID|CLIENT NOSUCH|COMMAND COUNT|RESET",
    "AUTH|AUTH wrong|AUTH default wrong|AUTH nobody secret|AUTH a b c|AUTH secret|PING|AUTH wrong|PING|RESET|PING",
    "HELLO 3 AUTH default wrong|PING|HELLO 3 AUTH default secret SETNAME me|CLIENT GETNAME|GET absent|RESET|GET absent",
    "AUTH default secret|MULTI|RESET|EXEC|MULTI|AUTH secret|EXEC|MULTI|AUTH wrong|HELLO 3|GET absent|EXEC",
];

/// Both servers, with connections in step.
struct Pair {
    servers: [Server; 2],
    first: [Client; 2],
    second: [Client; 2],
}

impl Pair {
    /// `None`, with a message, if one of them is not installed.
    fn start(protocol: &str) -> Option<Pair> {
        let servers = both(|launcher| launcher)?;
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
        let (clients, command) = match line.strip_prefix('2') {
            Some(command) => (&mut self.second, command),
            None => (&mut self.first, line),
        };
        let awaited = command.starts_with('<');
        let words = words_of(command.trim_start_matches(['<', '>', '!']));
        if command.starts_with('!') {
            for client in clients {
                client.send(&encode(&words)).expect("a live server");
            }
            for client in &mut self.first {
                wait_until(&format!("{line} blocks"), || client.info("blocked_clients") == "1");
            }
            return;
        }
        let [ours, theirs] = match words[0].as_slice() {
            _ if awaited => clients.each_mut().map(|client| client.reply().expect("a message")),
            b"SCAN-ALL" => clients.each_mut().map(|client| client.scan(&words[1..]).join(&b"\n"[..])),
            _ => clients.each_mut().map(|client| client.call(&words)),
        };
        assert!(same(&words, &ours, &theirs), "{line}: the answer is {} instead of {}", shown(&ours), shown(&theirs));
    }

    fn run_random(&mut self, line: &str) {
        let [ours, theirs] = self.first.each_mut().map(|client| client.call(&words_of(line)));
        let is_same = comparison::same(line, &Tree::parse(&ours), &Tree::parse(&theirs));
        assert!(is_same, "{line}: the answer is {} instead of {}", shown(&ours), shown(&theirs));
    }

    /// Compares all there is.
    fn compare_data(&mut self) {
        compare_data(&self.servers).unwrap_or_else(|text| panic!("{text}"));
    }
}

/// All keys with their contents and deadlines: what differs, if anything does.
fn compare_data(servers: &[Server; 2]) -> Result<(), String> {
    for database in 0..DATABASES {
        let [ours, theirs] = servers.each_ref().map(|server| server.connect().data(database));
        let names = |data: &[(Vec<u8>, [Vec<u8>; 2])]| data.iter().map(|(key, _)| shown(key)).collect::<Vec<_>>();
        if names(&ours) != names(&theirs) {
            return Err(format!("database {database} has {:?} instead of {:?}", names(&ours), names(&theirs)));
        }
        for ((key, ours), (_, theirs)) in ours.iter().zip(&theirs) {
            let is_same = without_times(&ours[0]) == without_times(&theirs[0])
                && same(&[b"PEXPIRETIME".to_vec()], &ours[1], &theirs[1]);
            if !is_same {
                let [ours, theirs] = [ours, theirs].map(|parts| parts.each_ref().map(|part| shown(part)));
                return Err(format!("{} of database {database}: {ours:?} instead of {theirs:?}", shown(key)));
            }
        }
    }
    Ok(())
}

/// Contents without the times of deliveries: no other integers have 13 digits.
fn without_times(contents: &[u8]) -> Vec<&[u8]> {
    let is_time = |line: &&[u8]| line.len() == 14 && line[0] == b':';
    contents.split(|byte| *byte == b'\n').filter(|line| !is_time(line)).collect()
}

/// repld and redis, configured alike; `None`, with a message, if one of them is not installed.
fn both(configure: impl Fn(Launcher) -> Launcher) -> Option<[Server; 2]> {
    Some([Kind::Repld.server()?, Kind::Redis.server()?].map(|launcher| configure(launcher).start()))
}

fn words_of(line: &str) -> Vec<Vec<u8>> {
    words::split(line.as_bytes()).expect("balanced quotes")
}

fn same(words: &[Vec<u8>], ours: &[u8], theirs: &[u8]) -> bool {
    let integer =
        |reply: &[u8]| -> Option<i64> { std::str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim().parse().ok() };
    let named = |name: &str| words[0].eq_ignore_ascii_case(name.as_bytes());
    let unordered = match words {
        [name, _, _, _] if name.eq_ignore_ascii_case(b"HRANDFIELD") => Some(2),
        [name, ..] if name.eq_ignore_ascii_case(b"HRANDFIELD") => Some(1),
        _ => UNORDERED.iter().find(|(name, _)| named(name)).map(|(_, group)| *group),
    };
    let tolerance = TIME_DEPENDENT.iter().find(|(name, _)| named(name));
    if let Some(group) = unordered
        && !ours.starts_with(b"-")
    {
        return sorted(ours, group) == sorted(theirs, group);
    }
    match (tolerance, integer(ours), integer(theirs)) {
        (Some((_, tolerance)), Some(ours), Some(theirs)) if ours > 0 => (ours - theirs).abs() <= *tolerance,
        // Directives have no order.
        _ if named("CONFIG") && ours.starts_with(b"*") => sorted(ours, 2) == sorted(theirs, 2),
        _ if named("CONFIG") && ours.starts_with(b"%") => sorted(ours, 2) == sorted(theirs, 2),
        _ => ours == theirs,
    }
}

/// The strings of a reply in groups of `size`, in order, behind its first byte.
fn sorted(reply: &[u8], size: usize) -> (u8, Vec<Vec<&[u8]>>) {
    let mut groups: Vec<Vec<&[u8]>> = strings(reply).chunks(size).map(<[&[u8]]>::to_vec).collect();
    groups.sort();
    (reply[0], groups)
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

#[test]
fn events_are_those_of_redis_in_their_order() {
    let Some(mut pair) = Pair::start("2") else { return };
    // When a time has come is not known to the millisecond.
    pair.run("CONFIG SET notify-keyspace-events KEg$lshzetn");
    let mut listeners = pair.servers.each_ref().map(Server::connect);
    for listener in &mut listeners {
        listener.call(&["PSUBSCRIBE", "__key*", "end"]);
    }
    let mut random = Random::new(5);
    for _ in 0..4_000 {
        let line = command(&mut random, generator::Kind::Repeatable);
        if steps::is_composite(&line) {
            continue;
        }
        pair.run_random(&line);
        let [ours, theirs] = std::array::from_fn(|index| {
            pair.first[index].call(&["PUBLISH", "end", "x"]);
            events_until_end(&mut listeners[index])
        });
        assert_eq!(ours, theirs, "{line}");
    }
}

/// Channels and messages.
fn events_until_end(listener: &mut Client) -> Vec<String> {
    let messages = std::iter::repeat_with(|| listener.reply().expect("a message"));
    let texts = messages.map(|message| strings(&message)[2..].iter().map(|part| shown(part)).collect::<String>());
    texts.take_while(|text| !text.starts_with("\"end\"")).collect()
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let Some(mut pair) = Pair::start("2") else { return };
    let mut random = Random::new(4);
    for _ in 0..20 {
        let lines: Vec<String> = (0..200)
            .map(|_| command(&mut random, generator::Kind::Repeatable))
            .filter(|line| !steps::is_composite(line))
            .collect();
        let requests: Vec<u8> = lines.iter().flat_map(|line| encode(&words_of(line))).collect();
        for client in &mut pair.first {
            client.send(&requests).expect("a live server");
        }
        for line in &lines {
            let [ours, theirs] = pair.first.each_mut().map(|client| client.reply().expect("a reply"));
            let is_same = comparison::same(line, &Tree::parse(&ours), &Tree::parse(&theirs));
            assert!(is_same, "{line}: {} instead of {}", shown(&ours), shown(&theirs));
        }
    }
    pair.compare_data();
}

#[test]
fn a_whole_conversation_is_answered_as_by_redis() {
    let Some(servers) = both(|launcher| launcher) else { return };
    CONVERSATIONS.iter().for_each(|conversation| converse(&servers, conversation));
}

#[test]
fn a_stranger_is_answered_as_by_redis() {
    let Some(servers) = both(|launcher| launcher.directive("requirepass", PASSWORD)) else { return };
    CONVERSATIONS_WITH_A_PASSWORD.iter().for_each(|conversation| converse(&servers, conversation));
}

fn converse(servers: &[Server; 2], conversation: &str) {
    let [ours, theirs] = servers.each_ref().map(|server| {
        let mut client = server.connect();
        let lines = conversation.split('|').chain(["QUIT"]);
        let requests: Vec<u8> = lines.flat_map(|line| encode(&words_of(line))).collect();
        client.send(&requests).expect("a live server");
        without_identity(&client.rest().expect("replies up to the connection's end"))
    });
    assert!(ours == theirs, "{conversation}: the answer is\n{ours}\ninstead of\n{theirs}");
}

/// Replies with a line for each of theirs, without what tells servers and connections apart.
fn without_identity(replies: &[u8]) -> String {
    let text = replies.escape_ascii().to_string().replace("\\r\\n", "\n");
    let mut lines: Vec<&str> = text.lines().collect();
    for index in 2..lines.len() {
        match lines[index - 1] {
            "id" => lines[index] = ":id",
            "version" => (lines[index], lines[index + 1]) = ("$", "x.y.z"),
            _ => {}
        }
    }
    lines.join("\n")
}

#[test]
fn every_command_is_described_and_refuses_a_wrong_number_of_arguments_as_in_redis() {
    let Some(mut pair) = Pair::start("2") else { return };
    let [ours, theirs] = pair.first.each_mut().map(|client| client.call(&["COMMAND", "LIST"]));
    let known: Vec<&[u8]> = strings(&theirs);
    let names: Vec<String> = strings(&ours)
        .into_iter()
        .filter(|name| known.contains(name))
        .map(|name| shown(name).replace('"', ""))
        .collect();
    assert!(names.len() > 100, "only {} commands are known to both", names.len());
    for name in names {
        let [ours, theirs] = pair.first.each_mut().map(|client| description(client, &name));
        assert_eq!(ours, theirs, "{name}");
        let words = name.replace('|', " ");
        let least = words.split(' ').count();
        let wrong = if ours.arity < 0 { vec![-ours.arity - 1] } else { vec![ours.arity - 1, ours.arity + 1] };
        for count in wrong.into_iter().filter_map(|count| usize::try_from(count).ok()).filter(|count| *count >= least) {
            pair.run(&format!("{words}{}", " x".repeat(count - least)));
        }
    }
}

/// What clients and proxies read of `COMMAND INFO`.
#[derive(Debug, PartialEq)]
struct Description {
    arity: i64,
    /// Those that matter to more than one server.
    flags: Vec<String>,
    /// The first, the last, the step.
    keys: Vec<String>,
}

fn description(client: &mut Client, name: &str) -> Description {
    const FLAGS: [&str; 11] = [
        "admin", "denyoom", "fast", "loading", "no_auth", "no_multi", "noscript", "pubsub", "readonly", "stale",
        "write",
    ];
    let reply = client.run(&format!("COMMAND INFO {name}"));
    let lines: Vec<&str> = reply.split("\r\n").collect();
    let integer = |line: &str| line[1..].parse().unwrap_or_else(|_| panic!("{name}: {reply}"));
    let keys_at = 6 + integer(lines[5]) as usize;
    let mut flags: Vec<String> = lines[6..keys_at].iter().map(|line| line[1..].to_string()).collect();
    flags.retain(|flag| FLAGS.contains(&flag.as_str()));
    flags.sort();
    let keys = lines[keys_at..keys_at + 3].iter().map(|line| line.to_string()).collect();
    Description { arity: integer(lines[4]), flags, keys }
}

#[test]
fn a_postponed_inline_request_is_unescaped_once() {
    let Some(mut pair) = Pair::start("2") else { return };
    pair.run("CLIENT PAUSE 100000 WRITE");
    for client in &mut pair.second {
        // One packet: who has answered the PING has postponed the SET.
        client.send(b"PING\r\nSET k \"a\\\\x5cn\"\r\n").expect("a live server");
        assert_eq!(client.reply().expect("a reply"), b"+PONG\r\n");
        client.send(b"APPEND k '\\'\\n'\r\nGET k\r\n").expect("a live server");
    }
    pair.run("CLIENT UNPAUSE");
    for _ in ["SET", "APPEND"] {
        pair.run("2< reply");
    }
    let [ours, theirs] = pair.second.each_mut().map(|client| client.reply().expect("a reply"));
    assert_eq!(ours, b"$9\r\na\\x5cn'\\n\r\n");
    assert_eq!(ours, theirs);
}
