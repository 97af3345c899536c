//! Values of every type through images: reloaded, and saved while they are written to.

use crate::client::{Client, encode};
use crate::server::{Kind, Launcher, Server, wait_until};

fn debuggable() -> Launcher {
    Kind::Repld.server().expect("it is ours").directive("enable-debug-command", "yes")
}

/// Runs a request with as many arguments behind it as there are, some hundred at a time.
fn add(client: &mut Client, command: &[&str], elements: impl IntoIterator<Item = String>) {
    let elements: Vec<String> = elements.into_iter().collect();
    for part in elements.chunks(1000) {
        let words = command.iter().copied().chain(part.iter().map(String::as_str));
        let reply = client.call(&words.collect::<Vec<_>>());
        assert!(reply.starts_with(b":"), "{}", reply.escape_ascii());
    }
}

fn fill(client: &mut Client, len: usize) {
    let numbers = || (0..len).map(|number| number.to_string());
    add(client, &["RPUSH", &format!("list:{len}")], numbers().map(|number| number.repeat(20)));
    add(client, &["SADD", &format!("integers:{len}")], numbers());
    add(client, &["SADD", &format!("set:{len}")], numbers().map(|number| format!("member:{number}")));
    add(client, &["HSET", &format!("hash:{len}")], numbers().flat_map(|number| [format!("f{number}"), number]));
    add(client, &["ZADD", &format!("zset:{len}")], numbers().flat_map(|number| [format!("{number}.5"), number]));
    client.ok(&format!("SET string:{len} {}", "s".repeat(len + 1)));
    client.run(&format!("EXPIRE set:{len} 5000"));
}

#[test]
fn a_reload_gives_back_what_there_was() {
    let server = debuggable().start();
    let mut client = server.connect();
    assert_eq!(client.run("DEBUG DIGEST"), format!("+{}\r\n", "0".repeat(40)));
    for len in [1, 100, 5000] {
        fill(&mut client, len);
    }
    client.ok("SELECT 3");
    fill(&mut client, 10);
    let encodings = |client: &mut Client| {
        let keys = client.scan(&[]);
        keys.iter().map(|key| client.call(&[&b"OBJECT"[..], b"ENCODING", key])).collect::<Vec<_>>()
    };
    let before = (client.run("DEBUG DIGEST"), client.data(0), encodings(&mut client), client.data(3));
    client.ok("DEBUG RELOAD");
    assert_eq!((client.run("DEBUG DIGEST"), client.data(0), encodings(&mut client), client.data(3)), before);
}

#[test]
fn a_digest_depends_on_what_is_held_and_not_on_how_it_came_there() {
    let digest = |lines: &[&str]| {
        let server = debuggable().directive("set-max-intset-entries", "4").start();
        let mut client = server.connect();
        lines.iter().for_each(|line| drop(client.run(line)));
        client.run("DEBUG DIGEST")
    };
    let all = digest(&["SADD s 1 2 3", "HSET h a 1 b 2", "RPUSH l a b", "ZADD z 1 a 2 b"]);
    let differently = [
        "ZADD z 2 b 5 a",
        "ZADD z 1 a",
        "LPUSH l b a",
        "HSET h b 2 a 0",
        "HSET h a 1",
        "SADD s x 3 1 2 4 5",
        "SREM s 4 5 x",
    ];
    assert_eq!(digest(&differently), all);
    for other in ["LSET l 0 c", "SADD s 4", "HSET h a 2", "ZADD z 3 a", "EXPIRE s 100", "MOVE s 1", "RENAME s t"] {
        let lines = [&differently[..], &[other]].concat();
        assert_ne!(digest(&lines), all, "{other}");
    }
}

#[test]
fn big_values_are_saved_as_they_were_while_they_are_written_to() {
    const LEN: usize = 20_000;
    let mut server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    fill(&mut client, LEN);
    let before = client.data(0);
    assert!(client.run("BGSAVE").starts_with("+Background saving started"));
    for number in (0..LEN / 10).map(|number| number.to_string()) {
        let requests = [
            encode(&["SREM", "set:20000", &format!("member:{number}")]),
            encode(&["HSET", "hash:20000", &format!("f{number}"), "other"]),
            encode(&["LPOP", "list:20000"]),
            encode(&["ZADD", "zset:20000", "-1", &number]),
        ];
        client.send(&requests.concat()).expect("a live server");
        requests.iter().for_each(|_| drop(client.reply().expect("a reply")));
    }
    client.run("DEL integers:20000");
    saved(&server);
    server.kill();
    server.restart();
    assert!(server.connect().data(0) == before, "the image is not what there was when it was begun");
}

fn saved(server: &Server) {
    let mut client = server.connect();
    wait_until("it is saved", || client.info("rdb_bgsave_in_progress") == "0");
    assert_eq!(client.info("rdb_last_bgsave_status"), "ok");
}
