//! Clients that wait for a key: who is served, when, and what the replicas are told of it.

use crate::client::{Client, encode};
use crate::random::Random;
use crate::server::{Kind, Server, wait_until};

/// Sends a command that blocks, and waits until it does.
pub fn block(server: &Server, client: &mut Client, line: &str) {
    let mut observer = server.connect();
    let before: usize = observer.info("blocked_clients").parse().expect("a number");
    send(client, line);
    wait_until("it blocks", || observer.info("blocked_clients") == (before + 1).to_string());
}

pub fn send(client: &mut Client, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    client.send(&encode(&words)).expect("a live server");
}

pub fn reply(client: &mut Client) -> String {
    String::from_utf8_lossy(&client.reply().expect("a reply")).into_owned()
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    let commands = ["BLPOP q 0", "BLPOP other q 0", "BLMOVE q moved left left 0", "BLMPOP 0 1 q left COUNT 9"];
    for (client, command) in clients.iter_mut().zip(commands) {
        block(&server, client, command);
    }
    let mut writer = server.connect();
    assert_eq!(writer.run("RPUSH q 1 2 3 4 5"), ":5\r\n");
    let pair = |element| format!("*2\r\n$1\r\nq\r\n$1\r\n{element}\r\n");
    assert_eq!(reply(&mut clients[0]), pair(1));
    assert_eq!(reply(&mut clients[1]), pair(2));
    assert_eq!(reply(&mut clients[2]), "$1\r\n3\r\n");
    assert_eq!(reply(&mut clients[3]), "*2\r\n$1\r\nq\r\n*2\r\n$1\r\n4\r\n$1\r\n5\r\n");
    assert_eq!(writer.run("EXISTS q"), ":0\r\n");
}

#[test]
fn what_a_served_client_moves_serves_the_next_one() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let [mut first, mut second, mut third] = [(); 3].map(|()| server.connect());
    block(&server, &mut third, "BLPOP c 0");
    block(&server, &mut second, "BLMOVE b c left right 0");
    block(&server, &mut first, "BLMOVE a b left right 0");
    assert_eq!(server.connect().run("RPUSH a x"), ":1\r\n");
    assert_eq!(reply(&mut first), "$1\r\nx\r\n");
    assert_eq!(reply(&mut second), "$1\r\nx\r\n");
    assert_eq!(reply(&mut third), "*2\r\n$1\r\nc\r\n$1\r\nx\r\n");
    assert_eq!(server.connect().run("DBSIZE"), ":0\r\n");
}

#[test]
fn what_is_asked_behind_a_blocked_request_waits_for_its_turn() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    block(&server, &mut client, "BLPOP q 0");
    send(&mut client, "RPUSH q own");
    send(&mut client, "PING");
    assert_eq!(server.connect().run("RPUSH q 1"), ":1\r\n");
    assert_eq!(reply(&mut client), "*2\r\n$1\r\nq\r\n$1\r\n1\r\n");
    assert_eq!(reply(&mut client), ":1\r\n");
    assert_eq!(reply(&mut client), "+PONG\r\n");
}

#[test]
fn whoever_has_gone_takes_nothing() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    block(&server, &mut client, "BLPOP q 0");
    drop(client);
    let mut writer = server.connect();
    wait_until("it is forgotten", || writer.info("blocked_clients") == "0");
    assert_eq!(writer.run("RPUSH q 1"), ":1\r\n");
    assert_eq!(writer.run("LLEN q"), ":1\r\n");
}

#[test]
fn a_blocked_client_can_be_let_go_by_another() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    let id = client.run("CLIENT ID").trim_start_matches(':').trim_end().to_string();
    let mut operator = server.connect();
    for (how, answer) in
        [("", "*-1\r\n"), (" TIMEOUT", "*-1\r\n"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")]
    {
        block(&server, &mut client, "BRPOP q 0");
        assert_eq!(operator.run(&format!("CLIENT UNBLOCK {id}{how}")), ":1\r\n");
        assert_eq!(reply(&mut client), answer);
        assert_eq!(operator.run(&format!("CLIENT UNBLOCK {id}{how}")), ":0\r\n");
    }
}

#[test]
fn whoever_wants_no_answer_is_served_in_silence() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    send(&mut client, "CLIENT REPLY OFF");
    block(&server, &mut client, "BLPOP q 0");
    let mut writer = server.connect();
    assert_eq!(writer.run("RPUSH q 1"), ":1\r\n");
    wait_until("it is served", || writer.run("EXISTS q") == ":0\r\n");
    send(&mut client, "CLIENT REPLY ON");
    assert_eq!(reply(&mut client), "+OK\r\n");
}

#[test]
fn a_master_that_becomes_a_replica_sends_those_who_wait_away() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    block(&server, &mut client, "BLPOP q 0");
    server.connect().ok("REPLICAOF 127.0.0.1 1");
    let error = "-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";
    assert_eq!(String::from_utf8_lossy(&client.rest().expect("the connection's end")), error);
    assert_eq!(server.connect().info("blocked_clients"), "0");
}

#[test]
fn a_pause_does_not_keep_a_wait_from_ending() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    block(&server, &mut client, "BLPOP q 0.05");
    server.connect().ok("CLIENT PAUSE 100000 WRITE");
    assert_eq!(reply(&mut client), "*-1\r\n");
    // One that is only asked for now waits for the end of the pause first.
    send(&mut client, "BLPOP q 0.001");
    // As in Redis, it counts as blocked.
    wait_until("it waits", || server.connect().info("blocked_clients") == "1");
    server.connect().ok("CLIENT UNPAUSE");
    assert_eq!(reply(&mut client), "*-1\r\n");
}

#[test]
fn replicas_hold_what_their_master_holds_after_much_waiting() {
    let master = Kind::Repld.server().expect("it is ours").start();
    let replicas: Vec<Server> = [Kind::Repld, Kind::Redis]
        .into_iter()
        .filter_map(|kind| Some(kind.server()?.replica_of(&master).start()))
        .collect();
    let mut writer = master.connect();
    wait_until("they are linked", || {
        replicas.iter().all(|replica| replica.connect().info("master_link_status") == "up")
    });
    let mut random = Random::new(7);
    let mut waiting: Vec<Client> = (0..6).map(|_| master.connect()).collect();
    const LISTS: [&str; 3] = ["a", "b", "c"];
    for number in 0..300 {
        let (list, other) = (random.pick(&LISTS), random.pick(&LISTS));
        let command = match random.below(5) {
            0 => format!("BLPOP {list} {other} 0.05"),
            1 => format!("BRPOP {list} 0.05"),
            2 => format!("BLMOVE {list} {other} left right 0.05"),
            3 => format!("BRPOPLPUSH {list} {other} 0.05"),
            _ => format!("BLMPOP 0.05 2 {list} {other} right COUNT 2"),
        };
        send(&mut waiting[number % 6], &command);
        match random.below(3) {
            0 => drop(writer.run(&format!("RPUSH {list} {number}"))),
            1 => {
                writer.ok("MULTI");
                for line in [format!("LPUSH {list} {number}"), format!("RPUSH {other} x y"), format!("LPOP {list}")] {
                    assert_eq!(writer.run(&line), "+QUEUED\r\n");
                }
                writer.run("EXEC");
            }
            _ => drop(writer.run(&format!("LMOVE {list} {other} right left"))),
        }
    }
    for number in 0..300 {
        reply(&mut waiting[number % 6]);
    }
    writer.ok("SET end 1");
    for replica in &replicas {
        let mut reader = replica.connect();
        wait_until("it has everything", || reader.run("EXISTS end") == ":1\r\n");
        assert_eq!(reader.data(0), writer.data(0));
    }
}
