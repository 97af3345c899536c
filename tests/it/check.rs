//! `replctl check` and `replctl init`.

use serde_json::json;

use crate::{Fixture, shipped};

const WRONG: &str = "[[node]]\nname = \"a\"\nprot = 1\nreplica-of = 2\n";

#[test]
fn every_shipped_topology_passes() {
    let here = Fixture::new();
    let shipped = shipped();
    assert!(!shipped.is_empty());
    for path in shipped {
        let run = here.run(&["check".as_ref(), path.as_os_str()]).exits(0);
        assert!(run.stdout.starts_with("ok: group "), "{}", run.stdout);
        assert_eq!(run.stderr, "");
    }
}

#[test]
fn a_group_is_shown_as_a_tree() {
    let here = Fixture::new();
    here.write(
        "pair.toml",
        "[[node]]\nname = 'a'\nport = 7000\nconfig = { requirepass = 'x', save = '' }\n
         [[node]]\nname = 'c'\nreplica-of = 'b'\n
         [[node]]\nname = 'b'\nengine = 'redis-server'\nreplica-of = 'a'\n",
    );
    let run = here.run(&["check", "pair.toml"]).exits(0);
    insta::assert_snapshot!(run.stdout, @r"
    ok: group pair, 3 nodes
      a  repld, port 7000
        b  redis-server, automatic port
          c  repld, automatic port
    ");
    let run = here.run(&["check", "-v", "pair.toml"]).exits(0);
    assert!(run.stdout.contains("requirepass ***\n"), "a secret is not shown: {}", run.stdout);
}

#[test]
fn errors_go_to_stderr_and_end_in_code_2() {
    let here = Fixture::new();
    let run = here.write("wrong.toml", WRONG).run(&["check", "wrong.toml"]).exits(2);
    assert_eq!(run.stdout, "");
    insta::assert_snapshot!(run.stderr, @r#"
    error: unknown key `prot` in `[[node]]`
     --> wrong.toml:3:1
      |
    3 | prot = 1
      | ^^^^
      |
      = hint: did you mean `port`?

    error: `replica-of` must be a string, found an integer
     --> wrong.toml:4:14
      |
    4 | replica-of = 2
      |              ^
    "#);
}

#[test]
fn json_is_one_object_for_a_group_and_for_errors() {
    let here = Fixture::new();
    let run = here.write("one.toml", "[[node]]\nname = 'a'\n").run(&["check", "one.toml", "--json"]).exits(0);
    let node = json!({
        "name": "a", "port": null, "engine": { "family": "repld", "path": null }, "replica_of": null,
        "managed": true, "priority": 100, "optional": false, "config": {},
    });
    assert_eq!(run.json(), json!({ "name": "one", "nodes": [node], "max_loss_bytes": null, "by": "replctl" }));

    let run = here.write("wrong.toml", WRONG).run(&["--json", "check", "wrong.toml"]).exits(2);
    assert_eq!(run.stderr, "");
    let error = &run.json()["error"];
    assert_eq!((&error["exit_code"], &error["message"]), (&json!(2), &json!("2 errors in wrong.toml")));
    let first = &error["diagnostics"][0];
    assert_eq!((&first["file"], &first["line"], &first["column"]), (&json!("wrong.toml"), &json!(3), &json!(1)));
    assert_eq!(first["hint"], "did you mean `port`?");
}

#[test]
fn a_file_without_a_line_to_blame_is_named() {
    let here = Fixture::new();
    let run = here.run(&["check", "nowhere.toml"]).exits(2);
    assert_eq!(run.stderr, "error: nowhere.toml: there is no such file\n");
}

#[test]
fn without_a_file_it_checks_what_up_would_start() {
    let here = Fixture::new();
    assert!(here.run(&["check"]).exits(0).stdout.starts_with("ok: group trio, 3 nodes\n"));
    here.run(&["init", "chain"]).exits(0);
    assert!(here.run(&["check"]).exits(0).stdout.starts_with("ok: group chain, 4 nodes\n"));
}

#[test]
fn init_does_not_replace_a_file_unless_forced() {
    let here = Fixture::new();
    here.write("replctl.toml", "mine");
    let run = here.run(&["init"]).exits(3);
    assert_eq!(run.stderr, "error: replctl.toml exists already\nhint: --force replaces it\n");
    let written = || std::fs::read_to_string(here.directory().join("replctl.toml")).expect("it is there");
    assert_eq!(written(), "mine");
    here.run(&["init", "--force", "redis"]).exits(0);
    assert!(written().contains("engine = \"redis-server\""));
}

#[test]
fn a_dry_run_of_init_writes_nothing() {
    let here = Fixture::new();
    let run = here.run(&["init", "--dry-run"]).exits(0);
    assert!(run.stdout.contains("[[node]]"));
    assert!(!here.directory().join("replctl.toml").exists());
}
