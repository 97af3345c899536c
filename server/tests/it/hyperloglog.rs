//! HyperLogLogs have Redis's bytes, whatever was done to them.

use crate::client::{Client, shown};
use crate::random::Random;
use crate::server::{Kind, Server, wait_until};

fn both() -> Option<[Server; 2]> {
    Some([Kind::Repld.server()?, Kind::Redis.server()?].map(|launcher| launcher.start()))
}

/// The same command to both; the answers are equal.
fn run(clients: &mut [Client; 2], words: &[&[u8]]) {
    let [ours, theirs] = clients.each_mut().map(|client| client.call(words));
    let line: Vec<String> = words.iter().map(|word| shown(word)).collect();
    assert!(ours == theirs, "{line:?}: {} instead of {}", shown(&ours), shown(&theirs));
}

fn command(random: &mut Random) -> Vec<Vec<u8>> {
    let [key, other, third] = [(); 3].map(|()| random.pick(&["a", "b", "c", "d", "e", "s"]));
    let line = match random.below(24) {
        0 => format!("PFCOUNT {key}"),
        1 => format!("PFCOUNT {key} {other} {third}"),
        2 => format!("PFMERGE {key} {other} {third}"),
        3 => format!("PFMERGE {key}"),
        4 => format!("PFDEBUG {} {key}", random.pick(&["DECODE", "ENCODING", "GETREG", "TODENSE", "nosuch"])),
        5 => format!("DEL {key}"),
        6 => format!("GET {key}"),
        7 => format!("STRLEN {key}"),
        8 => format!("CONFIG SET hll-sparse-max-bytes {}", random.pick(&["0", "30", "200", "3000", "20000"])),
        9 => format!("SETRANGE {key} {} x", random.below(40)),
        10 => format!("LPUSH s {key}"),
        11 => format!("PFADD {key}"),
        _ => {
            let count = random.pick(&["1", "1", "2", "10", "200"]).parse().expect("a number");
            let mut words: Vec<Vec<u8>> = vec![b"PFADD".to_vec(), key.into()];
            words.extend((0..count).map(|_| random.bytes(20)));
            return words;
        }
    };
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn values_have_the_bytes_of_redis_after_the_same_operations() {
    let Some(servers) = both() else { return };
    let mut clients = servers.each_ref().map(Server::connect);
    let mut random = Random::new(1);
    for _ in 0..3_000 {
        let words = command(&mut random);
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        run(&mut clients, &words);
    }
}

#[test]
fn corrupt_values_are_refused_as_by_redis() {
    const HEADER: &[u8] = b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80";
    let Some(servers) = both() else { return };
    let mut clients = servers.each_ref().map(Server::connect);
    let mut random = Random::new(2);
    for _ in 0..300 {
        // Runs that are too short, too long, or by chance just right. None is cut off: Redis reads on behind the end.
        let middle = random.pick(&[&b"\x7f\xff"[..], b"\x7f\xfe", b"\x7f\xfe", b"\x7f\x00"]);
        let runs = [random.bytes(4), middle.to_vec(), random.pick(&[&b"\x00"[..], b"\x80", b"\x80\x01"]).to_vec()];
        let value = [HEADER, &runs.concat()].concat();
        run(&mut clients, &[b"SET", b"a", &value]);
        run(&mut clients, &[b"PFCOUNT", b"a"]);
        run(&mut clients, &[b"PFCOUNT", b"a", b"b"]);
        run(&mut clients, &[b"PFMERGE", b"b", b"a"]);
        run(&mut clients, &[b"PFDEBUG", b"DECODE", b"a"]);
        run(&mut clients, &[b"PFDEBUG", b"TODENSE", b"a"]);
        run(&mut clients, &[b"PFADD", b"a", &random.bytes(8)]);
    }
}

#[test]
fn a_replica_notes_the_count_that_it_was_asked_for_as_its_master_does() {
    let Some(launcher) = Kind::Repld.server() else { return };
    let master = launcher.start();
    let Some(launcher) = Kind::Repld.server() else { return };
    let replica = launcher.replica_of(&master).start();
    let [mut client, mut observer] = [&master, &replica].map(Server::connect);
    client.run("PFADD k a b c");
    wait_until("the replica has the value", || observer.run("EXISTS k") == ":1\r\n");
    let stale = observer.run("GET k");
    assert_eq!(observer.run("PFCOUNT k"), ":3\r\n");
    let noted = observer.run("GET k");
    assert_ne!(noted, stale);
    assert_eq!(client.run("GET k"), stale, "that is the replica's affair");
    assert_eq!(client.run("PFCOUNT k"), ":3\r\n");
    assert_eq!(client.run("GET k"), noted);
    client.run("PFADD k d");
    assert_eq!(client.run("PFCOUNT k"), ":4\r\n");
    let noted = client.run("GET k");
    wait_until("the replica is told of the count", || observer.run("GET k") == noted);
}
