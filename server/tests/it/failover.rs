//! `FAILOVER` between real servers of both kinds.

use rustix::process::Signal;

use crate::server::{Launcher, Server, wait_until};

/// Runs each of the functions as a test of its own for one pair of servers.
macro_rules! between {
    ($pair:ident, $master:ident, $replica:ident) => {
        mod $pair {
            between!(@each $master, $replica:
                the_target_takes_over_and_nobody_is_synced_in_full,
                a_forced_failover_waits_no_longer_than_it_was_told,
                an_aborted_failover_changes_nothing,
                a_replica_is_refused_as_the_one_that_hands_over,
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

/// A master and a replica of it that is linked.
fn pair(master: Launcher, replica: Launcher) -> (Server, Server) {
    let master = master.start();
    let replica = replica.replica_of(&master).start();
    wait_for_link(&replica);
    let target = format!("port={},state=online", replica.port());
    let mut client = master.connect();
    wait_until("the replica is online", || client.info("slave0").contains(&target));
    (master, replica)
}

fn wait_for_link(replica: &Server) {
    let mut client = replica.connect();
    wait_until("the link is up", || client.info("master_link_status") == "up");
}

fn wait_for_state(server: &Server, state: &str) {
    let mut client = server.connect();
    wait_until(&format!("the failover's state is {state}"), || client.info("master_failover_state") == state);
}

fn wait_until_same(upstream: &Server, downstream: &Server) {
    wait_for_link(downstream);
    let (mut upstream, mut downstream) = (upstream.connect(), downstream.connect());
    wait_until("the replica has caught up", || {
        upstream.info("master_repl_offset") == downstream.info("master_repl_offset")
    });
    for database in [0, 9] {
        let [ours, theirs] = [&mut upstream, &mut downstream].map(|client| client.data(database));
        assert!(ours == theirs, "database {database} differs");
    }
}

fn the_target_takes_over_and_nobody_is_synced_in_full(master: Launcher, replica: Launcher) {
    let (master, target) = pair(master, replica);
    let mut client = master.connect();
    client.ok("SELECT 9");
    client.ok("SET before failover");
    client.ok("FAILOVER");
    wait_for_state(&master, "no-failover");
    assert_eq!((client.info("role").as_str(), target.connect().info("role").as_str()), ("slave", "master"));
    wait_for_link(&master);
    // The new master's first write is in the database that the old one wrote to last.
    let mut client = target.connect();
    client.ok("SELECT 9");
    client.ok("SET after failover");
    wait_until_same(&target, &master);
    assert_eq!(client.info("sync_partial_ok"), "1");
    assert_eq!(client.info("sync_full"), "0");
}

fn a_forced_failover_waits_no_longer_than_it_was_told(master: Launcher, replica: Launcher) {
    let (master, target) = pair(master, replica);
    target.signal(Signal::STOP);
    let mut client = master.connect();
    client.ok("SET never acknowledged");
    client.ok(&format!("FAILOVER TO 127.0.0.1 {} TIMEOUT 50 FORCE", target.port()));
    wait_for_state(&master, "failover-in-progress");
    assert_eq!(client.info("role"), "slave", "there is never a second master");
    assert_eq!(client.run("REPLICAOF NO ONE"), "-ERR REPLICAOF not allowed while failing over.\r\n");
    target.signal(Signal::CONT);
    wait_for_state(&master, "no-failover");
    wait_until_same(&target, &master);
    assert_eq!(target.connect().info("role"), "master");
}

fn an_aborted_failover_changes_nothing(master: Launcher, replica: Launcher) {
    let (master, target) = pair(master, replica);
    let mut client = master.connect();
    let lineage = client.info("master_replid");
    target.signal(Signal::STOP);
    client.ok("SET before failover");
    client.ok("FAILOVER TIMEOUT 60000");
    assert_eq!(client.info("master_failover_state"), "waiting-for-sync");
    assert_eq!(client.run("FAILOVER"), "-ERR FAILOVER already in progress.\r\n");
    // Reads go on, writes wait.
    assert_eq!(client.bulk("GET before"), "failover");
    let mut writer = master.connect();
    writer.send(b"SET during failover\r\n").expect("a live server");
    client.ok("FAILOVER ABORT");
    assert_eq!(writer.reply().expect("a reply"), b"+OK\r\n");
    assert_eq!(client.run("FAILOVER ABORT"), "-ERR No failover in progress.\r\n");
    target.signal(Signal::CONT);
    assert_eq!(client.info("role"), "master");
    assert_eq!(client.info("master_replid"), lineage);
    wait_until_same(&master, &target);
}

fn a_replica_is_refused_as_the_one_that_hands_over(master: Launcher, replica: Launcher) {
    let (master, target) = pair(master, replica);
    let mut client = target.connect();
    assert_eq!(client.run("FAILOVER"), "-ERR FAILOVER is not valid when server is a replica.\r\n");
    let mut client = master.connect();
    assert_eq!(
        client.run("FAILOVER FORCE TIMEOUT 100"),
        "-ERR FAILOVER with force option requires both a timeout and target HOST and IP.\r\n"
    );
    assert_eq!(client.run("FAILOVER TO 127.0.0.1 1"), "-ERR FAILOVER target HOST and PORT is not a replica.\r\n");
    assert_eq!(client.run("FAILOVER TIMEOUT 0"), "-ERR FAILOVER timeout must be greater than 0\r\n");
    assert_eq!(client.run("FAILOVER now"), "-ERR syntax error\r\n");
    let id = client.info("master_replid");
    let mut hand = master.connect();
    assert_eq!(hand.run(&format!("PSYNC {id} 1 FAILOVER")), "-ERR PSYNC FAILOVER can't be sent to a master.\r\n");
    let mut hand = target.connect();
    assert_eq!(
        hand.run(&format!("PSYNC {} 1 FAILOVER", "0".repeat(40))),
        "-ERR PSYNC FAILOVER replid must match my replid.\r\n"
    );
}
