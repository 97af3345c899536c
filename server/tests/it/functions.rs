//! Libraries of functions, which repld keeps and hands on and does not run, between servers that do.

use std::process::Command;

use crate::client::{Client, strings};
use crate::server::{Kind, Launcher, Server, wait_until};

const LIBRARY: &str = "#!lua name=mine\nredis.register_function('answer', function() return 42 end)\n\
    redis.register_function{function_name='noted', callback=function() return 1 end, flags={'no-writes'}, description='d'}";

fn repld() -> Launcher {
    Kind::Repld.server().expect("it was just built")
}

fn load(client: &mut Client, library: &str) {
    assert!(client.call(&["FUNCTION", "LOAD", "REPLACE", library]).starts_with(b"$"), "{library}");
}

/// What both list, in an order that says nothing.
fn listed(client: &mut Client) -> Vec<Vec<u8>> {
    let reply = client.call(&["FUNCTION", "LIST", "WITHCODE"]);
    let mut words: Vec<Vec<u8>> = strings(&reply).into_iter().map(<[u8]>::to_vec).collect();
    words.sort();
    words
}

fn wait_until_listed(server: &Server, libraries: &[Vec<u8>]) {
    let mut client = server.connect();
    wait_until("it has the same libraries", || listed(&mut client) == libraries);
}

#[test]
fn a_replica_keeps_the_functions_of_its_master_for_those_below_it() {
    let Some(redis) = Kind::Redis.server() else { return };
    let master = redis.clone().start();
    let mut client = master.connect();
    load(&mut client, LIBRARY);
    let mut middle = repld().replica_of(&master).start();
    let bottom = redis.replica_of(&middle).start();
    let libraries = listed(&mut client);
    wait_until_listed(&middle, &libraries);
    wait_until_listed(&bottom, &libraries);
    assert_eq!(bottom.connect().run("FCALL_RO noted 0"), ":1\r\n");

    let other = LIBRARY.replace("mine", "other").replace("answer", "question").replace("noted", "asked");
    load(&mut client, &other);
    let dump = client.call(&["FUNCTION", "DUMP"]);
    let two = listed(&mut client);
    wait_until_listed(&bottom, &two);
    wait_until_listed(&middle, &two);
    client.ok("FUNCTION DELETE other");
    wait_until_listed(&bottom, &libraries);
    wait_until_listed(&middle, &libraries);
    client.ok("FUNCTION FLUSH");
    wait_until_listed(&middle, &[]);
    let payload = strings(&dump)[0];
    assert_eq!(client.call(&[b"FUNCTION".as_slice(), b"RESTORE", payload]), b"+OK\r\n");
    wait_until_listed(&middle, &two);
    wait_until_listed(&bottom, &two);

    middle.connect().ok("SAVE");
    middle.connect().ok("REPLICAOF NO ONE");
    middle.restart();
    assert_eq!(listed(&mut middle.connect()), two);
    let log = middle.log();
    assert!(!log.contains("CRITICAL"), "{log}");
}

#[test]
fn what_a_client_loads_reaches_a_server_that_runs_it() {
    let Some(redis) = Kind::Redis.server() else { return };
    let master = repld().start();
    let mut client = master.connect();
    let replica = redis.clone().replica_of(&master).start();
    wait_until("it is linked", || replica.connect().info("master_link_status") == "up");
    load(&mut client, LIBRARY);
    let libraries = listed(&mut client);
    wait_until_listed(&replica, &libraries);
    assert_eq!(replica.connect().run("FCALL_RO noted 0"), ":1\r\n");
    assert!(client.run("FCALL answer 0").starts_with("-ERR repld has no interpreter"));
    assert_eq!(client.run("FCALL nothing 0"), "-ERR Function not found\r\n");
    assert!(client.run("EVAL return 0").starts_with("-ERR repld has no interpreter: 'eval'"));

    // The payloads of both are understood by the other.
    let other = redis.start();
    for (from, to) in [(&master, &other), (&other, &master)] {
        let dump = from.connect().call(&["FUNCTION", "DUMP"]);
        to.connect().ok("FUNCTION FLUSH");
        let payload = strings(&dump)[0];
        assert_eq!(to.connect().call(&[b"FUNCTION".as_slice(), b"RESTORE", payload]), b"+OK\r\n");
        assert_eq!(listed(&mut to.connect()), libraries);
    }
    assert_eq!(master.connect().run("FUNCTION STATS"), other.connect().run("FUNCTION STATS"));
}

#[test]
fn errors_are_those_of_redis() {
    let Some(redis) = Kind::Redis.server() else { return };
    let servers = [repld().start(), redis.start()];
    let mut clients = servers.each_ref().map(Server::connect);
    let requests: &[&[&str]] = &[
        &["FUNCTION", "LOAD", "return 1\n"],
        &["FUNCTION", "LOAD", "#!lua name=a"],
        &["FUNCTION", "LOAD", "#!lua\nx"],
        &["FUNCTION", "LOAD", "#!lua name=a-b\nx"],
        &["FUNCTION", "LOAD", "#!lua name=a key=value\nx"],
        &["FUNCTION", "LOAD", "#!cobol name=a\nx"],
        &["FUNCTION", "LOAD", "#!lua name=a\nlocal x = 1"],
        &["FUNCTION", "LOAD", "BAD", LIBRARY],
        &["FUNCTION", "LOAD", LIBRARY],
        &["FUNCTION", "LOAD", LIBRARY],
        &["FUNCTION", "LIST", "LIBRARYNAME", "MI*"],
        &["FUNCTION", "LIST", "LIBRARYNAME", "no"],
        &["FUNCTION", "LIST", "LIBRARYNAME"],
        &["FUNCTION", "LIST", "BAD"],
        &["FUNCTION", "DELETE", "no"],
        &["FUNCTION", "FLUSH", "BAD"],
        &["FUNCTION", "KILL"],
        &["FUNCTION", "RESTORE", "bad"],
        &["FUNCTION", "RESTORE", "bad", "BAD"],
        &["FUNCTION", "FLUSH", "SYNC"],
        &["SCRIPT", "KILL"],
        &["SCRIPT", "EXISTS", "a", "b"],
        &["SCRIPT", "FLUSH", "ASYNC"],
        &["SCRIPT", "FLUSH", "BAD"],
    ];
    for request in requests {
        let [ours, theirs] =
            clients.each_mut().map(|client| String::from_utf8_lossy(&client.call(request)).into_owned());
        let sorted = |reply: &str| {
            let mut lines: Vec<String> = reply.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        // The order of functions is any.
        assert_eq!(sorted(&ours), sorted(&theirs), "{request:?}");
    }
}

#[test]
fn functions_are_fetched_alone() {
    let Some(redis) = Kind::Redis.server() else { return };
    let server = repld().start();
    let mut client = server.connect();
    client.ok("SET a b");
    load(&mut client, LIBRARY);
    let mut other = redis.start();
    let file = other.directory().join("dump.rdb");
    let port = server.port().to_string();
    let status = Command::new("redis-cli").args(["-p", &port, "--functions-rdb"]).arg(&file).output();
    assert!(status.expect("redis-cli is beside redis-server").status.success());
    other.kill();
    other.restart();
    assert_eq!(listed(&mut other.connect()), listed(&mut client));
    assert_eq!(other.connect().run("DBSIZE"), ":0\r\n");
}
