//! A failover by hand, as docs/by-hand.md tells it: three servers, a master that goes, and a person who has to notice.
//! What both sides log is a part of the story: operators and their tools know these lines from Redis.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::Fixture;

/// Longest wait for anything that must happen.
const LIMIT: Duration = Duration::from_secs(30);
/// Another process may take a port between its choice and its use.
const ATTEMPTS: usize = 5;
const NO_ID: &str = "0000000000000000000000000000000000000000";

/// One server, started as a reader of the page would; ended when dropped.
struct Server {
    port: u16,
    log: PathBuf,
    process: Child,
}

impl Server {
    fn start(here: &Fixture) -> Self {
        for _ in 0..ATTEMPTS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let port = listener.local_addr().expect("an address").port();
            drop(listener);
            let directory = here.directory().join(port.to_string());
            std::fs::create_dir(&directory).expect("a data directory");
            let log = directory.join("log");
            let port_word = port.to_string();
            let mut command =
                here.command(&["serve", "--port", &port_word, "--save", "1 1", "--repl-diskless-sync", "no"]);
            command.current_dir(&directory).stdout(File::create(&log).expect("a log"));
            let mut server = Self { port, log, process: command.spawn().expect("replctl runs") };
            let deadline = Instant::now() + LIMIT;
            while server.is_running() && Instant::now() < deadline {
                if server.log().contains("Ready to accept connections") {
                    return server;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        panic!("no server starts");
    }

    fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("our own child").is_none()
    }

    /// The reply to an inline command; empty if the server ends instead.
    fn ask(&self, line: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("a live server");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes()).expect("sent");
        let mut reply = Vec::new();
        // A server that ends may reset the connection, since it has not read the QUIT.
        let _ = stream.read_to_end(&mut reply);
        let reply = String::from_utf8(reply).expect("text");
        reply.strip_suffix("+OK\r\n").unwrap_or(&reply).to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    /// Role letter and message of each line, all of which must be in Redis's format.
    fn events(&self) -> Vec<(char, String)> {
        self.log().lines().map(|line| event(line).unwrap_or_else(|| panic!("no line of a log: {line}"))).collect()
    }

    fn count(&self, message: &str) -> usize {
        self.events().iter().filter(|(_, text)| text.starts_with(message)).count()
    }

    #[track_caller]
    fn wait_for(&self, message: &str, count: usize) {
        wait_until(&format!("{message} ({count} times)\n{}", self.log()), || self.count(message) >= count);
    }

    /// Asserts that these events were logged in this order, whatever else was logged in between. Each is a role letter,
    /// a space and the beginning of a message.
    #[track_caller]
    fn logged_in_order(&self, wanted: &[String]) {
        let events = self.events();
        let mut rest = events.iter();
        for wanted in wanted {
            let found = rest.any(|(role, message)| format!("{role} {message}").starts_with(wanted));
            assert!(found, "not there, or not in its place: {wanted}\n{}", self.log());
        }
    }

    /// What stands between `before` and `after` in the first message that has both.
    fn quoted(&self, before: &str, after: &str) -> String {
        let events = self.events();
        let find = |(_, text): &(char, String)| Some(text.split_once(before)?.1.split_once(after)?.0.to_owned());
        events.iter().find_map(find).unwrap_or_else(|| panic!("nothing between {before} and {after}:\n{}", self.log()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended, which is what was wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `pid:role DD Mon YYYY HH:MM:SS.mmm level message`.
fn event(line: &str) -> Option<(char, String)> {
    let words: Vec<&str> = line.splitn(7, ' ').collect();
    let [who, day, month, year, time, level, message] = words[..] else { return None };
    let (pid, role) = who.split_once(':')?;
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let (clock, milliseconds) = time.split_once('.')?;
    let is_time =
        clock.split(':').count() == 3 && clock.split(':').all(|part| digits(part, 2)) && digits(milliseconds, 3);
    let is_date = digits(day, 2) && month.len() == 3 && digits(year, 4);
    let is_level = matches!(level, "." | "-" | "*" | "#");
    let is_line = pid.parse::<u32>().is_ok() && matches!(role, "M" | "S" | "C") && is_date && is_time && is_level;
    is_line.then(|| (role.chars().next().expect("one letter"), message.to_owned()))
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_failover_by_hand_leaves_the_lines_that_operators_know() {
    let here = Fixture::new();
    let [mut master, heir, other] = [(); 3].map(|()| Server::start(&here));
    let upstream = format!("127.0.0.1:{}", master.port);

    for replica in [&heir, &other] {
        assert_eq!(replica.ask(&format!("REPLICAOF 127.0.0.1 {}", master.port)), "+OK\r\n");
        replica.wait_for("MASTER <-> REPLICA sync: Finished with success", 1);
        master.wait_for(&format!("Synchronization with replica 127.0.0.1:{} succeeded", replica.port), 1);
    }
    let old_id = heir.quoted("Trying a partial resynchronization (request ", ":1)");
    let replid = master.quoted("my new replication IDs are '", "'");
    let bytes: u64 = heir.quoted("receiving ", " bytes from master").parse().expect("a number");
    assert!(bytes > 0 && old_id != replid);
    let first_id = master.quoted("my replication IDs are '", "'");
    heir.logged_in_order(&[
        "M Ready to accept connections".into(),
        "S Before turning into a replica, using my own master parameters to synthesize a cached master".into(),
        format!("S REPLICAOF {upstream} enabled (user request from 'id="),
        format!("S Connecting to MASTER {upstream}"),
        "S MASTER <-> REPLICA sync started".into(),
        "S Non blocking connect for SYNC fired the event.".into(),
        "S Master replied to PING, replication can continue...".into(),
        format!("S Trying a partial resynchronization (request {old_id}:1)."),
        format!("S Full resync from master: {replid}:0"),
        "S Discarding previously cached master state.".into(),
        format!("S MASTER <-> REPLICA sync: receiving {bytes} bytes from master"),
        "S MASTER <-> REPLICA sync: Flushing old data".into(),
        "S MASTER <-> REPLICA sync: Loading DB in memory".into(),
        "S Loading RDB produced by version ".into(),
        "S RDB age ".into(),
        "S RDB memory usage when created ".into(),
        "S MASTER <-> REPLICA sync: Finished with success".into(),
    ]);
    assert!(heir.log().contains("addr=127.0.0.1:"), "the one who asked is named");
    master.logged_in_order(&[
        format!("M Replica 127.0.0.1:{} asks for synchronization", heir.port),
        format!(
            "M Partial resynchronization not accepted: Replication ID mismatch (Replica asked for '{old_id}', \
             my replication IDs are '{first_id}' and '{NO_ID}')"
        ),
        format!("M Replication backlog created, my new replication IDs are '{replid}' and '{NO_ID}'"),
        "M Starting BGSAVE for SYNC with target: disk".into(),
        "M Background saving started by pid ".into(),
        "M DB saved on disk".into(),
        "M Background saving terminated with success".into(),
        format!("M Synchronization with replica 127.0.0.1:{} succeeded", heir.port),
    ]);

    assert_eq!(master.ask("SET story told"), "+OK\r\n");
    for replica in [&heir, &other] {
        wait_until("the write arrives", || replica.ask("GET story") == "$4\r\ntold\r\n");
    }
    let saves = master.count("Background saving terminated with success");
    master.wait_for("Background saving terminated with success", saves + 1);
    master.logged_in_order(&[
        format!("M Synchronization with replica 127.0.0.1:{} succeeded", other.port),
        "M 1 changes in 1 seconds. Saving...".into(),
        "M Background saving started by pid ".into(),
        "M DB saved on disk".into(),
        "M Background saving terminated with success".into(),
    ]);

    assert_eq!(master.ask("SHUTDOWN"), "");
    wait_until("the master ends", || !master.is_running());
    master.logged_in_order(&["M User requested shutdown...".into(), "M Redis is now ready to exit, bye bye...".into()]);
    let refused = "Error condition on socket for SYNC: Connection refused";
    let call = ["S Connecting to MASTER ", "S MASTER <-> REPLICA sync started", &format!("S {refused}")];
    let calls = || [call, call, call].concat().into_iter().map(String::from);
    for replica in [&heir, &other] {
        replica.wait_for(refused, 3);
        let lost = ["S Connection with master lost.", "S Caching the disconnected master state."].map(String::from);
        replica.logged_in_order(&lost.into_iter().chain(calls()).collect::<Vec<_>>());
        // Nothing fails over by itself.
        assert_eq!(replica.count("MASTER MODE enabled"), 0);
        let role = replica.ask("ROLE");
        assert!(role.contains("slave") && role.contains(&format!(":{}\r\n", master.port)), "{role}");
        assert!(replica.ask("SET story changed").starts_with("-READONLY"));
        assert_eq!(replica.ask("GET story"), "$4\r\ntold\r\n");
    }

    assert_eq!(heir.ask("REPLICAOF NO ONE"), "+OK\r\n");
    heir.logged_in_order(&[
        format!("S {refused}"),
        format!("M Setting secondary replication ID to {replid}, valid up to offset: "),
        "M MASTER MODE enabled (user request from 'id=".into(),
    ]);
    assert_eq!(heir.ask("SET story continued"), "+OK\r\n");
    // The other one does not know, and goes on calling the dead.
    other.wait_for(refused, other.count(refused) + 2);
    assert!(other.ask("ROLE").contains(&format!(":{}\r\n", master.port)));
    assert_eq!(other.ask("GET story"), "$4\r\ntold\r\n");

    assert_eq!(other.ask(&format!("REPLICAOF 127.0.0.1 {}", heir.port)), "+OK\r\n");
    wait_until("the new write arrives", || other.ask("GET story") == "$9\r\ncontinued\r\n");
    other.logged_in_order(&[
        format!("S REPLICAOF 127.0.0.1:{} enabled (user request from 'id=", heir.port),
        format!("S Trying a partial resynchronization (request {replid}:"),
        "S Successful partial resynchronization with master.".into(),
    ]);
}
