//! Upstreams that are refused: they would take the data away, follow this server, or are somebody else.

use crate::client::Client;
use crate::server::{Kind, Server, wait_until};

fn start() -> Option<Server> {
    Some(Kind::Repld.server()?.start())
}

fn fill(server: &Server, keys: usize) {
    let mut client = server.connect();
    for key in 0..keys {
        client.ok(&format!("SET key:{key} value"));
    }
}

fn follow(replica: &Server, master: &Server) {
    replica.connect().ok(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
}

fn wait_for_link(replica: &Server) {
    let mut client = replica.connect();
    wait_until("the link is up", || client.info("master_link_status") == "up");
}

fn refusal(client: &mut Client) -> String {
    let mut reason = String::new();
    wait_until("the upstream is refused", || {
        let info = client.bulk("INFO replication");
        let line = info.lines().find_map(|line| line.strip_prefix("repld_link_refused:"));
        reason = line.unwrap_or_default().to_owned();
        !reason.is_empty()
    });
    reason
}

fn a_full_sync_that_takes_the_data_away_is_refused_until_it_is_allowed(load: &str) {
    let (Some(replica), Some(empty)) = (Kind::Repld.server(), start()) else { return };
    let replica = replica.directive("replica-full-sync-guard", "yes").directive("repl-diskless-load", load).start();
    fill(&replica, 10);
    fill(&empty, 4);
    follow(&replica, &empty);
    let mut client = replica.connect();
    let reason = refusal(&mut client);
    assert!(reason.contains("4 of 10 keys") && reason.contains("CONFIG SET replica-full-sync-guard no"), "{reason}");
    assert!(replica.log().contains("Refused a full resync"), "the log says it too");
    assert_eq!(client.run("DBSIZE"), ":10\r\n");
    assert_eq!(client.info("master_link_status"), "down");
    assert_eq!(empty.connect().info("sync_full"), "1", "the master is left in peace");
    client.ok("CONFIG SET replica-full-sync-guard no");
    wait_for_link(&replica);
    assert_eq!(client.run("DBSIZE"), ":4\r\n");
    assert!(!client.bulk("INFO replication").contains("repld_link_refused"));
}

#[test]
fn a_full_sync_that_takes_the_data_away_is_refused_through_a_file() {
    a_full_sync_that_takes_the_data_away_is_refused_until_it_is_allowed("disabled");
}

#[test]
fn a_full_sync_that_takes_the_data_away_is_refused_beside_the_old_data() {
    a_full_sync_that_takes_the_data_away_is_refused_until_it_is_allowed("swapdb");
}

#[test]
fn a_guarded_replica_takes_what_is_half_of_its_data_or_comes_from_its_own_master() {
    let (Some(replica), Some(half), Some(own)) = (Kind::Repld.server(), start(), start()) else { return };
    let replica = replica.directive("replica-full-sync-guard", "yes").start();
    fill(&replica, 10);
    fill(&half, 5);
    follow(&replica, &half);
    wait_for_link(&replica);
    assert_eq!(replica.connect().run("DBSIZE"), ":5\r\n");
    // A named master may have nothing at all.
    let id = {
        let other = start().expect("it did before");
        follow(&other, &own);
        wait_for_link(&other);
        own.connect().info("master_replid")
    };
    replica.connect().ok(&format!("CONFIG SET replica-expect-master-id {id}"));
    follow(&replica, &own);
    wait_for_link(&replica);
    assert_eq!(replica.connect().run("DBSIZE"), ":0\r\n");
}

#[test]
fn nobody_follows_itself_or_one_that_follows_it() {
    let (Some(first), Some(second), Some(third)) = (start(), start(), start()) else { return };
    for host in ["127.0.0.1", "localhost", "::1"] {
        let answer = first.connect().run(&format!("REPLICAOF {host} {}", first.port()));
        assert!(answer.contains("is this server itself"), "{answer}");
    }
    assert_eq!(first.connect().info("role"), "master");
    follow(&second, &first);
    wait_for_link(&second);
    follow(&third, &second);
    wait_for_link(&third);
    // The circle would be closed here.
    follow(&first, &third);
    let mut client = first.connect();
    let reason = refusal(&mut client);
    assert!(reason.contains("The master follows this server"), "{reason}");
    // As soon as it is none any more, nothing stands against it.
    third.connect().ok("REPLICAOF NO ONE");
    wait_for_link(&first);
}

#[test]
fn a_password_is_told_only_to_the_master_that_names_the_expected_history() {
    let (Some(replica), Some(master)) = (Kind::Repld.server(), Kind::Repld.server()) else { return };
    let master = master.directive("requirepass", "secret").start();
    let mut client = master.connect();
    assert_eq!(client.run("GET key"), "-NOAUTH Authentication required.\r\n");
    // Whoever has a secret to tell may ask whom he tells it to.
    let answer = client.run("REPLID");
    let id = answer.trim().strip_prefix("+REPLID ").expect("its answer").to_owned();
    let wrong = id.chars().rev().collect::<String>();
    let replica = replica.directive("masterauth", "secret").directive("replica-expect-master-id", &wrong).start();
    follow(&replica, &master);
    let mut client = replica.connect();
    let reason = refusal(&mut client);
    assert!(reason.contains("replica-expect-master-id") && !reason.contains("secret"), "{reason}");
    client.ok(&format!("CONFIG SET replica-expect-master-id {id}"));
    wait_for_link(&replica);
}

#[test]
fn a_master_that_is_no_repld_is_told_no_password_where_one_is_expected() {
    let (Some(replica), Some(master)) = (Kind::Repld.server(), Kind::Redis.server()) else { return };
    let master = master.directive("requirepass", "secret").start();
    let replica =
        replica.directive("masterauth", "secret").directive("replica-expect-master-id", &"0".repeat(40)).start();
    follow(&replica, &master);
    let mut client = replica.connect();
    assert!(refusal(&mut client).contains("it is told no password"));
    client.ok("CONFIG SET replica-expect-master-id \"\"");
    wait_for_link(&replica);
}

#[test]
fn config_set_replicaof_follows_and_ends_following() {
    let (Some(first), Some(second)) = (start(), start()) else { return };
    let mut client = second.connect();
    assert_eq!(client.call(&["CONFIG", "SET", "replicaof", &format!("127.0.0.1 {}", first.port())]), b"+OK\r\n");
    wait_for_link(&second);
    client.ok("CONFIG REWRITE");
    let answer = client.call(&["CONFIG", "SET", "replicaof", &format!("127.0.0.1 {}", second.port())]);
    assert!(String::from_utf8_lossy(&answer).contains("is this server itself"));
    assert_eq!(client.info("master_port"), first.port().to_string());
    assert_eq!(client.call(&["CONFIG", "SET", "replicaof", "no one"]), b"+OK\r\n");
    assert_eq!(client.info("role"), "master");
}

/// Who is told of those above, and asks to be fed when they have changed, would believe the old ones for as long as its link
/// lasts, and refuse one of them that wants to follow it.
#[test]
fn nobody_is_fed_who_was_told_of_others_above_than_there_are_now() {
    let (Some(master), Some(replica)) = (start(), start()) else { return };
    follow(&replica, &master);
    wait_for_link(&replica);
    let below = "b".repeat(40);
    let mut early = replica.connect();
    let told = early.call(&["REPLCONF", "repld-run-id", &below]);
    assert!(told.starts_with(b"+CHAIN "), "{}", told.escape_ascii());
    replica.connect().ok("REPLICAOF NO ONE");
    let answer = early.call(&["PSYNC", "?", "-1"]);
    assert!(answer.starts_with(b"-NOMASTERLINK"), "{}", answer.escape_ascii());
    early.call(&["REPLCONF", "repld-run-id", &below]);
    assert!(early.call(&["PSYNC", "?", "-1"]).starts_with(b"+FULLRESYNC "));
}
