//! What a server does with its sockets, files and signals.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use repld::rdb::{Decoder, Item};
use repld::value::SmallForms;

use crate::random::Random;
use crate::server::{Kind, wait_until};

#[test]
fn a_unix_socket_serves_too_and_goes_with_the_server() {
    let mut server = Kind::Repld.server().expect("it is ours").directive("unixsocket", "here.sock").start();
    let path = server.directory().join("here.sock");
    let mut socket = UnixStream::connect(&path).expect("it listens");
    socket.write_all(b"SET a b\r\nGET a\r\n").expect("a live server");
    let mut reply = [0; 12];
    socket.read_exact(&mut reply).expect("a live server");
    assert_eq!(&reply, b"+OK\r\n$1\r\nb\r\n");
    server.signal(Signal::TERM);
    server.wait_for_exit();
    assert!(!path.exists());
}

#[test]
fn an_upstream_that_never_ends_its_image_can_be_left() {
    let master = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = master.local_addr().expect("it is bound").port();
    for mode in ["disabled", "swapdb"] {
        let server = Kind::Repld.server().expect("it is ours").directive("repl-diskless-load", mode).start();
        let mut client = server.connect();
        client.ok("SET kept value");
        client.ok(&format!("REPLICAOF 127.0.0.1 {port}"));
        let (mut link, _) = master.accept().expect("it connects");
        link.write_all(b"+PONG\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n").expect("a live server");
        let id = "0123456789abcdef0123456789abcdef01234567";
        let image = format!("+FULLRESYNC {id} 0\r\n$1000\r\nREDIS0009");
        link.write_all(image.as_bytes()).expect("a live server");
        wait_until("it receives the image", || client.info("master_sync_in_progress") == "1");
        assert_eq!(client.info("repld_first_sync_finished"), "0");
        if mode == "disabled" {
            assert_eq!(client.bulk("GET kept"), "value", "the old data are there until the new are");
        } else {
            assert!(client.run("GET kept").starts_with("-LOADING"), "they are of another history");
        }
        client.ok("REPLICAOF NO ONE");
        client.ok("SET kept other");
        assert_eq!(client.bulk("GET kept"), "other");
        assert_eq!(client.info("async_loading"), "0");
        assert_eq!(client.run("CLIENT LIST TYPE master"), "$0\r\n\r\n");
        wait_until("the link is closed", || matches!(link.read(&mut [0; 1024]), Ok(0) | Err(_)));
        wait_until("half an image is removed", || {
            let files = std::fs::read_dir(server.directory()).expect("it is there");
            let mut names = files.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            !names.any(|name| name.starts_with("temp-"))
        });
    }
}

/// Reads until `end` has come.
fn read_to(link: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        link.read_exact(&mut byte).expect("a live server");
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn after_an_image_that_is_none_nothing_is_said_to_be_there() {
    let master = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = master.local_addr().expect("it is bound").port();
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    client.ok("SET old data");
    client.ok(&format!("REPLICAOF 127.0.0.1 {port}"));
    let own = client.info("master_replid");
    let greet = |link: &mut TcpStream| {
        link.write_all(b"+PONG\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n").expect("a live server");
        read_to(link, "PSYNC\r\n");
        let id = read_to(link, "\r\n") + &read_to(link, "\r\n");
        id + &read_to(link, "\r\n") + &read_to(link, "\r\n")
    };
    let (mut link, _) = master.accept().expect("it connects");
    assert!(greet(&mut link).contains(&own), "its own history first: it may be a part of the master's");
    let id = "0123456789abcdef0123456789abcdef01234567";
    let image = format!("+FULLRESYNC {id} 777\r\n$13\r\nREDIS0009 no!");
    link.write_all(image.as_bytes()).expect("a live server");
    let (mut link, _) = master.accept().expect("it connects again");
    assert_eq!(greet(&mut link), "$1\r\n?\r\n$2\r\n-1\r\n");
    assert_eq!(client.info("repld_first_sync_finished"), "0");
    // What others read as "there is nothing here that could be promoted".
    assert_eq!(client.info("master_link_down_since_seconds"), "-1");
    assert_ne!(client.info("slave_repl_offset"), client.info("master_repl_offset"));
    assert_ne!(client.info("master_replid"), own);
    client.ok("REPLICAOF NO ONE");
    assert_eq!(client.info("master_repl_offset"), "0");
    assert_eq!(client.run("DBSIZE"), ":0\r\n");
}

#[test]
fn requests_behind_a_wait_are_run_when_it_is_over() {
    let server = Kind::Repld.server().expect("it is ours").start();
    for before in [0, 30, 31, 32, 33, 63] {
        let mut client = server.connect();
        let pipeline = format!("{}WAIT 1 20\r\n{}", "PING\r\n".repeat(before), "ECHO behind\r\n".repeat(70));
        client.send(pipeline.as_bytes()).expect("a live server");
        for _ in 0..before {
            assert_eq!(client.reply().expect("an answer"), b"+PONG\r\n");
        }
        assert_eq!(client.reply().expect("an answer"), b":0\r\n");
        for _ in 0..70 {
            assert_eq!(client.reply().expect("an answer"), b"$6\r\nbehind\r\n", "{before} before");
        }
    }
}

#[test]
fn what_a_replica_says_while_it_is_sent_an_image_does_not_get_into_it() {
    let server = Kind::Repld.server().expect("it is ours").start();
    let mut writer = server.connect();
    // Much more than the sockets' buffers take, and nothing that could be compressed away.
    let mut random = Random::new(7);
    for number in 0..40 {
        let value: Vec<u8> = (0..1 << 20).map(|_| random.below(256) as u8).collect();
        assert_eq!(writer.call(&[b"SET".as_slice(), format!("key:{number}").as_bytes(), &value]), b"+OK\r\n");
    }
    let mut replica = server.connect();
    replica.send(b"SYNC\r\n").expect("a live server");
    wait_until("it is known", || writer.info("connected_slaves") == "1");
    wait_until("the image is on its way", || writer.info("slave0").contains("state=send_bulk"));
    for _ in 0..100 {
        replica.send(b"\r\nREPLCONF ACK 0\r\n").expect("a live server");
    }
    let announced = replica.line().expect("a live server");
    // Empty lines before it say that the snapshot takes its time.
    let length = std::str::from_utf8(&announced).expect("text").trim().strip_prefix('$').expect("a length");
    let image = replica.exactly(length.parse().expect("a number")).expect("all of it");
    let mut decoder = Decoder::new(SmallForms::default());
    decoder.feed(&image);
    let mut keys = 0;
    while let Some(item) = decoder.next_item().expect("an image as it was made") {
        keys += usize::from(matches!(item, Item::Entry { .. }));
        if item == Item::Eof {
            break;
        }
    }
    assert_eq!(keys, 40);
    writer.ok("SET after image");
    let mut stream = Vec::new();
    while !stream.ends_with(b"image\r\n") {
        stream.extend(replica.exactly(1).expect("a live server"));
    }
    assert!(stream.starts_with(b"*"), "{}", String::from_utf8_lossy(&stream));
}

#[test]
fn a_save_point_saves_by_itself_and_a_clean_end_saves_the_rest() {
    let mut server = Kind::Repld.server().expect("it is ours").directive("save", "1 1").start();
    let dump = server.directory().join("dump.rdb");
    server.connect().ok("SET a 1");
    wait_until("it has saved", || dump.exists());
    assert!(server.log().contains("1 changes in 1 seconds. Saving..."), "{}", server.log());
    wait_until("it says so", || server.log().contains("Background saving terminated with success"));
    server.connect().ok("SET b 2");
    server.signal(Signal::TERM);
    server.wait_for_exit();
    server.restart();
    assert_eq!(server.connect().run("MGET a b"), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
}

#[test]
fn a_kill_leaves_the_last_good_dump() {
    let mut server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    client.ok("SET saved yes");
    client.ok("SAVE");
    for number in 0..20_000 {
        client.ok(&format!("SET key:{number} {number}"));
    }
    let _ = client.run("BGSAVE");
    server.kill();
    server.restart();
    let mut client = server.connect();
    assert_eq!(client.bulk("GET saved"), "yes");
    let keys = client.run("DBSIZE");
    assert!(keys == ":1\r\n" || keys == ":20001\r\n", "all of one dump or all of the other: {keys}");
}

#[test]
fn a_damaged_dump_is_refused_and_left_as_it_is() {
    let mut server = Kind::Repld.server().expect("it is ours").start();
    let mut client = server.connect();
    client.ok("SET a 1");
    client.ok("SAVE");
    let dump = server.directory().join("dump.rdb");
    server.kill();
    let mut bytes = std::fs::read(&dump).expect("it was saved");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&dump, &bytes).expect("it is ours");
    assert!(!server.try_restart(), "{}", server.log());
    assert!(server.log().contains("Fatal error loading the DB"), "{}", server.log());
    assert_eq!(std::fs::read(&dump).expect("it is still there"), bytes);
}
