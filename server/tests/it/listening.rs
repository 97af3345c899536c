//! Where a server listens, and where its link comes from.

use std::net::TcpStream;

use crate::client::Client;
use crate::server::{Kind, Server, free_port, wait_until};

fn start() -> Option<Server> {
    Some(Kind::Repld.server()?.start())
}

fn listens(host: &str, port: u16) -> bool {
    TcpStream::connect((host, port)).is_ok()
}

#[test]
fn a_server_moves_to_another_port_and_keeps_its_clients() {
    let Some(server) = start() else { return };
    let mut client = server.connect();
    let port = free_port();
    client.ok(&format!("CONFIG SET port {port}"));
    assert_eq!(Client::connect(port).expect("the new port").run("PING"), "+PONG\r\n");
    assert!(!listens("127.0.0.1", server.port()));
    assert_eq!(client.info("tcp_port"), port.to_string());
}

#[test]
fn a_port_that_is_taken_leaves_everything_as_it_was() {
    let Some(server) = start() else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it is bound").port();
    let mut client = server.connect();
    assert_eq!(
        client.run(&format!("CONFIG SET maxmemory 10000001 port {port}")),
        "-ERR CONFIG SET failed (possibly related to argument 'port') - Unable to listen on this port. Check server logs.\r\n"
    );
    assert_eq!(client.run("CONFIG GET maxmemory"), "*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n");
    assert!(listens("127.0.0.1", server.port()));
}

#[test]
fn a_server_listens_at_other_addresses_as_it_is_told() {
    let Some(server) = start() else { return };
    let (mut client, port) = (server.connect(), server.port());
    client.ok("CONFIG SET bind '127.0.0.1 127.0.0.2'");
    assert!(listens("127.0.0.1", port) && listens("127.0.0.2", port));
    client.ok("CONFIG SET bind *");
    assert!(listens("127.0.0.3", port));
    let refused = client.run("CONFIG SET bind 192.0.2.1");
    assert!(refused.contains("Failed to bind to specified addresses."), "{refused}");
    assert!(listens("127.0.0.3", port), "it is still where it was");
    client.ok("CONFIG SET bind ''");
    assert!(!listens("127.0.0.1", port));
    client.ok("CONFIG SET bind 127.0.0.1");
    assert!(listens("127.0.0.1", port));
}

#[test]
fn the_link_to_the_master_comes_from_the_address_that_is_set() {
    let (Some(master), Some(replica)) = (start(), start()) else { return };
    let mut client = replica.connect();
    client.ok("CONFIG SET bind-source-addr 127.0.0.2");
    client.ok(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
    wait_until("the link is up", || client.info("master_link_status") == "up");
    let info = master.connect().bulk("INFO replication");
    assert!(info.contains("slave0:ip=127.0.0.2,"), "{info}");
    // An address that this machine does not have is said to be the reason, and not passed over.
    client.ok("REPLICAOF NO ONE");
    client.ok("CONFIG SET bind-source-addr 192.0.2.1");
    client.ok(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
    wait_until("the log says why", || replica.log().contains("bind-source-addr '192.0.2.1'"));
}
