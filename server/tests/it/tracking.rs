//! Clients that keep copies of keys, and are told when these change.

use crate::client::{Client, strings};
use crate::server::{Kind, Server};

fn repld() -> Server {
    Kind::Repld.server().expect("it is built").directive("enable-debug-command", "yes").start()
}

/// A connection of RESP3 that tracks what it reads.
fn tracker(server: &Server, options: &str) -> Client {
    let mut client = server.connect();
    client.run("HELLO 3");
    client.ok(&format!("CLIENT TRACKING ON {options}"));
    client
}

/// The keys of the next invalidation.
fn invalidated(client: &mut Client) -> Vec<String> {
    let push = client.reply().expect("a push");
    assert!(push.starts_with(b">2\r\n$10\r\ninvalidate\r\n"), "{}", push.escape_ascii());
    strings(&push)[1..].iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
}

#[test]
fn a_reader_is_told_once_of_what_it_has_read() {
    let server = repld();
    let (mut reader, mut writer) = (tracker(&server, ""), server.connect());
    reader.run("MGET a b");
    writer.ok("SET c 1");
    writer.ok("SET a 1");
    writer.ok("SET a 2");
    writer.run("DEL b");
    writer.ok("SET b 1");
    assert_eq!(invalidated(&mut reader), ["a"]);
    assert_eq!(invalidated(&mut reader), ["b"]);
    assert_eq!(reader.run("PING"), "+PONG\r\n", "nothing more was said");
}

#[test]
fn what_one_is_told_of_its_own_doing_follows_the_reply() {
    let server = repld();
    let mut client = tracker(&server, "");
    client.run("GET a");
    client.ok("MULTI");
    client.run("INCR a");
    client.run("GET b");
    assert_eq!(client.run("EXEC"), "*2\r\n:1\r\n_\r\n");
    assert_eq!(invalidated(&mut client), ["a"]);
    let mut quiet = tracker(&server, "NOLOOP");
    quiet.run("GET a");
    quiet.run("INCR a");
    assert_eq!(quiet.run("PING"), "+PONG\r\n");
}

#[test]
fn prefixes_are_broadcast_once_for_each_command() {
    let server = repld();
    let (mut listener, mut writer) = (tracker(&server, "BCAST PREFIX a: PREFIX b:"), server.connect());
    writer.ok("MSET a:1 x a:2 x b:1 x c:1 x");
    assert_eq!(invalidated(&mut listener), ["a:1", "a:2"]);
    assert_eq!(invalidated(&mut listener), ["b:1"]);
    let refused = listener.run("CLIENT TRACKING ON BCAST PREFIX a:1");
    assert!(refused.starts_with("-ERR Prefix 'a:1' overlaps with an existing prefix 'a:'"), "{refused}");
}

#[test]
fn resp2_clients_are_told_through_another_connection() {
    let server = repld();
    let (mut ear, mut reader, mut writer) = (server.connect(), server.connect(), server.connect());
    let id = ear.run("CLIENT ID").trim().trim_start_matches(':').to_owned();
    ear.run("SUBSCRIBE __redis__:invalidate");
    reader.ok(&format!("CLIENT TRACKING ON REDIRECT {id} OPTIN"));
    reader.run("GET skipped");
    reader.ok("CLIENT CACHING YES");
    reader.run("GET a");
    writer.ok("SET skipped 1");
    writer.ok("SET a 1");
    let message = ear.reply().expect("a message");
    assert_eq!(strings(&message), [&b"message"[..], b"__redis__:invalidate", b"a"]);
    assert_eq!(reader.run("CLIENT GETREDIR"), format!(":{id}\r\n"));
    writer.ok("FLUSHALL");
    assert!(ear.reply().expect("a message").ends_with(b"*-1\r\n"));
}

#[test]
fn keys_that_expire_are_told_of() {
    let server = repld();
    let (mut reader, mut writer) = (tracker(&server, ""), server.connect());
    writer.ok("SET a 1 PX 5");
    reader.run("GET a");
    assert_eq!(invalidated(&mut reader), ["a"]);
}

#[test]
fn a_full_table_forgets_keys_and_says_so() {
    let server = repld();
    let (mut reader, mut writer) = (tracker(&server, ""), server.connect());
    reader.run("MGET a b c");
    writer.ok("CONFIG SET tracking-table-max-keys 1");
    let mut told = [invalidated(&mut reader), invalidated(&mut reader)].concat();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 2);
    assert_eq!(writer.info("tracking_total_keys"), "1");
}
