//! Clients that wait for a stream: what ends their waiting, and with what.

use crate::blocking::{block, reply, send};
use crate::client::Client;
use crate::server::{Kind, Server, wait_until};

fn start() -> Server {
    Kind::Repld.server().expect("it is ours").start()
}

fn blocked(server: &Server) -> String {
    server.connect().info("blocked_clients")
}

/// The reply with one entry of stream `s`.
fn entry(id: &str) -> String {
    let len = id.len();
    format!("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n${len}\r\n{id}\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n")
}

#[test]
fn a_reader_that_waits_for_what_comes_next_gets_that_and_nothing_before() {
    let server = start();
    let [mut reader, mut late, mut writer] = [(); 3].map(|()| server.connect());
    writer.run("XADD s 1-1 f v");
    block(&server, &mut reader, "XREAD BLOCK 0 STREAMS s $");
    // Of several streams any will do, and one that is not there yet begins with its first entry.
    block(&server, &mut late, "XREAD BLOCK 0 STREAMS absent s 0 $");
    writer.run("XADD s 2-1 f v");
    assert_eq!(reply(&mut reader), entry("2-1"));
    assert_eq!(reply(&mut late), entry("2-1"));
    block(&server, &mut late, "XREAD BLOCK 0 STREAMS absent s 0 $");
    writer.run("XADD absent 1-1 f v");
    assert!(reply(&mut late).contains("absent"));
    assert_eq!(blocked(&server), "0");
}

#[test]
fn an_entry_that_is_there_already_is_not_waited_for() {
    let server = start();
    let mut client = server.connect();
    client.run("XADD s 5-1 f v");
    assert_eq!(client.run("XREAD BLOCK 0 STREAMS s 5-0"), entry("5-1"));
    // What is deleted before anybody looks is nothing.
    client.run("XDEL s 5-1");
    assert_eq!(client.run("XREAD BLOCK 5 STREAMS s 0"), "*-1\r\n");
}

#[test]
fn readers_of_a_group_are_served_in_the_order_in_which_they_came_and_each_entry_goes_to_one() {
    let server = start();
    let mut writer = server.connect();
    writer.run("XGROUP CREATE s g $ MKSTREAM");
    let mut readers: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for (number, reader) in readers.iter_mut().enumerate() {
        block(&server, reader, &format!("XREADGROUP GROUP g c{number} COUNT 1 BLOCK 0 STREAMS s >"));
    }
    for (number, reader) in readers.iter_mut().enumerate() {
        writer.run(&format!("XADD s {}-1 f v", number + 1));
        assert_eq!(reply(reader), entry(&format!("{}-1", number + 1)));
        assert_eq!(blocked(&server), (2 - number).to_string());
    }
    assert!(writer.run("XPENDING s g").starts_with("*4\r\n:3\r\n"));
}

#[test]
fn one_transaction_serves_all_the_readers_that_it_has_entries_for() {
    let server = start();
    let mut writer = server.connect();
    writer.run("XGROUP CREATE s g $ MKSTREAM");
    let [mut first, mut second, mut plain] = [(); 3].map(|()| server.connect());
    block(&server, &mut first, "XREADGROUP GROUP g a COUNT 1 BLOCK 0 STREAMS s >");
    block(&server, &mut second, "XREADGROUP GROUP g b COUNT 1 BLOCK 0 STREAMS s >");
    block(&server, &mut plain, "XREAD COUNT 1 BLOCK 0 STREAMS s $");
    for line in ["MULTI", "XADD s 1-1 f v", "XADD s 2-1 f v", "EXEC"] {
        writer.run(line);
    }
    assert_eq!(reply(&mut first), entry("1-1"));
    assert_eq!(reply(&mut second), entry("2-1"));
    assert_eq!(reply(&mut plain), entry("1-1"));
}

#[test]
fn a_reader_of_a_group_learns_that_its_stream_or_its_group_has_gone() {
    let gone: [(&str, &str); 4] = [
        ("DEL s", "-UNBLOCKED the stream key no longer exists\r\n"),
        ("SET s x", "-UNBLOCKED the stream key no longer exists\r\n"),
        ("FLUSHALL", "-UNBLOCKED the stream key no longer exists\r\n"),
        ("XGROUP DESTROY s g", "-NOGROUP the consumer group this client was blocked on no longer exists\r\n"),
    ];
    let server = start();
    let mut writer = server.connect();
    for (line, error) in gone {
        writer.run("DEL s");
        writer.run("XGROUP CREATE s g $ MKSTREAM");
        let [mut member, mut plain] = [(); 2].map(|()| server.connect());
        block(&server, &mut member, "XREADGROUP GROUP g c BLOCK 0 STREAMS s >");
        block(&server, &mut plain, "XREAD BLOCK 0 STREAMS s $");
        writer.run(line);
        assert_eq!(reply(&mut member), error, "{line}");
        // Whoever reads for itself waits for the next stream of that name.
        assert_eq!(blocked(&server), "1", "{line}");
        assert!(writer.run("CLIENT KILL TYPE normal SKIPME yes").starts_with(':'));
        wait_until("it has gone", || blocked(&server) == "0");
    }
}

#[test]
fn a_stream_made_anew_serves_those_who_waited_for_the_old_one_from_their_id_on() {
    let server = start();
    let [mut reader, mut writer] = [(); 2].map(|()| server.connect());
    writer.run("XADD s 100-1 f v");
    block(&server, &mut reader, "XREAD BLOCK 0 STREAMS s $");
    writer.run("DEL s");
    writer.run("XADD s 50-1 f v");
    assert_eq!(blocked(&server), "1");
    writer.run("XADD s 100-2 f v");
    assert_eq!(reply(&mut reader), entry("100-2"));
}

#[test]
fn a_wait_ends_when_its_time_is_over_or_another_client_says_so() {
    let server = start();
    let [mut reader, mut member, mut other] = [(); 3].map(|()| server.connect());
    other.run("XGROUP CREATE s g $ MKSTREAM");
    send(&mut reader, "XREAD BLOCK 10 STREAMS s $");
    assert_eq!(reply(&mut reader), "*-1\r\n");
    send(&mut member, "XREADGROUP GROUP g c BLOCK 10 STREAMS s >");
    assert_eq!(reply(&mut member), "*-1\r\n");
    for (how, answer) in [("", "*-1\r\n"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")] {
        for (client, line) in
            [(&mut reader, "XREAD BLOCK 0 STREAMS s $"), (&mut member, "XREADGROUP GROUP g c BLOCK 0 STREAMS s >")]
        {
            let id = client.run("CLIENT ID");
            block(&server, client, line);
            assert_eq!(other.run(&format!("CLIENT UNBLOCK {}{how}", id[1..].trim())), ":1\r\n");
            assert_eq!(reply(client), answer, "{line}{how}");
        }
    }
    assert_eq!(blocked(&server), "0");
}

#[test]
fn what_a_waiting_member_is_given_is_pending_on_replicas_too() {
    let master = start();
    let replica = Kind::Repld.server().expect("it is ours").replica_of(&master).start();
    let [mut member, mut writer] = [(); 2].map(|()| master.connect());
    let mut observer = replica.connect();
    writer.run("XGROUP CREATE s g $ MKSTREAM");
    block(&master, &mut member, "XREADGROUP GROUP g c BLOCK 0 STREAMS s >");
    writer.run("XADD s 1-1 f v");
    assert_eq!(reply(&mut member), entry("1-1"));
    let pending = writer.run("XPENDING s g");
    assert!(pending.starts_with("*4\r\n:1\r\n"));
    wait_until("the replica has it", || observer.run("XPENDING s g") == pending);
}
