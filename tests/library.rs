//! The library as others use it in their tests.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use replctl::{Error, Group, Node, Verdict};
use tokio::task::JoinSet;

/// How many groups go up and down, and how many at a time; tests/long/groups-1000 asks for more.
fn wished(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

async fn connection(node: &Node) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    // The default of half a second is little on a machine that is busy with other tests.
    let patient = Some(Duration::from_secs(30));
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(patient).set_connection_timeout(patient);
    redis::Client::open(node.url.as_str())?.get_multiplexed_async_connection_with_config(&config).await
}

async fn set(node: &Node, key: &str) -> redis::RedisResult<()> {
    redis::cmd("SET").arg(key).arg("x").exec_async(&mut connection(node).await?).await
}

async fn has(node: &Node, key: &str) -> bool {
    let mut connection = connection(node).await.expect("it answers");
    redis::cmd("EXISTS").arg(key).query_async(&mut connection).await.expect("it answers")
}

/// Children of this process that run, or have ended without anybody taking note.
fn children() -> BTreeSet<u32> {
    let own = std::process::id();
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    pids.filter(|pid| parent(*pid) == Some(own)).collect()
}

/// The directory that the group's debug output names.
fn state_dir(group: &Group) -> PathBuf {
    let shown = format!("{group:?}");
    shown.split("state_dir: \"").nth(1).and_then(|rest| rest.split('"').next()).expect("it is shown").into()
}

#[tokio::test]
async fn a_group_serves_until_it_is_dropped() -> Result<(), Error> {
    let group = Group::trio().up().await?;
    let (master, dir) = (group.master(), state_dir(&group));
    set(&master, "key").await.expect("the master takes writes");
    assert_eq!(group.nodes().iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1", "n2", "n3"]);
    assert!(set(&group.nodes()[1], "key").await.is_err(), "a replica takes none");
    assert!(dir.exists() && children().len() >= 3);
    drop(group);
    assert!(set(&master, "key").await.is_err() && !dir.exists());
    Ok(())
}

#[tokio::test]
async fn a_master_dies_is_replaced_and_comes_back() -> Result<(), Error> {
    let mut group = Group::trio().up().await?;
    set(&group.master(), "before").await.expect("the master takes writes");
    let dead = group.kill_master().await?;
    assert!(group.kill_master().await.is_err_and(|error| error.to_string().contains("no master lives")));
    let promotion = group.promote().await?;
    assert_eq!((promotion.from.as_str(), promotion.lost_bytes, promotion.missing.len()), ("n1", 0, 0));
    assert!(dead.name == "n1" && group.master().name == promotion.to && has(&group.master(), "before").await);
    group.start("n1").await?;
    let back = group.switchover().await?;
    assert_eq!((back.from, &back.to), (promotion.to, &group.master().name));
    group.pause("n1").await?;
    group.resume("n1").await?;
    Ok(())
}

#[tokio::test]
async fn a_drill_is_done_with_the_group_that_is_up_and_again() -> Result<(), Error> {
    let mut group = Group::trio().up().await?;
    set(&group.master(), "mine").await.expect("the master takes writes");
    for seed in 1..=2 {
        let report = group.drill("kill-master", seed).await?;
        assert_eq!(report.verdict, Verdict::Passed, "{:?}", report.findings.account);
        assert!(has(&group.master(), "mine").await, "what was there stays");
    }
    let error = group.drill("no-such", 1).await.expect_err("there is none");
    assert!(error.hint().is_some_and(|hint| hint.contains("--list")), "{error:?}");
    Ok(())
}

/// Whether a key that is written on the first node comes to the second.
async fn arrives(from: &Node, to: &Node, key: &str) -> bool {
    set(from, key).await.expect("the master takes writes");
    for _ in 0..100 {
        if has(to, key).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

#[tokio::test]
async fn a_link_is_broken_until_its_guard_is_dropped_or_healed() -> Result<(), Error> {
    let mut group = Group::trio().with_links().up().await?;
    let [master, near, far] = ["n1", "n2", "n3"].map(|name| group.node(name).expect("it is one of the trio"));
    let cut = group.link("n2", "n1").cut().await?;
    assert!(arrives(&master, &far, "a").await && !has(&near, "a").await, "only one link was cut");
    drop(cut);
    assert!(arrives(&master, &near, "b").await && has(&near, "a").await, "what it lacked comes too");
    let stalled = group.link("n3", "n1").half_open().await?;
    assert!(arrives(&master, &near, "c").await && !has(&far, "c").await);
    stalled.heal().await?;
    assert!(arrives(&master, &far, "d").await);
    let error = group.link("n2", "n9").cut().await.expect_err("there is no n9");
    assert!(error.to_string().contains("n9"), "{error:?}");
    let error = Group::trio().up().await?.link("n2", "n1").cut().await.expect_err("it has no proxies");
    assert!(error.hint().is_some_and(|hint| hint.contains("links")), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn other_engines_serve_as_well() -> Result<(), Error> {
    for engine in ["redis-server", "valkey-server"] {
        if std::env::var_os("REPLCTL_REQUIRE_PEERS").is_some() {
            let mut group = Group::trio().engine(engine).up().await?;
            group.kill_master().await?;
            group.promote().await?;
            set(&group.master(), "key").await.expect("the new master takes writes");
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_the_way_out() {
    let error = Group::from_toml("[[node]]\nname = 'n1'\nreplica-of = 'n2'\n").expect_err("there is no n2");
    assert!(error.to_string().contains("group.toml:3"), "{error}");
    assert!(Group::from_file("no-such.toml").is_err_and(|error| error.to_string().contains("no such file")));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let missing = "[[node]]\nname = 'n1'\nengine = { family = 'redis', path = '/no/such' }\n";
    let error = runtime.block_on(Group::from_toml(missing).expect("it is well formed").up()).expect_err("no engine");
    assert!(error.to_string().contains("node n1: /no/such") && error.hint().is_some(), "{error:?}");
}

#[test]
fn a_panic_ends_the_group_too() {
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let group = runtime.block_on(Group::trio().up()).expect("it is up");
        std::panic::panic_any((group.master(), state_dir(&group)));
    });
    let told = thread.join().expect_err("it panics");
    let (master, dir) = told.downcast_ref::<(Node, PathBuf)>().expect("it is what was told");
    assert!(!dir.exists() && std::net::TcpStream::connect(master.address).is_err());
}

/// Each is written to under a key of its own: two that met would show it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_side_by_side_never_meet_and_leave_nothing() {
    let (count, at_a_time) = (wished("REPLCTL_GROUPS", 10), wished("REPLCTL_GROUPS_AT_A_TIME", 4));
    let mut running = JoinSet::new();
    let (mut ports, mut dirs) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..count {
        if running.len() == at_a_time {
            let done: (Vec<u16>, PathBuf) = running.join_next().await.expect("some run").expect("no group fails");
            ports.extend(done.0);
            dirs.insert(done.1);
        }
        running.spawn(async move {
            let group = Group::trio().up().await.unwrap_or_else(|error| panic!("group {number}: {error:?}"));
            let key = format!("key of {number}");
            set(&group.master(), &key).await.expect("the master takes writes");
            let mut connection = connection(&group.master()).await.expect("it answers");
            let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("it answers");
            assert_eq!(keys, [key]);
            let seen = (group.nodes().iter().map(|node| node.address.port()).collect(), state_dir(&group));
            group.down().await;
            seen
        });
    }
    for (more, dir) in running.join_all().await {
        ports.extend(more);
        dirs.insert(dir);
    }
    assert_eq!(dirs.len(), count);
    // Under nextest every test has a process of its own: then there is no other group's.
    if std::env::var_os("NEXTEST").is_some() {
        assert_eq!(children(), BTreeSet::new(), "orphans or zombies");
    }
    let listening = |port: &&u16| std::net::TcpStream::connect(("127.0.0.1", **port)).is_ok();
    assert_eq!(ports.iter().find(listening), None);
    assert!(dirs.iter().all(|dir| !dir.exists()));
}
