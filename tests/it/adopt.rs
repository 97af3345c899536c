//! Groups that replctl did not start: adopted, watched, promoted in; their processes are never touched.

use serde_json::{Value, json};

use crate::live::{Live, Writers, engines, kill};
use crate::servers::{Server, eventually};

/// A master, n1, with the replicas n2 and n3 that nobody started with replctl, adopted as `prod`.
struct Adopted {
    live: Live,
    servers: Vec<Server>,
}

impl Adopted {
    fn trio(engine: &'static str) -> Self {
        Self::of(&[engine; 3], &[])
    }

    fn of(engines: &[&'static str], directives: &[&str]) -> Self {
        let live = Live::prepared("");
        let servers = Server::star(&live.here.directory(), engines, directives);
        let adopted = Self { live, servers };
        adopted.adopt().exits(0);
        adopted
    }

    fn adopt(&self) -> crate::Run {
        self.live.run(&["adopt", "prod", "--master", &self.servers[0].address()])
    }

    /// Sets a key on the master and waits until all have it.
    fn write(&self, key: &str, value: &str) {
        self.servers[0].ask(&["SET", key, value]);
        for replica in &self.servers[1..] {
            eventually("the write arrives", || replica.text(&["GET", key]).as_deref() == Some(value));
        }
    }

    fn diagnosis(&self) -> String {
        self.live.status()["diagnosis"]["name"].as_str().expect("a diagnosis").to_owned()
    }
}

fn master() -> (String, Option<u16>) {
    ("master".to_owned(), None)
}

fn replica_of(upstream: &Server) -> (String, Option<u16>) {
    ("slave".to_owned(), Some(upstream.port))
}

#[test]
fn a_group_is_found_from_its_master_and_forgotten_without_a_trace() {
    for &engine in engines() {
        let live = Live::prepared("");
        let mut servers = Server::star(&live.here.directory(), &[engine; 3], &[]);
        let chained = Server::start(&live.here.directory(), engine, &[]);
        chained.follow(&servers[2]);
        servers.push(chained);
        let master = servers[0].address();

        let run = live.run(&["adopt", "prod", "--master", &servers[1].address()]).exits(3);
        assert!(run.stderr.contains(&format!("--master {master}")), "{}", run.stderr);
        let plan = live.json(&["adopt", "prod", "--master", &master, "--dry-run"], 0);
        assert_eq!(plan["plan"]["nodes"].as_array().map(Vec::len), Some(4), "{plan}");
        live.run(&["status", "-g", "prod"]).exits(2);

        let found = live.json(&["adopt", "prod", "--master", &master], 0);
        let ports = |field: &str| -> Vec<Value> {
            found["nodes"].as_array().expect("nodes").iter().map(|node| node[field].clone()).collect()
        };
        let mut expected: Vec<u16> = servers.iter().map(|server| server.port).collect();
        assert_eq!((&ports("port")[0], &ports("port")[3]), (&json!(expected[0]), &json!(expected[3])), "{engine}");
        expected.sort_unstable();
        let mut all: Vec<u64> = ports("port").iter().filter_map(Value::as_u64).collect();
        all.sort_unstable();
        assert_eq!(all, expected.into_iter().map(u64::from).collect::<Vec<_>>());
        let above = ports("upstream")[3].as_str().expect("n4 follows").to_owned();
        assert_eq!(live.port(&above), servers[2].port, "{engine}: a chain is seen as one");
        live.run(&["adopt", "prod", "--master", &master]).exits(3);
        let run = live.run(&["adopt", "again", "--master", &master]).exits(3);
        assert!(run.stderr.contains("is n1 of the group prod already"), "{}", run.stderr);

        let status = live.json(&["status"], 0);
        assert_eq!((&status["group"], &status["diagnosis"]["name"]), (&json!("prod"), &json!("healthy")));
        let table = live.run(&["status"]).exits(0).stdout;
        assert!(table.lines().any(|line| line.starts_with("n1") && line.contains(" - ")), "{table}");
        assert!(live.run(&["ls"]).exits(0).stdout.contains("prod"));

        live.run(&["down"]).exits(0);
        assert!(!live.run(&["ls"]).exits(0).stdout.contains("prod"));
        let running: Vec<bool> = servers.iter_mut().map(Server::is_running).collect();
        assert_eq!(running, [true; 4]);
        assert_eq!([servers[1].role(), servers[2].role()], [replica_of(&servers[0]), replica_of(&servers[0])]);
    }
}

#[test]
fn a_process_that_replctl_did_not_start_is_never_touched() {
    for &engine in engines() {
        let mut adopted = Adopted::trio(engine);
        for command in ["kill", "pause", "resume", "start", "restart"] {
            let run = adopted.live.run(&[command, "n2"]).exits(3);
            let reason = format!("n2 is not managed: replctl did not start it and does not {command} it");
            assert!(run.stderr.contains(&reason) && run.stderr.contains("hint: "), "{}", run.stderr);
        }
        adopted.live.run(&["kill-master"]).exits(3);
        adopted.live.run(&["restart", "--all"]).exits(3);
        adopted.live.run(&["kill", "n9"]).exits(2);
        let run = adopted.live.run(&["logs", "n1"]).exits(1);
        assert!(run.stderr.contains("there is no log of n1"), "{}", run.stderr);
        assert_eq!(adopted.live.ask("n1", &["SET", "k", "v"]), "OK");
        let running: Vec<bool> = adopted.servers.iter_mut().map(Server::is_running).collect();
        assert_eq!((running, adopted.diagnosis()), (vec![true; 3], "healthy".to_owned()), "{engine}");
    }
}

#[test]
fn a_switchover_in_an_adopted_group_loses_nothing() {
    for &engine in engines() {
        let adopted = Adopted::trio(engine);
        let ports: Vec<u16> = adopted.servers.iter().map(|server| server.port).collect();
        let writers = Writers::start(4, &ports);
        eventually("keys arrive", || adopted.servers[1].info("db0").is_some());
        let candidate = adopted.live.node("n2")["port"].as_u64().expect("a port");
        let report = adopted.live.json(&["switchover", "n2"], 0);
        assert_eq!(report["missing"], json!([]), "{engine}: {report}");
        let heir = adopted.servers.iter().find(|server| u64::from(server.port) == candidate).expect("it is ours");
        let before = heir.info("db0");
        eventually("writers go on", || heir.info("db0") != before);
        let acknowledged = writers.finish();
        assert_eq!((heir.role(), adopted.servers[0].role()), (master(), replica_of(heir)));
        let mut count = vec!["EXISTS"];
        count.extend(acknowledged.iter().map(String::as_str));
        let count: usize = redis::from_redis_value(heir.ask(&count)).expect("a number");
        assert_eq!(count, acknowledged.len(), "{engine}");
        assert_eq!(adopted.diagnosis(), "healthy");
    }
}

#[test]
fn a_master_that_does_not_answer_is_replaced_by_force_and_named_when_it_returns() {
    for &engine in engines() {
        let mut adopted = Adopted::trio(engine);
        adopted.write("k", "v");
        adopted.servers[0].kill();
        assert_eq!(adopted.diagnosis(), "master-unreachable");
        let run = adopted.live.run(&["promote"]).exits(3);
        assert!(run.stderr.contains("cannot be fenced") && run.stderr.contains("second master"), "{}", run.stderr);
        assert_eq!([adopted.servers[1].role().0, adopted.servers[2].role().0], ["slave", "slave"]);

        let plan = adopted.live.json(&["promote", "--dry-run", "--force"], 0);
        assert_eq!(plan["plan"]["steps"][0], json!({ "step": "leave-unfenced", "node": "n1" }), "{engine}");
        let report = adopted.live.json(&["promote", "--force"], 0);
        let heir = report["plan"]["candidate"].as_str().expect("a node").to_owned();
        let port = adopted.live.port(&heir);
        let heir = adopted.servers.iter().position(|server| server.port == port).expect("it is ours");
        assert_eq!(adopted.servers[heir].role(), master());
        assert_eq!(adopted.servers[3 - heir].role(), replica_of(&adopted.servers[heir]));
        adopted.servers[heir].ask(&["SET", "k", "w"]);
        assert_eq!(adopted.diagnosis(), "unmanaged-unreachable");
        let run = adopted.live.run(&["status"]).exits(4);
        assert!(run.stderr.contains("n1 was the master and is not fenced"), "{}", run.stderr);

        adopted.servers[0].start_again();
        let promoted = &report["plan"]["candidate"];
        let returned = json!({ "name": "unfenced-master", "master": promoted, "nodes": ["n1"] });
        assert_eq!(adopted.live.json(&["status"], 4)["diagnosis"], returned, "{engine}");
        adopted.servers[0].ask(&["SET", "of-its-own", "x"]);
        let status = adopted.live.json(&["status"], 4);
        assert_eq!(status["diagnosis"]["name"], "unfenced-master", "{engine}");
        // It came back without its data, and took in others: it could as well be a stranger.
        assert_eq!(status["diagnosis"]["unknown"], json!(["n1"]), "{engine}");
        assert!(status["hint"].as_str().is_some_and(|hint| hint.contains("replctl promote --force")), "{status}");
        adopted.live.run(&["promote"]).exits(3);
        let report = adopted.live.json(&["promote", "--force"], 0);
        assert_eq!(
            report["diverged"],
            json!([{ "node": "n1", "bytes": null, "keys": 1, "end": report["diverged"][0]["end"] }])
        );
        assert_eq!(adopted.servers[0].role(), replica_of(&adopted.servers[heir]));
        eventually("it has what the others have", || adopted.servers[0].text(&["GET", "k"]).as_deref() == Some("w"));
        assert_eq!(
            (adopted.diagnosis(), adopted.servers[0].text(&["GET", "of-its-own"])),
            ("healthy".to_owned(), None)
        );
    }
}

#[test]
fn a_master_that_answers_is_demoted_before_another_takes_over_and_no_write_is_lost() {
    for &engine in engines() {
        let mut adopted = Adopted::trio(engine);
        let ports: Vec<u16> = adopted.servers.iter().map(|server| server.port).collect();
        adopted.live.run(&["promote"]).exits(3);
        let writers = Writers::start(2, &ports);
        eventually("keys arrive", || adopted.servers[1].info("db0").is_some());
        let report = adopted.live.json(&["promote", "--force"], 0);
        assert_eq!(report["steps"][0]["step"], "demote", "{engine}: {report}");
        assert_eq!(report["diverged"][0]["bytes"], 0, "{engine}: {report}");
        assert_eq!(report["missing"], json!([]), "{engine}: {report}");
        let heir_port = adopted.live.port(report["plan"]["candidate"].as_str().expect("a node"));
        let heir = adopted.servers.iter().position(|server| server.port == heir_port).expect("it is ours");
        let acknowledged = writers.finish();
        let mut count = vec!["EXISTS"];
        count.extend(acknowledged.iter().map(String::as_str));
        let count: usize = redis::from_redis_value(adopted.servers[heir].ask(&count)).expect("a number");
        assert_eq!(count, acknowledged.len(), "{engine}");
        assert!(adopted.servers[0].is_running(), "it is not killed");
        assert_eq!(adopted.servers[0].role(), replica_of(&adopted.servers[heir]));
        let refused = adopted.servers[0].try_ask(&["SET", "k", "v"]).expect_err("it is a replica");
        assert!(refused.to_string().contains("READONLY") || refused.code() == Some("READONLY"), "{refused}");
        assert_eq!(adopted.diagnosis(), "healthy");
    }
}

#[test]
fn a_demotion_killed_at_any_point_leaves_one_master_or_what_the_next_promotion_completes() {
    for &engine in engines() {
        let adopted = Adopted::trio(engine);
        adopted.write("k", "v");
        // From before the plan to after the last step: a whole run takes about this long.
        for round in 0..8 {
            let mut command = adopted.live.here.command(&["promote", "--force", "-q"]);
            let mut promote = command.stdout(std::process::Stdio::null()).spawn().expect("replctl runs");
            std::thread::sleep(std::time::Duration::from_micros(2_000 * round));
            promote.kill().and_then(|()| promote.wait()).expect("it is ours");
            let masters = || adopted.servers.iter().filter(|server| server.role().0 == "master").count();
            assert!(masters() <= 1, "{engine}, round {round}");
            let next = adopted.live.run(&["promote"]);
            // Where nothing was done yet, or all of it, there is nothing to complete.
            let had_nothing_to_do = next.stderr.contains("is alive and takes writes");
            assert!(next.code == Some(0) || had_nothing_to_do, "{engine}, round {round}: {next:?}");
            eventually("all links are up", || adopted.diagnosis() == "healthy");
            assert_eq!(masters(), 1, "{engine}, round {round}");
            for server in &adopted.servers {
                assert_eq!(server.text(&["GET", "k"]).as_deref(), Some("v"), "{engine}, round {round}");
            }
        }
    }
}

#[test]
fn a_hung_master_is_left_unfenced_by_force_only() {
    // Each look at one that hangs takes a second.
    for &engine in engines().iter().take(2) {
        let adopted = Adopted::trio(engine);
        adopted.write("k", "v");
        kill(adopted.servers[0].pid(), "STOP");
        let run = adopted.live.run(&["promote"]).exits(3);
        assert!(run.stderr.contains("no answer from"), "{}", run.stderr);
        let report = adopted.live.json(&["promote", "--force"], 0);
        kill(adopted.servers[0].pid(), "CONT");
        eventually("it answers", || adopted.diagnosis() == "unfenced-master");
        adopted.servers[0].ask(&["SET", "of-its-own", "x"]);
        let second = adopted.live.json(&["promote"], 0);
        let bytes = second["diverged"][0]["bytes"].as_u64().expect("the histories are known");
        assert!((1..200).contains(&bytes), "{engine}: one write was its own: {second}");
        let heir = adopted.live.port(report["plan"]["candidate"].as_str().expect("a node"));
        assert_eq!(adopted.servers[0].role(), ("slave".to_owned(), Some(heir)), "{engine}");
        assert_eq!(adopted.diagnosis(), "healthy");
    }
}

#[test]
fn an_old_master_that_comes_back_with_its_data_is_demoted_without_force() {
    for &engine in engines() {
        let mut adopted = Adopted::trio(engine);
        adopted.write("k", "v");
        adopted.servers[0].ask(&["SAVE"]);
        adopted.servers[0].kill();
        adopted.live.run(&["promote", "--force"]).exits(0);
        adopted.servers[0].start_again();
        assert_eq!(adopted.servers[0].text(&["GET", "k"]).as_deref(), Some("v"));
        adopted.servers[0].ask(&["SET", "of-its-own", "x"]);
        let run = adopted.live.run(&["status"]).exits(4);
        assert!(run.stderr.contains("hint: replctl promote lets them follow"), "{engine}: {}", run.stderr);
        let heir = adopted.live.status()["diagnosis"]["master"].as_str().expect("a master").to_owned();
        adopted.live.run(&["repoint", "n1", "--to", &heir]).exits(3);
        let report = match engine {
            "repld" => adopted.live.json(&["repoint", "n1", "--to", &heir, "--force"], 0)["diverged"].clone(),
            _ => adopted.live.json(&["promote"], 0)["diverged"][0].clone(),
        };
        let bytes = report["bytes"].as_u64().expect("its history is known");
        assert!((1..200).contains(&bytes), "{engine}: {report}");
        assert_eq!(adopted.servers[0].role().0, "slave");
        assert_eq!(
            (adopted.diagnosis(), adopted.servers[0].text(&["GET", "of-its-own"])),
            ("healthy".to_owned(), None)
        );
        let told = adopted.live.run(&["history"]).exits(0).stdout;
        assert!(told.contains("adopt") && told.contains("promote"), "{told}");
    }
}

#[test]
fn nodes_are_told_from_each_other_by_host_as_well_as_by_port() {
    // A repld takes every loopback address with its own port for its own.
    for &engine in engines().iter().filter(|engine| **engine != "repld") {
        let live = Live::prepared("");
        let directory = live.here.directory();
        let first = Server::start(&directory, engine, &[]);
        let port = first.port;
        let others = ["127.0.0.2", "127.0.0.3"].map(|host| Server::start_at(&directory, engine, (host, port), &[]));
        let [Some(second), Some(third)] = others else { panic!("port {port} of 127.0.0.2 or 127.0.0.3 is not free") };
        second.follow(&first);
        third.follow(&second);
        live.run(&["adopt", "prod", "--master", &first.address()]).exits(0);
        assert_eq!(
            (live.node("n2")["host"].as_str(), live.node("n3")["host"].as_str()),
            (Some("127.0.0.2"), Some("127.0.0.3"))
        );
        let report = live.json(&["switchover", "n3"], 0);
        assert_eq!(report["missing"], json!([]), "{engine}: {report}");
        assert_eq!(third.role().0, "master");
        assert_eq!(
            [first.info("master_host"), second.info("master_host")],
            [(); 2].map(|()| Some("127.0.0.3".to_owned()))
        );
        live.run(&["repoint", "n1", "--to", "n2"]).exits(0);
        assert_eq!(first.info("master_host").as_deref(), Some("127.0.0.2"), "{engine}");
        assert_eq!(live.status()["diagnosis"]["name"], "healthy");
    }
}

#[test]
fn a_master_that_came_back_empty_does_not_get_its_replicas() {
    for &engine in engines() {
        let mut adopted = Adopted::trio(engine);
        adopted.write("k", "v");
        // They do not come to it at once, as if the network were slow.
        for replica in &adopted.servers[1..] {
            replica.ask(&["REPLICAOF", "127.0.0.1", "1"]);
        }
        adopted.servers[0].come_back_empty();
        assert_eq!(adopted.servers[0].text(&["GET", "k"]), None);
        assert_eq!(adopted.diagnosis(), "master-came-back-with-less", "{engine}");
        let report = adopted.live.json(&["promote"], 0);
        assert_eq!(report["steps"][0]["step"], "demote", "{engine}: {report}");
        for server in &adopted.servers {
            eventually("what the replicas had is kept", || server.text(&["GET", "k"]).as_deref() == Some("v"));
        }
        assert_eq!(adopted.diagnosis(), "healthy", "{engine}");
    }
}

#[test]
fn a_stranger_at_a_nodes_address_is_named_and_left_alone() {
    for &engine in engines() {
        let mut adopted = Adopted::trio(engine);
        adopted.write("k", "v");
        let n1 = adopted.live.port("n1");
        assert_eq!(n1, adopted.servers[0].port);
        for replica in &adopted.servers[1..] {
            replica.ask(&["REPLICAOF", "127.0.0.1", "1"]);
        }
        adopted.servers[0].come_back_empty();
        adopted.servers[0].ask(&["SET", "someone's", "data"]);
        let status = adopted.live.json(&["status"], 4);
        assert_eq!(status["diagnosis"]["name"], "master-unreachable", "{engine}: {status}");
        assert!(status["message"].as_str().is_some_and(|text| text.contains("another server answers")), "{status}");
        adopted.live.run(&["promote"]).exits(3);
        adopted.live.run(&["promote", "--force"]).exits(0);
        assert_eq!(adopted.servers[0].role(), master(), "{engine}");
        assert_eq!(adopted.servers[0].text(&["GET", "someone's"]).as_deref(), Some("data"));
    }
}

#[test]
fn a_password_is_read_from_a_file_and_shown_nowhere() {
    for &engine in engines() {
        let live = Live::prepared("");
        let directives = ["requirepass secret-of-ours", "masterauth secret-of-ours"];
        let servers = Server::star(&live.here.directory(), &[engine; 3], &directives);
        let master = servers[0].address();
        let run = live.run(&["adopt", "prod", "--master", &master]).exits(1);
        assert!(run.stderr.contains("NOAUTH"), "{}", run.stderr);
        live.here.write("password", "secret-of-ours\n");
        let run = live.run(&["adopt", "prod", "--master", &master, "--password-file", "password"]).exits(0);
        assert!(!run.stdout.contains("secret") && !run.stderr.contains("secret"), "{run:?}");
        let status = live.run(&["status", "--json"]).exits(0).stdout;
        assert!(!status.contains("secret"), "{status}");
        live.run(&["switchover"]).exits(0);
        assert_eq!(servers[0].role().0, "slave", "{engine}");
        live.run(&["promote", "--force", "n1"]).exits(0);
        assert_eq!(servers[0].role(), self::master(), "{engine}");
        assert_eq!(live.status()["diagnosis"]["name"], "healthy");
        live.run(&["down"]).exits(0);
        let mut command = live.here.command(&["adopt", "prod", "--master", &master]);
        let again = command.env("REPLCTL_PASSWORD", "secret-of-ours").output().expect("replctl runs");
        crate::Run::from(again).exits(0);
        live.run(&["down", "--wipe"]).exits(0);
    }
}

#[test]
fn a_user_with_a_password_is_as_good_as_a_password() {
    // A repld has no users but the default one.
    for &engine in engines().iter().filter(|engine| **engine != "repld") {
        let live = Live::prepared("");
        let directives = ["user ops on >secret-of-ops ~* &* +@all"];
        let servers = Server::star(&live.here.directory(), &[engine; 2], &directives);
        live.here.write("password", "secret-of-ops\n").write("wrong", "nonsense\n");
        let master = servers[0].address();
        let adopt = ["adopt", "prod", "--master", &master, "--user", "ops", "--password-file"];
        live.run(&[&adopt[..], &["wrong"]].concat()).exits(1);
        live.run(&[&adopt[..], &["missing"]].concat()).exits(2);
        live.run(&adopt[..adopt.len() - 1]).exits(2);
        live.run(&[&adopt[..], &["password"]].concat()).exits(0);
        assert_eq!(live.ask("n1", &["ACL", "WHOAMI"]), "ops", "{engine}");
        live.run(&["switchover"]).exits(0);
        assert_eq!(servers[1].role().0, "master");
    }
}

#[test]
fn a_managed_replica_logs_in_to_a_master_that_replctl_did_not_start() {
    for &engine in engines() {
        let live = Live::prepared("");
        let directives = ["requirepass secret-of-ours"];
        let server = Server::start(&live.here.directory(), engine, &directives);
        server.ask(&["SET", "k", "v"]);
        live.here.write("password", "secret-of-ours");
        let rest = format!(
            "password-file = \"password\"\n[[node]]\nname = \"n2\"\nengine = \"{engine}\"\nreplica-of = \"n1\"\n"
        );
        live.here.write("mixed.toml", topology(&server, &rest));
        live.run(&["up", "mixed.toml"]).exits(0);
        live.arrives("n2", "k", "v");
        live.run(&["switchover", "n2"]).exits(0);
        live.run(&["switchover", "n1"]).exits(0);
        assert_eq!(
            (server.role(), live.status()["diagnosis"]["name"].as_str()),
            (master(), Some("healthy")),
            "{engine}"
        );
    }
}

#[test]
fn engines_are_mixed_in_an_adopted_group() {
    let Some(other) = engines().iter().copied().find(|engine| *engine != "repld") else { return };
    let adopted = Adopted::of(&[other, "repld", other], &[]);
    adopted.write("k", "v");
    for _ in 0..2 {
        let report = adopted.live.json(&["switchover"], 0);
        assert_eq!(report["missing"], json!([]), "{report}");
    }
    adopted.live.run(&["repoint", "n3", "--to", "n1"]);
    assert_eq!(adopted.diagnosis(), "healthy");
}

#[test]
fn up_lets_a_replica_that_came_back_as_a_master_follow_again() {
    for &engine in engines() {
        let mut adopted = Adopted::trio(engine);
        adopted.write("k", "v");
        let port = adopted.live.port("n2");
        let index = adopted.servers.iter().position(|server| server.port == port).expect("it is ours");
        adopted.servers[index].kill();
        assert_eq!(adopted.diagnosis(), "unmanaged-unreachable");
        adopted.servers[index].come_back_empty();
        assert_eq!(adopted.servers[index].role(), master());
        assert_eq!(adopted.diagnosis(), "unfenced-master", "{engine}");
        adopted.live.run(&["up", "-g", "prod", "--dry-run"]).exits(0);
        assert_eq!(adopted.servers[index].role(), master(), "a dry run does nothing");
        adopted.live.run(&["up", "-g", "prod"]).exits(0);
        assert_eq!(adopted.servers[index].role(), replica_of(&adopted.servers[0]));
        eventually("it has the data", || adopted.servers[index].text(&["GET", "k"]).as_deref() == Some("v"));
        let node = adopted.live.node("n2");
        assert_eq!(node["recorded_run_id"], node["answer"]["report"]["run_id"], "{engine}: it is known again");
    }
}

/// A topology of an unmanaged master and what else is given.
fn topology(master: &Server, rest: &str) -> String {
    format!("name = \"mixed\"\n[[node]]\nname = \"n1\"\nmanaged = false\nendpoint = \"{}\"\n{rest}", master.address())
}

#[test]
fn a_topology_mixes_servers_of_its_own_with_those_of_others() {
    for &engine in engines() {
        let live = Live::prepared("");
        let directory = live.here.directory();
        let mut servers: Vec<Server> = (0..2).map(|_| Server::start(&directory, engine, &[])).collect();
        servers[0].ask(&["SET", "k", "v"]);
        let rest = format!(
            "[[node]]\nname = \"n2\"\nmanaged = false\nendpoint = \"{}\"\nreplica-of = \"n1\"\n\
             [[node]]\nname = \"n3\"\nengine = \"{engine}\"\nreplica-of = \"n1\"\n",
            servers[1].address()
        );
        live.here.write("mixed.toml", topology(&servers[0], &rest));
        live.run(&["up", "mixed.toml"]).exits(0);
        assert_eq!(servers[1].role(), replica_of(&servers[0]), "{engine}: an empty server is let follow");
        live.arrives("n3", "k", "v");
        live.run(&["kill", "n2"]).exits(3);
        live.run(&["switchover", "n3"]).exits(0);
        let n3 = live.port("n3");
        assert_eq!([servers[0].role().1, servers[1].role().1], [Some(n3); 2], "{engine}");
        live.run(&["up", "mixed.toml"]).exits(0);
        live.run(&["switchover", "n1"]).exits(0);

        live.run(&["kill", "n3"]).exits(0);
        live.run(&["up", "mixed.toml"]).exits(0);
        live.arrives("n3", "k", "v");
        let run = live.run(&["down"]).exits(0);
        assert!(run.stdout.contains("left alone as they are: n1 and n2"), "{}", run.stdout);
        assert_eq!((servers[0].role(), servers[1].role()), (master(), replica_of(&servers[0])));
        assert!(servers.iter_mut().all(Server::is_running));
        assert_eq!(live.run(&["up", "mixed.toml"]).exits(0).code, Some(0), "{engine}: and again");
    }
}

#[test]
fn up_never_re_points_a_master_nor_drops_data_unasked() {
    for &engine in engines() {
        let live = Live::prepared("");
        let directory = live.here.directory();
        let servers: Vec<Server> = (0..2).map(|_| Server::start(&directory, engine, &[])).collect();
        let second = |endpoint: &Server| {
            let address = endpoint.address();
            format!("[[node]]\nname = \"n2\"\nmanaged = false\nendpoint = \"{address}\"\nreplica-of = \"n1\"\n")
        };
        servers[0].follow(&servers[1]);
        live.here.write("wrong.toml", topology(&servers[0], &second(&servers[1])));
        let run = live.run(&["up", "wrong.toml"]).exits(3);
        assert!(run.stderr.contains("n1 is meant to be the master, and it is a replica of"), "{}", run.stderr);
        servers[0].ask(&["REPLICAOF", "NO", "ONE"]);
        servers[1].ask(&["SET", "its-own", "data"]);
        let run = live.run(&["up", "wrong.toml"]).exits(3);
        assert!(run.stderr.contains("n2") && run.stderr.contains("(1 key)"), "{}", run.stderr);
        assert_eq!([servers[0].role(), servers[1].role()], [master(), master()], "{engine}");
        live.run(&["up", "wrong.toml", "--force"]).exits(0);
        assert_eq!(servers[1].role(), replica_of(&servers[0]));
        drop(live.run(&["down"]).exits(0));
        drop(servers);
        let run = live.run(&["up", "wrong.toml"]).exits(1);
        assert!(run.stderr.contains("n1 does not answer: nobody listens at"), "{}", run.stderr);
    }
}

#[test]
fn a_topology_cannot_wish_what_replctl_does_not_decide() {
    let live = Live::prepared("");
    let n1 = "[[node]]\nname = 'a'\n";
    let node = |rest: &str| format!("{n1}[[node]]\nname = 'b'\nreplica-of = 'a'\n{rest}");
    for (rest, place, message) in [
        ("managed = false\n", "3:1", "this node has `managed = false` and no `endpoint`"),
        ("managed = false\nendpoint = 'db1'\n", "7:12", "`db1` is not an endpoint: it has no port"),
        (
            "managed = false\nendpoint = 'db1:6379'\nport = 1\n",
            "8:1",
            "a node with `managed = false` cannot have `port`",
        ),
        (
            "managed = false\nendpoint = ':1'\nengine = 'repld'\n",
            "8:1",
            "a node with `managed = false` cannot have `engine`",
        ),
        (
            "managed = false\nendpoint = 'x:1'\nconfig = {}\n",
            "8:1",
            "a node with `managed = false` cannot have `config`",
        ),
        ("endpoint = 'db1:6379'\n", "6:1", "`endpoint` is for a node that replctl does not start"),
        ("managed = 'no'\n", "6:11", "`managed` must be `true` or `false`"),
        ("managed = false\nendpoint = '10.0.0.7:1'\n", "5:14", "cannot reach `a`, which listens on loopback only"),
        (
            "managed = false\nendpoint = '127.0.0.1:1'\n[[node]]\nname = 'c'\nreplica-of = 'b'\nmanaged = false\nendpoint = 'localhost:1'\n",
            "7:12",
            "the endpoint of `b` is that of `c`, too",
        ),
    ] {
        let run = live.here.write("wrong.toml", node(rest)).run(&["--json", "check", "wrong.toml"]).exits(2);
        let object = run.json();
        let all = object["error"]["diagnostics"].as_array().expect("diagnostics").clone();
        let found = all.iter().any(|one| {
            format!("{}:{}", one["line"], one["column"]) == place
                && one["message"].as_str().is_some_and(|text| text.contains(message))
        });
        assert!(found, "{rest}: no {message:?} at {place} in {all:?}");
    }
    live.here.write(
        "good.toml",
        "[[node]]\nname = 'a'\nmanaged = false\nendpoint = '[::1]:6379'\nuser = 'ops'\npassword-file = 'p'\n",
    );
    let run = live.run(&["check", "good.toml"]).exits(0);
    assert!(run.stdout.contains("a  unmanaged, at [::1]:6379"), "{}", run.stdout);
}
