use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn load(arguments: &[&str], stdin: &str) -> Result<Config, String> {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    Config::load(&arguments, &mut stdin.as_bytes()).map_err(|error| error.to_string())
}

/// A configuration that was read from a file of its own.
struct Written {
    directory: tempfile::TempDir,
}

impl Written {
    fn new(text: &str) -> Written {
        let written = Written { directory: tempfile::tempdir().expect("a temporary directory") };
        fs::write(written.path(), text).expect("a written file");
        written
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("repld.conf")
    }

    fn load(&self, options: &[&str]) -> Config {
        let path = self.path();
        let arguments: Vec<&str> = [path.to_str().expect("a UTF-8 path")].iter().chain(options).copied().collect();
        load(&arguments, "").expect("a good configuration")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("a readable file")
    }
}

fn get(config: &Config, name: &str) -> String {
    let values = config.get(&[name.as_bytes()]);
    assert_eq!(values.len(), 1, "{name}");
    String::from_utf8(values[0].1.clone()).expect("text")
}

fn set(config: &mut Config, assignments: &[(&str, &str)]) -> Result<Vec<&'static str>, String> {
    let bytes: Vec<(&[u8], &[u8])> =
        assignments.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    config.set(&bytes, Origin::Remote)
}

#[test]
fn every_default_is_shown_in_the_form_in_which_it_is_read() {
    let config = load(&[], "").expect("defaults");
    for (name, value) in config.get(&[b"*"]) {
        let line = format!("{name} {}\n", words::quote(&value));
        let read = load(&["-"], &line).unwrap_or_else(|error| panic!("{line}{error}"));
        assert_eq!(read.get(&[name.as_bytes()]), [(name, value)]);
    }
}

#[test]
fn directives_come_from_file_then_standard_input_then_command_line() {
    let written = Written::new("port 1\ntimeout 1\nhz 1\n");
    let path = written.path();
    let arguments: Vec<OsString> =
        [path.as_os_str(), "--hz".as_ref(), "3".as_ref(), "-".as_ref()].iter().map(OsString::from).collect();
    let config = Config::load(&arguments, &mut "timeout 2\nhz 2".as_bytes()).expect("a good configuration");
    assert_eq!((config.port, config.timeout, config.hz), (1, Duration::from_secs(2), 3));
    assert_eq!(config.file(), Some(path.as_path()));
    assert_eq!(load(&["-", "--hz", "4"], "hz 5\nport 0").map(|config| (config.hz, config.port)), Ok((4, 0)));
}

#[test]
fn a_flag_takes_all_words_up_to_the_next_one() {
    let upstream = |host: &str, port| Some(Upstream { host: host.into(), port });
    let config = load(&["--port", "6380", "--replicaof", "127.0.0.1 6379", "--bind", "*", "-::*"], "").expect("good");
    assert_eq!((config.port, config.replicaof.clone()), (6380, upstream("127.0.0.1", 6379)));
    assert_eq!(get(&config, "bind"), "* -::*");
    assert_eq!((config.bind[1].host(), config.bind[1].optional), ("::", true));
    assert_eq!(load(&["--slaveof", "localhost", "7"], "").expect("good").replicaof, upstream("localhost", 7));
    // A value may begin with dashes, and a flag may hold its value.
    let config = load(&["--requirepass", "--secret", "--port 7", "--masteruser", "a b"], "").expect("good");
    assert_eq!(config.requirepass, Secret::new(b"--secret"));
    assert_eq!((config.port, config.masteruser.as_deref()), (7, Some("a b")));
}

#[test]
fn save_points_replace_the_defaults_and_add_up() {
    let save = |arguments: &[&str], stdin: &str| load(arguments, stdin).map(|config| get(&config, "save"));
    assert_eq!(save(&[], ""), Ok("3600 1 300 100 60 10000".into()));
    assert_eq!(save(&["-"], "save 900 1\nsave 300 10 60 20"), Ok("900 1 300 10 60 20".into()));
    assert_eq!(save(&["-", "--save", "60", "1"], "save 900 1"), Ok("900 1 60 1".into()));
    assert_eq!(save(&["--save", ""], ""), Ok(String::new()));
    assert_eq!(save(&["--save", "--port", "1"], ""), Ok(String::new()));
    assert_eq!(save(&["--save"], ""), Ok(String::new()));
    assert_eq!(save(&["-"], "save\nport 1"), Ok(String::new()));
    assert_eq!(save(&["--save", "3600 1 300 100"], ""), Ok("3600 1 300 100".into()));
    assert!(save(&["--save", "60"], "").is_err());
    assert!(save(&["--save", "0 1"], "").is_err());
}

#[test]
fn everything_that_is_wrong_is_named_at_once_with_its_place_and_a_hint() {
    let written =
        Written::new("# a comment\n\nmaxmemroy 100mb\nport abc\nhz\nreplcaof a 1\nrequirepass a b\nport \"1\n");
    let path = written.path();
    let path = path.to_str().expect("a UTF-8 path");
    let error = load(&[path, "--frobnicate", "1", "--daemonize", "yes"], "").expect_err("a bad configuration");
    let lines: Vec<&str> = error.lines().collect();
    assert!(lines[0].starts_with("*** FATAL CONFIG FILE ERROR (repld "), "{error}");
    let wanted = [
        format!("{path}:3: unknown directive 'maxmemroy' (did you mean 'maxmemory'?)"),
        format!("{path}:4: 'port abc': argument couldn't be parsed into an integer"),
        format!("{path}:5: 'hz': wrong number of arguments"),
        format!("{path}:6: unknown directive 'replcaof' (did you mean 'replicaof'?)"),
        format!("{path}:7: 'requirepass …': wrong number of arguments"),
        format!("{path}:8: Unbalanced quotes in configuration line"),
        "command line: unknown directive 'frobnicate'".to_string(),
        "command line: 'daemonize \"yes\"': repld stays in the foreground: let a service manager or replctl put it in the background".to_string(),
    ];
    assert_eq!(lines[1..], wanted, "{error}");
}

#[test]
fn files_that_cannot_be_read_and_stray_words_are_errors() {
    for (arguments, reason) in [
        (&["/absent/repld.conf"][..], "can't open config file '/absent/repld.conf': No such file or directory"),
        (&["/"], "can't open config file '/': Is a directory"),
        (&["--include", "/absent"], "can't open config file '/absent': No such file or directory"),
        (&["--dir", "/absent"], "'dir \"/absent\"': No such file or directory"),
        (&["-x"], "unknown directive '-x'"),
    ] {
        let error = load(arguments, "").expect_err("a bad configuration");
        assert!(error.ends_with(&format!("command line: {reason}")), "{error}");
    }
}

#[test]
fn included_files_are_read_in_place_and_a_cycle_ends() {
    let written = Written::new("");
    let directory = written.directory.path().display();
    fs::write(written.directory.path().join("a.inc"), "port 1\n").expect("written");
    fs::write(written.directory.path().join("b.inc"), "port 2\nhz 9").expect("written");
    fs::write(written.path(), format!("hz 1\ninclude {directory}/*.inc\ninclude {directory}/*.none\ntimeout 3\n"))
        .expect("written");
    let config = written.load(&[]);
    assert_eq!((config.port, config.hz, config.timeout.as_secs()), (2, 9, 3));
    let cycle = Written::new("");
    let path = cycle.path();
    fs::write(&path, format!("include {}\n", path.display())).expect("written");
    let error = load(&[path.to_str().expect("a UTF-8 path")], "").expect_err("a cycle");
    assert!(error.ends_with(":1: more than 16 files include one another"), "{error}");
}

#[test]
fn users_are_kept_as_they_are_written() {
    let config = load(&["-"], "user default on >secret ~* &* +@all\nuser alice on \"(~a +get)\"").expect("good");
    assert_eq!(config.users, [b"user default on >secret ~* &* +@all".to_vec(), b"user alice on (~a +get)".to_vec()]);
    assert!(load(&["-"], "user").is_err());
    let error = load(&["-"], "user a on\nuser a off").expect_err("there are two");
    assert!(error.contains("Duplicate user"), "{error}");
}

#[test]
fn values_are_read_as_their_kinds_are_written() {
    let text = "client-query-buffer-limit 1gB\nrepl-backlog-size 2k\nloglevel VERBOSE\nrdbcompression No\nunixsocketperm 700\n\
        client-output-buffer-limit slave 1mb 512kb 10\nshutdown-on-sigterm save now\nrepl-diskless-load swapdb\n\
        list-max-ziplist-size -3\nreplica-announce-ip ''\n";
    let config = load(&["-"], text).expect("good");
    assert_eq!((config.client_query_buffer_limit, config.repl_backlog_size), (1 << 30, 2000));
    assert_eq!((config.loglevel, config.rdbcompression), (crate::log::Level::Verbose, false));
    assert_eq!((config.unixsocketperm, get(&config, "unixsocketperm")), (0o700, "700".into()));
    let replica = OutputLimit { hard_bytes: 1 << 20, soft_bytes: 512 << 10, soft: Duration::from_secs(10) };
    assert_eq!(config.client_output_buffer_limit.replica, replica);
    assert_eq!(config.client_output_buffer_limit.pubsub.hard_bytes, 32 << 20);
    assert_eq!(config.shutdown_on_sigterm, ShutdownOptions { save: Some(true), now: true, force: false });
    assert_eq!(config.repl_diskless_load, DisklessLoad::SwapDb);
    assert_eq!((get(&config, "list-max-listpack-size"), config.replica_announce_ip), ("-3".into(), None));
}

#[test]
fn set_changes_all_or_nothing_and_tells_what_changed() {
    let mut config = load(&[], "").expect("defaults");
    let changed = set(&mut config, &[("HZ", "20"), ("slave-priority", "5"), ("timeout", "0"), ("save", "9 1")]);
    assert_eq!(changed, Ok(vec!["hz", "save", "replica-priority"]));
    assert_eq!((config.hz, config.replica_priority, config.save.len()), (20, 5, 1));
    assert!(set(&mut config, &[("hz", "30"), ("timeout", "x")]).is_err());
    assert_eq!(config.hz, 20);
}

#[test]
fn set_refuses_in_the_words_of_redis() {
    let mut config = load(&[], "").expect("defaults");
    let related =
        |name: &str, reason: &str| format!("CONFIG SET failed (possibly related to argument '{name}') - {reason}");
    for (assignments, error) in [
        (&[("hz", "1"), ("Foo", "3")][..], "Unknown option or number of arguments for CONFIG SET - 'Foo'".into()),
        (&[("databases", "3")], related("databases", "can't set immutable config")),
        (&[("dir", "/")], related("dir", "can't set protected config")),
        (&[("hz", "1"), ("hz", "2")], related("hz", "duplicate parameter")),
        (&[("hz", "01")], related("hz", "argument couldn't be parsed into an integer")),
        (&[("timeout", "-1")], related("timeout", "argument must be between 0 and 2147483647 inclusive")),
        (&[("repl-backlog-size", "12x")], related("repl-backlog-size", "argument must be a memory value")),
        (&[("slave-read-only", "1")], related("slave-read-only", "argument must be 'yes' or 'no'")),
        (
            &[("appendfsync", "x")],
            related("appendfsync", "argument(s) must be one of the following: everysec, always, no"),
        ),
        (&[("save", "60 1 30")], related("save", "Invalid save parameters")),
    ] {
        assert_eq!(set(&mut config, assignments), Err(error));
    }
}

#[test]
fn what_the_server_does_not_do_is_refused_at_the_start_and_later_with_its_reason() {
    let mut config = load(&[], "").expect("defaults");
    for (name, only, other, reason) in [
        ("activedefrag", "no", "yes", "repld's allocator needs no defragmentation"),
        ("tls-replication", "no", "yes", "repld speaks no TLS"),
    ] {
        assert!(load(&["-", &format!("--{name}"), only], "").is_ok(), "{name}");
        let error = load(&["-"], &format!("{name} {other}\n")).expect_err(name);
        assert!(error.contains(&format!("standard input:1: '{name} {other}': {reason}")), "{error}");
        assert!(set(&mut config, &[(name, only)]).is_ok_and(|changed| changed.is_empty()), "{name}");
        let error = set(&mut config, &[(name, other)]).expect_err(name);
        assert!(error.contains(&format!("'{name}') - {reason}")), "{error}");
    }
}

#[test]
fn protected_directives_follow_enable_protected_configs() {
    let mut config = load(&["--enable-protected-configs", "local"], "").expect("good");
    assert!(config.set(&[(b"dbfilename", b"a.rdb")], Origin::Remote).is_err());
    assert_eq!(config.set(&[(b"dbfilename", b"a.rdb")], Origin::Local), Ok(vec!["dbfilename"]));
    assert!(config.set(&[(b"dbfilename", b"../a.rdb")], Origin::Local).is_err());
}

#[test]
fn get_takes_patterns_and_shows_aliases_once() {
    let config = load(&[], "").expect("defaults");
    let names = |patterns: &[&[u8]]| config.get(patterns).iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert_eq!(names(&[b"PORT", b"por*", b"nothing"]), ["port"]);
    assert_eq!(names(&[b"*-priority"]), ["replica-priority", "slave-priority"]);
    assert_eq!(
        get(&config, "client-output-buffer-limit"),
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"
    );
    assert_eq!(
        PathBuf::from(get(&config, "dir")),
        std::env::current_dir().expect("a directory").canonicalize().expect("one")
    );
}

#[test]
fn rewrite_keeps_what_is_true_and_replaces_what_is_not() {
    let written =
        Written::new("# mine\n\nPort 1\n  # why\nsave 900 1\nhz  20\nsave 60 2\nslave-priority 3\nreplicaof h 1\n");
    let mut config = written.load(&[]);
    fs::set_permissions(written.path(), fs::Permissions::from_mode(0o640)).expect("permitted");
    let text = written.text();
    config.rewrite().expect("rewritten");
    assert_eq!(written.text(), text, "nothing had changed");

    set(
        &mut config,
        &[("save", "5 5 6 6"), ("replica-priority", "4"), ("requirepass", "a \"b\""), ("repl-backlog-size", "9")],
    )
    .expect("set");
    config.replicaof = None;
    config.rewrite().expect("rewritten");
    let wanted = "# mine\n\nPort 1\n  # why\nsave 5 5\nsave 6 6\nhz  20\nreplica-priority 4\n\
        # Generated by CONFIG REWRITE\nrequirepass \"a \\\"b\\\"\"\nrepl-backlog-size 9\n";
    assert_eq!(written.text(), wanted);
    let permissions = fs::metadata(written.path()).expect("a file").permissions();
    assert_eq!(permissions.mode() & 0o777, 0o640);

    config.replicaof = Some(Upstream { host: "::1".into(), port: 7 });
    set(&mut config, &[("client-output-buffer-limit", "normal 1 1 1"), ("save", "")]).expect("set");
    config.rewrite().expect("rewritten");
    assert_eq!(written.text().matches("# Generated").count(), 1);
    let again = written.load(&[]);
    assert_eq!(again.get(&[b"*"]), config.get(&[b"*"]));
    assert_eq!(fs::read_dir(written.directory.path()).expect("a directory").count(), 1, "nothing else is left");
}

#[test]
fn rewrite_overrides_what_included_files_say_and_keeps_users() {
    let written = Written::new("");
    fs::write(written.directory.path().join("inc"), "save 60 1\nhz 50\n").expect("written");
    let include = format!("include {}/inc\n", written.directory.path().display());
    fs::write(written.path(), format!("{include}user default on >old\n")).expect("written");
    let mut config = written.load(&["--port", "8"]);
    set(&mut config, &[("save", "7 7"), ("requirepass", "new"), ("hz", "10")]).expect("set");
    config.rewrite().expect("rewritten");
    let wanted =
        "user default on >old\n# Generated by CONFIG REWRITE\nport 8\nhz 10\nrequirepass new\nsave \"\"\nsave 7 7\n";
    assert_eq!(written.text(), format!("{include}{wanted}"));
    assert_eq!(written.load(&[]).get(&[b"*"]), config.get(&[b"*"]));
}

#[test]
fn everything_that_a_configuration_can_say_is_read_back() {
    let written = Written::new("bind 127.0.0.1\nreplicaof h 1\n");
    let mut config = written.load(&[]);
    set(&mut config, &[("save", ""), ("requirepass", "a \"b\""), ("notify-keyspace-events", "KEA")]).expect("set");
    config.rewrite_all().expect("rewritten");
    assert!(written.text().contains("\nhz 10\n"), "what has the default value is written, too");
    assert_eq!(written.load(&[]).get(&[b"*"]), config.get(&[b"*"]));
}

#[test]
fn rewrite_needs_a_file_and_reports_one_that_cannot_be_replaced() {
    let config = load(&[], "").expect("defaults");
    assert_eq!(config.rewrite(), Err("The server is running without a config file".into()));
    let written = Written::new("");
    let mut config = written.load(&[]);
    config.hz = 1;
    drop(written);
    assert_eq!(config.rewrite(), Err("Rewriting config file: No such file or directory".into()));
}

#[test]
fn no_text_makes_the_reader_panic() {
    use proptest::prelude::*;
    let word = prop_oneof!["[ -~]{0,12}", "[0-9]{1,22}[a-z]{0,2}", Just("save".into()), Just("bind".into())];
    let names: Vec<&str> = Config::default().get(&[b"*"]).iter().map(|(name, _)| *name).collect();
    let line = (prop::sample::select(names), prop::collection::vec(word, 0..5));
    proptest!(|(lines in prop::collection::vec(line, 0..4))| {
        let text: String = lines.iter().map(|(name, words)| format!("{name} {}\n", words.join(" "))).collect();
        if let Ok(config) = load(&["-"], &text) {
            for (name, value) in config.get(&[b"*"]) {
                let mut again = config.clone();
                let _ = again.set(&[(name.as_bytes(), &value)], Origin::Local);
                prop_assert_eq!(again.get(&[b"*"]), config.get(&[b"*"]));
            }
        }
    });
}

#[test]
fn a_stock_redis_conf_loads_but_for_what_is_named() {
    let stock = "/etc/redis/redis.conf";
    let Ok(text) = fs::read_to_string(stock) else {
        println!("skipped: there is no readable {stock}");
        return;
    };
    let lines = text.lines().filter(|line| !["daemonize yes", "dir "].iter().any(|named| line.starts_with(named)));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let config = load(&["-"], &text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(get(&config, "bind"), "127.0.0.1 -::1");
}
