//! The same commands to repld and to a real `redis-server`: the replies are equal, byte for byte.

use repld::config::words;

use crate::client::{Client, encode, shown, strings};
use crate::random::Random;
use crate::server::{Kind, Launcher, Server, wait_until};

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

fn run_random(protocol: &str, seed: u64, steps: usize) {
    let Some(mut pair) = Pair::start(protocol) else { return };
    let mut random = Random::new(seed);
    for count in 1..=steps {
        let lines = step(&mut random);
        // Shown should the test fail.
        println!("{}", lines.join("; "));
        lines.iter().for_each(|line| pair.run(line));
        if count % 1_000 == 0 {
            pair.compare_data();
        }
    }
}

#[test]
fn random_commands_are_answered_as_by_redis_in_resp2() {
    run_random("2", 2, 5_000);
}

#[test]
fn random_commands_are_answered_as_by_redis_in_resp3() {
    run_random("3", 3, 5_000);
}

#[test]
#[ignore = "takes a minute: for when commands change"]
fn many_random_commands_are_answered_as_by_redis() {
    for seed in 100..110 {
        run_random("2", seed, 20_000);
        run_random("3", seed, 20_000);
    }
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
        let line = match random.below(4) {
            0 => sorted_set_command(&mut random),
            _ => command(&mut random),
        };
        // What goes by chance may be the last of its set on one server alone, and then the sets are not equal any more.
        if line.starts_with("SPOP") {
            continue;
        }
        pair.run(&line);
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
        let lines: Vec<String> = (0..200).map(|_| command(&mut random)).collect();
        let words: Vec<Vec<Vec<u8>>> = lines.iter().map(|line| words_of(line)).collect();
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

/// A command on either connection, or a transaction with another's write in its way.
fn step(random: &mut Random) -> Vec<String> {
    match random.below(16) {
        0 => transaction(random),
        1..3 => vec![format!("2> {}", command(random))],
        3 => vec![format!("SCAN-ALL {}", random.pick(&["", "COUNT 1", "MATCH key:*", "TYPE string", "TYPE nosuch"]))],
        12.. => vec![sorted_set_command(random)],
        _ => vec![command(random)],
    }
}

/// A command on sorted sets, of which some are strings.
fn sorted_set_command(random: &mut Random) -> String {
    const KEYS: [&str; 5] = ["z", "zz", "zzz", "zzzz", "key:1"];
    const OPTIONS: [&str; 12] = ["", "", "", "", "NX", "XX", "GT", "LT", "CH", "INCR", "XX INCR", "GT CH"];
    const BOUNDS: [&str; 10] = ["-inf", "+inf", "0", "(0", "1", "(2", "-1e3", "(1e17", "x", "\"\""];
    const MEMBER_BOUNDS: [&str; 7] = ["-", "+", "[b", "(b", "[", "(x", "x"];
    const RANKS: [&str; 9] = ["0", "1", "-1", "5", "-7", "100", "-100", "9223372036854775807", "x"];
    const LIMITS: [&str; 6] = ["", "", "LIMIT 0 3", "LIMIT 2 -1", "LIMIT -1 2", "LIMIT 1"];
    const SCORES: [&str; 5] = ["", "", "WITHSCORES", "withscores", "REV"];
    let (key, other, third) = (random.pick(&KEYS), random.pick(&KEYS), random.pick(&KEYS));
    let member = random.pick(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "\"\"", "\"\\xff\\x00\"", "12", "-3"]);
    let score = match random.below(4) {
        0 => f64::from_bits(random.next()).to_string(),
        1 => random.pick(&["inf", "-inf", "-0", "1e17", "0.1", "3e-5", "1e400", "0x10", "nan", "x"]).to_string(),
        _ => (random.below(9) as f64 / 2.0 - 2.0).to_string(),
    };
    let [bound, bound_2] = [0, 1].map(|_| random.pick(&BOUNDS));
    let [from, to] = [0, 1].map(|_| random.pick(&MEMBER_BOUNDS));
    let [first, last] = [0, 1].map(|_| random.pick(&RANKS));
    let (limit, with) = (random.pick(&LIMITS), random.pick(&SCORES));
    let weigh = random.pick(&["", "", "WEIGHTS 2 -0.5", "AGGREGATE MIN", "AGGREGATE max WEIGHTS inf 0", "WEIGHTS 1"]);
    match random.below(30) {
        0..8 => format!("ZADD {key} {} {score} {member} {} f", random.pick(&OPTIONS), random.below(5)),
        8 => format!("ZINCRBY {key} {score} {member}"),
        9 => format!("ZREM {key} {member} a"),
        10 => format!("{} {key} {member}", random.pick(&["ZSCORE", "ZRANK", "ZREVRANK", "ZMSCORE", "GEOPOS"])),
        11 => format!("ZCOUNT {key} {bound} {bound_2}"),
        12 => format!("{} {key} {first} {last} {with}", random.pick(&["ZRANGE", "ZREVRANGE"])),
        13 => format!("ZRANGE {key} {bound} {bound_2} BYSCORE {with} {limit}"),
        14 => format!("{} {key} {bound} {bound_2} {limit}", random.pick(&["ZRANGEBYSCORE", "ZREVRANGEBYSCORE"])),
        15 => format!("ZREMRANGEBYRANK {key} {first} {last}"),
        16 => format!("ZREMRANGEBYSCORE {key} {bound} {bound_2}"),
        17 => format!("{} {key} {}", random.pick(&["ZPOPMIN", "ZPOPMAX"]), random.pick(&["", "2", "0", "x"])),
        18 => format!("ZMPOP 2 {key} {other} {} COUNT {}", random.pick(&["MIN", "MAX"]), random.below(4)),
        19 => format!("ZRANGESTORE {key} {other} {first} {last}"),
        20 => format!("ZRANGESTORE {key} {other} {bound} {bound_2} BYSCORE {limit}"),
        21 => format!("{} 2 {key} {other} {weigh} {with}", random.pick(&["ZUNION", "ZINTER"])),
        22 => format!("{} {third} 2 {key} {other} {weigh}", random.pick(&["ZUNIONSTORE", "ZINTERSTORE"])),
        23 => format!("ZDIFF 2 {key} {other} {with}"),
        24 => format!("ZDIFFSTORE {third} 2 {key} {other}"),
        25 => format!("ZINTERCARD 2 {key} {other} LIMIT {}", random.below(3)),
        // Of equal scores only: in others what lies between two members is anything.
        26 => format!("ZADD lex 0 {member} 0 b"),
        27 => format!("{} lex {from} {to} {limit}", random.pick(&["ZRANGEBYLEX", "ZREVRANGEBYLEX", "ZLEXCOUNT"])),
        28 => format!("ZREMRANGEBYLEX lex {from} {to}"),
        _ => format!("GEOADD {key} {} {score} {member}", random.below(200)),
    }
}

fn transaction(random: &mut Random) -> Vec<String> {
    // What depends on the time or has no order could not be compared inside the one reply.
    let comparable = |line: &String| {
        let name = line.split(' ').next().unwrap_or_default();
        let is_ordered = name != "HRANDFIELD" && UNORDERED.iter().all(|(unordered, _)| *unordered != name);
        is_ordered && !["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"].contains(&name)
    };
    let commands = |random: &mut Random, most: usize| -> Vec<String> {
        (0..random.below(most + 1)).map(|_| command(random)).filter(comparable).collect()
    };
    let mut lines = Vec::new();
    if random.below(2) == 0 {
        lines.push("WATCH a key:1 absent".into());
    }
    lines.extend(commands(random, 2));
    lines.push("MULTI".into());
    lines.extend(commands(random, 5));
    lines.extend(commands(random, 2).iter().map(|line| format!("2> {line}")));
    lines.push(random.pick(&["EXEC", "EXEC", "EXEC", "exec", "DISCARD", "EXEC x"]).into());
    lines
}

/// A command on lists, more often right than wrong.
fn list_command(random: &mut Random) -> String {
    const KEYS: [&str; 6] = ["a", "b", "l", "m", "key:1", "absent"];
    const ELEMENTS: [&str; 9] = ["0", "1", "-7", "10", "x", "y", "\"\"", "\"with \\x00 bytes\\xff\"", "1.5"];
    const INDICES: [&str; 12] = ["0", "0", "1", "-1", "-1", "2", "-3", "5", "100", "-100", "x", "9223372036854775807"];
    const ENDS: [&str; 7] = ["left", "right", "LEFT", "RIGHT", "left", "right", "up"];
    let (key, other) = (random.pick(&KEYS), random.pick(&KEYS));
    let (element, another) = (random.pick(&ELEMENTS), random.pick(&ELEMENTS));
    let (index, end_index) = (random.pick(&INDICES), random.pick(&INDICES));
    let (from, to) = (random.pick(&ENDS), random.pick(&ENDS));
    match random.below(20) {
        0..5 => format!("{} {key} {element} {another}", random.pick(&["LPUSH", "RPUSH", "RPUSH", "LPUSHX", "RPUSHX"])),
        5 | 6 => format!("{} {key} {}", random.pick(&["LPOP", "RPOP"]), random.pick(&["", "", "2", "0", "-1", "x"])),
        7 => format!("LLEN {key}"),
        8 => format!("LINDEX {key} {index}"),
        9 => format!("LSET {key} {index} {element}"),
        10 | 11 => format!("LRANGE {key} {index} {end_index}"),
        12 => format!("LTRIM {key} {index} {end_index}"),
        13 => format!("LREM {key} {index} {element}"),
        14 => format!("LINSERT {key} {} {element} {another}", random.pick(&["before", "after", "AFTER", "x"])),
        15 => format!(
            "LPOS {key} {element} {}",
            random.pick(&["", "RANK 2", "RANK -1", "COUNT 0", "COUNT 2 RANK -2", "MAXLEN 3", "RANK 0", "COUNT -1"])
        ),
        16 => format!("LMOVE {key} {other} {from} {to}"),
        17 => format!("{} {key} {other} 0.001", random.pick(&["RPOPLPUSH", "BRPOPLPUSH", "BLPOP", "BRPOP"])),
        18 => format!("LMPOP 2 {key} {other} {from} {}", random.pick(&["", "COUNT 3", "COUNT 0", "COUNT x"])),
        _ => format!(
            "SORT {key} {} {}",
            random.pick(&["", "ALPHA", "ALPHA", "DESC ALPHA", "BY nosuch* LIMIT 0 3", "NOSUCH"]),
            random.pick(&["", "LIMIT 1 2", "GET # GET nosuch", "STORE m", "LIMIT 0 0 STORE m", "LIMIT x 1"])
        ),
    }
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
    const BAD_SECONDS: [&str; 6] = ["0", "-1", "x", "9223372036854775807", "-9223372036854775808", "1.5"];
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
    let bad_seconds = random.pick(&BAD_SECONDS);
    // Never twice the same: which of two equal ones ends later would depend on the millisecond they were set in.
    let far = (100_000_000 + random.below(900_000_000)).to_string();
    match random.below(82) {
        64..82 => list_command(random),
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
        29..32 => {
            format!("EXPIRE {key} {} {}", random.pick(&[far.as_str(), bad_seconds]), random.pick(&EXPIRE_OPTIONS))
        }
        32 => format!("PEXPIRE {key} {} {}", random.pick(&[far.as_str(), "-1", "x"]), random.pick(&EXPIRE_OPTIONS)),
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
        43..51 => hash_command(random, key),
        51..59 => set_command(random, key, other),
        59 | 60 => bit_command(random, key, other),
        _ => {
            // A command with the wrong number of arguments, or none at all.
            let name =
                random.pick(&["SET", "GET", "MSET", "INCRBY", "EXPIRE", "TTL", "RENAME", "NOSUCH", "\"\"", "GETEX"]);
            let words: Vec<&str> = (0..random.below(6)).map(|_| random.pick(&KEYS)).collect();
            format!("{name} {}", words.join(" "))
        }
    }
}

/// A few small numbers, a few texts: the same ones come again.
fn element(random: &mut Random) -> String {
    match random.below(3) {
        0 => random.below(12).to_string(),
        1 => (random.below(4) as i64 * 3_000_000_000 - 5_000_000_000).to_string(),
        _ => random.pick(&["a", "b", "c", "\"\"", "07", "\"\\x00\\xff\"", "1.5"]).into(),
    }
}

fn elements(random: &mut Random, most: usize) -> String {
    let elements: Vec<String> = (0..=random.below(most)).map(|_| element(random)).collect();
    elements.join(" ")
}

fn hash_command(random: &mut Random, key: &str) -> String {
    let field = element(random);
    let value = element(random);
    match random.below(12) {
        0..3 => format!("{} {key} {field} {value} {}", random.pick(&["HSET", "HMSET"]), elements(random, 5)),
        3 => format!("HSETNX {key} {field} {value}"),
        4 => format!("{} {key} {field}", random.pick(&["HGET", "HEXISTS", "HSTRLEN"])),
        5 => format!("HMGET {key} {}", elements(random, 4)),
        6 => format!("{} {key}", random.pick(&["HGETALL", "HKEYS", "HVALS", "HLEN"])),
        7 => format!("HDEL {key} {}", elements(random, 4)),
        8 => format!("HINCRBY {key} {field} {value}"),
        9 => format!("HINCRBYFLOAT {key} {field} {}", random.pick(&["1.5", "-0.1", "1e3", "x", "inf", "3"])),
        10 => format!("HRANDFIELD {key} {} {}", random.pick(&["0", "100", "x"]), random.pick(&["", "WITHVALUES", "x"])),
        // A long value makes a big form of a small one.
        _ => format!("HSET {key} {field} {}", "v".repeat(random.below(80))),
    }
}

fn set_command(random: &mut Random, key: &str, other: &str) -> String {
    let operation = random.pick(&["SINTER", "SUNION", "SDIFF"]);
    match random.below(11) {
        0..3 => format!("SADD {key} {}", elements(random, 6)),
        3 => format!("SREM {key} {}", elements(random, 4)),
        4 => format!("{} {key}", random.pick(&["SMEMBERS", "SCARD"])),
        5 => format!("{} {key} {}", random.pick(&["SMISMEMBER", "SISMEMBER"]), elements(random, 2)),
        6 => format!("SMOVE {key} {other} {}", element(random)),
        7 => format!("{operation} {key} {other} c"),
        8 => format!("{operation}STORE {key} {other} c d"),
        9 => format!("SINTERCARD {} {key} {other} {}", random.pick(&["2", "1", "x"]), random.pick(&["", "LIMIT 2"])),
        _ => format!("{} {key} {}", random.pick(&["SPOP", "SRANDMEMBER"]), random.pick(&["0", "1000", "x"])),
    }
}

fn bit_command(random: &mut Random, key: &str, other: &str) -> String {
    let offset = random.pick(&["0", "7", "13", "#1", "100", "-1", "x"]);
    let index = random.pick(&["0", "1", "3", "-1", "-4", "100", "x"]);
    match random.below(6) {
        0 => format!("SETBIT {key} {offset} {}", random.pick(&["0", "1", "1", "2"])),
        1 => format!("GETBIT {key} {offset}"),
        2 => format!("BITCOUNT {key} {index} {} {}", random.pick(&["-1", "2", "9"]), random.pick(&["", "BIT", "BYTE"])),
        3 => format!("BITPOS {key} {} {index} {} BIT", random.below(3), random.pick(&["-1", "2", "9"])),
        4 => format!("BITOP {} {key} {other} c", random.pick(&["AND", "OR", "XOR", "NOT"])),
        _ => format!(
            "BITFIELD {key} {} {} {} {offset} {}",
            random.pick(&["OVERFLOW SAT", "OVERFLOW FAIL", ""]),
            random.pick(&["SET", "INCRBY"]),
            random.pick(&["u8", "i8", "i64", "u63", "i5"]),
            random.pick(&["1", "-200", "9223372036854775807", "-9223372036854775808"]),
        ),
    }
}
