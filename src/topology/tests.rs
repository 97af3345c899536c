use std::time::Duration;

use super::*;

fn parse(text: &str) -> Result<Topology, TopologyError> {
    Topology::parse(text, Path::new("group.toml"))
}

fn valid(text: &str) -> Topology {
    parse(text).unwrap_or_else(|error| panic!("{}", error.render(false)))
}

fn names(topology: &Topology) -> Vec<&str> {
    topology.nodes().iter().map(|node| node.name.as_str()).collect()
}

#[test]
fn every_key_of_the_design_is_read() {
    let topology = valid(
        r#"
        name = "demo"
        [defaults]
        engine = "redis-server"
        priority = 10
        config = { appendonly = "no", maxmemory = "1gb" }
        [[node]]
        name = "n1"
        port = 6379
        engine = { family = "valkey", path = "/opt/valkey/bin/valkey-server" }
        [[node]]
        name = "n2"
        replica-of = "n1"
        priority = 0
        config = { APPENDONLY = true, save = "900 1", maxclients = 0x10, active-defrag = 0.5 }
        [failover]
        max-loss = "64KB"
        by = "guard"
        [guard]
        deadline = "750ms"
        restart = true
        "#,
    );
    assert_eq!((topology.name(), topology.max_loss_bytes()), ("demo", Some(64_000)));
    assert_eq!(topology.by(), By::Guard);
    let wish = GuardWish { deadline: Some(Duration::from_millis(750)), restarts: true };
    assert_eq!(*topology.guard(), wish);
    assert_eq!(topology.master().name, "n1");
    let [n1, n2] = topology.nodes() else { panic!("two nodes") };
    let valkey = Engine { family: EngineFamily::Valkey, path: Some("/opt/valkey/bin/valkey-server".into()) };
    assert_eq!((&n1.replica_of, n2.replica_of.as_deref()), (&None, Some("n1")));
    let [n1, n2] = [n1, n2].map(|node| node.managed().expect("both are managed"));
    assert_eq!((&n1.engine, n1.port, n1.priority), (&valkey, Some(6379), 10));
    assert_eq!((n2.engine.family, n2.port, n2.priority), (EngineFamily::Redis, None, 0));
    let config: Vec<String> = n2.config.iter().map(|(name, value)| format!("{name} {value}")).collect();
    assert_eq!(config, ["active-defrag 0.5", "appendonly yes", "maxclients 16", "maxmemory 1gb", "save 900 1"]);
}

#[test]
fn a_drill_is_read_with_its_load_steps_and_expectations() {
    let topology = valid(
        r#"
        [[node]]
        name = "n1"
        [[node]]
        name = "n2"
        replica-of = "n1"
        [[drill]]
        name = "all steps"
        load = { writers = 2, workload = "append", rate = 100, value-size = 8, wait = 1 }
        steps = [
          { after = "1s", do = "kill-master" }, { do = "kill n2" }, { do = "pause  master" }, { do = "resume old-master" },
          { do = "start n1" }, { do = "wipe n1" }, { do = "restart n2" }, { do = "restart --all" }, { do = "promote" },
          { do = "promote n2" }, { do = "switchover" }, { do = "switchover n1" }, { do = "repoint n2 --to n1" },
          { do = "hog-cpu" }, { do = "free-cpu" },
        ]
        expect = { lost = 3, outage = "250ms", resync = "partial", master-count = 2, converged = false }
        [[drill]]
        name = "all defaults"
        "#,
    );
    let [drill, defaults] = topology.drills() else { panic!("two drills") };
    assert_eq!(drill.name, "all steps");
    let load = Load { writers: 2, workload: Workload::Append, rate: Some(100), value_bytes: 8, wait: 1 };
    let (outage, resync) = (Some(Duration::from_millis(250)), Some(WishedResync::Partial));
    let expect = Expectations { lost: Some(3), outage, resync, master_count: 2, converged: false };
    assert_eq!((drill.load, &drill.expect), (load, &expect));
    assert_eq!(drill.steps[0], DrillStep { after: Duration::from_secs(1), act: Act::KillMaster });
    let acts: Vec<String> = drill.steps.iter().map(|step| step.act.to_string()).collect();
    assert_eq!(acts[1..4], ["kill n2", "pause master", "resume old-master"]);
    assert_eq!(
        acts[7..],
        [
            "restart --all",
            "promote",
            "promote n2",
            "switchover",
            "switchover n1",
            "repoint n2 --to n1",
            "hog-cpu",
            "free-cpu"
        ]
    );
    assert_eq!((defaults.load, &defaults.expect), (Load::default(), &Expectations::default()));
    assert!(defaults.steps.is_empty());
}

#[test]
fn a_nodes_own_name_comes_before_the_word_for_the_master() {
    let topology = valid("[[node]]\nname = 'master'\n[[drill]]\nname = 'x'\nsteps = [{ do = 'pause master' }]\n");
    assert_eq!(topology.drills()[0].steps[0].act, Act::Pause(Target::Node("master".to_owned())));
}

#[test]
fn what_is_left_out_has_a_default() {
    let topology = valid("[[node]]\nname = 'a'\n");
    assert_eq!((topology.name(), topology.max_loss_bytes()), ("group", None));
    let node = topology.master().managed().expect("it is managed");
    assert_eq!((&node.engine, node.port, node.priority, node.optional), (&Engine::REPLD, None, 100, false));
    assert!(node.config.is_empty());
}

#[test]
fn count_multiplies_names_and_ports() {
    let topology = valid("[[node]]\nname = 'm'\n[[node]]\nname = 'r'\ncount = 3\nport = 65533\nreplica-of = 'm'\n");
    assert_eq!(names(&topology), ["m", "r-1", "r-2", "r-3"]);
    let ports: Vec<_> = topology.nodes().iter().map(|node| node.managed().and_then(|managed| managed.port)).collect();
    assert_eq!(ports, [None, Some(65533), Some(65534), Some(65535)]);
    assert_eq!(names(&valid("[[node]]\nname = 'm'\ncount = 1\n")), ["m-1"]);
}

#[test]
fn a_default_upstream_makes_a_star_around_the_node_it_names() {
    let topology = valid("[defaults]\nreplica-of = 'a'\n[[node]]\nname = 'b'\n[[node]]\nname = 'a'\n");
    assert_eq!(topology.master().name, "a");
    assert_eq!(topology.replicas_of("a").count(), 1);
}

#[test]
fn relative_engine_paths_start_from_the_file() {
    let text = "[[node]]\nname = 'a'\nengine = { family = 'redis', path = 'bin/redis-server' }\n";
    let topology = Topology::parse(text, Path::new("/etc/groups/x.toml")).expect("valid");
    assert_eq!(
        topology.master().managed().expect("it is managed").engine.path.as_deref(),
        Some(Path::new("/etc/groups/bin/redis-server"))
    );
}

#[test]
fn a_mark_of_utf8_is_skipped_and_shifts_no_column() {
    assert!(parse("\u{feff}[[node]]\nname = 'a'\n").is_ok());
    let error = parse("\u{feff}nane = 'a'\n").expect_err("a wrong key");
    assert_eq!(error.diagnostics()[0].position, Some(Position { line: 1, column: 1 }));
}

#[test]
fn optional_nodes_are_left_out_with_all_that_follows_them() {
    let text = "
        [[node]]
        name = 'c'
        replica-of = 'b'
        optional = true
        [[node]]
        name = 'a'
        [[node]]
        name = 'b'
        replica-of = 'a'
        engine = 'valkey-server'
        optional = true
        [[node]]
        name = 'd'
        replica-of = 'a'
        engine = 'valkey-server'
    ";
    let mut topology = valid(text);
    assert_eq!(topology.leave_out(|_| false), Vec::<String>::new());
    // d is not optional: that it is missing is for `up` to tell.
    assert_eq!(topology.leave_out(|engine| engine.family == EngineFamily::Valkey), ["c", "b"]);
    assert_eq!(names(&topology), ["a", "d"]);
}

#[test]
fn every_shipped_topology_is_valid_and_named_as_its_file() {
    for preset in &PRESETS {
        let topology = valid(preset.text);
        assert_eq!(topology.name(), preset.name);
        assert!(preset.summary().len() > 20, "{} says in its first line what it is", preset.name);
    }
    let shipped = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/topologies")).expect("topologies/ is there");
    assert_eq!(shipped.count(), PRESETS.len(), "every file in topologies/ is a preset");
    assert_eq!(Topology::trio().nodes().len(), 3);
}

#[test]
fn sentinels_are_three_of_the_masters_family_where_it_can_be_one() {
    let of = |engine: &str, rest: &str| {
        let text = format!("[[node]]\nname = 'a'\nengine = '{engine}'\n[sentinel]\n{rest}");
        let topology = valid(&text);
        (topology.by(), topology.sentinels().expect("there are some").clone())
    };
    let (by, sentinels) = of("repld", "");
    assert_eq!((by, sentinels.count, sentinels.quorum, sentinels.is_fast), (By::Sentinel, 3, 2, false));
    assert_eq!(sentinels.engine.family, EngineFamily::Redis);
    assert_eq!(of("valkey-server", "").1.engine.family, EngineFamily::Valkey);
    let (_, sentinels) = of("valkey-server", "count = 5\ndown-after = '500ms'\nengine = 'redis-server'\nfast = true");
    assert_eq!((sentinels.quorum, sentinels.engine.family, sentinels.is_fast), (3, EngineFamily::Redis, true));
    assert_eq!(sentinels.down_after, Duration::from_millis(500));
    assert_eq!(sentinels.names().last().as_deref(), Some("sentinel-5"));
}

/// The catalogue of errors: each file and what is said about it, in `snapshots/`.
#[test]
fn errors_name_their_place_and_the_way_out() {
    let long_chain: String =
        (0..20).map(|n| format!("[[node]]\nname = 'n{n}'\nreplica-of = 'n{}'\n", (n + 1) % 20)).collect();
    let cases: &[(&str, &str)] = &[
        ("an empty file", ""),
        ("no node", "name = 'x'\n"),
        ("not TOML", "[[node]\nname = 'a'\nport = \n"),
        ("a key twice", "[[node]]\nname = 'a'\nname = 'b'\n"),
        (
            "unknown keys",
            "nodes = 1\n[defaults]\nport = 1\nengin = 'repld'\n[[node]]\nname = 'a'\nreplicaof = 'b'\nsave = ''\n",
        ),
        ("one node as a table", "[node]\nname = 'a'\n"),
        (
            "wrong types",
            "name = 1\n[[node]]\nname = 'a'\nport = '6379'\ncount = 1.5\noptional = 'yes'\nconfig = []\nengine = 3\n",
        ),
        (
            "out of range",
            "[[node]]\nname = 'a'\nport = 0\n[[node]]\nname = 'b'\nport = 65536\n[[node]]\nname = 'c'\ncount = 0\npriority = -1\n",
        ),
        ("no names", "[[node]]\nport = 1\n[[node]]\nname = 'a b'\n[[node]]\nname = ''\n[[node]]\nname = '../x'\n"),
        (
            "unknown engines",
            "[[node]]\nname = 'a'\nengine = 'redis'\n[[node]]\nname = 'b'\nengine = { family = 'redis-server', path = '' }\n[[node]]\nname = 'c'\nengine = { path = 'x' }\n",
        ),
        (
            "directives of replctl",
            "[defaults.config]\nport = 1\nDIR = '/tmp'\nreplicaof = 'a b'\nbind = '0.0.0.0'\n[[node]]\nname = 'a'\n",
        ),
        (
            "directives that break out",
            "[[node]]\nname = 'a'\n[node.config]\nsave = \"1 1\\nport 1\"\n\"a\\nb\" = 1\nrequirepass = '\"open'\nx = ['a']\nsAVE = ''\n",
        ),
        ("sizes", "[failover]\nmax-loss = '64k'\nmaxloss = 1\n[[node]]\nname = 'a'\n"),
        ("who decides", "[failover]\nby = 'gaurd'\n[[node]]\nname = 'a'\n"),
        ("guards", "[guard]\ndeadline = '50ms'\nrestart = 'yes'\nrestarts = true\n[[node]]\nname = 'a'\n"),
        ("sentinels that are not there", "[failover]\nby = 'sentinel'\n[[node]]\nname = 'a'\n"),
        ("two who decide", "[failover]\nby = 'guard'\n[[node]]\nname = 'a'\n[sentinel]\n"),
        (
            "sentinels",
            "[[node]]\nname = 'a'\n[sentinel]\ncount = 0\nquorum = '2'\ndown-after = '5'\nfailover-timeout = '2days'\nfast = 1\nengine = 'redis'\nparallel-syncs = 1\n",
        ),
        (
            "sentinels that would not see every node",
            "[sentinel]\nfast = true\ndown-after = '400ms'\nquorum = 4\nengine = 'repld'\n[[node]]\nname = 'a'\n[[node]]\nname = 'b'\nreplica-of = 'a'\nconfig = { requirepass = 'x' }\n[[node]]\nname = 'sentinel-1'\nreplica-of = 'b'\n[[node]]\nname = 'd'\nmanaged = false\nendpoint = '127.0.0.1:1'\nreplica-of = 'a'\n",
        ),
        (
            "drills",
            "[[node]]\nname = 'n1'\n[[drill]]\nname = 'x'\nload = { writer = 8, workload = 'sets', rate = 'min', wait = -1 }\nsteps = [{ after = '1', do = 'kill-master' }, { after = '1s' }, 'promote']\nexpect = { lost = '0', resync = 'half' }\n[[drill]]\nsteps = []\n",
        ),
        (
            "steps of drills",
            "[[node]]\nname = 'n1'\n[[drill]]\nname = 'x'\nsteps = [{ do = 'kill-mastr' }, { do = 'kill n2' }, { do = 'repoint n1' }, { do = 'pause' }, { do = 'hog-cpu n1' }]\n[[drill]]\nname = 'x'\n",
        ),
        ("two masters", "[[node]]\nname = 'a'\n[[node]]\nname = 'b'\n"),
        ("several masters by count", "[[node]]\nname = 'a'\ncount = 3\n"),
        ("a replica of itself", "[[node]]\nname = 'a'\nreplica-of = 'a'\n"),
        (
            "a circle",
            "[[node]]\nname = 'm'\n[[node]]\nname = 'a'\nreplica-of = 'c'\n[[node]]\nname = 'b'\nreplica-of = 'a'\n[[node]]\nname = 'c'\nreplica-of = 'b'\n[[node]]\nname = 'd'\nreplica-of = 'c'\n",
        ),
        ("no master", &long_chain),
        (
            "dangling",
            "[[node]]\nname = 'main'\n[[node]]\nname = 'b'\nreplica-of = 'mian'\n[[node]]\nname = 'c'\nreplica-of = 'elsewhere'\n",
        ),
        (
            "dangling at a counted name",
            "[[node]]\nname = 'm'\n[[node]]\nname = 'r'\ncount = 2\nreplica-of = 'm'\n[[node]]\nname = 's'\nreplica-of = 'r'\n",
        ),
        ("a name twice", "[[node]]\nname = 'r-2'\n[[node]]\nname = 'r'\ncount = 3\nreplica-of = 'r-2'\n"),
        (
            "a port twice",
            "[[node]]\nname = 'm'\nport = 7002\n[[node]]\nname = 'r'\ncount = 3\nport = 7000\nreplica-of = 'm'\n",
        ),
        (
            "ports beyond the last",
            "[[node]]\nname = 'm'\n[[node]]\nname = 'r'\ncount = 3\nport = 65534\nreplica-of = 'm'\n",
        ),
        ("too many nodes", "[[node]]\nname = 'm'\n[[node]]\nname = 'r'\ncount = 1000\nreplica-of = 'm'\n"),
        (
            "optional",
            "[[node]]\nname = 'm'\noptional = true\n[[node]]\nname = 'r'\nreplica-of = 'm'\noptional = true\n[[node]]\nname = 's'\nreplica-of = 'r'\n",
        ),
        ("control characters", "[[node]]\nname = \"a\\u001b[2J\"\n\"\\u0007\" = 1\n"),
    ];
    let catalogue: Vec<String> = cases
        .iter()
        .map(|(title, text)| {
            let error = parse(text).expect_err(title);
            format!("## {title}\n\n{}\n", error.render(false))
        })
        .collect();
    insta::assert_snapshot!(catalogue.join("\n"));
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("x.toml");
    let said = |path: &Path| Topology::load(path).expect_err("not a topology").diagnostics()[0].clone();
    assert_eq!(said(&path).message, "there is no such file");
    assert_eq!(said(directory.path()).message, "this is a directory, not a topology file");
    std::fs::write(&path, vec![b'#'; FILE_BYTES_MAX + 1]).expect("written");
    assert_eq!(said(&path).message, "the file is larger than 1048576 bytes");
    assert_eq!(said(Path::new("/dev/zero")).message, "the file is larger than 1048576 bytes");
    std::fs::write(&path, b"# fine\nname = '\xff'\n").expect("written");
    assert_eq!(said(&path).message, "this is not UTF-8 text");
    assert_eq!(said(&path).position, Some(Position { line: 2, column: 9 }));
    let text = "[[node]]\nname = 'a'\n";
    let unnamed = Topology::parse(text, Path::new("my group.toml")).expect_err("no name to take");
    assert!(unnamed.to_string().starts_with("my group.toml: the file's stem `my group` cannot be the group's name"));
}

#[test]
fn huge_files_are_answered_in_few_words() {
    let nested = |open: &str| open.repeat(FILE_BYTES_MAX / 4 / open.len());
    let worst = [
        nested("["),
        nested("x=["),
        nested("a."),
        nested("= x\n"),
        nested("\u{1}"),
        nested("[[node]]\n"),
        nested("[[node]]\nname='a'\n"),
        format!("name = '{}'", nested("x")),
        format!("name = \"{}", nested("x")),
        format!("{}=1", nested("x")),
    ];
    for text in worst {
        let error = parse(&text).expect_err("not a topology");
        assert!(error.diagnostics().len() <= 20);
        assert!(error.render(true).len() < 32 * 1024, "{}", &text[..40]);
    }
}

/// A pseudo-random number generator of one line (SplitMix64): the same mutations on every run.
struct Seed(u64);

impl Seed {
    fn next(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % bound.max(1)
    }

    /// Breaks a file in one of the ways in which files break.
    fn mutate(&mut self, file: &mut Vec<u8>) {
        const TOKENS: [&str; 16] = [
            "[[node]]\n",
            "[defaults]\n",
            "name = \"n1\"\n",
            "replica-of = \"n2\"\n",
            "port = 6379\n",
            "count = 1000\n",
            "= ",
            "\"",
            "'''",
            "{",
            "]",
            "\0",
            "\r",
            "\u{feff}",
            "9999999999999999999999",
            "a.b.c = []\n",
        ];
        let at = self.next(file.len());
        match self.next(7) {
            0 if !file.is_empty() => file[at] ^= 1 << self.next(8),
            1 => drop(file.drain(at..(at + self.next(12)).min(file.len()))),
            2 => file.truncate(at),
            3 => drop(file.splice(at..at, TOKENS[self.next(TOKENS.len())].bytes())),
            4 => drop(file.splice(at..at, (0..self.next(8)).map(|_| self.next(256) as u8).collect::<Vec<_>>())),
            5 => self.repeat_a_line(file),
            _ => self.swap_a_value(file),
        }
    }

    fn repeat_a_line(&mut self, file: &mut Vec<u8>) {
        let lines: Vec<Vec<u8>> = file.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if let Some(line) = lines.get(self.next(lines.len())) {
            file.extend_from_slice(line);
        }
    }

    /// Gives a key a value of some other type.
    fn swap_a_value(&mut self, file: &mut Vec<u8>) {
        const VALUES: [&str; 8] = ["1", "-1", "1.5", "true", "[]", "{}", "1979-05-27", "\"n1\""];
        let equals: Vec<usize> = (0..file.len()).filter(|at| file[*at] == b'=').collect();
        let Some(start) = equals.get(self.next(equals.len())).map(|at| at + 1) else { return };
        let end = file[start..].iter().position(|byte| *byte == b'\n').map_or(file.len(), |length| start + length);
        file.splice(start..end, VALUES[self.next(VALUES.len())].bytes());
    }
}

#[test]
fn no_malformed_file_panics_and_each_error_has_a_place_or_is_about_the_whole_file() {
    const FILES: u64 = 3000;
    let mut malformed = 0;
    for seed in 0..FILES {
        let mut random = Seed(seed);
        let mut file = PRESETS[random.next(PRESETS.len())].text.as_bytes().to_vec();
        for _ in 0..=random.next(4) {
            random.mutate(&mut file);
        }
        let Err(error) = Topology::from_bytes(file.clone(), Path::new("group.toml")) else { continue };
        malformed += 1;
        let lines = String::from_utf8_lossy(&file).matches('\n').count() + 1;
        assert!(!error.diagnostics().is_empty());
        let shown = error.render(false);
        assert!(!shown.contains(|char: char| char.is_control() && char != '\n'), "seed {seed}: {shown:?}");
        for diagnostic in error.diagnostics() {
            match diagnostic.position {
                Some(Position { line, column }) => assert!((1..=lines).contains(&line) && column >= 1, "seed {seed}"),
                None => assert_eq!(diagnostic.message, "a topology needs at least one node", "seed {seed}"),
            }
        }
    }
    assert!(malformed > 1000, "only {malformed} of {FILES} files were malformed");
}
