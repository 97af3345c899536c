//! What happens to keys is published to those who want to hear of it.

use crate::client::{Client, shown, strings};
use crate::server::{Kind, Server, wait_until};

fn listen(server: &Server, classes: &str) -> Client {
    server.connect().ok(&format!("CONFIG SET notify-keyspace-events {classes}"));
    let mut listener = server.connect();
    listener.call(&["PSUBSCRIBE", "__keyevent*"]);
    listener.call(&["PSUBSCRIBE", "end"]);
    listener
}

/// Event and key of what was published so far.
fn heard(server: &Server, listener: &mut Client) -> Vec<String> {
    server.connect().run("PUBLISH end x");
    let mut events = Vec::new();
    loop {
        let message = listener.reply().expect("a message");
        let parts: Vec<String> = strings(&message)[2..].iter().map(|part| shown(part).replace('"', "")).collect();
        if parts[0] == "end" {
            return events;
        }
        events.push(format!("{} {}", parts[0].rsplit(':').next().unwrap_or_default(), parts[1]));
    }
}

#[test]
fn streams_and_groups_tell_the_events_that_redis_tells() {
    const SCRIPT: [&str; 24] = [
        "XADD s 1-1 f v",
        "XADD s MAXLEN 1 2-1 f v",
        "XADD s NOMKSTREAM 3-1 f v",
        "XTRIM s MAXLEN 1",
        "XTRIM s MAXLEN 1",
        "XGROUP CREATE s g 0",
        "XGROUP CREATE new g $ MKSTREAM",
        "XGROUP CREATECONSUMER s g a",
        "XGROUP CREATECONSUMER s g a",
        "XREADGROUP GROUP g b COUNT 1 STREAMS s >",
        "XREADGROUP GROUP g b STREAMS s 0",
        "XCLAIM s g c 0 3-1",
        "XAUTOCLAIM s g d 0 0",
        "XACK s g 3-1",
        "XGROUP SETID s g 0",
        "XGROUP DELCONSUMER s g a",
        "XGROUP DELCONSUMER s g nobody",
        "XGROUP DESTROY s g",
        "XGROUP DESTROY s g",
        "XDEL s 3-1",
        "XDEL s 3-1",
        "XSETID s 9-1",
        "COPY s t",
        "RENAME t u",
    ];
    let Some(theirs) = Kind::Redis.server() else { return };
    let servers = [Kind::Repld.server().expect("it is ours"), theirs].map(|launcher| launcher.start());
    let mut listeners = servers.each_ref().map(|server| listen(server, "KEAn"));
    let mut clients = servers.each_ref().map(Server::connect);
    for line in SCRIPT {
        let [ours, theirs] = std::array::from_fn(|index| {
            clients[index].run(line);
            heard(&servers[index], &mut listeners[index])
        });
        assert_eq!(ours, theirs, "{line}");
    }
}

#[test]
fn a_key_whose_time_has_come_is_told_by_the_master_and_is_deleted_on_the_replica() {
    let master = Kind::Repld.server().expect("it is ours").start();
    let replica = Kind::Repld.server().expect("it is ours").replica_of(&master).start();
    let mut client = master.connect();
    let mut observer = replica.connect();
    wait_until("the link is up", || observer.info("master_link_status") == "up");
    let [mut on_master, mut on_replica] = [&master, &replica].map(|server| listen(server, "EA"));
    client.run("SET k v PX 1");
    wait_until("it has gone everywhere", || observer.run("DBSIZE") == ":0\r\n" && client.run("DBSIZE") == ":0\r\n");
    assert_eq!(heard(&master, &mut on_master), ["set k", "expire k", "expired k"]);
    assert_eq!(heard(&replica, &mut on_replica), ["set k", "expire k", "del k"]);
}

#[test]
fn what_is_looked_for_in_vain_and_what_is_new_is_told_only_to_those_who_ask_for_it() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    let mut listener = listen(&server, "Emn");
    for line in ["GET a", "SET a 1", "SET a 2", "GET a", "EXISTS b", "HGET b f", "LPUSH l x", "RENAME l m", "TTL b"] {
        client.run(line);
    }
    let told = ["keymiss a", "new a", "keymiss b", "keymiss b", "new l", "new m", "keymiss b"];
    assert_eq!(heard(&server, &mut listener), told);
    client.ok("CONFIG SET notify-keyspace-events EA");
    client.run("GET absent");
    client.run("SET fresh x");
    assert_eq!(heard(&server, &mut listener), ["set fresh"]);
    client.ok("CONFIG SET notify-keyspace-events \"\"");
    client.run("SET fresh y");
    assert_eq!(heard(&server, &mut listener), [""; 0]);
}

#[test]
fn events_of_a_transaction_come_in_its_order_and_those_of_a_refused_command_not_at_all() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    let mut listener = listen(&server, "EA");
    for line in ["MULTI", "LPUSH l a", "SADD l x", "LPOP l", "SET s x EX 100", "EXEC", "SET s x EX 0", "INCR s"] {
        client.run(line);
    }
    assert_eq!(heard(&server, &mut listener), ["lpush l", "lpop l", "del l", "set s", "expire s"]);
}
