//! The link to the upstream as the operating system sees it: how soon it is made, when it is given up, and what is left
//! of it.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::encode;
use crate::server::{Kind, Launcher, Server, wait_until};

fn repld() -> Launcher {
    Kind::Repld.server().expect("ours is always there")
}

fn linked(replica: &Server) -> bool {
    replica.connect().info("master_link_status") == "up"
}

fn replicas(master: &Server) -> String {
    master.connect().info("connected_slaves")
}

/// A port at which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

#[test]
fn a_port_that_opens_is_found_within_the_present_wait() {
    let replica = repld().start();
    let port = closed_port();
    replica.connect().ok(&format!("REPLICAOF 127.0.0.1 {port}"));
    wait_until("some attempts have failed", || replica.log().matches("Error condition on socket").count() >= 4);
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is still free");
    let opened = Instant::now();
    listener.accept().expect("the replica comes");
    // Four failures: the next waits are 80 ms and 160 ms. The rest is for a busy machine.
    let waited = opened.elapsed();
    assert!(waited < Duration::from_millis(500), "{waited:?}");
}

#[test]
fn a_link_that_is_cut_is_made_again_at_once() {
    let master = repld().start();
    let replica = repld().replica_of(&master).start();
    wait_until("the link is up", || linked(&replica));
    let mut client = master.connect();
    let mut waits = Vec::new();
    for cut in 1..=5 {
        // A link that was up for less than 100 ms is not made again at once.
        let since = Instant::now();
        wait_until("the link has lasted", || since.elapsed() > Duration::from_millis(120));
        let cut_at = Instant::now();
        assert_eq!(client.run("CLIENT KILL TYPE replica"), ":1\r\n");
        wait_until("the replica is back", || client.info("sync_partial_ok") == cut.to_string());
        waits.push(cut_at.elapsed());
    }
    assert_eq!(client.info("sync_full"), "1");
    waits.sort();
    assert!(waits[2] < Duration::from_millis(100), "{waits:?}");
}

#[test]
fn a_stopped_upstream_is_given_up_after_the_timeout_and_followed_again() {
    let master = repld().directive("repl-ping-replica-period", "1").start();
    let replica = repld().directive("repl-timeout", "2").replica_of(&master).start();
    wait_until("the link is up", || linked(&replica));
    master.signal(Signal::STOP);
    wait_until("the replica gives the link up", || !linked(&replica));
    assert!(replica.log().contains("MASTER timeout: no data nor PING received"), "{}", replica.log());
    master.signal(Signal::CONT);
    wait_until("the link is up again", || linked(&replica));
}

#[test]
fn a_stopped_replica_is_given_up_after_the_timeout_and_comes_back() {
    let master = repld().directive("repl-timeout", "2").directive("repl-ping-replica-period", "1").start();
    let replica = repld().replica_of(&master).start();
    wait_until("the replica is there", || replicas(&master) == "1");
    replica.signal(Signal::STOP);
    wait_until("the master gives the replica up", || replicas(&master) == "0");
    assert!(master.log().contains("Disconnecting timedout replica"), "{}", master.log());
    replica.signal(Signal::CONT);
    wait_until("the replica is back", || replicas(&master) == "1" && linked(&replica));
}

/// Whether the kernel would notice a vanished peer: the timers of the two ends of a connection on this machine, as
/// `/proc/net/tcp` shows them. 2 is keepalive.
fn has_keepalive(one: u16, other: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let ports = |row: &str| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        let port = |field: &str| u16::from_str_radix(field.split_once(':')?.1, 16).ok();
        Some((port(fields.get(1)?)?, port(fields.get(2)?)?, fields.get(5)?.starts_with("02:")))
    };
    let ends: Vec<_> = table.lines().filter_map(ports).collect();
    let kept = |local, remote| ends.contains(&(local, remote, true));
    kept(one, other) && kept(other, one)
}

#[test]
fn both_ends_of_a_link_are_kept_alive() {
    let master = repld().start();
    let replica = repld().replica_of(&master).start();
    wait_until("the link is up", || linked(&replica));
    let list = master.connect().bulk("CLIENT LIST TYPE replica");
    let port = list.split(' ').find_map(|word| word.strip_prefix("addr=127.0.0.1:")).expect("its address");
    let port: u16 = port.parse().expect("a port");
    // While something is on its way, another timer runs.
    wait_until("the kernel watches both ends", || has_keepalive(master.port(), port));
}

#[test]
fn a_thousand_changes_of_the_upstream_leave_nothing_behind() {
    let master = repld().start();
    let replica = repld().start();
    // Takes connections and never says a word.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    silent.set_nonblocking(true).expect("our own socket");
    let ports = [master.port(), closed_port(), silent.local_addr().expect("a bound address").port()];
    let mut client = replica.connect();
    // Both have their backlogs open from here on.
    client.ok(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
    wait_until("the link is up", || linked(&replica));
    client.ok("REPLICAOF NO ONE");
    let mut follow_often = |times: usize| {
        for turn in 0..times {
            client.ok(&format!("REPLICAOF 127.0.0.1 {}", ports[turn % ports.len()]));
            while silent.accept().is_ok() {}
        }
        client.ok("REPLICAOF NO ONE");
    };
    let mut observer = master.connect();
    let open_files = |server: &Server| {
        let _observed_through = server.connect();
        server.open_files()
    };
    follow_often(30);
    wait_until("the replica has gone", || observer.info("connected_slaves") == "0");
    let before = [&replica, &master].map(open_files);
    let (memory_before, clients_before) = (replica.resident_kib(), observer.info("connected_clients"));

    follow_often(1000);
    wait_until("the replica has gone", || observer.info("connected_slaves") == "0");
    wait_until("no socket is left", || {
        let now = [&replica, &master].map(open_files);
        now[0] <= before[0] && now[1] <= before[1]
    });
    assert_eq!(observer.info("connected_clients"), clients_before);
    let grown_kib = replica.resident_kib().saturating_sub(memory_before);
    assert!(grown_kib < 4096, "{grown_kib} KiB more than before");
    // A task that was left would still try to connect.
    let attempts = || replica.log().matches("Connecting to MASTER").count();
    let (counted, since) = (attempts(), Instant::now());
    wait_until("a task that was left has had its time", || since.elapsed() > Duration::from_millis(1100));
    assert_eq!(attempts(), counted);
}

/// Waits until all are at one point of one history, and checks that they have the same.
fn wait_until_all_equal(servers: &[Server]) {
    let fields = ["master_repl_offset", "master_replid"];
    let point = |server: &Server| fields.map(|field| server.connect().info(field));
    wait_until("all are at one offset", || servers[1..].iter().all(|server| point(server) == point(&servers[0])));
    let digests: Vec<String> = servers.iter().map(|server| server.connect().run("DEBUG DIGEST")).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

/// `tests/long/chain` does this for a minute.
#[test]
fn a_chain_outlives_cuts_and_promotions_without_a_full_resync() {
    let quiet = || repld().directive("repl-ping-replica-period", "50").directive("enable-debug-command", "yes");
    let mut servers = vec![quiet().start()];
    for number in 1..4 {
        let server = quiet().replica_of(&servers[number - 1]).start();
        wait_until("the link is up", || linked(&server));
        servers.push(server);
    }
    let mut writer = servers[0].connect();
    let mut write = |turn: usize| {
        for number in 0..50 {
            writer.ok(&format!("SELECT {}", number % 3));
            writer.ok(&format!("SET key:{turn}:{number} value"));
        }
    };
    for turn in 0..9 {
        let (above, kind) = if turn % 2 == 0 { (turn % 3, "replica") } else { (turn % 3 + 1, "master") };
        write(turn);
        assert_eq!(servers[above].connect().run(&format!("CLIENT KILL TYPE {kind}")), ":1\r\n");
        write(turn + 100);
        wait_until("all links are up", || servers[1..].iter().all(linked));
    }
    wait_until_all_equal(&servers);

    for turn in 1..=6 {
        let master = turn % servers.len();
        let mut client = servers[master].connect();
        client.ok("REPLICAOF NO ONE");
        for (_, server) in servers.iter().enumerate().filter(|(number, _)| *number != master) {
            // Who follows it already is told so.
            let answer = server.connect().run(&format!("REPLICAOF 127.0.0.1 {}", servers[master].port()));
            assert!(answer.starts_with("+OK"), "{answer}");
        }
        client.ok("SELECT 2");
        client.ok(&format!("SET promoted {turn}"));
        let followers = || servers.iter().enumerate().filter(|(number, _)| *number != master);
        wait_until("all follow", || followers().all(|(_, server)| linked(server)));
        wait_until_all_equal(&servers);
    }
    let full: Vec<String> = servers.iter().map(|server| server.connect().info("sync_full")).collect();
    assert_eq!(full, ["1", "1", "1", "0"], "only the first syncs were full");
}

#[test]
fn a_replica_that_asks_for_what_has_a_reply_is_disconnected() {
    let server = Kind::Repld.server().expect("it was just built").start();
    for (request, command) in [("PING", "ping"), ("GET foo", "get"), ("XINFO HELP", "xinfo|help"), ("NO", "<unknown>")]
    {
        let mut replica = server.connect();
        let requests = ["SYNC", request].map(|line| encode(&line.split(' ').collect::<Vec<_>>()));
        replica.send(&requests.concat()).expect("a live server");
        let sent = replica.rest().expect("all of it until the end");
        assert!(!sent.windows(4).any(|bytes| bytes == b"PONG"), "{request}");
        assert!(
            server.log().contains(&format!("Replica generated a reply to command '{command}', disconnecting it: "))
        );
    }
    let words =
        "== CRITICAL == This master is sending an error to its replica: 'ERR Replica can't interact with the keyspace'";
    assert!(server.log().contains(words), "{}", server.log());
    assert!(server.connect().run("PSYNC id offset").starts_with("-ERR value is not an integer"));
    assert!(server.log().contains("asks for synchronization but with a wrong offset"));
}
