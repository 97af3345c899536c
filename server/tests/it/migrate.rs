//! `MIGRATE`: keys that go to another server.

use crate::client::Client;
use crate::server::{Kind, Server, wait_until};

fn start() -> Option<Server> {
    Some(Kind::Repld.server()?.start())
}

fn migrate(client: &mut Client, target: &Server, rest: &str) -> String {
    client.run(&format!("MIGRATE 127.0.0.1 {} {rest}", target.port()))
}

fn moves_keys_to(target: Kind) {
    let (Some(source), Some(target)) = (start(), target.server()) else { return };
    let (replica, target) = (Kind::Repld.server().expect("it is this one").replica_of(&source).start(), target.start());
    let (mut from, mut to) = (source.connect(), target.connect());
    from.run("RPUSH list a b c");
    from.ok("SET short-lived value PX 100000");
    from.ok("SET stays value");
    assert_eq!(migrate(&mut from, &target, "list 9 5000 COPY"), "+OK\r\n");
    assert_eq!(from.run("EXISTS list"), ":1\r\n");
    assert_eq!(migrate(&mut from, &target, "\"\" 9 5000 REPLACE KEYS list short-lived absent"), "+OK\r\n");
    assert_eq!(from.run("KEYS *"), "*1\r\n$5\r\nstays\r\n");
    assert_eq!(migrate(&mut from, &target, "absent 9 5000"), "+NOKEY\r\n");
    to.ok("SELECT 9");
    assert_eq!(to.run("LRANGE list 0 -1"), "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    let ttl = to.run("PTTL short-lived");
    assert!(ttl[1..].trim().parse::<u32>().is_ok_and(|ms| (50_000..=100_000).contains(&ms)), "{ttl}");
    let mut copy = replica.connect();
    wait_until("the replica has lost them, too", || copy.run("KEYS *") == "*1\r\n$5\r\nstays\r\n");
}

#[test]
fn keys_move_to_another_repld() {
    moves_keys_to(Kind::Repld);
}

#[test]
fn keys_move_to_redis() {
    moves_keys_to(Kind::Redis);
}

#[test]
fn keys_move_to_valkey() {
    moves_keys_to(Kind::Valkey);
}

#[test]
fn only_what_has_arrived_is_deleted() {
    let (Some(source), Some(target)) = (start(), start()) else { return };
    let (mut from, mut to) = (source.connect(), target.connect());
    from.run("MSET a 1 b 2 c 3");
    to.ok("SET b taken");
    let answer = migrate(&mut from, &target, "\"\" 0 5000 KEYS a b c");
    assert_eq!(answer, "-ERR Target instance replied with error: BUSYKEY Target key name already exists.\r\n");
    assert_eq!(from.run("KEYS *"), "*1\r\n$1\r\nb\r\n");
    assert_eq!(to.run("MGET a b c"), "*3\r\n$1\r\n1\r\n$5\r\ntaken\r\n$1\r\n3\r\n");
    // Nothing arrives where its database is not, and nothing is lost.
    let answer = migrate(&mut from, &target, "b 99 5000 REPLACE");
    assert_eq!(answer, "-ERR Target instance replied with error: ERR DB index is out of range\r\n");
    assert_eq!(from.run("GET b"), "$1\r\n2\r\n");
}

#[test]
fn a_password_opens_the_other_server_and_is_shown_to_nobody() {
    let (Some(source), Some(target)) = (start(), Kind::Repld.server()) else { return };
    let target = target.directive("requirepass", "secret").start();
    let mut from = source.connect();
    from.ok("CONFIG SET slowlog-log-slower-than 0");
    from.ok("SET key value");
    assert!(migrate(&mut from, &target, "key 0 5000").contains("NOAUTH"));
    assert!(migrate(&mut from, &target, "key 0 5000 AUTH wrong").contains("WRONGPASS"));
    assert_eq!(from.run("EXISTS key"), ":1\r\n");
    assert_eq!(migrate(&mut from, &target, "key 0 5000 AUTH2 default secret"), "+OK\r\n");
    let log = from.run("SLOWLOG GET");
    assert!(log.contains("(redacted)") && !log.contains("secret") && !log.contains("wrong"), "{log}");
}

#[test]
fn a_kept_connection_that_was_closed_is_made_again() {
    let (Some(source), Some(target)) = (start(), start()) else { return };
    let mut from = source.connect();
    from.run("MSET a 1 b 2");
    assert_eq!(migrate(&mut from, &target, "a 0 5000"), "+OK\r\n");
    assert_eq!(from.info("migrate_cached_sockets"), "1");
    target.connect().run("CLIENT KILL TYPE normal SKIPME yes");
    assert_eq!(migrate(&mut from, &target, "b 0 5000"), "+OK\r\n");
    assert_eq!(target.connect().run("DBSIZE"), ":2\r\n");
}

#[test]
fn a_server_that_cannot_be_reached_costs_no_key() {
    let Some(source) = start() else { return };
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("it is bound").port()
    };
    let mut from = source.connect();
    from.ok("SET key value");
    assert!(from.run(&format!("MIGRATE 127.0.0.1 {port} key 0 1000")).starts_with("-IOERR"));
    // One that accepts and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    assert!(from.run(&format!("MIGRATE 127.0.0.1 {port} key 0 100")).starts_with("-IOERR"));
    assert_eq!(from.run("GET key"), "$5\r\nvalue\r\n");
}

#[test]
fn a_replica_gives_nothing_away() {
    let (Some(master), Some(target)) = (start(), start()) else { return };
    let replica = Kind::Repld.server().expect("it is this one").replica_of(&master).start();
    master.connect().ok("SET key value");
    let mut client = replica.connect();
    wait_until("the replica has the key", || client.run("EXISTS key") == ":1\r\n");
    assert!(migrate(&mut client, &target, "key 0 5000").starts_with("-READONLY"));
}
