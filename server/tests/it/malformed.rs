//! Requests that are none: a clear error, a closed connection, and a server that goes on.

use crate::client::{Client, shown};
use crate::random::Random;
use crate::server::{Kind, Server};

const CASES: u64 = 1_000;
/// A server that believed the lengths it is told would need gigabytes.
const RESIDENT_KIB_MAX: usize = 256 * 1024;

/// One request, and how it must end.
struct Case {
    bytes: Vec<u8>,
    end: End,
}

enum End {
    /// The server answers a protocol error and closes.
    Refused,
    /// The client stops sending; whatever the server answers, it closes then.
    Abandoned,
}

#[test]
fn a_thousand_malformed_requests_are_refused_and_leave_the_server_responsive() {
    refuses_and_lives_on(Kind::Repld);
}

#[test]
fn what_is_expected_here_is_true_of_a_real_redis_server() {
    refuses_and_lives_on(Kind::Redis);
}

fn refuses_and_lives_on(kind: Kind) {
    let Some(server) = kind.server() else { return };
    let server = server.start();
    let mut bystander = server.connect();
    for seed in 0..CASES {
        let (request, answer) = answer(&server, seed);
        if matches!(request.end, End::Refused) {
            let lines: Vec<&[u8]> = answer.split_inclusive(|byte| *byte == b'\n').collect();
            let error = lines.last().copied().unwrap_or_default();
            let message = || format!("seed {seed}: {} was answered {}", shown(&request.bytes), shown(&answer));
            assert!(error.starts_with(b"-ERR Protocol error: ") && error.ends_with(b"\r\n"), "{}", message());
        }
        assert_eq!(bystander.run("PING"), "+PONG\r\n", "after seed {seed}");
    }
    assert!(server.resident_kib() < RESIDENT_KIB_MAX, "{} KiB are resident", server.resident_kib());
}

#[test]
fn malformed_requests_are_answered_as_a_real_redis_server_answers_them() {
    let (Some(repld), Some(redis)) = (Kind::Repld.server(), Kind::Redis.server()) else { return };
    let (repld, redis) = (repld.start(), redis.start());
    for seed in 0..CASES {
        let (request, ours) = answer(&repld, seed);
        let (_, theirs) = answer(&redis, seed);
        assert!(
            ours == theirs,
            "seed {seed}: {} is answered {} instead of {}",
            shown(&request.bytes),
            shown(&ours),
            shown(&theirs)
        );
    }
}

fn answer(server: &Server, seed: u64) -> (Case, Vec<u8>) {
    let case = case(&mut Random::new(seed));
    let mut client = server.connect();
    // The server may close while it is being sent to.
    let _ = client.send(&case.bytes);
    if matches!(case.end, End::Abandoned) {
        client.finish_sending();
    }
    let answer = Client::rest(client).unwrap_or_else(|error| panic!("seed {seed}: {}: {error}", shown(&case.bytes)));
    (case, answer)
}

fn case(random: &mut Random) -> Case {
    // Well-formed requests in front, now and then.
    let mut bytes = random.pick(&["", "", "PING\r\n", "*1\r\n$4\r\nPING\r\n"]).as_bytes().to_vec();
    let end = if random.below(4) == 0 {
        bytes.extend(unfinished(random));
        End::Abandoned
    } else {
        bytes.extend(refused(random));
        End::Refused
    };
    Case { bytes, end }
}

/// Not a number from 0 to the limit.
fn bad_length(random: &mut Random) -> String {
    let number = random.next() as i64;
    match random.below(8) {
        0 => format!("-{}", number.unsigned_abs() % 1_000 + 2),
        1 => (number.unsigned_abs() % (1 << 40) + (1 << 30)).to_string(),
        2 => "9223372036854775808".into(),
        3 => "1".repeat(random.below(30) + 25),
        4 => random.pick(&["", " 1", "1 ", "+1", "01", "1.0", "0x10", "--1", "-", "1e3"]).into(),
        5 => format!("{number}x"),
        6 => i64::MIN.to_string(),
        _ => random.pick(&["abc", "nan", "$", "*3", "\u{ff}"]).into(),
    }
}

fn refused(random: &mut Random) -> Vec<u8> {
    let argument = |random: &mut Random| format!("$3\r\n{}\r\n", random.pick(&["GET", "SET", "foo"]));
    match random.below(7) {
        0 => {
            let length = bad_length(random);
            // A negative number of arguments is an empty request, not an error.
            let length = if length.parse().is_ok_and(|length: i64| length < 0) { "x".into() } else { length };
            let length = if length.is_empty() { "y".into() } else { length };
            format!("*{length}\r\n").into_bytes()
        }
        1 => format!("*3\r\n{}${}\r\n", argument(random), bad_length(random)).into_bytes(),
        2 => format!("*3\r\n{}{}abc\r\n", argument(random), random.pick(&["+", ":", "-", "x", "*1\r\n", "\t"]))
            .into_bytes(),
        3 => {
            let quotes = random.pick(&["\"open", "'open", "\"a\"b", "'a'b", "\"a\\", "\"\\x4"]);
            format!("SET key {quotes}\r\n").into_bytes()
        }
        4 => vec![b'a'; 64 * 1024 + 1 + random.below(64)],
        5 => [b"*".to_vec(), vec![b'1'; 64 * 1024 + 1 + random.below(64)]].concat(),
        _ => [b"*2\r\n$".to_vec(), vec![b'1'; 64 * 1024 + 1 + random.below(64)]].concat(),
    }
}

fn unfinished(random: &mut Random) -> Vec<u8> {
    match random.below(6) {
        0 => {
            let whole = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n";
            whole[..random.below(whole.len())].to_vec()
        }
        1 => format!("*{}\r\n$3\r\nGET\r\n", random.below(1 << 20) + 2).into_bytes(),
        2 => format!("*2\r\n$3\r\nGET\r\n${}\r\nabc", random.below(512 << 20) + 4).into_bytes(),
        // Its end is not checked for, only skipped.
        3 => b"*2\r\n$3\r\nGETxx$3\r\nkeyyy".to_vec(),
        4 => random
            .pick(&["", "\r\n", "\n", "\r\n\r\n", "*0\r\n", "*-1\r\n", "*-5\r\nPING\r\n", "PING", "  \r\nPING\n"])
            .into(),
        _ => {
            // Neither a line nor a request: it only waits for more.
            let garbage = random.bytes(200);
            garbage.into_iter().filter(|byte| *byte != b'\n').skip_while(|byte| *byte == b'*').collect()
        }
    }
}
