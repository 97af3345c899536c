//! What a server does with its sockets, files and signals.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

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
        link.write_all(b"+PONG\r\n+OK\r\n+OK\r\n").expect("a live server");
        let id = "0123456789abcdef0123456789abcdef01234567";
        let image = format!("+FULLRESYNC {id} 0\r\n$1000\r\nREDIS0009");
        link.write_all(image.as_bytes()).expect("a live server");
        wait_until("it receives the image", || client.info("master_sync_in_progress") == "1");
        assert_eq!(client.info("repld_first_sync_finished"), "0");
        assert_eq!(client.bulk("GET kept"), "value", "the old data are there until the new are");
        client.ok("REPLICAOF NO ONE");
        client.ok("SET kept other");
        assert_eq!(client.bulk("GET kept"), "other");
        assert_eq!(client.info("async_loading"), "0");
        assert_eq!(client.run("CLIENT LIST TYPE master"), "$0\r\n\r\n");
        wait_until("the link is closed", || matches!(link.read(&mut [0; 1024]), Ok(0) | Err(_)));
        let left: Vec<_> = std::fs::read_dir(server.directory())
            .expect("it is there")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("temp-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
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
