//! The same lost master, once left to a real Sentinel and once to `replctl promote`: a replica with the better priority is
//! still in its first sync. The Sentinel promotes it, and everything is gone.

use std::process::Stdio;

use crate::live::{Live, engines, kill, on_path, topology};

const KEYS: usize = 20_000;

/// n1 and n2 hold all keys; n3, which is preferred, has only begun to receive them.
fn in_first_sync(engine: &str) -> Live {
    let nodes = [("n1", ""), ("n2<n1", "priority = 100"), ("n3<n1", "priority = 1")];
    let live = Live::up(&topology("disaster", engine, &nodes));
    live.fill("n1", KEYS);
    live.eventually("n2 holds all keys", || live.ask("n2", &["DBSIZE"]) == KEYS);
    live.run(&["kill", "n3"]).exits(0);
    live.wipe("disaster", "n3");
    live.ask("n1", &["CONFIG", "SET", "rdb-key-save-delay", "1000"]);
    let mut start = live.here.command(&["start", "n3"]).stdout(Stdio::null()).spawn().expect("replctl runs");
    live.eventually("the sync has begun", || live.node("n3")["answer"]["report"]["link"]["state"] == "syncing");
    start.kill().and_then(|()| start.wait()).expect("it is ours");
    assert_eq!(live.ask("n3", &["DBSIZE"]), 0);
    live
}

/// A Sentinel of its own that watches n1.
fn start_sentinel(live: &Live) -> u16 {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let config = format!(
        "bind 127.0.0.1\nport {port}\nsentinel monitor disaster 127.0.0.1 {} 1\n\
         sentinel down-after-milliseconds disaster 500\nsentinel failover-timeout disaster 10000\n",
        live.port("n1")
    );
    live.here.write("sentinel.conf", config);
    let mut sentinel = std::process::Command::new("redis-sentinel");
    sentinel.arg("sentinel.conf").current_dir(live.here.directory()).stdin(Stdio::null()).stdout(Stdio::null());
    // It is ended with everything else that works in this fixture.
    drop(sentinel.spawn().expect("redis-sentinel runs"));
    let knows_both = || -> redis::RedisResult<bool> {
        let mut connection = redis::Client::open(("127.0.0.1", port))?.get_connection()?;
        let replicas: Vec<redis::Value> =
            redis::cmd("SENTINEL").arg(&["replicas", "disaster"]).query(&mut connection)?;
        Ok(replicas.len() == 2)
    };
    live.eventually("the Sentinel knows both replicas", || knows_both().unwrap_or(false));
    port
}

/// A repld that has not finished its first sync says that it must not be promoted, whatever its priority is.
#[test]
fn a_sentinel_does_not_promote_a_repld_that_is_in_its_first_sync() {
    if !has_sentinel() {
        return;
    }
    let live = in_first_sync("repld");
    start_sentinel(&live);
    kill(live.pid("n1"), "KILL");
    live.eventually("the Sentinel has promoted n2", || live.node("n2")["answer"]["report"]["role"] == "master");
    assert_eq!(live.ask("n2", &["DBSIZE"]), KEYS);
    live.eventually("n3 gets it all from there", || live.ask("n3", &["DBSIZE"]) == KEYS);
}

fn has_sentinel() -> bool {
    let found = engines().contains(&"redis-server") && on_path("redis-sentinel");
    if !found {
        assert!(std::env::var_os("REPLCTL_REQUIRE_PEERS").is_none(), "redis-sentinel is required and not installed");
        eprintln!("skipped: redis-sentinel is not installed");
    }
    found
}

#[test]
fn a_sentinel_promotes_what_is_in_its_first_sync_and_promote_does_not() {
    if !has_sentinel() {
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let live = in_first_sync("redis-server");
            start_sentinel(&live);
            kill(live.pid("n1"), "KILL");
            let is_master = || live.node("n3")["answer"]["report"]["role"] == "master";
            live.eventually("the Sentinel has promoted n3", is_master);
            assert_eq!(live.ask("n3", &["DBSIZE"]), 0, "the new master is empty");
            live.eventually("n2 has copied it", || live.ask("n2", &["DBSIZE"]) == 0);
        });
        scope.spawn(|| {
            let live = in_first_sync("redis-server");
            kill(live.pid("n1"), "KILL");
            live.eventually("n1 is seen dead", || live.node("n1")["condition"] == "dead");
            let report = live.json(&["promote"], 0);
            assert_eq!(report["plan"]["rejected"][0]["node"], "n3", "{report}");
            assert_eq!(report["plan"]["rejected"][0]["reason"]["reason"], "never-synced", "{report}");
            for node in ["n2", "n3"] {
                assert_eq!(live.ask(node, &["DBSIZE"]), KEYS, "{node}");
            }
        });
    });
}
