//! The append-only file: what was acknowledged is there after a SIGKILL, servers of other make read it and are read, and a
//! restart goes on with the history that it belongs to.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::client::{Client, encode};
use crate::server::{Kind, Launcher, Server, wait_until};

fn keeping(kind: Kind) -> Option<Launcher> {
    let launcher = kind.server()?.directive("appendonly", "yes");
    Some(match kind {
        Kind::Repld => launcher.directive("enable-debug-command", "yes"),
        // With another policy they acknowledge what is in no file yet while they wait for the disk.
        _ => launcher.directive("appendfsync", "always"),
    })
}

fn repld() -> Launcher {
    keeping(Kind::Repld).expect("it was built")
}

fn parts(server: &Server) -> PathBuf {
    server.directory().join("appendonlydir")
}

fn manifest(server: &Server) -> String {
    fs::read_to_string(parts(server).join("appendonly.aof.manifest")).expect("a manifest")
}

/// The increment that is written to.
fn increment(server: &Server) -> PathBuf {
    let manifest = manifest(server);
    let name = manifest.lines().last().and_then(|line| line.split(' ').nth(1)).expect("a line");
    assert!(name.ends_with(".incr.aof"), "{manifest}");
    parts(server).join(name)
}

/// What the append-only file alone says: nothing can be taken from the dead server's backlog.
fn forget_backlog(server: &Server) {
    fs::remove_file(server.directory().join("backlog.bin")).expect("a backlog");
}

/// Lets `to` find the append-only file of `from`.
fn transplant(from: &Server, to: &mut Server) {
    to.kill();
    let _ = fs::remove_file(to.directory().join("backlog.bin"));
    let _ = fs::remove_dir_all(parts(to));
    fs::create_dir(parts(to)).expect("a directory");
    for entry in fs::read_dir(parts(from)).expect("a directory") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, parts(to).join(path.file_name().expect("a name"))).expect("a copy");
    }
    to.restart();
}

fn digest(server: &Server) -> String {
    server.connect().run("DEBUG DIGEST")
}

fn rewrite(client: &mut Client) {
    assert!(client.run("BGREWRITEAOF").starts_with("+Background append only file rewriting"));
    wait_for_rewrite(client);
}

fn wait_for_rewrite(client: &mut Client) {
    wait_until("the rewrite is over", || {
        client.info("aof_rewrite_in_progress") == "0" && client.info("aof_rewrite_scheduled") == "0"
    });
    assert_eq!(client.info("aof_last_bgrewrite_status"), "ok");
}

/// Something of each type, in several databases, with transactions and deadlines.
fn fill(client: &mut Client) {
    for line in [
        "SET string value",
        "SET deadline soon PX 100000000",
        "RPUSH list a b c",
        "SADD set a b c",
        "SADD integers 1 2 3",
        "HSET hash f v g w",
        "ZADD zset 1 a 2.5 b",
        "INCRBYFLOAT float 10.5",
        "SPOP set",
        "SELECT 5",
        "SET other db",
        "MULTI",
        "SET in transaction",
        "INCR counter",
        "EXEC",
        "APPEND other more",
        "SELECT 0",
        "LPUSH list z",
    ] {
        let reply = client.run(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
}

/// Increments a counter as fast as it is acknowledged, until the server is gone.
struct Load {
    acknowledged: Arc<AtomicU64>,
    stops: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(server: &Server, name: &'static str) -> Load {
        let (acknowledged, stops) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop, mut client) = (Arc::clone(&acknowledged), Arc::clone(&stops), server.connect());
        let thread = std::thread::spawn(move || {
            let request = [encode(&["INCR", name]), encode(&["HINCRBY", &format!("{name}:hash"), "n", "1"])].concat();
            while !stop.load(Ordering::Relaxed) && client.send(&request).is_ok() {
                let replies = client.reply().and_then(|_| client.reply());
                if replies.is_err() {
                    break;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let load = Load { acknowledged, stops, thread };
        load.wait_for(50);
        load
    }

    fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more are acknowledged.
    fn wait_for(&self, more: u64) {
        let target = self.count() + more;
        wait_until("writes are acknowledged", || self.count() >= target);
    }

    fn stop(self) -> u64 {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends");
        self.acknowledged.load(Ordering::Relaxed)
    }
}

fn number(reply: &str) -> u64 {
    reply.trim_start_matches(':').trim().parse().unwrap_or_else(|_| panic!("{reply} is no number"))
}

/// Everything acknowledged is there, and at most the one write more that was under way.
fn assert_has(server: &Server, name: &str, acknowledged: u64) {
    let mut client = server.connect();
    let counter: u64 = client.bulk(&format!("GET {name}")).parse().expect("a number");
    let field: u64 = client.bulk(&format!("HGET {name}:hash n")).parse().expect("a number");
    assert!((acknowledged..=acknowledged + 1).contains(&counter), "{counter} of {acknowledged}");
    assert!((acknowledged..=acknowledged + 1).contains(&field), "{field} of {acknowledged}");
}

#[test]
fn what_other_servers_wrote_is_loaded() {
    for kind in [Kind::Redis, Kind::Valkey] {
        for preamble in ["yes", "no"] {
            let Some(launcher) = keeping(kind) else { continue };
            let mut other = launcher.directive("aof-use-rdb-preamble", preamble).start();
            let mut client = other.connect();
            fill(&mut client);
            rewrite(&mut client);
            fill(&mut client);
            let data = [client.data(0), client.data(5)];
            other.kill();
            let mut server = repld().start();
            transplant(&other, &mut server);
            let mut client = server.connect();
            assert_eq!([client.data(0), client.data(5)], data, "{kind:?}, preamble {preamble}");
            client.ok("SET after restart");
            client.ok("SELECT 0");
            rewrite(&mut client);
            let data = [client.data(0), client.data(5)];
            server.restart();
            let mut client = server.connect();
            assert_eq!([client.data(0), client.data(5)], data);
        }
    }
}

#[test]
fn other_servers_load_what_was_written() {
    for kind in [Kind::Redis, Kind::Valkey] {
        for preamble in ["yes", "no"] {
            let Some(launcher) = keeping(kind) else { continue };
            let mut server =
                repld().directive("aof-use-rdb-preamble", preamble).directive("aof-timestamp-enabled", "yes").start();
            let mut client = server.connect();
            fill(&mut client);
            rewrite(&mut client);
            fill(&mut client);
            // A new name of the history stands as a note in the middle of the file.
            server.restart();
            let mut client = server.connect();
            fill(&mut client);
            let data = [client.data(0), client.data(5)];
            server.kill();
            assert!(fs::read_to_string(increment(&server)).expect("text").contains("#repl:"));
            let mut other = launcher.start();
            transplant(&server, &mut other);
            let mut client = other.connect();
            assert_eq!([client.data(0), client.data(5)], data, "{kind:?}, preamble {preamble}");
            let checked = Command::new("redis-check-aof").arg(parts(&server).join("appendonly.aof.manifest")).output();
            if let Ok(checked) = checked {
                let said = String::from_utf8_lossy(&checked.stdout).into_owned();
                assert!(said.contains("All AOF files and manifest are valid"), "{said}");
            }
        }
    }
}

#[test]
fn a_file_goes_to_redis_and_back_with_what_that_has_added() {
    let Some(redis) = keeping(Kind::Redis) else { return };
    let mut server = repld().start();
    fill(&mut server.connect());
    let replid = server.connect().info("master_replid");
    server.kill();
    let mut redis = redis.start();
    transplant(&server, &mut redis);
    redis.connect().ok("SET added here");
    let data = redis.connect().data(0);
    redis.kill();
    // The backlog is still there, and shorter than the file: its offset must not be believed.
    for entry in fs::read_dir(parts(&redis)).expect("a directory") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, parts(&server).join(path.file_name().expect("a name"))).expect("a copy");
    }
    server.restart();
    let mut client = server.connect();
    assert_eq!(client.data(0), data);
    assert_ne!(client.info("master_replid2"), replid);
}

#[test]
fn a_single_file_of_old_becomes_a_part() {
    let mut server = repld().start();
    server.kill();
    fs::remove_dir_all(parts(&server)).expect("a directory");
    fs::remove_file(server.directory().join("backlog.bin")).expect("a backlog");
    let requests = [encode(&["SELECT", "2"]), encode(&["SET", "k", "1"]), b"#TS:1628217470\r\n".to_vec()].concat();
    fs::write(server.directory().join("appendonly.aof"), &requests).expect("written");
    server.restart();
    server.connect().ok("SET new 1");
    assert_eq!(manifest(&server), "file appendonly.aof seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n");
    assert!(!server.directory().join("appendonly.aof").exists());
    server.restart();
    let mut client = server.connect();
    assert_eq!(client.bulk("GET new"), "1");
    client.ok("SELECT 2");
    assert_eq!(client.bulk("GET k"), "1");
}

#[test]
fn an_end_that_was_torn_off_is_cut_wherever_that_was() {
    let mut server = repld().start();
    let mut client = server.connect();
    client.ok("SET k 1");
    server.kill();
    let whole = fs::read(increment(&server)).expect("an increment");
    forget_backlog(&server);
    let last = encode(&["SET", "k", "22"]);
    let transaction =
        [encode(&["MULTI"]), encode(&["SET", "k", "3"]), encode(&["INCR", "n"]), encode(&["EXEC"])].concat();
    let cuts = (1..last.len()).map(|len| &last[..len]);
    let boundary = encode(&["MULTI"]).len();
    let halves = [boundary, boundary + 8, transaction.len() - 1].map(|len| &transaction[..len]);
    for tail in cuts.chain(halves) {
        fs::write(increment(&server), [&whole, tail].concat()).expect("written");
        let _ = fs::remove_file(server.directory().join("backlog.bin"));
        server.restart();
        assert_eq!(server.connect().bulk("GET k"), "1", "{} bytes of the last", tail.len());
        server.kill();
        assert_eq!(fs::read(increment(&server)).expect("an increment"), whole);
    }
    assert!(server.log().contains("short read while loading the AOF file"));
}

#[test]
fn an_end_that_was_torn_off_is_in_the_backlog_if_that_is_there() {
    let mut server = repld().start();
    let mut client = server.connect();
    client.ok("SET k 1");
    client.ok("SET k 2");
    let offset = client.info("master_repl_offset");
    server.kill();
    let whole = fs::read(increment(&server)).expect("an increment");
    fs::write(increment(&server), &whole[..whole.len() - 5]).expect("written");
    server.restart();
    assert_eq!(server.connect().bulk("GET k"), "2");
    assert_eq!(server.connect().info("master_repl_offset"), offset);
    server.kill();
    forget_backlog(&server);
    server.restart();
    assert_eq!(server.connect().bulk("GET k"), "2");
    assert_eq!(server.connect().info("master_repl_offset"), offset);
}

#[test]
fn a_broken_middle_is_refused_with_its_place_and_nothing_is_changed() {
    let mut server = repld().start();
    let mut client = server.connect();
    client.ok("SET first 1");
    let place = fs::metadata(increment(&server)).expect("an increment").len() as usize;
    client.ok("SET second 2");
    client.ok("SET third 3");
    server.kill();
    forget_backlog(&server);
    let whole = fs::read(increment(&server)).expect("an increment");
    let put = |bytes: &[u8]| [&whole[..place], bytes, &whole[place + bytes.len()..]].concat();
    // A length that swallows what follows looks like an end that was torn off.
    let swallowing = [&whole[..place], b"*3\r\n$3\r\nSET\r\n$600\r\n", &whole[place + 17..]].concat();
    let breaks = [
        (put(b"!"), "Bad file format reading the append only file appendonly.aof.1.incr.aof at byte"),
        (swallowing, "Unexpected end of file reading the append only file appendonly.aof.1.incr.aof: whole up to byte"),
        (
            put(b"*3\r\n$3\r\nWHA"),
            "Unknown command 'WHA' reading the append only file appendonly.aof.1.incr.aof at byte",
        ),
    ];
    for (bytes, error) in breaks {
        fs::write(increment(&server), &bytes).expect("written");
        assert!(!server.try_restart());
        assert!(server.log().contains(&format!("{error} {place}")), "{error} {place}: {}", server.log());
        assert_eq!(fs::read(increment(&server)).expect("an increment"), bytes);
    }
    fs::write(increment(&server), &whole).expect("written");
    server.restart();
    assert_eq!(server.connect().bulk("GET third"), "3");
}

#[test]
fn a_torn_end_is_refused_where_cutting_is_forbidden() {
    let mut server = repld().directive("aof-load-truncated", "no").start();
    server.connect().ok("SET k 1");
    server.kill();
    forget_backlog(&server);
    let whole = fs::read(increment(&server)).expect("an increment");
    fs::write(increment(&server), &whole[..whole.len() - 1]).expect("written");
    assert!(!server.try_restart());
    assert!(server.log().contains("aof-load-truncated forbids to cut it"));
}

#[test]
fn what_was_acknowledged_is_there_after_a_sigkill() {
    for policy in ["everysec", "always", "no"] {
        let mut server = repld().directive("appendfsync", policy).start();
        let loads = ["a", "b", "c"].map(|name| (name, Load::start(&server, name)));
        loads[0].1.wait_for(200);
        server.kill();
        let counts = loads.map(|(name, load)| (name, load.stop()));
        forget_backlog(&server);
        server.restart();
        for (name, count) in counts {
            assert_has(&server, name, count);
        }
    }
}

#[test]
fn a_kill_at_any_moment_of_a_rewrite_loses_nothing() {
    let mut server = repld().start();
    let mut total = 0;
    server.connect().run("DEBUG POPULATE 500 filler 200");
    rewrite(&mut server.connect());
    for round in 0..8_u64 {
        let load = Load::start(&server, "n");
        let mut client = server.connect();
        // Made slow, so that the kill comes before its end in the first rounds, and around it later.
        client.ok(&format!("CONFIG SET rdb-key-save-delay {}", if round < 4 { 1000 } else { 0 }));
        assert!(client.run("BGREWRITEAOF").starts_with('+'));
        load.wait_for(1 + round * 5);
        server.kill();
        let counted = load.stop();
        forget_backlog(&server);
        server.restart();
        assert_has(&server, "n", total + counted);
        total = server.connect().bulk("GET n").parse().expect("a number");
        // The one under way may have gone only half: begin anew from the same number.
        server.connect().run(&format!("HSET n:hash n {total}"));
        assert_eq!(number(&server.connect().run("DBSIZE")), 502);
    }
}

#[test]
fn a_rewrite_under_load_is_equal_to_the_data() {
    for preamble in ["yes", "no"] {
        let mut server = repld().directive("aof-use-rdb-preamble", preamble).start();
        let mut client = server.connect();
        fill(&mut client);
        client.run("DEBUG POPULATE 1000 filler");
        rewrite(&mut client);
        let loads = ["a", "b"].map(|name| Load::start(&server, name));
        for _ in 0..3 {
            rewrite(&mut client);
        }
        for load in loads {
            load.stop();
        }
        let before = digest(&server);
        client.ok("DEBUG LOADAOF");
        assert_eq!(digest(&server), before);
        server.kill();
        forget_backlog(&server);
        server.restart();
        assert_eq!(digest(&server), before);
        assert_eq!(manifest(&server).lines().count(), 2, "{}", manifest(&server));
        assert_eq!(fs::read_dir(parts(&server)).expect("a directory").count(), 3, "history is deleted");
    }
}

#[test]
fn it_is_turned_on_and_off_at_run_time_and_loses_nothing_meanwhile() {
    let mut server = Kind::Repld.server().expect("it was built").directive("enable-debug-command", "yes").start();
    let mut client = server.connect();
    client.run("DEBUG POPULATE 1000 filler");
    let load = Load::start(&server, "n");
    client.ok("CONFIG SET appendonly yes");
    assert_eq!(client.info("aof_enabled"), "1");
    load.wait_for(20);
    wait_for_rewrite(&mut client);
    client.ok("CONFIG REWRITE");
    load.wait_for(20);
    server.kill();
    let count = load.stop();
    forget_backlog(&server);
    server.restart();
    assert_has(&server, "n", count);
    let mut client = server.connect();
    assert_eq!(number(&client.run("DBSIZE")), 1002);
    client.ok("CONFIG SET appendonly no");
    client.ok("SET lost 1");
    client.ok("CONFIG SET appendonly yes");
    client.ok("SET kept 1");
    wait_for_rewrite(&mut client);
    let before = digest(&server);
    server.kill();
    forget_backlog(&server);
    server.restart();
    assert_eq!(digest(&server), before);
}

#[test]
fn what_a_rewrite_makes_superfluous_is_history_until_it_is_deleted() {
    let server = repld().start();
    let mut client = server.connect();
    client.ok("CONFIG SET aof-disable-auto-gc yes");
    rewrite(&mut client);
    rewrite(&mut client);
    assert_eq!(
        manifest(&server),
        "file appendonly.aof.3.base.rdb seq 3 type b\n\
         file appendonly.aof.2.incr.aof seq 2 type h\nfile appendonly.aof.2.base.rdb seq 2 type h\n\
         file appendonly.aof.1.incr.aof seq 1 type h\nfile appendonly.aof.1.base.rdb seq 1 type h\n\
         file appendonly.aof.3.incr.aof seq 3 type i\n"
    );
    client.ok("CONFIG SET aof-disable-auto-gc no");
    let present = "file appendonly.aof.3.base.rdb seq 3 type b\nfile appendonly.aof.3.incr.aof seq 3 type i\n";
    assert_eq!(manifest(&server), present);
    assert_eq!(fs::read_dir(parts(&server)).expect("a directory").count(), 3);
    // While it is off, a rewrite makes a base and nothing behind it.
    client.ok("CONFIG SET appendonly no");
    client.ok("SET k 1");
    rewrite(&mut client);
    assert_eq!(manifest(&server), "file appendonly.aof.4.base.rdb seq 4 type b\n");
    client.ok("SET k 2");
    client.ok("DEBUG LOADAOF");
    assert_eq!(client.bulk("GET k"), "1");
    client.ok("CONFIG SET appendonly yes");
    wait_for_rewrite(&mut client);
    let anew = "file appendonly.aof.5.base.rdb seq 5 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n";
    assert_eq!(manifest(&server), anew);
}

#[test]
fn a_database_that_is_not_there_is_refused_and_not_taken_for_another() {
    let mut server = repld().directive("databases", "20").start();
    let mut client = server.connect();
    client.ok("SELECT 18");
    client.ok("SET k 1");
    server.kill();
    let configuration = server.directory().join("server.conf");
    let text = fs::read_to_string(&configuration).expect("a configuration");
    fs::write(&configuration, text.replace("databases 20", "databases 16")).expect("written");
    forget_backlog(&server);
    assert!(!server.try_restart());
    assert!(server.log().contains("DB index is out of range"), "{}", server.log());
}

#[test]
fn it_is_made_of_the_dump_file_if_there_is_none_yet() {
    let mut server = repld().directive("save", "3600 1").start();
    server.connect().ok("SET k 1");
    server.connect().ok("SAVE");
    server.kill();
    fs::remove_dir_all(parts(&server)).expect("a directory");
    forget_backlog(&server);
    server.restart();
    assert_eq!(server.connect().bulk("GET k"), "1");
    fs::remove_file(server.directory().join("dump.rdb")).expect("a dump file");
    server.restart();
    assert_eq!(server.connect().bulk("GET k"), "1");
}

#[test]
fn it_rewrites_itself_when_it_has_grown() {
    let server =
        repld().directive("auto-aof-rewrite-min-size", "4kb").directive("auto-aof-rewrite-percentage", "50").start();
    let mut client = server.connect();
    for _ in 0..200 {
        client.ok(&format!("SET k {}", "v".repeat(100)));
    }
    wait_until("it is rewritten", || manifest(&server).contains("appendonly.aof.2.base.rdb"));
    wait_until("it is small", || client.info("aof_current_size").parse::<u64>().expect("a number") < 20_000);
}

#[test]
fn a_full_disk_is_told_and_nothing_is_acknowledged_that_is_not_on_it() {
    for policy in ["everysec", "always"] {
        let mut server = repld().directive("appendfsync", policy).start();
        let mut client = server.connect();
        client.ok("SET before 1");
        symlink("/dev/full", parts(&server).join("appendonly.aof.2.incr.aof")).expect("a link");
        rewrite(&mut client);
        client.send(&encode(&["SET", "k", "1"])).expect("sent");
        if policy == "always" {
            assert!(client.reply().is_err(), "it is not acknowledged");
            server.wait_for_exit();
            assert!(server.log().contains("Can't recover from AOF write error when the AOF fsync policy is 'always'"));
        } else {
            let _ = client.reply();
            wait_until("it says so", || client.info("aof_last_write_status") == "err");
            assert!(client.run("SET k 2").starts_with("-MISCONF Errors writing to the AOF file: No space left"));
            assert_eq!(client.bulk("GET before"), "1");
            server.kill();
        }
        // Nothing of it is in the file, and without the full device it is found again.
        fs::remove_file(parts(&server).join("appendonly.aof.2.incr.aof")).expect("a link");
        fs::write(parts(&server).join("appendonly.aof.2.incr.aof"), "").expect("written");
        forget_backlog(&server);
        server.restart();
        assert_eq!(server.connect().bulk("GET before"), "1");
    }
}

fn wait_for_link(replica: &Server) {
    let mut client = replica.connect();
    wait_until("the link is up", || client.info("master_link_status") == "up");
}

fn wait_for_equal_offsets(master: &Server, replica: &Server) {
    let (mut above, mut below) = (master.connect(), replica.connect());
    wait_until("the replica has everything", || above.info("master_repl_offset") == below.info("slave_repl_offset"));
}

#[test]
fn a_killed_replica_goes_on_by_a_partial_resync_and_is_what_its_offset_says() {
    let master = Kind::Repld.server().expect("it was built");
    let master = master.directive("enable-debug-command", "yes").directive("repl-backlog-size", "64mb").start();
    let mut replica = repld().replica_of(&master).start();
    wait_for_link(&replica);
    let loads = ["a", "b"].map(|name| Load::start(&master, name));
    let mut client = master.connect();
    for round in 0..4 {
        wait_for_rewrite(&mut replica.connect());
        fill(&mut client);
        if round == 2 {
            rewrite(&mut replica.connect());
        }
        loads[0].wait_for(30);
        replica.kill();
        loads[0].wait_for(30);
        if round % 2 == 1 {
            forget_backlog(&replica);
        }
        replica.restart();
        wait_for_link(&replica);
    }
    for load in loads {
        load.stop();
    }
    wait_for_equal_offsets(&master, &replica);
    assert_eq!(client.info("sync_full"), "1");
    assert_eq!(client.info("sync_partial_ok"), "4");
    assert_eq!(digest(&replica), digest(&master));
    // And so it is on the replica's disk.
    let after = digest(&replica);
    replica.kill();
    forget_backlog(&replica);
    drop(master);
    replica.restart();
    assert_eq!(digest(&replica), after);
}

#[test]
fn the_replicas_of_a_killed_master_go_on_by_a_partial_resync() {
    for keeps_backlog in [true, false] {
        let mut master = repld().start();
        let replica = repld().replica_of(&master).start();
        wait_for_link(&replica);
        let loads = ["a", "b"].map(|name| (name, Load::start(&master, name)));
        loads[0].1.wait_for(100);
        master.kill();
        let counts = loads.map(|(name, load)| (name, load.stop()));
        if !keeps_backlog {
            forget_backlog(&master);
        }
        master.restart();
        wait_for_link(&replica);
        fill(&mut master.connect());
        wait_for_equal_offsets(&master, &replica);
        let mut client = master.connect();
        assert_eq!((client.info("sync_full"), client.info("sync_partial_ok")), ("0".into(), "1".into()));
        for (name, count) in counts {
            assert_has(&master, name, count);
        }
        assert_eq!(digest(&master), digest(&replica));
    }
}

#[test]
fn a_promoted_replicas_file_knows_both_histories() {
    let master = repld().start();
    let mut replica = repld().replica_of(&master).start();
    wait_for_link(&replica);
    let mut client = master.connect();
    client.ok("SELECT 3");
    client.ok("SET k 1");
    wait_for_equal_offsets(&master, &replica);
    wait_for_rewrite(&mut replica.connect());
    client.ok("SET l 1");
    wait_for_equal_offsets(&master, &replica);
    replica.connect().ok("REPLICAOF NO ONE");
    replica.connect().ok("SET m 1");
    replica.connect().ok("CONFIG REWRITE");
    let (replid, offset) = (replica.connect().info("master_replid"), replica.connect().info("master_repl_offset"));
    replica.kill();
    forget_backlog(&replica);
    replica.restart();
    let mut client = replica.connect();
    assert_eq!(client.bulk("GET m"), "1");
    assert_eq!((client.info("master_replid2"), client.info("master_repl_offset")), (replid, offset));
    client.ok("SELECT 3");
    assert_eq!((client.bulk("GET k"), client.bulk("GET l")), ("1".into(), "1".into()));
}

#[test]
fn what_clients_write_on_a_writable_replica_is_kept_beside_the_stream() {
    let master = repld().start();
    let mut replica = repld().replica_of(&master).directive("replica-read-only", "no").start();
    wait_for_link(&replica);
    wait_for_rewrite(&mut replica.connect());
    let mut client = master.connect();
    client.ok("SELECT 1");
    client.ok("SET k 1");
    wait_for_equal_offsets(&master, &replica);
    replica.connect().ok("SET own 1");
    client.ok("SET l 1");
    wait_for_equal_offsets(&master, &replica);
    replica.kill();
    forget_backlog(&replica);
    replica.restart();
    wait_for_link(&replica);
    client.ok("SET m 1");
    wait_for_equal_offsets(&master, &replica);
    assert_eq!(client.info("sync_full"), "1");
    let mut client = replica.connect();
    assert_eq!(client.bulk("GET own"), "1");
    client.ok("SELECT 1");
    for name in ["k", "l", "m"] {
        assert_eq!(client.bulk(&format!("GET {name}")), "1", "{name}");
    }
}

#[test]
fn waitaof_tells_which_disks_have_it() {
    let master = repld().start();
    let mut client = master.connect();
    client.ok("SET k 1");
    assert_eq!(client.run("WAITAOF 1 0 0"), "*2\r\n:1\r\n:0\r\n");
    assert_eq!(client.run("WAITAOF 0 1 20"), "*2\r\n:1\r\n:0\r\n");
    let replica = repld().replica_of(&master).start();
    let without = Kind::Repld.server().expect("it was built").replica_of(&master).start();
    wait_for_link(&replica);
    wait_for_link(&without);
    wait_for_rewrite(&mut replica.connect());
    client.ok("SET k 2");
    assert_eq!(client.run("WAITAOF 1 1 0"), "*2\r\n:1\r\n:1\r\n");
    assert_eq!(client.run("WAITAOF 0 2 20"), "*2\r\n:1\r\n:1\r\n");
    assert!(client.run("WAITAOF 2 0 0").starts_with("-ERR value is out of range"));
    assert!(client.run("WAITAOF 1 0 -1").starts_with("-ERR timeout is negative"));
    assert!(replica.connect().run("WAITAOF 1 0 0").starts_with("-ERR WAITAOF cannot be used with replica instances"));
    client.ok("CONFIG SET appendonly no");
    assert!(client.run("WAITAOF 1 0 0").starts_with("-ERR WAITAOF cannot be used when numlocal is set"));
    client.ok("SET k 3");
    assert_eq!(client.run("WAITAOF 0 1 0"), "*2\r\n:0\r\n:1\r\n");
}

#[test]
fn waitaof_counts_the_disks_of_valkey_and_is_counted_there() {
    let Some(launcher) = keeping(Kind::Valkey) else { return };
    let master = repld().start();
    let below = launcher.clone().replica_of(&master).start();
    wait_for_link(&below);
    let above = launcher.start();
    let replica = repld().replica_of(&above).start();
    wait_for_link(&replica);
    for (master, replica) in [(&master, &below), (&above, &replica)] {
        wait_for_rewrite(&mut replica.connect());
        let mut client = master.connect();
        client.ok("SET k 1");
        assert_eq!(client.run("WAITAOF 1 1 0"), "*2\r\n:1\r\n:1\r\n");
    }
}

#[test]
fn a_replica_that_gets_one_of_its_dump_file_goes_on_where_that_was() {
    let master = repld().start();
    let plain = Kind::Repld.server().expect("it was built").directive("save", "3600 1");
    let mut replica = plain.replica_of(&master).start();
    wait_for_link(&replica);
    let mut client = master.connect();
    client.ok("SELECT 2");
    client.ok("SET k 1");
    wait_for_equal_offsets(&master, &replica);
    replica.connect().ok("SAVE");
    let configuration = replica.directory().join("server.conf");
    let text = fs::read_to_string(&configuration).expect("a configuration");
    fs::write(&configuration, text + "appendonly yes\n").expect("written");
    for _ in 0..2 {
        replica.kill();
        forget_backlog(&replica);
        replica.restart();
        wait_for_link(&replica);
    }
    client.ok("SET l 1");
    wait_for_equal_offsets(&master, &replica);
    assert_eq!(client.info("sync_full"), "1");
    let mut client = replica.connect();
    client.ok("SELECT 2");
    assert_eq!((client.bulk("GET k"), client.bulk("GET l")), ("1".into(), "1".into()));
}

#[test]
fn an_older_master_is_not_upset_by_what_it_is_told_of_the_disk() {
    let Some(master) = Kind::Redis.server() else { return };
    let master = master.start();
    let mut replica = repld().replica_of(&master).start();
    wait_for_link(&replica);
    wait_for_rewrite(&mut replica.connect());
    let mut client = master.connect();
    client.ok("SET k 1");
    assert_eq!(client.run("WAIT 1 0"), ":1\r\n");
    replica.kill();
    client.ok("SET k 2");
    replica.restart();
    wait_for_link(&replica);
    assert_eq!(client.info("sync_partial_ok"), "1");
    assert_eq!(client.run("WAIT 1 0"), ":1\r\n");
    assert_eq!(client.info("sync_full"), "1");
    assert_eq!(replica.connect().bulk("GET k"), "2");
}

#[test]
fn a_shutdown_leaves_everything_on_the_disk() {
    let mut server = repld().directive("appendfsync", "no").start();
    fill(&mut server.connect());
    let before = digest(&server);
    let _ = server.connect().send(&encode(&["SHUTDOWN", "NOSAVE"]));
    server.wait_for_exit();
    forget_backlog(&server);
    server.restart();
    assert_eq!(digest(&server), before);
    // Even where its first base was still being made.
    let mut server = Kind::Repld.server().expect("it was built").directive("enable-debug-command", "yes").start();
    let mut client = server.connect();
    fill(&mut client);
    let before = digest(&server);
    client.ok("CONFIG SET rdb-key-save-delay 1000000");
    client.ok("CONFIG SET appendonly yes");
    client.ok("CONFIG REWRITE");
    wait_until("it is being made", || client.info("aof_rewrite_in_progress") == "1");
    client.ok("CONFIG SET rdb-key-save-delay 0");
    let _ = client.send(&encode(&["SHUTDOWN", "NOSAVE"]));
    server.wait_for_exit();
    forget_backlog(&server);
    server.restart();
    assert_eq!(digest(&server), before);
}
