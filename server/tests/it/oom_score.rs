//! How willingly the kernel ends a server when memory runs out.

use crate::client::Client;
use crate::server::{Kind, free_port};

fn score(client: &mut Client) -> i32 {
    let file = format!("/proc/{}/oom_score_adj", client.info("process_id"));
    std::fs::read_to_string(file).expect("it runs").trim().parse().expect("a number")
}

#[test]
fn a_server_tells_the_kernel_as_its_role_wants_and_gives_the_old_score_back() {
    let Some(server) = Kind::Repld.server() else { return };
    let server = server.directive("oom-score-adj-values", "10 20 30").start();
    let mut client = server.connect();
    let base = score(&mut client);
    client.ok("CONFIG SET oom-score-adj relative");
    assert_eq!(score(&mut client), base + 10);
    client.ok(&format!("REPLICAOF 127.0.0.1 {}", free_port()));
    assert_eq!(score(&mut client), base + 20);
    client.ok("REPLICAOF NO ONE");
    client.ok("CONFIG SET oom-score-adj absolute");
    assert_eq!(score(&mut client), 10);
    // What fails with another directive is taken back.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it is bound").port();
    let refused = client.run(&format!("CONFIG SET oom-score-adj-values '15 15 15' port {port}"));
    assert!(refused.contains("Unable to listen"), "{refused}");
    assert_eq!(score(&mut client), 10);
    client.ok("CONFIG SET oom-score-adj no");
    assert_eq!(score(&mut client), base);
}
