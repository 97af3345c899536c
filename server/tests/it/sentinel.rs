//! A real `redis-sentinel` trio over repld: it is monitored, its replicas are found, and a killed master is failed over.
//! `tests/long/sentinel` repeats the same story.

use std::collections::BTreeSet;

use crate::client::strings;
use crate::server::{Kind, Launcher, Server, wait_until};

const GROUP: &str = "mymaster";
const SENTINELS: usize = 3;
const QUORUM: usize = 2;
const KEYS: usize = 100;

/// A Sentinel that knows of the master alone, and is in a hurry.
fn sentinel(launcher: Launcher, master: &Server) -> Server {
    launcher
        .directive("sentinel monitor", &format!("{GROUP} 127.0.0.1 {} {QUORUM}", master.port()))
        .directive("sentinel down-after-milliseconds", &format!("{GROUP} 500"))
        .directive("sentinel failover-timeout", &format!("{GROUP} 2000"))
        .start()
}

/// The port of the master that it would tell a client.
fn master_port(sentinel: &Server) -> u16 {
    let reply = sentinel.connect().call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", GROUP]);
    text(strings(&reply)[1]).parse().expect("a port")
}

/// A field of the one master that it monitors.
fn master_field(sentinel: &Server, name: &str) -> String {
    let reply = sentinel.connect().call(&["SENTINEL", "MASTER", GROUP]);
    field(&strings(&reply), name)
}

/// The ports of the replicas that it has found and whose link to the master it believes to be up.
fn healthy_replicas(sentinel: &Server) -> BTreeSet<u16> {
    let reply = sentinel.connect().call(&["SENTINEL", "REPLICAS", GROUP]);
    let words = strings(&reply);
    // Each replica's fields begin with its name.
    let starts = (0..words.len()).step_by(2).filter(|index| words[*index] == b"name").collect::<Vec<_>>();
    let replicas = starts.iter().enumerate().map(|(index, start)| {
        let end = starts.get(index + 1).copied().unwrap_or(words.len());
        &words[*start..end]
    });
    let healthy = replicas
        .filter(|fields| field(fields, "flags") == "slave" && field(fields, "master-link-status") == "ok")
        .map(|fields| field(fields, "port").parse().expect("a port"));
    healthy.collect()
}

fn field(fields: &[&[u8]], name: &str) -> String {
    let value = fields.chunks(2).find(|pair| pair[0] == name.as_bytes());
    text(value.unwrap_or_else(|| panic!("no field {name}"))[1])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_killed_master_is_failed_over_and_the_other_replica_follows_by_partial_resync() {
    let (Some(repld), Some(launcher)) = (Kind::Repld.server(), Kind::Sentinel.server()) else { return };
    let mut master = repld.clone().start();
    let replicas = [(); 2].map(|()| repld.clone().replica_of(&master).start());
    let mut client = master.connect();
    for key in 0..KEYS {
        client.ok(&format!("SET before:{key} {key}"));
    }
    assert_eq!(client.run("WAIT 2 20000"), ":2\r\n");

    let sentinels = [(); SENTINELS].map(|()| sentinel(launcher.clone(), &master));
    let ports: BTreeSet<u16> = replicas.iter().map(Server::port).collect();
    for sentinel in &sentinels {
        wait_until("a sentinel finds both replicas", || healthy_replicas(sentinel) == ports);
        // They meet in a channel of the master.
        let others = (SENTINELS - 1).to_string();
        wait_until("a sentinel knows the others", || master_field(sentinel, "num-other-sentinels") == others);
        assert_eq!((master_port(sentinel), master_field(sentinel, "flags")), (master.port(), "master".into()));
    }

    master.kill();
    wait_until("a sentinel names a new master", || master_port(&sentinels[0]) != master.port());
    let port = master_port(&sentinels[0]);
    let [heir, other] = if replicas[0].port() == port { [0, 1] } else { [1, 0] }.map(|index| &replicas[index]);
    assert_eq!(heir.port(), port);
    wait_until("the new master takes writes", || heir.connect().run("SET after failover") == "+OK\r\n");
    wait_until("all sentinels agree", || sentinels.iter().all(|sentinel| master_port(sentinel) == port));
    wait_until("the other replica has the new write", || other.connect().run("GET after") == "$8\r\nfailover\r\n");
    let mut client = other.connect();
    assert_eq!((client.info("master_port"), client.info("master_link_status")), (port.to_string(), "up".into()));
    for survivor in [heir, other] {
        assert_eq!(survivor.connect().run("DBSIZE"), format!(":{}\r\n", KEYS + 1), "keys were lost");
    }
    let mut client = heir.connect();
    assert_eq!((client.info("sync_full"), client.info("sync_partial_ok")), ("0".into(), "1".into()));
}
