//! `drill`: failures are rehearsed with a group of its own, and the verdict says what is true.

use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

use crate::live::{Live, TRIO, engines, kill, topology};

/// A fixture with a topology of three nodes and these drills, whose groups are started inside it.
fn with_drills(engine: &str, drills: &str) -> Live {
    Live::prepared(&(topology("rehearsed", engine, &TRIO) + drills))
}

/// Does drills, which must end in this exit code; their reports.
fn drill(live: &Live, arguments: &[&str], code: i32) -> Vec<Value> {
    let mut command = live.here.command(&[&["--json", "drill"], arguments].concat());
    let run = crate::Run::from(command.env("TMPDIR", live.here.root.path()).output().expect("replctl runs"));
    let report = run.exits(code).json();
    assert!(live.processes().is_empty(), "something is left behind");
    report["drills"].as_array().unwrap_or_else(|| panic!("no drills in {report}")).clone()
}

/// Does drills, whose output does not matter.
fn drill_exits(live: &Live, arguments: &[&str], code: i32) {
    let mut command = live.here.command(&[&["drill"], arguments].concat());
    crate::Run::from(command.env("TMPDIR", live.here.root.path()).output().expect("replctl runs")).exits(code);
}

/// Every write is in one column.
fn adds_up(report: &Value) {
    let account = &report["account"];
    let count = |name: &str| account[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    let columns = ["survived", "lost", "refused", "ambiguous_survived", "ambiguous_gone"].map(count);
    assert_eq!(count("issued"), columns.iter().sum::<u64>(), "{account}");
    assert!(count("survived") > 0, "{account}");
}

fn preset(name: &str, engine: &str) -> Value {
    let live = Live::prepared("");
    let report = drill(&live, &[name, "--engine", engine], 0).remove(0);
    assert_eq!(report["verdict"], "passed", "{engine}: {report}");
    adds_up(&report);
    assert!(report["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["state"] != "silent")));
    report
}

#[test]
fn the_master_dies_under_load_and_the_drill_tells_what_became_of_every_write() {
    for engine in engines() {
        let report = preset("kill-master", engine);
        assert_eq!(report["steps"].as_array().map(Vec::len), Some(3), "{report}");
        assert_eq!(report["claims"].as_array().map(Vec::len), Some(1), "promote said what it loses: {report}");
        assert_eq!(report["nodes"][0]["state"], "replica", "{engine}: the old master is back: {report}");
        assert_eq!(report["nodes"][0]["keys"], report["nodes"][1]["keys"], "{engine}: {report}");
        let outage = report["outage"]["overall_us"].as_u64().expect("it was measured");
        let worst = report["outage"]["worst_writer_us"].as_u64().expect("it was measured");
        assert!(outage > 0 && worst >= outage, "{report}");
    }
}

#[test]
fn a_switchover_and_back_loses_nothing_and_needs_no_full_resync() {
    for engine in engines() {
        let report = preset("switchover", engine);
        assert_eq!(report["account"]["lost"], 0, "{engine}");
        let nodes = report["nodes"].as_array().expect("nodes are a list");
        assert!(nodes.iter().all(|node| node["resync"] != "full"), "{engine}: {report}");
        assert_eq!(report["masters"], json!(["n1"]), "{engine}");
    }
}

#[test]
fn a_guard_replaces_a_dead_master_under_load_and_takes_the_old_one_back() {
    for engine in engines() {
        let report = preset("guard-kill", engine);
        let done = report["steps"][0]["done"].as_str().expect("words");
        assert!(done.contains("the guard made n"), "{engine}: {report}");
        assert_eq!(report["nodes"][0]["state"], "replica", "{engine}: {report}");
    }
    let live = Live::prepared(&topology("plain", "repld", &TRIO));
    drill_exits(&live, &["group.toml", "guard-kill"], 2);
}

#[test]
fn a_guard_holds_back_after_three_failovers_and_a_person_goes_on() {
    let report = preset("flapping", "repld");
    let done = report["steps"][3]["done"].as_str().expect("words");
    assert!(done.ends_with("the guard holds back"), "{report}");
    assert_eq!(report["account"]["lost"], 0, "{report}");
}

#[test]
fn a_master_that_hung_is_replaced_and_comes_back_as_a_replica() {
    let report = preset("zombie-master", "repld");
    assert_eq!((&report["account"]["lost"], &report["nodes"][0]["state"]), (&json!(0), &json!("replica")));
}

#[test]
fn a_rolling_restart_under_load_loses_nothing() {
    let report = preset("rolling-restart", "repld");
    assert_eq!(report["account"]["lost"], 0);
}

#[test]
fn the_head_of_a_chain_dies_and_those_below_go_on_where_they_were() {
    let report = preset("chain-head-dies", "repld");
    assert_eq!((&report["nodes"][0]["state"], &report["masters"]), (&json!("dead"), &json!(["n2"])));
    assert!((2..4).all(|index| report["nodes"][index]["resync"] == "partial"), "{report}");
}

#[test]
fn a_master_that_comes_back_without_its_disk_empties_nobody() {
    let report = preset("empty-restart", "repld");
    let keys: Vec<_> = report["nodes"].as_array().expect("nodes").iter().map(|node| &node["keys"]).collect();
    assert!(keys[0].as_u64() > Some(0) && keys.iter().all(|count| count == &keys[0]), "{report}");
    assert_eq!(report["nodes"][0]["resync"], "full");
}

#[test]
fn what_only_a_master_behind_a_cut_link_had_is_lost_with_redis_and_salvaged_from_repld() {
    for engine in engines() {
        let report = preset("kill-under-partition", engine);
        let (lost, claim) = (report["account"]["lost"].as_u64(), report["claims"][0]["bytes"].as_u64());
        let way = |name: &str| report["link_overhead"][name]["round_trip_us"].as_u64();
        assert!(way("direct") > Some(0) && way("by_proxy") > Some(0), "{engine}: {}", report["link_overhead"]);
        match *engine {
            "repld" => assert_eq!((lost, claim), (Some(0), Some(0)), "{report}"),
            _ => assert!(lost > Some(0) && claim > Some(0), "{engine}: {report}"),
        }
        assert_eq!(report["account"]["holes"], 0, "{engine}: {report}");
    }
}

/// `tests/long/partition-20` does this for twenty seeds, and reads the dead master's file as well.
#[test]
fn what_a_drill_calls_lost_is_what_the_survivors_lack() {
    for engine in engines() {
        let steps = "steps = [{ after = '300ms', do = 'link cut replicas' }, { after = '500ms', do = 'kill-master' }, { do = 'promote' }]";
        let live = with_drills(engine, &format!("[[drill]]\nname = 'partition'\n{steps}\n"));
        let mut command = live.here.command(&["--json", "drill", "group.toml", "--keep"]);
        let run = crate::Run::from(command.env("TMPDIR", live.here.root.path()).output().expect("replctl runs"));
        let report = run.exits(0).json()["drills"][0].clone();
        let kept = std::fs::read_dir(live.here.root.path()).expect("it is there").flatten().map(|entry| entry.path());
        let mut kept = kept.filter(|path| path.to_string_lossy().contains("replctl-drill-"));
        let state = kept.next().expect("the group was kept").to_string_lossy().into_owned();
        for survivor in ["n2", "n3"] {
            let arguments = ["--json", "--state-dir", &state, "cli", survivor, "KEYS", "drill:set:*"];
            let held = live.run(&arguments).exits(0).json()["reply"].as_array().map_or(0, |keys| keys.len() as u64);
            let count = |name: &str| report["account"][name].as_u64().expect("a count");
            assert_eq!(held, count("survived") + count("ambiguous_survived"), "{engine}: {survivor}: {report}");
            let lacking = count("issued") - held - count("refused") - count("ambiguous_gone");
            assert_eq!(lacking, count("lost"), "{engine}: {report}");
            assert_eq!(count("lost") == 0, *engine == "repld", "{engine}: {report}");
        }
        live.run(&["--state-dir", &state, "down", "--wipe"]).exits(0);
    }
}

#[test]
fn a_master_that_was_cut_off_with_its_writers_does_not_come_back_as_a_second_one() {
    for engine in engines() {
        let report = preset("split-brain", engine);
        assert_eq!(
            (&report["nodes"][0]["state"], &report["masters"].as_array().map(Vec::len)),
            (&json!("replica"), &Some(1))
        );
    }
}

#[test]
fn a_master_that_the_sentinels_replace_comes_back_as_a_replica() {
    for engine in engines().iter().filter(|_| engines().contains(&"redis-server")) {
        let report = preset("sentinel-kill", engine);
        let what = report["steps"][0]["done"].as_str().unwrap_or_default();
        assert!(what.contains("the sentinels made"), "{engine}: {report}");
        assert_eq!(report["nodes"][0]["state"], "replica", "{engine}: {report}");
    }
}

#[test]
fn a_drill_that_promotes_by_hand_does_not_begin_where_sentinels_decide() {
    let own = "[sentinel]\n[[drill]]\nname = \"own\"\nsteps = [{ do = \"kill-master\" }, { do = \"promote\" }]\n";
    let live = with_drills("redis-server", own);
    for name in ["own", "kill-master", "zombie-master", "split-brain"] {
        let run = live.run(&["drill", "group.toml", name]).exits(2);
        assert!(
            run.stderr.contains(&format!("{name} promotes a node itself, and in rehearsed the sentinels do")),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains("hint: sentinel-kill"), "{}", run.stderr);
    }
}

#[test]
fn a_master_that_is_cut_off_from_its_sentinels_is_replaced_and_loses_what_it_took_meanwhile() {
    if !engines().contains(&"redis-server") {
        return;
    }
    let report = preset("sentinel-partition", "repld");
    assert!(report["account"]["lost"].as_u64() > Some(0), "{report}");
    assert_eq!(report["nodes"][0]["state"], "replica", "{report}");
}

#[test]
fn who_is_behind_or_holds_nothing_does_not_take_over() {
    for engine in engines() {
        for name in ["slow-replica", "unfinished-first-sync"] {
            let report = preset(name, engine);
            assert_eq!(report["masters"], json!(["n3"]), "{engine}: {name}: {report}");
        }
    }
}

#[test]
fn all_replicas_get_everything_anew_at_once_and_nothing_is_lost() {
    for engine in engines() {
        let report = preset("full-sync-storm", engine);
        assert_eq!(report["account"]["lost"], 0, "{engine}");
        assert!((1..3).all(|index| report["nodes"][index]["resync"] == "full"), "{engine}: {report}");
    }
}

#[test]
fn every_load_is_accounted_for_or_compared() {
    let steps = "steps = [{ after = '200ms', do = 'kill-master' }, { do = 'promote' }]\nexpect = { lost = 0 }\n";
    let drills: String = ["append", "counter", "mixed"]
        .iter()
        .map(|load| format!("[[drill]]\nname = '{load}'\nload = {{ workload = '{load}' }}\n{steps}"))
        .collect();
    let register = "[[drill]]\nname = 'register'\nload = { workload = 'register', rate = 200, wait = 1 }\n\
                    steps = [{ after = '200ms', do = 'switchover n3' }, { do = 'repoint n2 --to n1' }]\n";
    let live = with_drills("repld", &(drills + register));
    let reports = drill(&live, &["group.toml"], 0);
    let names: Vec<_> = reports.iter().map(|report| report["drill"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, ["append", "counter", "mixed", "register"]);
    reports[..2].iter().for_each(adds_up);
    assert!(reports[2]["nodes"][1]["keys"].as_u64() > Some(0), "{}", reports[2]);
    assert_eq!((&reports[3]["registers"]["violations"], &reports[3]["account"]), (&json!([]), &Value::Null));
    assert!(reports[3]["registers"]["count"].as_u64() > Some(0), "{}", reports[3]);
}

/// Replicas that hang read nothing, and values are too big for the sockets to hold them: only the master has the last.
const ONLY_THE_MASTER_HAS_THEM: &str = "
    [[drill]]
    name = 'only the master has them'
    load = { writers = 4, value-size = 100_000, rate = 100 }
    steps = [
      { after = '200ms', do = 'pause n2' }, { do = 'pause n3' }, { after = '700ms', do = 'kill-master' },
      { do = 'resume n2' }, { do = 'resume n3' }, { do = 'promote' },
    ]
    expect = { lost = 0 }
";

#[test]
fn writes_that_only_a_redis_master_had_are_found_lost_and_the_first_is_named() {
    for engine in engines().iter().filter(|engine| **engine != "repld") {
        let live = with_drills(engine, ONLY_THE_MASTER_HAS_THEM);
        let report = drill(&live, &["group.toml"], 6).remove(0);
        adds_up(&report);
        let lost = report["account"]["lost"].as_u64().expect("a count");
        assert!(lost > 0 && report["account"]["holes"] == 0, "{engine}: {}", report["account"]);
        let first = report["account"]["first_lost"]["what"].as_str().expect("it is named");
        let reason = report["reasons"][0].as_str().expect("a reason");
        assert!(reason.contains(&lost.to_string()) && reason.contains(first), "{reason}");
        assert!(report["claims"][0]["bytes"].as_u64() > Some(0), "promote knew it: {}", report["claims"]);
    }
}

#[test]
fn a_repld_master_leaves_behind_what_it_had_not_sent() {
    let live = with_drills("repld", ONLY_THE_MASTER_HAS_THEM);
    let report = drill(&live, &["group.toml"], 0).remove(0);
    adds_up(&report);
    let promote = report["steps"].as_array().and_then(|steps| steps.last()).expect("it was done");
    assert!(promote["done"].as_str().is_some_and(|done| done.contains("bytes were salvaged")), "{promote}");
}

#[test]
fn an_expectation_that_cannot_hold_fails() {
    let live = with_drills(
        "repld",
        "[[drill]]\nname = 'impossible'\nsteps = [{ after = '100ms', do = 'switchover' }]\nexpect = { outage = '0s' }\n\
         [[drill]]\nname = 'two masters'\nsteps = [{ after = '100ms', do = 'kill n3' }]\nexpect = { master-count = 2 }\n\
         [[drill]]\nname = 'no resync'\nsteps = [{ do = 'kill n3' }, { do = 'wipe n3' }, { do = 'start n3' }]\nexpect = { resync = 'partial' }\n\
         [[drill]]\nname = 'not a step'\nsteps = [{ after = '100ms', do = 'switchover n1' }]\n",
    );
    let reports = drill(&live, &["group.toml", "--junit", "verdicts.xml"], 6);
    let reasons: Vec<_> = reports.iter().map(|report| report["reasons"][0].as_str().unwrap_or_default()).collect();
    let words =
        ["it may be 0.0 ms", "n1 is a master", "n3 came to its master's history by a full", "switchover n1 failed"];
    for (reason, words) in reasons.iter().zip(words) {
        assert!(reason.contains(words), "{words}: {reasons:?}");
    }
    let xml = std::fs::read_to_string(live.here.directory().join("verdicts.xml")).expect("it was written");
    assert!(xml.contains("tests=\"4\" failures=\"4\"") && xml.contains("name=\"two masters (seed 1)\""), "{xml}");
}

#[test]
fn a_page_and_a_history_tell_what_happened_and_need_nothing_else() {
    let live = Live::prepared("");
    let report = drill(&live, &["kill-master", "--html", "report.html", "--edn", "history.edn"], 0).remove(0);
    let read = |name: &str| std::fs::read_to_string(live.here.directory().join(name)).expect("it was written");
    let page = read("report.html");
    for words in ["kill-master", "passed", "Acknowledged writes a second", "Afterwards", "what the nodes logged"] {
        assert!(page.to_lowercase().contains(&words.to_lowercase()), "{words}");
    }
    // Three curves, one with a line for each node, and two trees.
    assert!(page.matches("<svg").count() == 5 && page.matches("<polyline").count() >= 6, "{page}");
    for request in ["http:", "https:", "src=", "<script", "url(", "@import"] {
        assert!(!page.contains(request), "{request}");
    }
    let history = read("history.edn");
    let issued = report["account"]["issued"].as_u64().expect("a count") as usize;
    assert_eq!(history.lines().count(), issued * 2 + 2, "each is asked and answered, and so is the last read");
    assert_eq!(history.matches(":type :ok").count() as u64, report["account"]["survived"].as_u64().expect("it") + 1);
    let last = history.lines().last().expect("it is not empty");
    assert!(last.contains(":f :read, :value #{1 ") && history.starts_with("{:index 0, :type :invoke, "), "{last}");
    drill_exits(&live, &["kill-master", "switchover", "--edn", "history.edn"], 2);
}

/// Whether small file systems can be mounted is asked of the program that does it; where they cannot, nothing is done.
#[test]
fn a_master_whose_disk_is_full_refuses_writes_and_loses_none() {
    for engine in engines() {
        let live = Live::prepared("");
        let mut command = live.here.command(&["--json", "drill", "disk-full", "--engine", engine]);
        let run = crate::Run::from(command.env("TMPDIR", live.here.root.path()).output().expect("replctl runs"));
        if run.code == Some(3) {
            assert!(run.json()["error"]["message"].as_str().is_some_and(|told| told.contains("mounted here")));
            continue;
        }
        let report = run.exits(0).json()["drills"][0].clone();
        adds_up(&report);
        let account = &report["account"];
        assert!(account["lost"] == 0 && account["refused"].as_u64() > Some(0), "{engine}: {account}");
        assert!(live.processes().is_empty(), "{engine}: something is left");
    }
    Live::prepared("").run(&["drill", "disk-full", "--keep"]).exits(2);
}

/// Every process has at most one request on its way, and none after one that was not answered.
#[test]
fn a_history_is_one_that_jepsen_takes() {
    let steps = "steps = [{ after = '200ms', do = 'kill-master' }, { do = 'promote' }]\n";
    for load in ["append", "counter", "register"] {
        let live = with_drills(
            "repld",
            &format!("[[drill]]\nname = 'd'\nload = {{ workload = '{load}', rate = 200 }}\n{steps}"),
        );
        drill_exits(&live, &["group.toml", "--edn", "history.edn"], 0);
        let history = std::fs::read_to_string(live.here.directory().join("history.edn")).expect("it was written");
        let mut last = std::collections::HashMap::new();
        for line in history.lines() {
            let word = |key: &str| line.split(key).nth(1).and_then(|rest| rest.split(',').next()).expect("a word");
            let (kind, process) = (word(":type "), word(":process "));
            let before = last.insert(process.to_owned(), kind.to_owned());
            match kind {
                ":invoke" => assert!(matches!(before.as_deref(), None | Some(":ok" | ":fail")), "{load}: {line}"),
                _ => assert_eq!(before.as_deref(), Some(":invoke"), "{load}: {line}"),
            }
        }
    }
}

#[test]
fn a_dead_master_that_nobody_replaces_fails() {
    let drills = "[[drill]]\nname = 'nobody'\nsteps = [{ after = '100ms', do = 'kill-master' }]\n";
    let report = drill(&with_drills("repld", drills), &["group.toml"], 6).remove(0);
    assert_eq!((&report["masters"], &report["outage"]["has_ended"]), (&json!([]), &json!(false)));
}

#[test]
fn a_drill_that_tries_nothing_is_inconclusive_and_a_failed_one_beside_it_counts_for_more() {
    let live = with_drills(
        "repld",
        "[[drill]]\nname = 'no step'\n\
         [[drill]]\nname = 'no load'\nsteps = [{ after = '200ms', do = 'pause n3' }, { do = 'resume n3' }]\nload = { writers = 1, rate = 1 }\n\
         [[drill]]\nname = 'impossible'\nsteps = [{ after = '100ms', do = 'switchover' }]\nexpect = { outage = '0s' }\n",
    );
    for (report, words) in drill(&live, &["group.toml", "no step", "no load"], 7).iter().zip(["disturbs", "on its way"])
    {
        assert!(report["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{report}");
    }
    drill(&live, &["group.toml", "no step", "impossible"], 6);
}

#[test]
fn a_group_that_is_up_is_left_alone_and_a_kept_one_goes_on() {
    let drills = "[[drill]]\nname = 'd'\nsteps = [{ after = '100ms', do = 'switchover' }]\n";
    let live = Live::up(&(topology("rehearsed", "repld", &TRIO) + drills));
    let pids = live.processes();
    let mut command = live.here.command(&["drill", "group.toml", "--keep"]);
    let run = crate::Run::from(command.env("TMPDIR", live.here.root.path()).output().expect("replctl runs")).exits(0);
    assert_eq!((live.processes().len(), live.role("n1").0.as_str()), (pids.len() + 3, "master"));
    let kept = run.stderr.split("--state-dir ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it is named");
    live.run(&["--state-dir", kept, "status"]).exits(0);
    live.run(&["--state-dir", kept, "down", "--wipe"]).exits(0);
    assert_eq!(live.processes(), pids);
}

#[test]
fn an_interrupted_drill_leaves_no_process_behind_whenever_that_comes() {
    for (signal, is_ready) in [("INT", 1), ("TERM", 3), ("HUP", 3)] {
        let live = with_drills("repld", "[[drill]]\nname = 'd'\nsteps = [{ after = '1h', do = 'kill-master' }]\n");
        let mut command = live.here.command(&["drill", "group.toml"]);
        command.env("TMPDIR", live.here.root.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("replctl runs");
        let began = Instant::now();
        while live.processes().iter().filter(|pid| **pid != child.id()).count() < is_ready {
            assert!(began.elapsed().as_secs() < 30, "nothing is started");
        }
        kill(child.id(), signal);
        assert_eq!(child.wait().expect("it is ours").code(), Some(1), "{signal}");
        assert!(live.processes().is_empty(), "{signal}");
    }
}

/// The processes of a drill's group end with it, the one that carries its links too.
#[test]
fn a_drill_that_is_killed_leaves_no_process_behind() {
    let steps = "steps = [{ do = 'link cut n2' }, { do = 'kill n3' }, { do = 'start n3' }, { after = '1h', do = 'kill-master' }]";
    let live = with_drills("repld", &format!("[[drill]]\nname = 'd'\n{steps}\n"));
    let mut command = live.here.command(&["drill", "group.toml"]);
    command.env("TMPDIR", live.here.root.path()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("replctl runs");
    let told = std::io::BufReader::new(child.stderr.take().expect("it is piped"));
    let mut lines = std::io::BufRead::lines(told).map_while(Result::ok);
    assert!(lines.any(|line| line.contains("n3 is back")), "the drill began");
    assert!(live.processes().len() > 4, "three nodes, their links, and replctl");
    kill(child.id(), "KILL");
    child.wait().expect("it is ours");
    live.eventually("all have ended", || live.processes().is_empty());
}

#[test]
fn what_there_is_to_rehearse_is_listed_and_what_is_wrong_is_told() {
    let live =
        with_drills("repld", "[[drill]]\nname = 'mine'\nsteps = [{ do = 'kill-master' }, { do = 'promote n2' }]\n");
    let run = live.run(&["drill", "group.toml", "--list"]).exits(0);
    assert!(run.stdout.contains("mine") && run.stdout.contains("kill-master, promote n2"), "{}", run.stdout);
    let presets = live.json(&["drill", "--list"], 0)["drills"].as_array().map(Vec::len);
    assert_eq!(presets, Some(16));
    assert!(live.run(&["drill", "kill-mastr"]).exits(2).stderr.contains("drill --list"));
    assert!(live.run(&["drill"]).exits(2).stderr.contains("no drill is named"));
    live.here.write("bad.toml", "[[node]]\nname = 'n1'\n[[drill]]\nname = 'x'\nsteps = [{ do = 'kill n2' }]\n");
    assert!(live.run(&["drill", "bad.toml"]).exits(2).stderr.contains("bad.toml:5:17"));
    live.here.write("far.toml", "[[node]]\nname = 'n1'\nmanaged = false\nendpoint = '127.0.0.1:1'\n");
    assert!(live.run(&["drill", "far.toml", "kill-master"]).exits(3).stderr.contains("n1 is not managed"));
}
