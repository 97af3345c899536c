//! `maxmemory`: what goes, who is told, and who is refused.

use crate::client::Client;
use crate::random::Random;
use crate::server::{Kind, Server, wait_until};

const KEYS: usize = 2_000;
/// What fits beside the first keys, in bytes.
const ROOM: u64 = 64 << 10;

/// A server that has keys `old:0` and on, every second of which would expire some time.
fn filled(policy: &str) -> Server {
    let server = Kind::Repld.server().expect("it is ours").directive("maxmemory-policy", policy).start();
    let mut client = server.connect();
    for number in 0..KEYS {
        let deadline = if number % 2 == 1 { " EX 10000" } else { "" };
        client.ok(&format!("SET old:{number} {}{deadline}", "x".repeat(40)));
    }
    server
}

fn limit(client: &mut Client, room: u64) -> u64 {
    let used: u64 = client.info("used_memory").parse().expect("a number");
    client.ok(&format!("CONFIG SET maxmemory {}", used + room));
    used + room
}

fn present(client: &mut Client, numbers: impl Iterator<Item = usize>) -> usize {
    numbers.filter(|number| client.run(&format!("EXISTS old:{number}")) == ":1\r\n").count()
}

fn add(client: &mut Client, keys: usize) {
    for number in 0..keys {
        client.ok(&format!("SET new:{number} {} EX 10000", "y".repeat(40)));
    }
}

fn used(client: &mut Client) -> u64 {
    client.info("used_memory").parse().expect("a number")
}

#[test]
fn memory_stays_below_its_limit_under_every_policy_that_finds_something_to_evict() {
    for policy in [
        "allkeys-lru",
        "allkeys-lfu",
        "allkeys-random",
        "volatile-lru",
        "volatile-lfu",
        "volatile-random",
        "volatile-ttl",
    ] {
        let server = filled(policy);
        let mut client = server.connect();
        let limit = limit(&mut client, ROOM);
        add(&mut client, 2 * KEYS);
        assert!(used(&mut client) <= limit + 4096, "{policy}");
        assert_ne!(client.info("evicted_keys"), "0", "{policy}");
        if policy.starts_with("volatile") {
            assert_eq!(
                present(&mut client, (0..KEYS).step_by(2)),
                KEYS / 2,
                "{policy} touched what would never expire"
            );
        }
    }
}

#[test]
fn what_needs_memory_is_refused_when_there_is_nothing_to_evict() {
    const OOM: &str = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    client.ok("SET k v");
    client.ok("CONFIG SET maxmemory 1");
    assert_eq!(client.run("SET k w"), OOM);
    assert_eq!(client.run("GET k"), "$1\r\nv\r\n");
    assert_eq!(client.run("EXPIRE k 100"), ":1\r\n");
    // A volatile policy finds it now, and then nothing more.
    client.ok("CONFIG SET maxmemory-policy volatile-lru");
    assert_eq!(client.run("SET l w"), OOM);
    assert_eq!(client.run("EXISTS k"), ":0\r\n");
    // A transaction is refused when it is queued, and is over then.
    client.ok("MULTI");
    assert_eq!(client.run("SET k w"), OOM);
    assert!(client.run("EXEC").starts_with("-EXECABORT"));
    client.ok("CONFIG SET maxmemory 0");
    client.ok("SET k w");
}

#[test]
fn what_was_used_stays_and_what_was_not_goes() {
    let server = filled("allkeys-lfu");
    let mut client = server.connect();
    client.ok("CONFIG SET maxmemory-samples 20");
    // A tenth of the keys is used again and again.
    for _ in 0..40 {
        (0..KEYS).step_by(10).for_each(|number| drop(client.run(&format!("GET old:{number}"))));
    }
    limit(&mut client, 0);
    add(&mut client, KEYS);
    let often = present(&mut client, (0..KEYS).step_by(10));
    let others = present(&mut client, (0..KEYS).filter(|number| number % 10 != 0));
    assert!(often > KEYS / 10 * 9 / 10, "{often} of {} that were used often are left", KEYS / 10);
    assert!(others < KEYS * 9 / 10 * 7 / 10, "{others} of the others are left");
}

#[test]
fn the_first_to_expire_is_the_first_to_go() {
    let server = Kind::Repld.server().expect("it is ours").directive("maxmemory-policy", "volatile-ttl").start();
    let mut client = server.connect();
    client.ok("CONFIG SET maxmemory-samples 50");
    for number in 0..KEYS {
        client.ok(&format!("SET old:{number} {} EX {}", "x".repeat(40), 1_000 + number * 10));
    }
    limit(&mut client, 0);
    for number in 0..KEYS / 4 {
        client.ok(&format!("SET new:{number} {}", "y".repeat(40)));
    }
    let [early, late] = [0..KEYS / 4, KEYS / 2..KEYS].map(|numbers| present(&mut client, numbers));
    assert!(early < KEYS / 16, "{early} of those that expire first are left");
    assert_eq!(late, KEYS / 2);
}

#[test]
fn replicas_are_told_what_went_and_decide_nothing_themselves() {
    let master = filled("allkeys-random");
    // Its own limit is its master's affair.
    let replica = Kind::Repld.server().expect("it is ours").directive("maxmemory", "1");
    let replica = replica.directive("maxmemory-policy", "allkeys-random").replica_of(&master).start();
    let [mut client, mut observer] = [&master, &replica].map(Server::connect);
    wait_until("the link is up", || observer.info("master_link_status") == "up");
    assert_eq!(observer.run("DBSIZE"), format!(":{KEYS}\r\n"));
    // The backlog that the replica needs does not count.
    let kept: u64 = client.info("mem_not_counted_for_evict").parse().expect("a number");
    let used = used(&mut client);
    client.ok(&format!("CONFIG SET maxmemory {}", used - kept));
    add(&mut client, 500);
    assert_ne!(client.info("evicted_keys"), "0");
    assert_eq!(observer.info("evicted_keys"), "0");
    client.ok("CONFIG SET maxmemory 0");
    let offset = client.info("master_repl_offset");
    wait_until("the replica has it all", || observer.info("slave_repl_offset") == offset);
    assert_eq!(client.run("DEBUG DIGEST"), observer.run("DEBUG DIGEST"));
    assert_eq!(client.run("DBSIZE"), observer.run("DBSIZE"));
}

#[test]
fn a_replica_with_a_limit_of_its_own_refuses_nothing_of_its_masters_and_evicts_in_silence() {
    let master = filled("noeviction");
    let replica = Kind::Repld.server().expect("it is ours").directive("replica-ignore-maxmemory", "no");
    let replica = replica.directive("maxmemory-policy", "allkeys-lru").replica_of(&master).start();
    let [mut client, mut observer] = [&master, &replica].map(Server::connect);
    wait_until("it has them all", || observer.run("DBSIZE") == format!(":{KEYS}\r\n"));
    observer.ok("CONFIG SET maxmemory 1");
    wait_until("it has evicted them", || observer.run("DBSIZE") == ":0\r\n");
    assert_eq!(client.run("DBSIZE"), format!(":{KEYS}\r\n"));
    observer.ok("CONFIG SET maxmemory 0");
    client.ok("SET late v");
    wait_until("it follows still", || observer.run("GET late") == "$1\r\nv\r\n");
}

#[test]
fn when_and_how_often_a_key_was_used_survives_a_restart_and_a_restore() {
    let server = Kind::Repld.server().expect("it is ours").directive("maxmemory-policy", "allkeys-lru");
    let mut server = server.directive("save", "3600 1").start();
    let mut client = server.connect();
    client.ok("SET k v");
    let payload = client.call(&["DUMP", "k"]);
    let payload = &payload[payload.iter().position(|byte| *byte == b'\n').expect("a line") + 1..payload.len() - 2];
    client.call(&[b"RESTORE".as_slice(), b"idle", b"0", payload, b"IDLETIME", b"1000"]);
    let idle =
        |client: &mut Client| -> u64 { client.run("OBJECT IDLETIME idle")[1..].trim().parse().expect("seconds") };
    assert!((1000..1010).contains(&idle(&mut client)));
    client.ok("SAVE");
    drop(client);
    server.kill();
    server.restart();
    let mut client = server.connect();
    assert!((1000..1030).contains(&idle(&mut client)));
    assert_eq!(client.run("TOUCH idle"), ":1\r\n");
    assert!(idle(&mut client) < 10);
    client.ok("CONFIG SET maxmemory-policy allkeys-lfu");
    client.call(&[b"RESTORE".as_slice(), b"often", b"0", payload, b"FREQ", b"100"]);
    assert_eq!(client.run("OBJECT FREQ often"), ":100\r\n");
    assert!(client.run("OBJECT IDLETIME often").starts_with("-ERR An LFU maxmemory policy is selected"));
}

#[test]
fn keys_of_any_length_are_found_again_with_their_values() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    let mut random = Random::new(7);
    let lengths = [0, 1, 65_534, 65_535, 65_536, 65_537, 200_000];
    let keys = lengths.map(|len| vec![b'a' + random.below(26) as u8; len]);
    for key in &keys {
        assert_eq!(client.call(&[b"SET".as_slice(), key, b"short"]), b"+OK\r\n");
        assert_eq!(client.call(&[b"PEXPIRE".as_slice(), key, b"1000000"]), b":1\r\n");
        assert_eq!(client.call(&[b"APPEND".as_slice(), key, b"er"]), b":7\r\n");
    }
    for key in &keys {
        assert_eq!(client.call(&[b"GET".as_slice(), key]), b"$7\r\nshorter\r\n");
        assert_eq!(client.call(&[b"SET".as_slice(), key, b"x", b"KEEPTTL"]), b"+OK\r\n");
        assert_eq!(client.call(&[b"OBJECT".as_slice(), b"ENCODING", key]), b"$6\r\nembstr\r\n");
        assert_eq!(client.call(&[b"DEL".as_slice(), key]), b":1\r\n");
    }
    assert_eq!(client.run("DBSIZE"), ":0\r\n");
}
