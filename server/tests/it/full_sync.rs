//! Full syncs that are slow, broken, shared and large: who has which data when, and what is said of it meanwhile.
//!
//! They are made slow by `rdb-key-save-delay` and `key-load-delay`, as in Redis's own tests.

use rustix::process::Signal;

use crate::client::{Client, encode};
use crate::server::{Kind, Launcher, Server, wait_until};

/// So many that several slices of a snapshot are sent.
const KEYS: usize = 3000;
const VALUE_BYTES: usize = 200;

/// Long enough for a sync not to end before a test wants it to, in microseconds per key.
const SLOWLY: &str = "2000";

fn repld() -> Launcher {
    Kind::Repld.server().expect("it was just built")
}

/// Gives a server keys `key:0…` with values that begin with `word`, which cannot be compressed away.
fn fill(server: &Server, word: &str) {
    let mut client = server.connect();
    let mut random = crate::random::Random::new(7);
    let mut requests = Vec::new();
    for number in 0..KEYS {
        let value: String = (0..VALUE_BYTES / 16).map(|_| format!("{:016x}", random.next())).collect();
        requests.extend(encode(&["SET", &format!("key:{number}"), &format!("{word}{value}")]));
    }
    client.send(&requests).expect("a live server");
    for _ in 0..KEYS {
        assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
    }
}

fn follow(replica: &Server, master: &Server) {
    replica.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
}

fn size(server: &Server) -> String {
    server.connect().run("DBSIZE")
}

fn wait_for_link(replica: &Server) {
    let mut client = replica.connect();
    wait_until("the link is up", || client.info("master_link_status") == "up");
}

fn wait_until_equal(master: &Server, replica: &Server) {
    wait_for_link(replica);
    let (mut upstream, mut downstream) = (master.connect(), replica.connect());
    wait_until("the replica has everything", || {
        downstream.info("slave_repl_offset") == upstream.info("master_repl_offset")
    });
    assert!(upstream.data(0) == downstream.data(0), "the data differ");
}

/// Waits until some of the image has come, and not all.
fn wait_for_transfer(replica: &mut Client) {
    wait_until("a part of the image has come", || {
        replica.info("master_sync_in_progress") == "1"
            && replica.info("master_sync_read_bytes").parse().is_ok_and(|bytes: u64| bytes > 0)
    });
}

/// Whether so many replicas wait for a snapshot.
fn waiting(client: &mut Client, replicas: usize) -> bool {
    client.bulk("INFO replication").matches("state=wait_bgsave").count() == replicas
}

fn count(server: &Server, words: &str) -> usize {
    server.log().matches(words).count()
}

/// Both as the master, for it is the replica that is looked at.
fn masters() -> Vec<Launcher> {
    [Kind::Repld, Kind::Redis].into_iter().filter_map(Kind::server).collect()
}

const LOADING: &str = "-LOADING Redis is loading the dataset in memory\r\n";

const MODES: [&str; 3] = ["disabled", "on-empty-db", "swapdb"];

#[test]
fn a_first_sync_that_breaks_leaves_nothing_and_says_so() {
    for master in masters() {
        for mode in MODES {
            let mut master = master.clone().directive("rdb-key-save-delay", SLOWLY).start();
            fill(&master, "new");
            let replica = repld().directive("repl-diskless-load", mode).start();
            follow(&replica, &master);
            let mut client = replica.connect();
            wait_for_transfer(&mut client);
            assert_eq!(client.info("master_link_status"), "down", "{mode}");
            master.kill();
            wait_until("the link is seen to be broken", || client.info("master_sync_in_progress") == "0");
            wait_until("nothing is loaded any more", || client.info("loading") == "0");
            assert_eq!(client.info("master_link_status"), "down", "{mode}");
            assert_eq!(client.info("repld_first_sync_finished"), "0", "{mode}");
            assert_eq!(client.info("slave_priority"), "0", "{mode}: no Sentinel may choose it");
            assert_eq!(client.run("DBSIZE"), ":0\r\n", "{mode}");
            assert!(client.run("ROLE").contains("connect"), "{mode}");
            assert!(!replica.directory().join("dump.rdb").exists(), "{mode}: half an image is none");
        }
    }
}

#[test]
fn a_sync_that_breaks_leaves_the_data_of_before() {
    for master in masters() {
        for mode in MODES {
            let mut master = master.clone().directive("rdb-key-save-delay", SLOWLY).start();
            fill(&master, "new");
            let replica = repld().directive("repl-diskless-load", mode).start();
            fill(&replica, "old");
            let before = replica.connect().data(0);
            let history = replica.connect().info("master_replid");
            follow(&replica, &master);
            let mut client = replica.connect();
            wait_for_transfer(&mut client);
            // Beside an image that is being loaded, data of another history are nothing to be served.
            let answer = if mode == "swapdb" { LOADING } else { ":3000\r\n" };
            assert_eq!(client.run("DBSIZE"), answer, "{mode}");
            assert_eq!(client.info("async_loading"), "0", "{mode}");
            master.kill();
            wait_until("nothing is loaded any more", || client.run("DBSIZE") == ":3000\r\n");
            assert!(client.data(0) == before, "{mode}");
            assert_eq!(client.info("master_replid"), history, "{mode}");
            assert_eq!(client.info("repld_first_sync_finished"), "0", "{mode}: they are not this master's");
        }
    }
}

#[test]
fn a_replica_that_starts_with_data_may_be_promoted_until_they_turn_out_to_be_others() {
    let mut master = repld().start();
    fill(&master, "old");
    let mut replica = repld().replica_of(&master).start();
    wait_until_equal(&master, &replica);
    replica.connect().ok("SAVE");
    master.kill();
    replica.restart();
    let mut client = replica.connect();
    assert_eq!(client.info("master_link_status"), "down");
    assert_eq!(client.info("slave_priority"), "100", "what it has is whole, and its master is gone");

    let other = repld().directive("rdb-key-save-delay", SLOWLY).start();
    fill(&other, "new");
    follow(&replica, &other);
    wait_for_transfer(&mut client);
    assert_eq!(client.info("slave_priority"), "0", "what it has is not what the others have");
}

#[test]
fn of_the_same_history_old_data_are_served_until_the_new_ones_are_whole() {
    for master in masters() {
        let master = master.directive("repl-backlog-size", "16kb").start();
        fill(&master, "old");
        let replica = repld().directive("repl-diskless-load", "swapdb").replica_of(&master).start();
        wait_until_equal(&master, &replica);
        master.connect().ok(&format!("CONFIG SET rdb-key-save-delay {SLOWLY}"));
        // It misses more than the backlog has.
        replica.signal(Signal::STOP);
        assert_eq!(master.connect().run("CLIENT KILL TYPE replica"), ":1\r\n");
        fill(&master, "new");
        replica.signal(Signal::CONT);

        let mut client = replica.connect();
        wait_for_transfer(&mut client);
        wait_until("it loads beside the old data", || client.info("async_loading") == "1");
        assert_eq!(client.info("loading"), "0");
        let value = client.run("GET key:1");
        assert!(value.contains("\r\nold"), "{value}");
        assert!(client.run("SET a b").starts_with("-READONLY"));
        assert_eq!(client.info("slave_priority"), "100", "it has data to be promoted with");
        master.connect().ok("CONFIG SET rdb-key-save-delay 0");
        assert_eq!(master.connect().run("CLIENT KILL TYPE replica"), ":1\r\n", "the slow one is of no use any more");
        wait_until_equal(&master, &replica);
        assert!(client.run("GET key:1").contains("\r\nnew"));
        assert_eq!(client.info("async_loading"), "0");
    }
}

#[test]
fn a_slow_load_answers_as_redis_does() {
    for mode in MODES {
        let master = repld().start();
        fill(&master, "new");
        let replica = repld().directive("repl-diskless-load", mode).directive("key-load-delay", SLOWLY).start();
        fill(&replica, "old");
        replica.connect().ok("FLUSHALL");
        follow(&replica, &master);
        let mut client = replica.connect();
        wait_until("it loads", || client.info("loading") == "1");
        assert_eq!(client.run("GET key:1"), LOADING, "{mode}");
        assert!(client.info("loading_start_time").parse::<u64>().is_ok_and(|time| time > 1_600_000_000), "{mode}");
        assert_eq!(client.info("master_link_status"), "down", "{mode}");
        wait_until("it gets on", || client.info("loading_loaded_bytes").parse().is_ok_and(|bytes: u64| bytes > 0));
        client.ok("CONFIG SET key-load-delay 0");
        wait_until_equal(&master, &replica);
        assert_eq!(client.info("loading"), "0", "{mode}");
        assert_eq!(client.info("rdb_last_load_keys_loaded"), KEYS.to_string(), "{mode}");
    }
}

#[test]
fn a_load_ends_when_another_upstream_is_chosen() {
    for mode in MODES {
        let master = repld().start();
        fill(&master, "new");
        let replica = repld().directive("repl-diskless-load", mode).directive("key-load-delay", SLOWLY).start();
        follow(&replica, &master);
        let mut client = replica.connect();
        wait_until("it loads", || client.info("loading") == "1");
        client.ok("REPLICAOF NO ONE");
        assert_eq!(client.info("loading"), "0", "{mode}");
        assert_eq!(client.run("DBSIZE"), ":0\r\n", "{mode}");
        client.ok("SET a b");
    }
}

#[test]
fn a_start_with_many_keys_answers_while_it_loads() {
    let mut server = repld().start();
    fill(&server, "old");
    server.connect().ok("SAVE");
    server.connect().ok("CONFIG SET key-load-delay 1000");
    server.connect().ok("CONFIG REWRITE");
    server.kill();
    // Whether it starts is told by an answer to PING, which is LOADING now.
    let restarted = std::thread::spawn(move || {
        server.restart();
        server
    });
    let server = restarted.join().expect("it starts");
    assert_eq!(size(&server), ":3000\r\n");
}

#[test]
fn replicas_that_come_together_share_one_snapshot() {
    let master = repld().directive("repl-diskless-sync-delay", "1").start();
    fill(&master, "new");
    let replicas: Vec<Server> = (0..3).map(|_| repld().replica_of(&master).start()).collect();
    replicas.iter().for_each(|replica| wait_until_equal(&master, replica));
    assert_eq!(count(&master, "Starting BGSAVE for SYNC"), 1);
    assert_eq!(count(&master, "Delay next BGSAVE for diskless SYNC"), 1);
}

#[test]
fn no_more_replicas_are_waited_for_than_are_said_to_be_enough() {
    let master = repld().directive("repl-diskless-sync-delay", "1000");
    let master = master.directive("repl-diskless-sync-max-replicas", "2").start();
    fill(&master, "new");
    let one = repld().replica_of(&master).start();
    wait_until("it waits for company", || waiting(&mut master.connect(), 1));
    let two = repld().replica_of(&master).start();
    wait_until_equal(&master, &one);
    wait_until_equal(&master, &two);
    assert_eq!(count(&master, "Starting BGSAVE for SYNC"), 1);
}

#[test]
fn a_save_and_a_sync_wanted_together_are_one_walk() {
    let master = repld().directive("repl-diskless-sync-delay", "1000").start();
    fill(&master, "new");
    let replica = repld().replica_of(&master).start();
    wait_until("it waits for company", || waiting(&mut master.connect(), 1));
    let mut client = master.connect();
    assert_eq!(client.run("BGSAVE"), "+Background saving started\r\n");
    wait_until_equal(&master, &replica);
    wait_until("it is saved", || client.info("rdb_bgsave_in_progress") == "0");
    assert_eq!(client.info("rdb_saves"), "1");
    assert_eq!(count(&master, "Writes have made the snapshot copy"), 1);
    assert!(master.directory().join("dump.rdb").exists());
}

#[test]
fn who_comes_while_a_save_runs_has_its_file() {
    let master = repld().directive("repl-diskless-sync", "no").directive("repl-backlog-size", "10mb").start();
    // There is a stream to go on with from the first replica on.
    let first = repld().replica_of(&master).start();
    wait_until_equal(&master, &first);
    fill(&master, "new");
    let saves: usize = master.connect().info("rdb_saves").parse().expect("a number");
    master.connect().ok("CONFIG SET rdb-key-save-delay 300");
    master.connect().run("BGSAVE");
    let late: Vec<Server> = (0..2).map(|_| repld().replica_of(&master).start()).collect();
    let mut client = master.connect();
    wait_until("they wait for it", || waiting(&mut client, 2));
    assert_eq!(client.info("rdb_bgsave_in_progress"), "1");
    // The stream goes on from where the save began, in whatever database.
    client.ok("SELECT 2");
    client.ok("SET after save");
    late.iter().for_each(|replica| wait_until_equal(&master, replica));
    for replica in &late {
        let mut client = replica.connect();
        client.ok("SELECT 2");
        assert_eq!(client.bulk("GET after"), "save");
    }
    assert_eq!(client.info("rdb_saves"), (saves + 1).to_string());
}

#[test]
fn a_save_asked_for_while_a_sync_runs_is_made_afterwards() {
    let master = repld().directive("rdb-key-save-delay", "300").start();
    fill(&master, "new");
    let replica = repld().replica_of(&master).start();
    let mut client = master.connect();
    wait_until("the sync runs", || client.info("rdb_bgsave_in_progress") == "1");
    assert_eq!(client.run("SAVE"), "-ERR Background save already in progress\r\n");
    assert_eq!(client.run("BGSAVE"), "+Background saving scheduled\r\n");
    wait_until_equal(&master, &replica);
    wait_until("it is saved", || client.info("rdb_saves") == "1");
}

#[test]
fn a_snapshot_ends_when_all_its_replicas_have_gone() {
    let master = repld().directive("rdb-key-save-delay", "10000").start();
    fill(&master, "new");
    let mut replicas: Vec<Server> = (0..2).map(|_| repld().replica_of(&master).start()).collect();
    let mut client = master.connect();
    wait_until("the sync runs", || client.info("rdb_bgsave_in_progress") == "1");
    replicas.iter_mut().for_each(Server::kill);
    // It would take half a minute otherwise.
    wait_until("it is given up", || client.info("rdb_bgsave_in_progress") == "0");
    assert_eq!(count(&master, "all its replicas have gone"), 1);
}

#[test]
fn a_replica_that_takes_nothing_is_cut_and_the_others_get_everything() {
    let master = repld().directive("repl-timeout", "4").directive("repl-diskless-sync-delay", "1").start();
    // More than the connection's buffers hold.
    let value = "v".repeat(1 << 20);
    for number in 0..60 {
        master.connect().call(&["SET".to_string(), format!("key:{number}"), format!("{number}{value}")]);
    }
    master.connect().ok("CONFIG SET rdbcompression no");
    // It asks for everything and then reads nothing.
    let mut silent = master.connect();
    silent.send(b"REPLCONF capa eof capa psync2\r\nPSYNC ? -1\r\n").expect("a live server");
    let replicas: Vec<Server> = (0..2).map(|_| repld().replica_of(&master).start()).collect();
    replicas.iter().for_each(|replica| wait_until_equal(&master, replica));
    assert_eq!(count(&master, "Disconnecting timedout replica (full sync)"), 1);
    assert_eq!(count(&master, "Starting BGSAVE for SYNC"), 1);
}

#[test]
fn a_save_is_given_up_when_the_data_are_exchanged() {
    let master = repld().start();
    fill(&master, "new");
    let replica = repld().start();
    fill(&replica, "old");
    let mut client = replica.connect();
    client.ok("CONFIG SET rdb-key-save-delay 1000");
    assert_eq!(client.run("BGSAVE"), "+Background saving started\r\n");
    follow(&replica, &master);
    wait_until_equal(&master, &replica);
    wait_until("the save has ended", || client.info("rdb_bgsave_in_progress") == "0");
    assert_eq!(client.info("rdb_last_bgsave_status"), "err");
    // What is in its place is the upstream's image.
    let mut replica = replica;
    replica.connect().ok("CONFIG SET rdb-key-save-delay 0");
    replica.kill();
    drop(master);
    replica.restart();
    assert_eq!(size(&replica), ":3000\r\n");
}

#[test]
fn writes_during_a_snapshot_are_counted_as_pre_images() {
    let server = repld().directive("rdb-key-save-delay", "300").start();
    fill(&server, "old");
    let mut client = server.connect();
    client.run("BGSAVE");
    fill(&server, "new");
    wait_until("it is saved", || client.info("rdb_bgsave_in_progress") == "0");
    let copied: u64 = client.info("rdb_last_cow_size").parse().expect("a number");
    assert!(copied > 0);
    let mut server = server;
    server.kill();
    server.restart();
    assert!(server.connect().run("GET key:2999").contains("\r\nold"), "the file is of the moment it was begun");
}

#[test]
fn a_value_of_a_hundred_megabytes_is_synced() {
    for master in masters() {
        for mode in MODES {
            let master = master.clone().start();
            let mut client = master.connect();
            assert_eq!(client.run("SETRANGE big 104857599 x"), ":104857600\r\n");
            let replica = repld().directive("repl-diskless-load", mode).replica_of(&master).start();
            wait_for_link(&replica);
            assert_eq!(replica.connect().run("STRLEN big"), ":104857600\r\n", "{mode}");
        }
    }
}

#[test]
fn a_file_that_was_for_replicas_alone_is_given_up_with_them() {
    let master = repld().directive("repl-diskless-sync", "no").directive("rdb-key-save-delay", "100000").start();
    master.connect().ok("CONFIG SET save ''");
    fill(&master, "new");
    let replicas = [repld().replica_of(&master).start(), repld().replica_of(&master).start()];
    let mut client = master.connect();
    wait_until("both wait", || waiting(&mut client, 2));
    replicas[0].connect().ok("REPLICAOF NO ONE");
    wait_until("one has gone", || waiting(&mut client, 1));
    assert_eq!(client.info("rdb_bgsave_in_progress"), "1");
    replicas[1].connect().ok("REPLICAOF NO ONE");
    wait_until("it is given up", || client.info("rdb_bgsave_in_progress") == "0");
    assert_eq!(client.info("rdb_last_bgsave_status"), "ok");
    assert!(!master.directory().join("dump.rdb").exists());
}

#[test]
fn those_below_stay_while_another_upstream_is_tried_that_ends_before_its_image() {
    for first in masters() {
        let first = first.start();
        first.connect().ok("SET a b");
        let mut second = repld().directive("rdb-key-save-delay", "100000").start();
        fill(&second, "new");
        let middle = repld().replica_of(&first).start();
        wait_until_equal(&first, &middle);
        let bottom = repld().replica_of(&middle).start();
        wait_until_equal(&first, &bottom);
        let history = first.connect().info("master_replid");
        follow(&middle, &second);
        wait_until("an image is on its way", || waiting(&mut second.connect(), 1));
        // Nobody waits for a replica that has nothing to go on with.
        let _ = second.connect().send(&encode(&["SHUTDOWN", "NOSAVE"]));
        second.wait_for_exit();
        follow(&middle, &first);
        wait_until_equal(&first, &middle);
        wait_until_equal(&first, &bottom);
        for server in [&middle, &bottom] {
            assert_eq!(server.connect().info("master_replid"), history);
        }
        assert_eq!(middle.connect().info("sync_full"), "1");
        assert_eq!(middle.connect().info("sync_partial_ok"), "0");
        assert_eq!(count(&middle, "Connection with replica"), 0);
    }
}
