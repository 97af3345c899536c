//! Deadlines of hash fields, between repld, Valkey, which has them, and Redis 7.0, which has not.

use crate::client::{Client, strings};
use crate::server::{Kind, Launcher, Server, wait_until};

fn repld() -> Launcher {
    Kind::Repld.server().expect("it was just built")
}

/// Waits until a replica has applied what its master has said.
fn wait_until_equal(master: &Server, replica: &Server) {
    let (mut upstream, mut downstream) = (master.connect(), replica.connect());
    wait_until("the replica has everything", || {
        downstream.info("master_link_status") == "up"
            && downstream.info("slave_repl_offset") == upstream.info("master_repl_offset")
    });
}

/// Fields, values and deadlines of a hash; the fields in an order that means something.
fn contents(client: &mut Client, key: &str) -> Vec<(String, String, String)> {
    let fields = client.call(&["HKEYS", key]);
    let mut fields: Vec<String> =
        strings(&fields).iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    fields.sort();
    let mut about = |field: String| {
        let value = client.run(&format!("HGET {key} {field}"));
        let deadline = client.run(&format!("HPEXPIRETIME {key} FIELDS 1 {field}"));
        (field, value, deadline)
    };
    fields.into_iter().map(&mut about).collect()
}

const REQUESTS: &str = "
HSET h a 1 b 2 c 3 n 5
HEXPIRE h 1000 FIELDS 2 a zz
HEXPIRE none 100 FIELDS 2 a zz
HEXPIRE h 1000 NX FIELDS 1 a
HEXPIRE h 10 GT FIELDS 1 a
HEXPIRE h 2000 GT FIELDS 2 a b
HEXPIRE h 500 LT FIELDS 2 a b
HEXPIRE h 500 XX FIELDS 2 a c
HEXPIRE h -1 FIELDS 1 a
HEXPIRE h x FIELDS 1 a
HEXPIRE h 10 FIELDS 0 a
HEXPIRE h 10 FIELDS 2 a
HEXPIRE h 10 FIELDS 1 a b
HEXPIRE h 10 FIELDS x a
HEXPIRE h 10 FLD 1 a
HEXPIRE h 10 NX XX FIELDS 1 a
HEXPIRE h 9223372036854775807 FIELDS 1 a
HEXPIRE h 10 FIELDS 1 a NX
HTTL h FIELDS 2 c zz
HTTL none FIELDS 2 a b
HPERSIST h FIELDS 3 a c zz
HPERSIST none FIELDS 1 a
HPEXPIREAT h 2000000000400 FIELDS 1 a
HEXPIRETIME h FIELDS 1 a
HPEXPIREAT h 2000000000600 FIELDS 1 a
HEXPIRETIME h FIELDS 1 a
HPEXPIRETIME h FIELDS 2 a zz
HEXPIREAT h 2000000000 FIELDS 1 b
HPEXPIRETIME h FIELDS 1 b
HEXPIRE h 0 FIELDS 1 c
HPEXPIREAT h 1 FIELDS 1 n
HGETALL h
HSET h a 1 b 2 c 3 n 5
HPEXPIRETIME h FIELDS 2 a b
HGETEX h FIELDS 2 a zz
HGETEX h EXAT 2000000000 FIELDS 2 a zz
HPEXPIRETIME h FIELDS 1 a
HGETEX h PERSIST FIELDS 2 a zz
HTTL h FIELDS 1 a
HGETEX h PXAT 1 FIELDS 2 a zz
HGETEX h EX 0 FIELDS 1 b
HGETEX h EX -1 FIELDS 1 b
HGETEX none FIELDS 1 b
HGETEX h FIELDS 0
HGETEX h EX 10 PX 10 FIELDS 1 b
HGETEX h FOO FIELDS 1 b
HGETEX h FIELDS 1 b EX 10
HSETEX h EXAT 2000000000 FIELDS 2 x 1 y 2
HPEXPIRETIME h FIELDS 2 x y
HSETEX h KEEPTTL FIELDS 1 x 2
HPEXPIRETIME h FIELDS 2 x y
HSETEX h FIELDS 1 x 3
HPEXPIRETIME h FIELDS 2 x y
HSETEX h FNX EX 10 FIELDS 2 x 1 w 2
HSETEX h FXX EX 10 FIELDS 2 x 1 w 2
HSETEX h FXX EX 10 FIELDS 2 x 1 y 2
HSETEX h NX FIELDS 1 x 3
HSETEX h XX FIELDS 1 x 3
HSETEX none2 XX FIELDS 1 x 3
HSETEX h PXAT 1 FIELDS 1 q 3
HSETEX h FIELDS 2 x 3
HSETEX h FIELDS 1 x 3 y
HSETEX none3 PXAT 1 FIELDS 1 q 3
EXISTS none3
HGETDEL h FIELDS 2 x zz
HGETDEL h FIELDS 0 x
HGETDEL h FLD 1 x
HGETDEL none FIELDS 1 x
SET str v
HEXPIRE str 10 FIELDS 1 a
HTTL str FIELDS 1 a
HPERSIST str FIELDS 1 a
HGETEX str FIELDS 1 a
HGETDEL str FIELDS 1 a
HSETEX str FIELDS 1 a b
HEXPIREAT h 2000000000 FIELDS 1 n
HINCRBY h n 1
HINCRBYFLOAT h n 1.5
HPEXPIRETIME h FIELDS 1 n
HSET h n 3
HPEXPIRETIME h FIELDS 1 n
HSETNX h new 1
HEXPIRE h
HTTL h FIELDS
HGETDEL h FIELDS 1
HEXPIREAT h 2000000000 FIELDS 2 n new
COPY h copied
RENAME copied renamed
HPEXPIRETIME renamed FIELDS 3 n new c
HDEL renamed n
HLEN renamed
";

#[test]
fn replies_are_those_of_valkey_and_a_replica_has_the_same() {
    let Some(valkey) = Kind::Valkey.server() else { return };
    for (master, replica) in [(repld(), valkey.clone()), (valkey.clone(), repld()), (repld(), repld())] {
        let (master, alone) = (master.start(), valkey.clone().start());
        let replica = replica.replica_of(&master).start();
        wait_until_equal(&master, &replica);
        let (mut ours, mut theirs) = (master.connect(), alone.connect());
        for request in REQUESTS.lines().filter(|line| !line.is_empty()) {
            let (reply, expected) = (ours.run(request), theirs.run(request));
            if !request.starts_with("HGETALL") {
                assert_eq!(reply, expected, "{request}");
            }
        }
        wait_until_equal(&master, &replica);
        for key in ["h", "renamed"] {
            assert_eq!(contents(&mut replica.connect(), key), contents(&mut ours, key));
        }
        assert!(!replica.log().contains("CRITICAL"), "{}", replica.log());
    }
}

#[test]
fn a_full_sync_and_a_restart_keep_deadlines() {
    let Some(valkey) = Kind::Valkey.server() else { return };
    for (master, replica) in [(repld(), valkey.clone()), (valkey.clone(), repld()), (repld(), repld())] {
        for mode in ["yes", "no"] {
            let mut master = master.clone().directive("repl-diskless-sync", mode).start();
            let mut client = master.connect();
            client.run("HSET h a 1 b 2 c 3");
            client.run("HPEXPIREAT h 2000000000123 FIELDS 1 a");
            client.run("HPEXPIREAT h 2000000000456 FIELDS 1 b");
            client.ok("FUNCTION FLUSH");
            let replica = replica.clone().replica_of(&master).start();
            wait_until_equal(&master, &replica);
            let before = contents(&mut client, "h");
            assert_eq!(before[1].2, "*1\r\n:2000000000456\r\n");
            assert_eq!(contents(&mut replica.connect(), "h"), before, "{mode}");
            client.ok("SAVE");
            master.kill();
            master.restart();
            assert_eq!(contents(&mut master.connect(), "h"), before, "{mode}");
        }
    }
}

#[test]
fn the_master_removes_what_is_over_and_a_replica_hides_it_until_then() {
    let Some(valkey) = Kind::Valkey.server() else { return };
    for (master, replica) in [(repld(), valkey.clone()), (valkey.clone(), repld()), (repld(), repld())] {
        let master = master.directive("enable-debug-command", "yes").start();
        let replica = replica.replica_of(&master).start();
        let (mut upstream, mut downstream) = (master.connect(), replica.connect());
        wait_until_equal(&master, &replica);
        upstream.ok("DEBUG SET-ACTIVE-EXPIRE 0");
        upstream.run("HSET h a 1 b 2");
        upstream.run("HSET gone a 1");
        upstream.run("HPEXPIRE h 50 FIELDS 1 a");
        upstream.run("HPEXPIRE gone 50 FIELDS 1 a");
        wait_until_equal(&master, &replica);
        wait_until("its time is over", || {
            upstream.run("HGET h a") == "$-1\r\n" && downstream.run("HGET h a") == "$-1\r\n"
        });
        for client in [&mut upstream, &mut downstream] {
            assert_eq!(client.run("HGETALL h"), "*2\r\n$1\r\nb\r\n$1\r\n2\r\n");
            assert_eq!(client.run("HEXISTS h a"), ":0\r\n");
            assert_eq!(client.run("HTTL h FIELDS 1 a"), "*1\r\n:-2\r\n");
            assert_eq!(client.run("HRANDFIELD h 5"), "*1\r\n$1\r\nb\r\n");
            assert_eq!(client.run("HSCAN h 0"), "*2\r\n$1\r\n0\r\n*2\r\n$1\r\nb\r\n$1\r\n2\r\n");
        }
        assert_eq!(downstream.run("HLEN h"), ":2\r\n", "it waits for its master");
        upstream.ok("DEBUG SET-ACTIVE-EXPIRE 1");
        wait_until("it is told", || downstream.run("HLEN h") == ":1\r\n" && downstream.run("EXISTS gone") == ":0\r\n");
        upstream.run("HINCRBY h a 5");
        wait_until_equal(&master, &replica);
        assert_eq!(downstream.bulk("HGET h a"), "5");
        assert_eq!(downstream.run("HTTL h FIELDS 1 a"), "*1\r\n:-1\r\n");
    }
}

#[test]
fn a_promoted_replica_goes_on_to_remove_fields() {
    let (master, promoted) = (repld().start(), repld().start());
    promoted.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
    // The deadlines begin when the link is up.
    wait_until_equal(&master, &promoted);
    let mut client = master.connect();
    client.run("HSET h a 1 b 2");
    client.run("HSETEX other PX 500 FIELDS 1 a 1");
    client.run("HPEXPIRE h 500 FIELDS 1 a");
    wait_until_equal(&master, &promoted);
    promoted.connect().ok("REPLICAOF NO ONE");
    let mut client = promoted.connect();
    wait_until("both are gone", || client.run("HLEN h") == ":1\r\n" && client.run("EXISTS other") == ":0\r\n");
    assert_eq!(client.info("expired_subkeys"), "2");
}

#[test]
fn a_server_that_cannot_hold_deadlines_gets_the_rest() {
    let Some(redis) = Kind::Redis.server() else { return };
    for mode in ["yes", "no"] {
        let master = repld().directive("repl-diskless-sync", mode).directive("rdb-version", "11").start();
        let mut client = master.connect();
        client.run("HSET h a 1 b 2");
        client.run("HEXPIRE h 1000 FIELDS 1 a");
        client.run("SET k v");
        let old = redis.clone().replica_of(&master).start();
        let new = repld().replica_of(&master).start();
        wait_until_equal(&master, &old);
        wait_until_equal(&master, &new);
        assert_eq!(old.connect().bulk("HGET h a"), "1");
        assert_eq!(contents(&mut new.connect(), "h"), contents(&mut client, "h"));
        assert!(master.log().contains("does not load deadlines of hash fields"), "{}", master.log());
        client.run("HDEL h a");
        wait_until_equal(&master, &old);
        assert_eq!(old.connect().run("HEXISTS h a"), ":0\r\n");
    }
}

#[test]
fn a_value_travels_alone_with_its_deadlines() {
    let server = repld().start();
    let mut client = server.connect();
    client.run("HSET h a 1 b 2");
    client.run("HPEXPIREAT h 2000000000123 FIELDS 1 a");
    let dump = client.call(&["DUMP", "h"]);
    let payload = strings(&dump)[0];
    assert_eq!(client.call(&[b"RESTORE".as_slice(), b"other", b"0", payload]), b"+OK\r\n");
    assert_eq!(contents(&mut client, "other"), contents(&mut client, "h"));
    let Some(valkey) = Kind::Valkey.server() else { return };
    // Its payloads are laid out otherwise, and read all the same.
    let theirs = valkey.start();
    theirs.connect().run("HSET h a 1 b 2");
    theirs.connect().run("HPEXPIREAT h 2000000000123 FIELDS 1 a");
    let dump = theirs.connect().call(&["DUMP", "h"]);
    let payload = strings(&dump)[0];
    assert_eq!(client.call(&[b"RESTORE".as_slice(), b"third", b"0", payload]), b"+OK\r\n");
    assert_eq!(contents(&mut client, "third"), contents(&mut client, "h"));
}

#[test]
fn an_append_only_file_keeps_deadlines_and_functions() {
    const LIBRARY: &str = "#!lua name=mine\nredis.register_function('f', function() return 1 end)";
    for preamble in ["yes", "no"] {
        let server = repld().directive("appendonly", "yes").directive("aof-use-rdb-preamble", preamble);
        let mut server = server.start();
        let mut client = server.connect();
        client.run("HSET h a 1 b 2");
        client.run("HPEXPIREAT h 2000000000123 FIELDS 1 a");
        client.call(&["FUNCTION", "LOAD", LIBRARY]);
        client.run("BGREWRITEAOF");
        wait_until("it is rewritten", || {
            client.info("aof_rewrite_in_progress") == "0" && client.info("aof_rewrite_scheduled") == "0"
        });
        client.run("HPEXPIREAT h 2000000000456 FIELDS 1 b");
        let before = (contents(&mut client, "h"), client.call(&["FUNCTION", "LIST", "WITHCODE"]));
        server.kill();
        server.restart();
        let mut client = server.connect();
        let after = (contents(&mut client, "h"), client.call(&["FUNCTION", "LIST", "WITHCODE"]));
        assert_eq!(after, before, "aof-use-rdb-preamble {preamble}");
    }
}
