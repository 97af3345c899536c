//! `maxmemory-clients`: what all clients may take together.

use crate::client::Client;
use crate::server::{Kind, Server, wait_until};

const MIB: usize = 1 << 20;

fn start(limit: &str) -> Option<Server> {
    Some(Kind::Repld.server()?.directive("maxmemory-clients", limit).start())
}

/// A client that has sent so many bytes of an argument that does not end.
fn begin_argument(server: &Server, name: &str, bytes: usize) -> Client {
    let mut client = server.connect();
    client.ok(&format!("CLIENT SETNAME {name}"));
    let header = format!("*2\r\n${}\r\n", bytes + 1);
    // Whom the server has cut off sends in vain.
    let _ = client.send(&[header.as_bytes(), &vec![b'x'; bytes]].concat());
    client
}

fn names(control: &mut Client) -> Vec<String> {
    let list = control.bulk("CLIENT LIST");
    list.split([' ', '\n']).filter_map(|word| Some(word.strip_prefix("name=")?.to_owned())).collect()
}

fn field(control: &mut Client, name: &str, field: &str) -> usize {
    let list = control.bulk("CLIENT LIST");
    let line = list.lines().find(|line| line.contains(&format!(" name={name} "))).expect("it is connected");
    let value = line.split(' ').find_map(|word| word.strip_prefix(&format!("{field}=")));
    value.expect("the list has it").parse().expect("a number")
}

fn wait_for_input(control: &mut Client, name: &str, bytes: usize) {
    wait_until("the input has arrived", || field(control, name, "qbuf") == bytes);
}

#[test]
fn the_largest_clients_go_until_the_others_have_room() {
    let Some(server) = start("0") else { return };
    let mut control = server.connect();
    control.ok("CLIENT SETNAME control");
    control.ok("CLIENT NO-EVICT on");
    let clients = [("small", MIB / 4), ("large", 3 * MIB), ("middle", MIB)];
    let _connected = clients.map(|(name, bytes)| {
        let client = begin_argument(&server, name, bytes);
        wait_for_input(&mut control, name, bytes);
        client
    });
    assert!(field(&mut control, "large", "tot-mem") < 3 * MIB + 1000, "no more room than the argument needs");
    control.ok("CONFIG SET maxmemory-clients 3mb");
    assert_eq!(names(&mut control), ["control", "small", "middle"]);
    assert_eq!(control.info("evicted_clients"), "1");
    control.ok("CONFIG SET maxmemory-clients 1mb");
    assert_eq!(names(&mut control), ["control", "small"]);
    assert!(server.log().contains("Evicting client: id="));
}

#[test]
fn what_arrives_and_what_is_queued_and_what_waits_to_be_sent_counts() {
    let Some(server) = start("2mb") else { return };
    let mut control = server.connect();
    control.ok("CLIENT NO-EVICT on");
    let input = begin_argument(&server, "input", 3 * MIB);
    wait_until("it is cut off", || !names(&mut control).contains(&"input".to_owned()));
    drop(input);

    let mut queue = server.connect();
    queue.ok("MULTI");
    let value = "x".repeat(MIB / 2);
    let request = crate::client::encode(&["SET", "key", &value]);
    let cut_off = (0..8).any(|_| queue.send(&request).and_then(|()| queue.reply()).is_err());
    assert!(cut_off, "eight halves of a megabyte are more than two");

    control.ok(&format!("SET key {value}"));
    let mut output = server.connect();
    output.ok("CLIENT SETNAME output");
    wait_until("what it does not read is too much", || {
        let _ = output.send(b"GET key\r\n");
        !names(&mut control).contains(&"output".to_owned())
    });
    assert_eq!(control.info("evicted_clients"), "3");
}

#[test]
fn what_is_remembered_for_a_client_counts() {
    let Some(server) = start("200000") else { return };
    for command in ["WATCH", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "CLIENT TRACKING ON BCAST PREFIX"] {
        let mut client = server.connect();
        let mut requests = 0..1_000;
        let cut_off = requests.any(|number| {
            let request = format!("{command} {number:01000}\r\n");
            client.send(request.as_bytes()).and_then(|()| client.reply()).is_err()
        });
        assert!(cut_off, "{command}");
    }
}

#[test]
fn who_is_not_to_be_evicted_stays_and_a_share_of_maxmemory_limits_the_others() {
    let Some(server) = start("10%") else { return };
    let mut control = server.connect();
    control.ok("CLIENT NO-EVICT on");
    let mut kept = server.connect();
    kept.ok("CLIENT NO-EVICT on");
    kept.ok("CLIENT SETNAME kept");
    let bytes = 3 * MIB;
    kept.send(&[format!("*1\r\n${}\r\n", 2 * bytes).as_bytes(), &vec![b'x'; bytes]].concat()).expect("sent");
    wait_for_input(&mut control, "kept", bytes);
    let _other = server.connect();
    control.ok("CONFIG SET maxmemory 20mb");
    assert_eq!(control.run("CONFIG GET maxmemory-clients"), "*2\r\n$17\r\nmaxmemory-clients\r\n$3\r\n10%\r\n");
    wait_until("the other one goes", || names(&mut control) == ["", "kept"]);
}
