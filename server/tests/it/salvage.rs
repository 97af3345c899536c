//! What a killed server leaves in its backlog: handed out to its replicas by a ghost, or continued by its own restart.
//! `tests/long/salvage-100` repeats the story with `replctl promote`, under full load.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use crate::client::{Client, encode};
use crate::server::{Kind, Launcher, Server, wait_until};

/// More than sockets hold: who is stopped while this is written lacks some of it, whatever the kernel has buffered.
const WRITES: usize = 1200;
const VALUE_BYTES: usize = 32 * 1024;

fn repld() -> Launcher {
    Kind::Repld.server().expect("it was built")
}

/// A server whose backlog has room for all that is written here.
fn roomy() -> Launcher {
    repld().directive("repl-backlog-size", "128mb")
}

fn key(number: usize) -> String {
    format!("key:{number}")
}

/// Writes the keys of these numbers, and returns when all are acknowledged.
fn write(server: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let value = format!("{number}:").repeat(VALUE_BYTES / (key(number).len() - 3));
        assert_eq!(server.call(&["SET", &key(number), &value]), b"+OK\r\n");
    }
}

fn offset(server: &mut Client) -> u64 {
    server.info("master_repl_offset").parse().expect("a number")
}

fn wait_for_offset(server: &Server, target: u64) {
    let mut client = server.connect();
    wait_until("the offset is reached", || offset(&mut client) >= target);
    assert_eq!(offset(&mut client), target);
}

fn follow(replica: &Server, port: u16) {
    replica.connect().ok(&format!("REPLICAOF 127.0.0.1 {port}"));
}

fn wait_for_link(replica: &Server) {
    let mut client = replica.connect();
    wait_until("the link is up", || client.info("master_link_status") == "up");
}

/// What a repld says that ends at once.
fn refused(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_repld")).args(arguments).stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).expect("text")
}

fn salvage(place: &Path) -> String {
    refused(&["--salvage", place.to_str().expect("text"), "--port", "0"])
}

#[test]
fn a_ghost_hands_out_what_the_replicas_had_not_received() {
    let kinds = [Kind::Repld, Kind::Redis, Kind::Valkey];
    let mut master = repld().directive("repl-backlog-size", "16mb").directive("requirepass", "s3cret").start();
    let mut client = master.connect();
    client.ok("AUTH s3cret");
    write(&mut client, 0..10);
    let replica = |kind: Kind| {
        kind.server().map(|launcher| launcher.replica_of(&master).directive("masterauth", "s3cret").start())
    };
    let replicas: Vec<Server> = kinds.into_iter().filter_map(replica).collect();
    for replica in &replicas {
        wait_for_link(replica);
    }
    client.ok("SELECT 1");
    write(&mut client, 10..20);
    let before = offset(&mut client);
    for replica in &replicas {
        wait_for_offset(replica, before);
        replica.signal(Signal::STOP);
    }
    write(&mut client, 20..WRITES);
    let end = offset(&mut client);
    let replid = client.info("master_replid");
    master.kill();
    for replica in &replicas {
        replica.signal(Signal::CONT);
        let mut downstream = replica.connect();
        wait_until("the link is down", || downstream.info("master_link_status") == "down");
        assert!(offset(&mut downstream) < end, "there is something to salvage");
    }

    let file = fs::read(master.directory().join("backlog.bin")).expect("the backlog");
    let remains = repld::salvage::open(master.directory()).expect("a dead server's backlog");
    assert_eq!(remains.end, end);
    assert_eq!(remains.beyond(replid.as_bytes(), before), Ok(end - before));
    let ghost = repld().salvaging(master.directory()).directive("requirepass", "s3cret").start();
    for replica in &replicas {
        follow(replica, ghost.port());
    }
    let mut ghostly = ghost.connect();
    ghostly.ok("AUTH s3cret");
    for replica in &replicas {
        wait_for_offset(replica, end);
        let mut downstream = replica.connect();
        assert_eq!(downstream.info("master_replid"), replid);
        assert_eq!(downstream.run("DBSIZE"), ":10\r\n");
        downstream.ok("SELECT 1");
        assert_eq!(downstream.run("DBSIZE"), format!(":{}\r\n", WRITES - 10));
        wait_until("the ghost knows", || {
            ghostly.bulk("INFO replication").contains(&format!("port={},state=online,offset={end}", replica.port()))
        });
    }
    assert_eq!(ghostly.info("sync_partial_ok"), replicas.len().to_string());
    assert_eq!(ghostly.info("sync_full"), "0");
    assert_eq!(fs::read(master.directory().join("backlog.bin")).expect("the backlog"), file);
}

/// A killed master with ten keys, and the offset of its end.
fn dead_master() -> (Server, u64) {
    let mut master = repld().start();
    let replica = repld().replica_of(&master).start();
    wait_for_link(&replica);
    let mut client = master.connect();
    write(&mut client, 0..10);
    let end = offset(&mut client);
    master.kill();
    (master, end)
}

#[test]
fn a_ghost_serves_its_history_and_nothing_else() {
    let (master, end) = dead_master();
    let directives = repld().directive("repl-ping-replica-period", "1").directive("save", "1 1");
    let ghost = directives.salvaging(master.directory()).start();
    let mut client = ghost.connect();
    assert_eq!(client.run("PING"), "+PONG\r\n");
    assert_eq!((client.info("role"), offset(&mut client)), ("master".into(), end));
    assert_eq!(client.run("ROLE"), format!("*3\r\n$6\r\nmaster\r\n:{end}\r\n*0\r\n"));
    for line in [
        "GET key:1",
        "SET a 1",
        "KEYS *",
        "FLUSHALL",
        "MULTI",
        "SELECT 1",
        "SUBSCRIBE a",
        "SAVE",
        "BGSAVE",
        "WAIT 1 0",
        "CONFIG SET repl-backlog-size 1gb",
        "REPLICAOF 127.0.0.1 1",
        "REPLICAOF NO ONE",
        "FAILOVER",
        "FAILOVER ABORT",
        "SYNC",
    ] {
        let reply = client.run(line);
        assert!(reply.starts_with("-ERR '") && reply.contains("a dead server's backlog"), "{line}: {reply}");
    }
    let replid = client.info("master_replid");
    let other = "0".repeat(40);
    for request in ["PSYNC ? -1".into(), format!("PSYNC {replid} {}", end + 2), format!("PSYNC {other} 1")] {
        let reply = client.run(&request);
        assert!(
            reply.starts_with("-NOMASTERLINK Can't SYNC in full from a dead server's backlog"),
            "{request}: {reply}"
        );
    }
    let failover = format!("PSYNC {replid} {} FAILOVER", end + 1);
    assert_eq!(client.run(&failover), "-ERR PSYNC FAILOVER can't be sent to a master.\r\n");
    // One that has everything is fed with nothing, however long it waits for the signs of life that a master sends.
    let mut fed = ghost.connect();
    fed.ok("REPLCONF capa psync2");
    fed.send(&encode(&["PSYNC", &replid, &(end + 1).to_string()])).expect("a live server");
    assert_eq!(fed.line().expect("an answer"), format!("+CONTINUE {replid}\r\n").into_bytes());
    wait_until("three seconds are over", || client.info("uptime_in_seconds").parse::<u32>().is_ok_and(|s| s >= 3));
    assert_eq!((client.info("connected_slaves"), offset(&mut client)), ("1".into(), end));
    fed.finish_sending();
    assert_eq!(fed.rest().expect("the connection's end"), b"");
    client.send(b"SHUTDOWN\r\n").expect("a live server");
    let mut ghost = ghost;
    ghost.wait_for_exit();
    assert!(!ghost.directory().join("dump.rdb").exists());
}

#[test]
fn what_cannot_be_trusted_is_refused_with_a_reason() {
    let (mut master, _) = dead_master();
    let path = master.directory().join("backlog.bin");
    let file = fs::read(&path).expect("the backlog");
    let damaged = |name: &str, file: &[u8]| {
        let path = master.directory().join(name);
        fs::write(&path, file).expect("a written file");
        salvage(&path)
    };
    assert!(damaged("short", &file[..file.len() - 1]).contains("bytes has"));
    assert!(damaged("foreign", &[b'x'; 8192]).contains("not a backlog file"));
    assert!(damaged("empty", b"").contains("a backlog file of 4096 bytes has 0"));
    let nothing = tempfile::tempdir().expect("a directory");
    assert!(salvage(nothing.path()).contains("hint: give the data directory of a repld that had a replica"));
    assert!(refused(&["--salvage"]).contains("needs the data directory"));

    // A server that lives, even one that was stopped, is not dead.
    master.restart();
    let replica = repld().replica_of(&master).start();
    wait_for_link(&replica);
    master.signal(Signal::STOP);
    let refusal = salvage(master.directory());
    assert!(refusal.contains("of a server that is alive\nhint: "), "{refusal}");
    master.signal(Signal::CONT);
}

#[test]
fn a_killed_master_with_a_dump_file_continues_its_own_history() {
    let mut master = roomy().start();
    let mut client = master.connect();
    write(&mut client, 0..10);
    let kinds = [Kind::Repld, Kind::Redis, Kind::Valkey];
    let replicas: Vec<Server> =
        kinds.into_iter().filter_map(|kind| Some(kind.server()?.replica_of(&master).start())).collect();
    replicas.iter().for_each(wait_for_link);
    client.ok("SELECT 1");
    client.ok("SET gone 1 PX 1");
    write(&mut client, 10..20);
    client.run("BGSAVE");
    write(&mut client, 20..40);
    wait_until("the dump file is there", || client.info("rdb_saves") == "1");
    client.ok("SET late 1 PX 1000000");
    write(&mut client, 40..50);
    for replica in &replicas {
        replica.signal(Signal::STOP);
    }
    write(&mut client, 50..WRITES);
    let (end, replid) = (offset(&mut client), client.info("master_replid"));
    master.kill();
    master.restart();
    for replica in &replicas {
        replica.signal(Signal::CONT);
    }
    let mut client = master.connect();
    wait_until("it is loaded", || client.run("PING") == "+PONG\r\n");
    assert_eq!(
        (client.info("master_replid2"), client.info("second_repl_offset")),
        (replid.clone(), (end + 1).to_string())
    );
    assert_ne!(client.info("master_replid"), replid);
    assert_eq!(client.run("DBSIZE"), ":10\r\n");
    client.ok("SELECT 1");
    for number in 10..WRITES {
        assert_eq!(client.run(&format!("EXISTS {}", key(number))), ":1\r\n", "acknowledged write {number}");
    }
    assert_eq!(client.run("EXISTS gone late"), ":1\r\n");
    write(&mut client, WRITES..WRITES + 10);
    for replica in &replicas {
        let mut downstream = replica.connect();
        wait_until("the replica has caught up", || {
            downstream.info("master_link_status") == "up" && offset(&mut downstream) == offset(&mut client)
        });
        downstream.ok("SELECT 1");
        assert_eq!(downstream.run("DBSIZE"), client.run("DBSIZE"));
    }
    assert_eq!((client.info("sync_full"), client.info("sync_partial_ok")), ("0".into(), replicas.len().to_string()));

    // And once more, with the same dump file and a history that has had two names since.
    let size = client.run("DBSIZE");
    master.kill();
    master.restart();
    let mut client = master.connect();
    wait_until("it is loaded", || client.run("PING") == "+PONG\r\n");
    client.ok("SELECT 1");
    assert_eq!(client.run("DBSIZE"), size);
    replicas.iter().for_each(wait_for_link);
    assert_eq!(client.info("sync_full"), "0");
}

#[test]
fn a_killed_replica_with_a_dump_file_comes_back_with_everything_and_asks_for_the_rest() {
    let master = roomy().start();
    let mut replica = roomy().replica_of(&master).start();
    wait_for_link(&replica);
    let mut client = master.connect();
    write(&mut client, 0..10);
    wait_for_offset(&replica, offset(&mut client));
    replica.connect().ok("SAVE");
    write(&mut client, 10..20);
    let before = offset(&mut client);
    wait_for_offset(&replica, before);
    replica.kill();
    write(&mut client, 20..30);
    replica.restart();
    wait_for_link(&replica);
    wait_for_offset(&replica, offset(&mut client));
    let asked = format!("Trying a partial resynchronization (request {}:{})", client.info("master_replid"), before + 1);
    assert!(replica.log().contains(&asked), "{asked}\n{}", replica.log());
    assert_eq!(client.info("sync_full"), "1");
}

#[test]
fn a_backlog_that_cannot_be_continued_is_kept() {
    let (mut master, end) = dead_master();
    master.restart();
    let aside = master.directory().join("backlog.bin.old");
    assert!(aside.exists() && !master.directory().join("backlog.bin").exists());
    let kept = "can't be continued: the data that were loaded do not name their history. It is kept: repld --salvage ";
    assert!(master.log().contains(kept), "{}", master.log());
    let replica = repld().replica_of(&master).start();
    wait_for_link(&replica);
    let ghost = repld().salvaging(&aside).start();
    assert_eq!(offset(&mut ghost.connect()), end);
}

#[test]
fn a_clean_shutdown_leaves_a_ring_from_which_replicas_go_on() {
    let mut master = roomy().directive("save", "3600 1").start();
    let replica = repld().replica_of(&master).start();
    wait_for_link(&replica);
    let mut client = master.connect();
    write(&mut client, 0..10);
    wait_for_offset(&replica, offset(&mut client));
    replica.signal(Signal::STOP);
    write(&mut client, 10..20);
    client.send(b"SHUTDOWN NOW\r\n").expect("a live server");
    master.wait_for_exit();
    master.restart();
    replica.signal(Signal::CONT);
    wait_for_link(&replica);
    let mut client = master.connect();
    assert_eq!(client.run("DBSIZE"), ":20\r\n");
    wait_for_offset(&replica, offset(&mut client));
    assert_eq!(client.info("sync_full"), "0");
}
