//! Master and replica over the real protocol: every behaviour between two repld, between a repld and a real
//! `redis-server` both ways, and between two of those, which shows that what is expected here is true.

use rustix::process::Signal;

use crate::client::{Client, encode, shown};
use crate::random::Random;
use crate::server::{Kind, Launcher, Server, wait_until};

/// Runs each of the functions as a test of its own for one pair of servers.
macro_rules! between {
    ($pair:ident, $master:ident, $replica:ident) => {
        mod $pair {
            between!(@each $master, $replica:
                a_full_sync_copies_everything_and_the_stream_follows,
                a_cut_link_continues_by_partial_resync,
                a_link_that_was_down_too_long_is_synced_in_full,
                a_chain_shares_data_and_offsets,
                others_follow_a_promoted_replica_by_partial_resync,
                what_is_moved_onto_an_expired_key_is_so_everywhere,
                an_old_master_learns_the_database_of_its_successors_writes,
                a_replica_that_becomes_one_of_another_master_loses_its_data,
                a_replica_refuses_writes,
                what_a_replica_is_told_by_others_is_no_part_of_its_history,
                wait_counts_the_replicas_that_have_acknowledged,
                only_the_master_deletes_what_has_expired,
                a_replica_that_restarts_continues_by_partial_resync,
                a_master_that_restarts_is_continued_by_partial_resync,
                a_replica_gives_the_password,
                a_master_without_good_replicas_refuses_writes,
                a_replica_without_a_link_may_refuse_to_serve_old_data,
            );
        }
    };
    (@each $master:ident, $replica:ident: $($test:ident,)+) => {
        $(
            #[test]
            fn $test() {
                use crate::server::Kind;
                if let (Some(master), Some(replica)) = (Kind::$master.server(), Kind::$replica.server()) {
                    super::$test(master, replica);
                }
            }
        )+
    };
}

between!(repld_to_repld, Repld, Repld);
between!(repld_to_redis, Repld, Redis);
between!(redis_to_repld, Redis, Repld);
between!(redis_to_redis, Redis, Redis);

const DATABASES: usize = 3;

/// Writes some hundred keys to several databases, by commands that reach replicas as they are and by others that
/// have to be rewritten on their way.
fn write_much(master: &Server, seed: u64) {
    let mut random = Random::new(seed);
    let mut client = master.connect();
    let mut sent = 0;
    for _ in 0..1200 {
        let key = format!("key:{seed}:{}", random.below(200));
        let value = format!("{:x}", random.next()).repeat(random.below(40) + 1);
        let aggregate = |kind: &str| format!("{kind}:{seed}:{}", seed % 5);
        let [list, hash, set, sorted_set] = ["list", "hash", "set", "zset"].map(aggregate);
        let element = format!("{}", random.below(300));
        let command: Vec<&str> = match random.below(44) {
            0 => vec!["SELECT", random.pick(&["0", "1", "2"])],
            1 => vec!["SET", &key, &value, "EX", "5000"],
            2 => vec!["SET", &key, &value, "PXAT", "33177117420123"],
            3 => vec!["EXPIRE", &key, "9000"],
            4 => vec!["INCRBYFLOAT", "float", "1.1"],
            5 => vec!["APPEND", &key, &value],
            6 => vec!["DEL", &key],
            7 => vec!["GETEX", &key, "EX", "777"],
            8 => vec!["GETDEL", &key],
            9 => vec!["SET", &key, "\r\n\0binary"],
            10 => vec!["RPUSH", &list, &element, &value, &key],
            11 => vec!["LPOP", &list],
            12 => vec!["HSET", &hash, &element, &value, &key, &element],
            13 => vec!["HDEL", &hash, &element],
            14 => vec!["SADD", &set, &element, &key],
            15 => vec!["SREM", &set, &element],
            16 => vec!["SPOP", &set],
            17 => vec!["ZADD", &sorted_set, &element, &key, "-1.5", &element],
            18 => vec!["ZREM", &sorted_set, &element],
            19 => vec!["COPY", &list, &key, "REPLACE"],
            20 => vec!["COPY", &sorted_set, "copy", "DB", "2", "REPLACE"],
            21 => vec!["HINCRBYFLOAT", &hash, "float", "0.1"],
            22 => vec!["HINCRBY", &hash, "count", "7"],
            23 => vec!["SPOP", &set, random.pick(&["1", "3", "1000"])],
            24 => vec!["SMOVE", &set, "moved", &element],
            25 => vec![random.pick(&["SUNIONSTORE", "SINTERSTORE", "SDIFFSTORE"]), "result", &set, "moved"],
            26 => vec!["SETBIT", "bits", &element, random.pick(&["0", "1"])],
            27 => vec!["BITFIELD", "bits", "OVERFLOW", "SAT", "INCRBY", "i7", &element, "5"],
            28 => vec!["BITOP", random.pick(&["AND", "XOR"]), "combined", "bits", "float"],
            29 => vec!["ZINCRBY", &sorted_set, "0.1", &element],
            30 => vec!["ZPOPMAX", &sorted_set, "2"],
            31 => vec!["BZPOPMIN", "absent", &sorted_set, "0.001"],
            32 => vec!["ZMPOP", "2", "absent", &sorted_set, "MIN", "COUNT", "3"],
            33 => vec!["ZUNIONSTORE", "union", "2", &sorted_set, &set, "WEIGHTS", "0.3", &element],
            34 => vec!["ZRANGESTORE", "part", &sorted_set, &element, "-1", "BYSCORE", "REV", "LIMIT", "0", "5"],
            35 => vec!["GEOADD", "places", &element, "-0.1", &element],
            _ => vec!["SET", &key, &value],
        };
        client.send(&encode(&command)).expect("a live server");
        sent += 1;
    }
    for _ in 0..sent {
        client.reply().expect("a reply");
    }
    // The list a, b, in version 9; its time to live travels as a deadline.
    let payload = b"\x01\x02\x01a\x01b\x09\0\xE2\x5A\xC1\xB2\x81\x85\x79\xF4";
    assert_eq!(client.call(&[b"RESTORE", &b"restored"[..], b"5000000", payload, b"REPLACE"]), b"+OK\r\n");
}

fn wait_for_link(replica: &Server) {
    let mut client = replica.connect();
    wait_until("the link is up", || client.info("master_link_status") == "up");
}

/// Waits until the replica has all that the master has, and checks that this is so.
fn wait_until_equal(master: &Server, replica: &Server) {
    wait_for_link(replica);
    let (mut upstream, mut downstream) = (master.connect(), replica.connect());
    wait_until("the replica has caught up", || {
        upstream.info("master_repl_offset") == downstream.info("master_repl_offset")
    });
    assert_eq!(upstream.info("master_replid"), downstream.info("master_replid"));
    for database in 0..DATABASES {
        let [ours, theirs] = [&mut upstream, &mut downstream].map(|client| client.data(database));
        assert!(ours == theirs, "database {database} differs");
    }
}

fn number(server: &Server, field: &str) -> u64 {
    server.connect().info(field).parse().expect("a number")
}

fn a_full_sync_copies_everything_and_the_stream_follows(master: Launcher, replica: Launcher) {
    let master = master.start();
    write_much(&master, 1);
    let replica = replica.start();
    // What a replica had before is gone.
    replica.connect().ok("SET own data");
    replica.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
    wait_until_equal(&master, &replica);
    assert_eq!(replica.connect().run("EXISTS own"), ":0\r\n");
    let keys = master.connect().data(0).len();
    assert!(keys > 30, "there is something to compare: {keys}");

    write_much(&master, 2);
    let mut client = master.connect();
    client.ok("MULTI");
    for line in ["SET transaction 1", "INCR transaction", "SELECT 1", "SET transaction 2"] {
        assert_eq!(client.run(line), "+QUEUED\r\n");
    }
    client.run("EXEC");
    client.ok("SWAPDB 0 2");
    wait_until_equal(&master, &replica);
    client.ok("FLUSHALL");
    client.ok("SET after flush");
    wait_until_equal(&master, &replica);
    assert_eq!(replica.connect().run("DBSIZE"), ":0\r\n", "the database selected was 1");

    let role = replica.connect().run("ROLE");
    let wanted = format!("*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:{}\r\n$9\r\nconnected\r\n:", master.port());
    assert!(role.starts_with(&wanted), "{role}");
    let role = master.connect().run("ROLE");
    let port = replica.port().to_string();
    assert!(role.contains(&format!("*3\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())), "{role}");
    assert_eq!(master.connect().info("connected_slaves"), "1");
    assert_eq!(number(&master, "sync_full"), 1);
}

fn a_cut_link_continues_by_partial_resync(master: Launcher, replica: Launcher) {
    let master = master.start();
    let replica = replica.replica_of(&master).start();
    write_much(&master, 1);
    wait_until_equal(&master, &replica);
    for cut in 1..=2 {
        let mut client = master.connect();
        assert_eq!(client.run("CLIENT KILL TYPE replica"), ":1\r\n");
        write_much(&master, 1 + cut);
        wait_until("the replica is back", || number(&master, "sync_partial_ok") == cut);
        wait_until_equal(&master, &replica);
    }
    // The other end can cut it, too.
    assert_eq!(replica.connect().run("CLIENT KILL TYPE master"), ":1\r\n");
    wait_until("the replica is back", || number(&master, "sync_partial_ok") == 3);
    write_much(&master, 9);
    wait_until_equal(&master, &replica);
    assert_eq!(number(&master, "sync_full"), 1);
}

fn a_link_that_was_down_too_long_is_synced_in_full(master: Launcher, replica: Launcher) {
    let master = master.directive("repl-backlog-size", "16kb").start();
    let mut replica = replica.replica_of(&master).start();
    write_much(&master, 1);
    wait_until_equal(&master, &replica);
    replica.connect().send(b"SHUTDOWN SAVE\r\n").expect("a live server");
    replica.wait_for_exit();
    // Much more than a backlog that has grown for its replica may still hold.
    for seed in 2..12 {
        write_much(&master, seed);
    }
    replica.restart();
    wait_until_equal(&master, &replica);
    assert_eq!((number(&master, "sync_full"), number(&master, "sync_partial_ok")), (2, 0));
}

fn a_chain_shares_data_and_offsets(master: Launcher, replica: Launcher) {
    let leaf = master.clone();
    let master = master.start();
    write_much(&master, 1);
    let middle = replica.replica_of(&master).start();
    wait_until_equal(&master, &middle);
    let leaf = leaf.replica_of(&middle).start();
    wait_until_equal(&middle, &leaf);
    write_much(&master, 2);
    wait_until_equal(&master, &leaf);
    // A cut above does not cost the ones below their place.
    assert_eq!(master.connect().run("CLIENT KILL TYPE replica"), ":1\r\n");
    write_much(&master, 3);
    wait_until_equal(&master, &leaf);
    assert_eq!((number(&master, "sync_full"), number(&middle, "sync_full")), (1, 1));
}

fn others_follow_a_promoted_replica_by_partial_resync(master: Launcher, replica: Launcher) {
    let other = master.clone();
    let mut master = master.start();
    let promoted = replica.replica_of(&master).start();
    let other = other.replica_of(&master).start();
    write_much(&master, 1);
    wait_until_equal(&master, &promoted);
    wait_until_equal(&master, &other);
    let lineage = master.connect().info("master_replid");
    let offset = number(&master, "master_repl_offset");
    master.kill();

    let mut client = promoted.connect();
    client.ok("REPLICAOF NO ONE");
    client.ok("SET after promotion");
    assert_eq!(client.info("role"), "master");
    assert_ne!(client.info("master_replid"), lineage);
    assert_eq!(client.info("master_replid2"), lineage);
    assert_eq!(client.info("second_repl_offset"), (offset + 1).to_string());
    other.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", promoted.port()));
    wait_until_equal(&promoted, &other);
    assert_eq!((number(&promoted, "sync_full"), number(&promoted, "sync_partial_ok")), (0, 1));

    // The old master comes back, with other data or none, and takes over what its successor has.
    master.restart();
    master.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", promoted.port()));
    wait_until_equal(&promoted, &master);
}

fn what_is_moved_onto_an_expired_key_is_so_everywhere(master: Launcher, replica: Launcher) {
    let master = master.start();
    let replica = replica.replica_of(&master).start();
    wait_for_link(&replica);
    let mut client = master.connect();
    // The master's own search for what has expired may be there first, though not for all of them.
    for number in 0..20 {
        client.ok(&format!("SET key:{number} moved"));
        client.ok("SELECT 1");
        client.ok(&format!("SET key:{number} expired PX 1"));
        client.ok("SELECT 0");
        wait_until("it is moved", || client.run(&format!("MOVE key:{number} 1")) == ":1\r\n");
    }
    wait_until_equal(&master, &replica);
}

/// The old master never had its own stream's database told by anybody.
fn an_old_master_learns_the_database_of_its_successors_writes(master: Launcher, replica: Launcher) {
    let master = master.start();
    let successor = replica.replica_of(&master).start();
    wait_for_link(&successor);
    let mut client = master.connect();
    client.ok("SELECT 1");
    client.ok("SET before promotion");
    wait_until_equal(&master, &successor);
    let mut client = successor.connect();
    client.ok("REPLICAOF NO ONE");
    master.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", successor.port()));
    wait_for_link(&master);
    client.ok("SELECT 1");
    client.ok("SET after promotion");
    wait_until_equal(&successor, &master);
    assert_eq!((number(&successor, "sync_full"), number(&successor, "sync_partial_ok")), (0, 1));
}

fn a_replica_that_becomes_one_of_another_master_loses_its_data(master: Launcher, replica: Launcher) {
    let other = master.clone().start();
    let master = master.start();
    write_much(&master, 1);
    write_much(&other, 2);
    let replica = replica.replica_of(&master).start();
    wait_until_equal(&master, &replica);
    replica.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", other.port()));
    wait_until("the new master has synced it", || number(&other, "sync_full") == 1);
    wait_until_equal(&other, &replica);
    wait_until("the old master knows that it is gone", || number(&master, "connected_slaves") == 0);
    let mut client = replica.connect();
    let again = client.run(&format!("REPLICAOF 127.0.0.1 {}", other.port()));
    assert_eq!(again, "+OK Already connected to specified master\r\n");
}

fn a_replica_refuses_writes(master: Launcher, replica: Launcher) {
    let master = master.start();
    let replica = replica.replica_of(&master).start();
    wait_for_link(&replica);
    let mut client = replica.connect();
    let refusal = "-READONLY You can't write against a read only replica.\r\n";
    for line in ["SET a 1", "DEL a", "EXPIRE a 1", "GETDEL a", "FLUSHALL"] {
        assert_eq!(client.run(line), refusal, "{line}");
    }
    client.ok("MULTI");
    assert_eq!(client.run("SET a 1"), refusal);
    assert!(client.run("EXEC").starts_with("-EXECABORT "));
    assert_eq!(client.run("GET a"), "$-1\r\n");
    client.ok("CONFIG SET replica-read-only no");
    client.ok("SET a 1");
    assert_eq!(master.connect().run("GET a"), "$-1\r\n");
}

fn what_a_replica_is_told_by_others_is_no_part_of_its_history(master: Launcher, replica: Launcher) {
    let master = master.start();
    let replica = replica.replica_of(&master).directive("replica-read-only", "no").start();
    wait_for_link(&replica);
    let mut client = replica.connect();
    // Sentinels publish to replicas, too.
    assert_eq!(client.run("PUBLISH channel message"), ":0\r\n");
    client.ok("SET local write");
    master.connect().ok("SET a 1");
    wait_until("the write arrives", || client.run("GET a") == "$1\r\n1\r\n");
    assert_eq!(number(&replica, "master_repl_offset"), number(&master, "master_repl_offset"));
    assert_eq!(master.connect().run("CLIENT KILL TYPE replica"), ":1\r\n");
    wait_until("the replica is back", || number(&master, "sync_partial_ok") == 1);
    assert_eq!(number(&master, "sync_full"), 1);
}

fn wait_counts_the_replicas_that_have_acknowledged(master: Launcher, replica: Launcher) {
    let master = master.start();
    let mut client = master.connect();
    assert_eq!(client.run("WAIT 0 10"), ":0\r\n");
    assert_eq!(client.run("WAIT 1 10"), ":0\r\n");
    let replica = replica.replica_of(&master).start();
    wait_for_link(&replica);
    for count in 0..50 {
        client.ok(&format!("SET counter {count}"));
        assert_eq!(client.run("WAIT 1 10000"), ":1\r\n");
        assert_eq!(replica.connect().bulk("GET counter"), count.to_string());
    }
    client.ok("SET more replicas");
    assert_eq!(client.run("WAIT 2 100"), ":1\r\n", "as many as there are, after the time given");
    assert!(replica.connect().run("WAIT 1 10").starts_with("-ERR WAIT cannot be used with replica instances."));
}

fn only_the_master_deletes_what_has_expired(master: Launcher, replica: Launcher) {
    let master = master.start();
    let replica = replica.replica_of(&master).start();
    wait_for_link(&replica);
    let (mut upstream, mut downstream) = (master.connect(), replica.connect());
    // A Redis master counts its replica only from the first acknowledgement on, which may take a second.
    upstream.ok("FLUSHALL");
    assert_eq!(upstream.run("WAIT 1 10000"), ":1\r\n");
    upstream.ok("SET short lived PX 500");
    assert_eq!(upstream.run("WAIT 1 10000"), ":1\r\n");
    master.signal(Signal::STOP);
    wait_until("the key has expired", || downstream.run("GET short") == "$-1\r\n");
    assert_eq!(downstream.run("TTL short"), ":-2\r\n");
    assert_eq!(downstream.run("EXISTS short"), ":0\r\n");
    assert_eq!(downstream.run("DBSIZE"), ":1\r\n", "it is still there, for its master to delete");
    master.signal(Signal::CONT);
    wait_until("the master has deleted it", || downstream.run("DBSIZE") == ":0\r\n");
    wait_until_equal(&master, &replica);
}

fn a_replica_that_restarts_continues_by_partial_resync(master: Launcher, replica: Launcher) {
    let master = master.start();
    let mut replica = replica.replica_of(&master).start();
    write_much(&master, 1);
    wait_until_equal(&master, &replica);
    replica.connect().send(b"SHUTDOWN SAVE\r\n").expect("a live server");
    replica.wait_for_exit();
    write_much(&master, 2);
    replica.restart();
    wait_until_equal(&master, &replica);
    assert_eq!((number(&master, "sync_full"), number(&master, "sync_partial_ok")), (1, 1));
}

fn a_master_that_restarts_is_continued_by_partial_resync(master: Launcher, replica: Launcher) {
    let mut master = master.directive("save", "3600 1").start();
    let replica = replica.replica_of(&master).start();
    wait_for_link(&replica);
    write_much(&master, 8);
    wait_until_equal(&master, &replica);
    let old = master.connect().info("master_replid");
    let _ = master.connect().send(b"SHUTDOWN\r\n");
    master.wait_for_exit();
    master.restart();
    wait_for_link(&replica);
    assert_eq!(number(&master, "sync_full"), 0, "{}", master.log());
    assert_eq!(number(&master, "sync_partial_ok"), 1);
    assert_eq!(master.connect().info("master_replid2"), old);
    write_much(&master, 9);
    wait_until_equal(&master, &replica);
}

fn a_replica_gives_the_password(master: Launcher, replica: Launcher) {
    let master = master.directive("requirepass", "s3cret").start();
    let mut client = master.connect();
    assert_eq!(client.run("GET a"), "-NOAUTH Authentication required.\r\n");
    client.ok("AUTH s3cret");
    client.ok("SET a 1");
    let replica = replica.replica_of(&master).directive("masterauth", "wrong").start();
    let mut downstream = replica.connect();
    wait_until("the wrong password was refused", || replica.log().contains("WRONGPASS"));
    assert_eq!(downstream.info("master_link_status"), "down");
    downstream.ok("CONFIG SET masterauth s3cret");
    wait_for_link(&replica);
    assert_eq!(downstream.bulk("GET a"), "1");
}

fn a_master_without_good_replicas_refuses_writes(master: Launcher, replica: Launcher) {
    let master = master.directive("min-replicas-to-write", "1").start();
    let mut client = master.connect();
    let refusal = "-NOREPLICAS Not enough good replicas to write.\r\n";
    assert_eq!(client.run("SET a 1"), refusal);
    assert_eq!(client.run("GET a"), "$-1\r\n");
    let replica = replica.replica_of(&master).start();
    wait_until("there is a good replica", || client.run("SET a 1") == "+OK\r\n");
    assert_eq!(client.info("min_slaves_good_slaves"), "1");
    drop(replica);
    wait_until("there is none any more", || client.run("SET a 1") == refusal);
}

fn a_replica_without_a_link_may_refuse_to_serve_old_data(master: Launcher, replica: Launcher) {
    let mut master = master.start();
    master.connect().ok("SET a 1");
    let replica = replica.replica_of(&master).start();
    wait_until_equal(&master, &replica);
    let mut client = replica.connect();
    master.kill();
    wait_until("the link is down", || client.info("master_link_status") == "down");
    assert_eq!(client.bulk("GET a"), "1");
    client.ok("CONFIG SET replica-serve-stale-data no");
    let refusal = "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n";
    assert_eq!(client.run("GET a"), refusal);
    assert_eq!(client.info("role"), "slave");
    client.ok("REPLICAOF NO ONE");
    assert_eq!(client.bulk("GET a"), "1");
}

/// A client that speaks a replica's part line by line.
struct ByHand {
    client: Client,
}

impl ByHand {
    fn connect(master: &Server) -> ByHand {
        ByHand { client: master.connect() }
    }

    /// Sends a request and returns the line that answers it, without empty lines before it (signs of life).
    fn ask(&mut self, request: &str) -> String {
        self.client.send(format!("{request}\r\n").as_bytes()).expect("a live server");
        self.line()
    }

    fn line(&mut self) -> String {
        loop {
            // A sign of life is a bare line feed: it may stand in front of the line.
            let line = String::from_utf8(self.client.line().expect("a line")).expect("text");
            if !line.trim().is_empty() {
                return line.trim().to_string();
            }
        }
    }

    /// The next command of the stream that is no `PING`.
    fn command(&mut self) -> Vec<u8> {
        loop {
            let command = self.client.reply().expect("a command");
            if !command.eq_ignore_ascii_case(&encode(&["PING"])) {
                return command;
            }
        }
    }

    /// The snapshot after its first line.
    fn snapshot(&mut self) -> Vec<u8> {
        let line = self.line();
        let Some(mark) = line.strip_prefix("$EOF:") else {
            let length = line.strip_prefix('$').and_then(|length| length.parse().ok());
            return self.client.exactly(length.expect("a length")).expect("a snapshot");
        };
        let mut bytes = Vec::new();
        while !bytes.ends_with(mark.as_bytes()) {
            bytes.extend(self.client.exactly(1).expect("a snapshot"));
        }
        bytes.truncate(bytes.len() - mark.len());
        bytes
    }
}

fn a_master_serves_old_and_new_ways_to_sync(kind: Kind) {
    let Some(master) = kind.server() else { return };
    let master = master.start();
    master.connect().ok("SET before sync");
    let mut old = ByHand::connect(&master);
    old.client.send(b"SYNC\r\n").expect("a live server");
    let snapshot = old.snapshot();
    assert!(
        snapshot.starts_with(b"REDIS0") && snapshot.windows(6).any(|bytes| bytes == b"before"),
        "{}",
        shown(&snapshot)
    );

    let mut new = ByHand::connect(&master);
    assert_eq!(new.ask("PING"), "+PONG");
    assert_eq!(new.ask("REPLCONF listening-port 1"), "+OK");
    assert_eq!(new.ask("REPLCONF capa eof capa psync2"), "+OK");
    let answer = new.ask("PSYNC ? -1");
    let [_, id, offset] = answer.split(' ').collect::<Vec<_>>()[..] else { panic!("{answer}") };
    assert!(answer.starts_with("+FULLRESYNC ") && id.len() == 40, "{answer}");
    let offset: usize = offset.parse().expect("an offset");
    assert_eq!(new.snapshot().get(..6), Some(&b"REDIS0"[..]));

    // Both get the same stream from here on, and it can be asked for again.
    let mut client = master.connect();
    for replica in ["slave0", "slave1"] {
        wait_until("the snapshot is known to be sent", || client.info(replica).contains("state=online"));
    }
    // It may be held back until the snapshot is said to be loaded.
    new.client.send(format!("REPLCONF ACK {offset}\r\n").as_bytes()).expect("a live server");
    client.ok("SET after sync");
    let wanted = [encode(&["SELECT", "0"]), encode(&["SET", "after", "sync"])];
    for hand in [&mut old, &mut new] {
        assert_eq!([hand.command(), hand.command()], wanted);
    }
    let mut again = ByHand::connect(&master);
    assert_eq!(again.ask("REPLCONF capa psync2"), "+OK");
    assert_eq!(again.ask(&format!("PSYNC {id} {}", offset + 1)), format!("+CONTINUE {id}"));
    assert_eq!([again.command(), again.command()], wanted);
    let mut beyond = ByHand::connect(&master);
    let answer = beyond.ask(&format!("PSYNC {id} {}", offset + 1_000_000));
    assert!(answer.starts_with("+FULLRESYNC "), "{answer}");
    let mut stranger = ByHand::connect(&master);
    let answer = stranger.ask(&format!("PSYNC {} {}", "0".repeat(40), offset + 1));
    assert!(answer.starts_with("+FULLRESYNC "), "{answer}");
}

#[test]
fn repld_serves_old_and_new_ways_to_sync() {
    a_master_serves_old_and_new_ways_to_sync(Kind::Repld);
}

#[test]
fn redis_serves_old_and_new_ways_to_sync() {
    a_master_serves_old_and_new_ways_to_sync(Kind::Redis);
}

/// A replica's second id is good up to the byte at which it was promoted, and not for one more.
fn a_promoted_replica_is_continued_exactly_as_far_as_it_shared_the_history(kind: Kind) {
    let (Some(master), Some(replica)) = (kind.server(), kind.server()) else { return };
    let master = master.start();
    let replica = replica.replica_of(&master).start();
    wait_for_link(&replica);
    write_much(&master, 1);
    wait_until_equal(&master, &replica);
    let lineage = master.connect().info("master_replid");
    replica.connect().ok("REPLICAOF NO ONE");
    let shared = number(&replica, "master_repl_offset");
    replica.connect().ok("SET after promotion");
    let answer = |next: u64| {
        let mut hand = ByHand::connect(&replica);
        assert_eq!(hand.ask("REPLCONF capa eof capa psync2"), "+OK");
        hand.ask(&format!("PSYNC {lineage} {next}"))
    };
    let present = replica.connect().info("master_replid");
    // The wire names the next byte.
    assert_eq!(answer(shared), format!("+CONTINUE {present}"));
    assert_eq!(answer(shared + 1), format!("+CONTINUE {present}"));
    let beyond = answer(shared + 2);
    assert!(beyond.starts_with("+FULLRESYNC"), "{beyond}");
}

#[test]
fn repld_is_continued_exactly_as_far_as_it_shared_the_history() {
    a_promoted_replica_is_continued_exactly_as_far_as_it_shared_the_history(Kind::Repld);
}

#[test]
fn redis_is_continued_exactly_as_far_as_it_shared_the_history() {
    a_promoted_replica_is_continued_exactly_as_far_as_it_shared_the_history(Kind::Redis);
}

#[test]
fn the_backlog_is_continued_from_its_first_byte_and_not_from_the_one_before() {
    let Some(master) = Kind::Repld.server() else { return };
    let master = master.directive("repl-backlog-size", "2000").start();
    let mut first = ByHand::connect(&master);
    assert_eq!(first.ask("REPLCONF capa eof capa psync2"), "+OK");
    assert!(first.ask("PSYNC ? -1").starts_with("+FULLRESYNC"));
    drop(first);
    write_much(&master, 1);
    let mut client = master.connect();
    wait_until("nobody is fed", || client.info("connected_slaves") == "0");
    let id = client.info("master_replid");
    let begin = number(&master, "repl_backlog_first_byte_offset");
    assert!(begin > 1, "the backlog has given something up");
    let answer = |next: u64| {
        let mut hand = ByHand::connect(&master);
        assert_eq!(hand.ask("REPLCONF capa eof capa psync2"), "+OK");
        hand.ask(&format!("PSYNC {id} {next}"))
    };
    assert_eq!(answer(begin), format!("+CONTINUE {id}"));
    assert_eq!(answer(number(&master, "master_repl_offset") + 1), format!("+CONTINUE {id}"));
    assert!(answer(begin - 1).starts_with("+FULLRESYNC"));
}

/// Four servers in a row; the first is killed, the next promoted, and so on: nobody is ever synced in full.
#[test]
fn a_chain_of_four_survives_the_loss_of_each_head_without_a_full_sync() {
    let Some(launcher) = Kind::Repld.server() else { return };
    let mut chain = vec![launcher.clone().start()];
    for _ in 0..3 {
        let next = launcher.clone().replica_of(chain.last().expect("one at least")).start();
        wait_for_link(&next);
        chain.push(next);
    }
    while chain.len() > 1 {
        write_much(&chain[0], chain.len() as u64);
        wait_until_equal(&chain[0], &chain[chain.len() - 1]);
        chain.remove(0).kill();
        chain[0].connect().ok("REPLICAOF NO ONE");
        chain[0].connect().ok("SET head new");
        for below in &chain[1..] {
            wait_until_equal(&chain[0], below);
        }
    }
    assert_eq!(number(&chain[0], "sync_full"), 0);
}

/// Two servers change places twenty times, with writes in between, and a third follows whoever is the master.
#[test]
fn twenty_promotions_in_a_row_need_no_full_sync() {
    let Some(launcher) = Kind::Repld.server() else { return };
    let master = launcher.clone().start();
    let servers = [launcher.clone().replica_of(&master).start(), launcher.replica_of(&master).start()];
    servers.iter().for_each(wait_for_link);
    let [second, third] = servers;
    let (mut master, mut replica) = (&master, &second);
    for round in 0..20 {
        write_much(master, round);
        wait_until_equal(master, replica);
        wait_until_equal(master, &third);
        replica.connect().ok("REPLICAOF NO ONE");
        let to_new = format!("REPLICAOF 127.0.0.1 {}", replica.port());
        master.connect().ok(&to_new);
        third.connect().ok(&to_new);
        (master, replica) = (replica, master);
        wait_for_link(replica);
        wait_for_link(&third);
    }
    wait_until_equal(master, replica);
    wait_until_equal(master, &third);
    let full: u64 = [master, replica, &third].iter().map(|server| number(server, "sync_full")).sum();
    assert_eq!(full, 2, "only the first two");
}

/// Valkey's second channel for the image is not asked for, so there is one.
#[test]
fn a_valkey_master_with_two_channels_is_followed_over_one() {
    let (Some(master), Some(replica)) = (Kind::Valkey.server(), Kind::Repld.server()) else { return };
    let master = master.directive("dual-channel-replication-enabled", "yes").start();
    write_much(&master, 1);
    let replica = replica.replica_of(&master).start();
    wait_until_equal(&master, &replica);
    write_much(&master, 2);
    wait_until_equal(&master, &replica);
    assert_eq!(number(&master, "sync_full"), 1);
}

/// A replica that reads nothing costs the limit and no more, is told of, and is cut off.
#[test]
fn a_stalled_replica_costs_no_more_than_the_limit_and_the_log_says_what_to_raise() {
    let Some(launcher) = Kind::Repld.server() else { return };
    let limits = "replica 2mb 0 0";
    let master =
        launcher.clone().directive("client-output-buffer-limit", limits).directive("repl-timeout", "600").start();
    let replica = launcher.replica_of(&master).start();
    wait_for_link(&replica);
    let mut client = master.connect();
    wait_until("the replica has said a word", || client.info("slave0").contains("state=online"));
    let value = "x".repeat(512 * 1024);
    for round in 1..=2 {
        replica.signal(Signal::STOP);
        // What the kernel takes for it costs the server nothing.
        wait_until("the replica is cut off", || {
            client.call(&["SET", "big", &value]);
            let grown = number(&master, "mem_total_replication_buffers");
            assert!(grown <= (1 + 2 + 1) << 20, "{grown}");
            client.info("connected_slaves") == "0"
        });
        replica.signal(Signal::CONT);
        if round == 1 {
            // It comes back, and is stopped before it has caught up.
            wait_until("the replica is synced again", || number(&master, "sync_full") == 2);
        }
    }
    wait_until("the log says what would help", || {
        master.log().contains("is synced in full") && master.log().contains("client-output-buffer-limit replica")
    });
    wait_until_equal(&master, &replica);
}

#[test]
fn redis_cli_is_served_with_an_image_or_with_the_stream() {
    let Some(master) = Kind::Repld.server() else { return };
    if Kind::Redis.server().is_none() {
        return;
    }
    let master = master.start();
    write_much(&master, 1);
    let port = master.port().to_string();
    let cli = |arguments: &[&str]| {
        let mut command = std::process::Command::new("redis-cli");
        command.args(["-p", &port]).args(arguments).current_dir(master.directory());
        command.output().expect("it comes with redis-server")
    };
    assert!(cli(&["--rdb", "image.rdb"]).status.success());
    assert!(cli(&["--functions-rdb", "functions.rdb"]).status.success());
    let length = |name: &str| std::fs::metadata(master.directory().join(name)).expect("a file").len();
    assert!(length("image.rdb") > 1000 && length("functions.rdb") < 300);
    wait_until("nobody is fed any more", || master.connect().info("connected_slaves") == "0");

    let mut hand = ByHand::connect(&master);
    for request in ["REPLCONF capa eof", "REPLCONF rdb-filter-only \"\""] {
        assert_eq!(hand.ask(request), "+OK");
    }
    hand.client.send(b"SYNC\r\n").expect("a live server");
    assert!(hand.snapshot().len() < 300, "no keys were asked for");
    master.connect().ok("SET after sync");
    let wanted = [encode(&["SELECT", "0"]), encode(&["SET", "after", "sync"])];
    assert_eq!([hand.command(), hand.command()], wanted);
}

#[test]
fn what_one_command_does_by_several_arrives_as_one_transaction() {
    let Some(master) = Kind::Repld.server() else { return };
    let master = master.start();
    let mut client = master.connect();
    client.run("RPUSH unsorted 3 0x10 1");
    let members: Vec<String> = (0..3000).map(|number| number.to_string()).collect();
    client.run(&format!("SADD many {}", members.join(" ")));
    let mut hand = ByHand::connect(&master);
    hand.client.send(b"SYNC\r\n").expect("a live server");
    hand.snapshot();

    client.run("SORT unsorted STORE sorted");
    client.run("SPOP many 2500");
    client.ok("MULTI");
    client.run("SORT unsorted LIMIT 0 1 STORE sorted");
    client.run("EXEC");
    let names = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let name = |command: Vec<u8>| command.split(|byte| *byte == b'\n').nth(2).expect("a name").trim_ascii().to_vec();
    let told: Vec<Vec<u8>> = (0..14).map(|_| name(hand.command())).collect();
    let sorted = ["MULTI", "DEL", "RPUSH", "EXEC"];
    let popped = ["MULTI", "SREM", "SREM", "SREM", "EXEC"];
    assert_eq!(told, names(&[&["SELECT"][..], &sorted, &popped, &sorted].concat()));
}

#[test]
fn what_clients_write_on_a_writable_replica_expires_there() {
    let Some(launcher) = Kind::Repld.server() else { return };
    let master = launcher.clone().start();
    let replica = launcher.replica_of(&master).directive("replica-read-only", "no").start();
    wait_for_link(&replica);
    let mut client = replica.connect();
    client.ok("SET own x PX 1");
    client.ok("SET kept x PX 1");
    client.ok("SET kept x");
    wait_until("it has expired", || client.call(&["DBSIZE"]) == b":1\r\n");
    // What the master writes under the same name is the master's again.
    let mut upstream = master.connect();
    client.ok("SET shared x PX 100000");
    upstream.ok("SET shared y PX 100000");
    wait_until("it arrives", || client.call(&["GET", "shared"]) == b"$1\r\ny\r\n");
    upstream.ok("SET shared z");
    wait_until("it arrives", || client.call(&["PTTL", "shared"]) == b":-1\r\n");
}
