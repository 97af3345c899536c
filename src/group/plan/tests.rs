//! Plans on hand-made groups, and on random ones against a trivial model of what must hold.

use super::*;
use crate::group::{HEARD_SECONDS_MAX, KeptStream, KillNote, NodeView, ServerView};
use crate::process::{Condition, ProcessIdentity};
use crate::topology::{Address, EngineFamily};
use crate::wire::{AttachedReplica, Link, NodeReport, Role, Upstream};

const BASE_PORT: u16 = 7000;

pub fn id(digit: char) -> ReplicationId {
    ReplicationId::parse(&String::from(digit).repeat(40)).expect("forty hexadecimal digits")
}

fn report(role: Role, offset: u64) -> NodeReport {
    NodeReport {
        family: EngineFamily::Redis,
        version: "7.0.15".to_owned(),
        run_id: "run".to_owned(),
        process_id: 1,
        is_loading: false,
        keys: 0,
        sync_full: 0,
        sync_partial_ok: 0,
        replication: Replication {
            role,
            replid: id('a'),
            former: None,
            offset,
            priority: 100,
            is_handing_over: false,
            backlog: None,
            replicas: Vec::new(),
        },
    }
}

fn upstream(port: u16, link: Link) -> Role {
    Role::Replica(Upstream { host: "127.0.0.1".to_owned(), port, link, silent_seconds: None, holds_data: true })
}

/// A node whose port follows from its number: n1 listens on 7001.
pub fn node(number: u16, meant_upstream: Option<u16>, answer: Answer, condition: Condition) -> NodeView {
    NodeView {
        name: format!("n{number}"),
        address: Address::loopback(BASE_PORT + number),
        announced: Address::loopback(BASE_PORT + number),
        meant_upstream: meant_upstream.map(|number| format!("n{number}")),
        server: ServerView::Managed {
            process: Some(ProcessIdentity { pid: 1, start_ticks: 1, boot_id: "boot".to_owned() }),
            condition,
        },
        answer,
        kept_stream: KeptStream::Nothing,
    }
}

pub fn dead(number: u16, meant_upstream: Option<u16>) -> NodeView {
    node(number, meant_upstream, Answer::NotListening, Condition::Dead)
}

pub fn replica(number: u16, of: u16, offset: u64) -> NodeView {
    let role = upstream(BASE_PORT + of, Link::Down { seconds: Some(1) });
    node(number, Some(of), Answer::Report(Box::new(report(role, offset))), Condition::Running)
}

pub fn master(number: u16, offset: u64) -> NodeView {
    node(number, None, Answer::Report(Box::new(report(Role::Master, offset))), Condition::Running)
}

/// Changes the report of a node that has one.
pub fn with(mut node: NodeView, change: impl FnOnce(&mut NodeReport)) -> NodeView {
    match &mut node.answer {
        Answer::Report(report) => change(report),
        _ => panic!("{} has no report", node.name),
    }
    node
}

/// A master of another history than anybody's in these groups.
fn stranger(process_id: u32) -> Answer {
    let mut report = NodeReport { process_id, ..report(Role::Master, 0) };
    report.replication.replid = id('e');
    Answer::Stranger { report: Box::new(report) }
}

/// One that has taken over the stranger's history.
fn foreign(node: NodeView) -> NodeView {
    with(node, |report| report.replication.replid = id('e'))
}

pub fn upstream_of(report: &mut NodeReport) -> &mut Upstream {
    match &mut report.replication.role {
        Role::Replica(upstream) => upstream,
        Role::Master => panic!("a master has no upstream"),
    }
}

/// Who answers lists those that are linked to it.
pub fn view(mut nodes: Vec<NodeView>) -> GroupView {
    let followed =
        |node: &NodeView| node.report()?.replication.upstream().filter(|up| up.link == Link::Up).map(|up| up.port);
    let links: Vec<(u16, Address)> =
        nodes.iter().filter_map(|node| Some((followed(node)?, node.announced.clone()))).collect();
    for node in &mut nodes {
        let Answer::Report(report) = &mut node.answer else { continue };
        let below = links.iter().filter(|(port, _)| *port == node.announced.port);
        report.replication.replicas = below
            .map(|(_, Address { host, port })| AttachedReplica {
                host: host.clone(),
                port: *port,
                is_online: true,
                acknowledged_offset: 0,
            })
            .collect();
    }
    GroupView {
        group: "test".to_owned(),
        recorded_replid: Some(id('a')),
        kill_note: None,
        is_disputed: false,
        nodes,
        heard_seconds_max: HEARD_SECONDS_MAX,
        sentinels: Vec::new(),
    }
}

fn plan(nodes: Vec<NodeView>) -> Result<FailoverPlan, Refusal> {
    FailoverPlan::new(&view(nodes), &Policy::default())
}

fn steps_of(plan: &FailoverPlan) -> Vec<String> {
    plan.steps.iter().map(Step::to_string).collect()
}

#[test]
fn every_kind_of_ineligible_node_is_rejected_with_its_reason() {
    let good = replica(3, 1, 100);
    let cases: [(NodeView, &str); 9] = [
        (dead(2, Some(1)), "it cannot be reached: its process has ended"),
        (node(2, Some(1), Answer::Silent, Condition::Stopped), "it cannot be reached: it does not answer"),
        (
            node(2, Some(1), stranger(9), Condition::Dead),
            "it cannot be reached: another process (pid 9) holds its port",
        ),
        (node(2, Some(1), Answer::Error("NOAUTH".to_owned()), Condition::Running), "it cannot be reached: NOAUTH"),
        (node(2, Some(1), Answer::Loading, Condition::Running), "it is still loading its data"),
        (with(replica(2, 1, 900), |report| report.is_loading = true), "it is still loading its data"),
        (
            with(replica(2, 1, 900), |report| upstream_of(report).holds_data = false),
            "its first sync never finished: what it holds is not data",
        ),
        (
            with(replica(2, 1, 900), |report| report.replication.replid = id('b')),
            "its data is of another history (bbbbbbbb, not aaaaaaaa)",
        ),
        (with(replica(2, 1, 900), |report| report.replication.priority = 0), "its priority is 0: never promote"),
    ];
    for (ineligible, reason) in cases {
        let plan = plan(vec![dead(1, None), ineligible.clone(), good.clone()]).expect("n3 can be promoted");
        assert_eq!(plan.candidate, "n3", "{reason}");
        assert_eq!((plan.rejected[0].node.as_str(), plan.rejected[0].reason.to_string().as_str()), ("n2", reason));

        let alone = FailoverPlan::new(&view(vec![dead(1, None), ineligible.clone()]), &Policy::default());
        match (alone, ineligible.is_alive()) {
            (Err(Refusal::NoCandidate { rejected }), true) => assert_eq!(rejected.len(), 1),
            (Err(Refusal::Down), false) => {}
            (other, _) => panic!("{reason}: {other:?}"),
        }
        let wanted = Policy { wanted: Some("n2".to_owned()), force: true, ..Policy::default() };
        let refused = FailoverPlan::new(&view(vec![dead(1, None), ineligible, good.clone()]), &wanted);
        assert!(matches!(refused, Err(Refusal::WantedIneligible { .. })), "even by force: {reason}");
    }
}

#[test]
fn what_a_dead_node_has_beyond_the_point_where_it_parted_from_the_new_master_is_told_and_kept() {
    let former = |shared_up_to| Some(crate::wire::FormerHistory { replid: id('a'), shared_up_to });
    let took_over = with(master(2, 8), |report| {
        report.replication.replid = id('c');
        report.replication.former = former(6);
    });
    let kept =
        KeptStream::Dead { replid: id('b').to_string(), former: Some((id('a').to_string(), 7)), start: 0, end: 12 };
    let old = NodeView { kept_stream: kept, ..dead(1, None) };
    let plan = plan(vec![old, NodeView { meant_upstream: Some("n1".to_owned()), ..took_over }]).expect("n2 took over");
    assert_eq!(
        plan.loss.to_string(),
        format!("6 bytes of the replication stream (offsets 6 to 12 of {})", id('b').short())
    );
    assert_eq!(steps_of(&plan)[0], "keep what only n1 has as a list of commands");
}

#[test]
fn the_highest_offset_wins_then_the_lowest_priority_then_the_topologys_order() {
    let prioritized =
        |number, offset, priority| with(replica(number, 1, offset), |report| report.replication.priority = priority);
    let group = |nodes: Vec<NodeView>| plan([vec![dead(1, None)], nodes].concat()).expect("a candidate").candidate;
    assert_eq!(group(vec![prioritized(2, 5, 1), prioritized(3, 6, 100)]), "n3");
    assert_eq!(group(vec![prioritized(2, 5, 100), prioritized(3, 5, 10)]), "n3");
    assert_eq!(group(vec![prioritized(2, 5, 10), prioritized(3, 5, 10)]), "n2");
}

#[test]
fn a_better_priority_does_not_outweigh_missing_data() {
    let still_syncing = with(replica(2, 1, 0), |report| {
        report.replication.priority = 1;
        let upstream = upstream_of(report);
        upstream.holds_data = false;
        upstream.link = Link::Syncing { received_bytes: 10, total_bytes: None };
    });
    let plan = plan(vec![dead(1, None), still_syncing, replica(3, 1, 20_000)]).expect("n3 has the data");
    assert_eq!(plan.candidate, "n3");
}

#[test]
fn a_dead_masters_replicas_follow_the_new_master_and_chains_are_kept() {
    let linked = |number, of, offset| with(replica(number, of, offset), |report| upstream_of(report).link = Link::Up);
    // n1 -> n2 -> n4, n1 -> n3 -> n5
    let nodes = vec![dead(1, None), replica(2, 1, 90), replica(3, 1, 100), linked(4, 2, 90), linked(5, 3, 100)];
    let plan = plan(nodes).expect("n3 can be promoted");
    assert_eq!(
        steps_of(&plan),
        ["promote n3", "confirm that n3 takes writes", "let n2 follow n3", "confirm the links of n2, n4 and n5"]
    );
    let upstreams: Vec<_> = plan.upstreams.iter().map(|(node, up)| (node.as_str(), up.as_str())).collect();
    assert_eq!(upstreams, [("n1", "n3"), ("n2", "n3"), ("n4", "n2"), ("n5", "n3")]);
}

#[test]
fn what_a_replica_has_that_cannot_be_promoted_is_waited_for_where_it_goes() {
    let up = |number, of, offset| with(replica(number, of, offset), |report| upstream_of(report).link = Link::Up);
    let relay = with(up(2, 1, 9), |report| report.replication.priority = 0);
    // Also one that has lost its link may get it back, as long as the relay has its own.
    for below in [up(4, 2, 5), replica(4, 2, 5)] {
        let nodes = vec![dead(1, None), relay.clone(), replica(3, 1, 5), below];
        assert_eq!(
            steps_of(&plan(nodes).expect("n3 can be promoted"))[0],
            "let n2 and n4 read to the end of the stream"
        );
    }
}

#[test]
fn a_replica_of_a_dead_replica_comes_under_the_new_master() {
    let nodes = vec![dead(1, None), dead(2, Some(1)), replica(3, 1, 5), replica(4, 2, 4)];
    let plan = plan(nodes).expect("n3 can be promoted");
    assert!(steps_of(&plan).contains(&"let n4 follow n3".to_owned()), "{:?}", plan.steps);
}

#[test]
fn a_circle_through_a_server_that_nobody_knows_is_undone() {
    let follower = NodeReport { process_id: 99, ..report(upstream(BASE_PORT + 3, Link::Down { seconds: None }), 5) };
    let stranger = node(2, Some(1), Answer::Stranger { report: Box::new(follower) }, Condition::Dead);
    let seen = view(vec![master(1, 5), stranger, replica(3, 2, 5)]);
    assert!(matches!(diagnose(&seen), Diagnosis::Cycle { nodes, .. } if nodes == ["n3", "n2"]));
    let plan = FailoverPlan::new(&seen, &Policy::default()).expect("n3 can follow n1");
    assert!(steps_of(&plan).contains(&"let n3 follow n1".to_owned()), "{:?}", steps_of(&plan));
}

#[test]
fn a_hung_master_is_ended_and_drained_before_anybody_is_promoted() {
    let hung = node(1, None, Answer::Silent, Condition::Stopped);
    let linked = with(replica(2, 1, 5), |report| upstream_of(report).link = Link::Up);
    let steps = steps_of(&plan(vec![hung, linked]).expect("n2 can be promoted"));
    assert_eq!(
        steps,
        ["fence n1", "let n2 read to the end of the stream", "promote n2", "confirm that n2 takes writes"]
    );
}

#[test]
fn where_the_old_and_the_new_master_of_a_broken_change_are_both_silent_both_are_ended() {
    let silent = |number, of| node(number, of, Answer::Silent, Condition::Stopped);
    let promoting = crate::process::Promoting {
        node: "n2".to_owned(),
        upstreams: [("n1", "n2"), ("n3", "n2")].map(|(below, above)| (below.to_owned(), above.to_owned())).into(),
        replid: None,
    };
    let steps = |master: NodeView| {
        let linked = with(replica(3, 1, 5), |report| upstream_of(report).link = Link::Up);
        let mut seen = view(vec![master, silent(2, Some(1)), linked]);
        seen.assume(&promoting);
        steps_of(&FailoverPlan::new(&seen, &Policy::default()).expect("n3 can be promoted"))
    };
    assert_eq!(steps(silent(1, None))[0], "fence n1");
    // It is dead now, and what it had sent is read before anybody is chosen.
    assert_eq!(steps(dead(1, None))[..2], ["fence n2", "let n3 read to the end of the stream"]);
}

#[test]
fn a_dead_node_that_still_has_the_history_it_was_to_leave_was_not_made_the_master() {
    // Its history is an older one than what the group was last recorded with.
    let kept = KeptStream::Dead { replid: id('b').to_string(), former: None, start: 0, end: 5 };
    // None: it was a master already when it was told to be one once more.
    for (before, master) in [(Some('b'), "n1"), (Some('c'), "n2"), (None, "n2")] {
        let mut seen = view(vec![dead(1, None), NodeView { kept_stream: kept.clone(), ..dead(2, Some(1)) }]);
        seen.assume(&promoting_n2(before));
        assert_eq!(seen.meant_master().name, master, "{before:?}");
    }
}

#[test]
fn a_dead_node_that_kept_nothing_is_not_started_as_the_master_before_one_whose_file_has_everything() {
    let kept = KeptStream::Dead { replid: id('a').to_string(), former: None, start: 0, end: 5 };
    // Of another history than the one that n2 was to continue, the file is no better than nothing.
    for (before, master) in [(Some('a'), "n1"), (Some('b'), "n2"), (None, "n2")] {
        let mut seen = view(vec![NodeView { kept_stream: kept.clone(), ..dead(1, None) }, dead(2, Some(1))]);
        seen.assume(&promoting_n2(before));
        assert_eq!(seen.meant_master().name, master, "{before:?}");
    }
}

/// n2 was about to be made the master in place of n1, and had this history.
fn promoting_n2(replid: Option<char>) -> crate::process::Promoting {
    crate::process::Promoting {
        node: "n2".to_owned(),
        upstreams: [("n1".to_owned(), "n2".to_owned())].into(),
        replid: replid.map(|replid| id(replid).to_string()),
    }
}

#[test]
fn a_master_that_hands_over_already_is_not_told_to_again() {
    let trying = with(master(1, 5), |report| report.replication.is_handing_over = true);
    let linked = with(replica(2, 1, 5), |report| upstream_of(report).link = Link::Up);
    let refused = FailoverPlan::switchover(&view(vec![trying, linked]), &Policy::default()).err();
    assert_eq!(refused, Some(Refusal::Exchanging { node: "n1".to_owned() }));
}

#[test]
fn a_living_master_is_replaced_by_force_only() {
    let nodes = vec![master(1, 10), with(replica(2, 1, 10), |report| upstream_of(report).link = Link::Up)];
    assert_eq!(plan(nodes.clone()).err(), Some(Refusal::MasterAlive { master: "n1".to_owned() }));
    let forced = Policy { force: true, ..Policy::default() };
    let plan = FailoverPlan::new(&view(nodes.clone()), &forced).expect("force ends it");
    assert_eq!(steps_of(&plan)[..2], ["keep what only n1 has as a list of commands", "fence n1"]);
    let salvaged: Vec<NodeView> =
        nodes.into_iter().map(|node| NodeView { kept_stream: KeptStream::StillWritten, ..node }).collect();
    let plan = FailoverPlan::new(&view(salvaged), &forced).expect("force ends it");
    assert_eq!(steps_of(&plan)[0], "fence n1", "its backlog is read when it has ended");
}

#[test]
fn a_master_that_answers_with_errors_is_not_taken_for_dead() {
    let locked = node(1, None, Answer::Error("NOAUTH".to_owned()), Condition::Running);
    assert!(matches!(plan(vec![locked, replica(2, 1, 5)]), Err(Refusal::MasterAlive { .. })));
}

#[test]
fn two_masters_are_left_to_a_person() {
    let second = with(replica(2, 1, 5), |report| report.replication.role = Role::Master);
    let nodes = vec![master(1, 10), second, replica(3, 1, 5)];
    let forced = Policy { force: true, ..Policy::default() };
    assert!(matches!(FailoverPlan::new(&view(nodes), &forced), Err(Refusal::TwoMasters { .. })));
}

#[test]
fn a_promotion_that_broke_off_is_completed_with_the_same_candidate() {
    let promoted = with(replica(3, 1, 100), |report| {
        report.replication.role = Role::Master;
        report.replication.replid = id('c');
    });
    let ahead = replica(2, 1, 200);
    let plan = plan(vec![dead(1, None), ahead, promoted]).expect("n3 is a master already");
    assert_eq!(plan.candidate, "n3");
    assert!(steps_of(&plan).contains(&"let n2 follow n3".to_owned()));
}

#[test]
fn nobody_waits_for_a_stream_that_does_not_end() {
    // n1 was demoted by somebody else and feeds n3 as a replica: its links stay up.
    let demoted = NodeView { meant_upstream: None, ..replica(1, 2, 5) };
    let promoted = with(replica(2, 1, 5), |report| report.replication.role = Role::Master);
    let linked = with(replica(3, 1, 5), |report| upstream_of(report).link = Link::Up);
    let plan = plan(vec![demoted, promoted, linked]).expect("n3 comes under n2");
    assert_eq!(
        steps_of(&plan),
        ["promote n2", "confirm that n2 takes writes", "let n3 follow n2", "confirm the links of n1 and n3"]
    );
}

#[test]
fn replicas_that_were_not_re_pointed_yet_are_re_pointed() {
    let orphan = with(replica(3, 1, 5), |report| upstream_of(report).port = BASE_PORT + 9);
    let following = with(replica(2, 1, 5), |report| upstream_of(report).link = Link::Up);
    let plan = plan(vec![master(1, 5), following, orphan]).expect("n3 has to follow n1");
    assert_eq!((plan.candidate.as_str(), plan.old_master.as_str()), ("n1", "n1"));
    assert!(steps_of(&plan).contains(&"let n3 follow n1".to_owned()), "{:?}", plan.steps);
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::Fence { .. } | Step::AwaitDrain { .. })));
}

#[test]
fn the_loss_is_told_and_may_be_refused() {
    let mut view = view(vec![dead(1, None), replica(2, 1, 90)]);
    let strict = Policy { max_loss_bytes: Some(9), ..Policy::default() };
    assert!(matches!(FailoverPlan::new(&view, &strict), Err(Refusal::TooMuchLoss { .. })), "nobody saw the master");
    view.kill_note = Some(KillNote { offset: Some(100), seconds_ago: 1 });
    let refused = FailoverPlan::new(&view, &strict).expect_err("ten bytes are missing");
    assert!(refused.to_string().contains("at least 10 bytes"), "{refused}");
    let allowed = Policy { max_loss_bytes: Some(10), ..Policy::default() };
    assert_eq!(FailoverPlan::new(&view, &allowed).expect("ten are allowed").loss.bytes_min(), 10);
    let forced = Policy { force: true, ..strict };
    assert_eq!(FailoverPlan::new(&view, &forced).expect("force accepts it").candidate, "n2");
}

#[test]
fn bytes_that_only_a_never_promoted_node_has_count_as_lost() {
    let never = with(replica(3, 1, 150), |report| report.replication.priority = 0);
    let plan = plan(vec![dead(1, None), replica(2, 1, 100), never]).expect("n2 can be promoted");
    assert_eq!(plan.loss.bytes_min(), 50);
}

#[test]
fn a_node_that_is_wished_for_must_not_be_behind_unless_forced() {
    let nodes = vec![dead(1, None), replica(2, 1, 100), replica(3, 1, 80)];
    let wanted = Policy { wanted: Some("n3".to_owned()), ..Policy::default() };
    let refused = FailoverPlan::new(&view(nodes.clone()), &wanted).expect_err("n3 is behind");
    assert_eq!(refused.to_string(), "n3 is 20 bytes behind n2");
    let plan = FailoverPlan::new(&view(nodes.clone()), &Policy { force: true, ..wanted }).expect("force allows it");
    assert_eq!((plan.candidate.as_str(), plan.loss.bytes_min()), ("n3", 20));
    let unknown = Policy { wanted: Some("n9".to_owned()), ..Policy::default() };
    assert_eq!(FailoverPlan::new(&view(nodes), &unknown).err(), Some(Refusal::NoSuchNode("n9".to_owned())));
}

#[test]
fn a_lone_survivor_of_another_history_is_promoted_by_force_only() {
    let stale = with(replica(2, 1, 900), |report| report.replication.replid = id('b'));
    let view = view(vec![dead(1, None), stale]);
    assert!(matches!(FailoverPlan::new(&view, &Policy::default()), Err(Refusal::NoCandidate { .. })));
    let forced = Policy { force: true, ..Policy::default() };
    assert_eq!(FailoverPlan::new(&view, &forced).expect("a person insists").candidate, "n2");
}

#[test]
fn without_a_record_the_history_of_most_replicas_counts() {
    let other = with(replica(2, 1, 900), |report| report.replication.replid = id('b'));
    let mut view = view(vec![dead(1, None), other, replica(3, 1, 5), replica(4, 1, 6)]);
    view.recorded_replid = None;
    assert_eq!(FailoverPlan::new(&view, &Policy::default()).expect("two of three agree").candidate, "n4");
}

#[test]
fn every_diagnosis_has_its_signs() {
    let linked = |number| with(replica(number, 1, 5), |report| upstream_of(report).link = Link::Up);
    let hung = node(1, None, Answer::Silent, Condition::Running);
    let deaf = |number| with(linked(number), |report| upstream_of(report).silent_seconds = Some(60));
    let stopped = node(1, None, Answer::Silent, Condition::Stopped);
    let never = |number| with(linked(number), |report| report.replication.priority = 0);
    let in_circle = |number, of| NodeView { meant_upstream: None, ..replica(number, of, 5) };
    let long_down =
        |number| with(replica(number, 1, 5), |report| upstream_of(report).link = Link::Down { seconds: Some(60) });
    let behind = master(1, 5 + (17 << 20));
    let returned = |answer| NodeView { answer, ..dead(1, None) };
    let empty_of_ours = with(master(1, 1), |report| report.replication.replid = id('e'));
    let second_master = with(linked(2), |report| report.replication.role = Role::Master);
    let astray = with(linked(2), |report| upstream_of(report).port = 1);
    let empty = with(replica(2, 1, 5), |report| upstream_of(report).holds_data = false);
    let demoted = replica(1, 9, 5);
    let demoted = NodeView { meant_upstream: None, ..demoted };
    let cases = [
        (vec![master(1, 5), linked(2), linked(3)], "healthy"),
        (vec![dead(1, None), dead(2, Some(1))], "nothing of the group runs"),
        (vec![dead(1, None), linked(2)], "the master n1 is dead"),
        (vec![hung.clone(), deaf(2)], "the master n1 lives and does not answer"),
        (vec![hung.clone(), replica(2, 1, 5)], "the master n1 lives and does not answer"),
        (vec![stopped, linked(2)], "the master n1 lives and does not answer"),
        (
            vec![hung.clone(), linked(2)],
            "the master n1 cannot be reached from here (no answer from 127.0.0.1:7001), and serves n2",
        ),
        (
            vec![hung, linked(2), linked(3)],
            "the master n1 cannot be reached from here (no answer from 127.0.0.1:7001), and serves n2 and n3",
        ),
        (
            vec![dead(1, None), never(2)],
            "the master n1 is lost, and nobody can take its place: n2 (its priority is 0: never promote)",
        ),
        (vec![in_circle(1, 2), replica(2, 1, 5)], "nodes follow each other in a circle: n1 -> n2 -> n1"),
        (vec![master(1, 5), replica(2, 3, 5), replica(3, 2, 5)], "nodes follow each other in a circle: n2 -> n3 -> n2"),
        (
            vec![returned(stranger(9)), replica(2, 1, 5), replica(3, 1, 5)],
            "n1 came back without the group's history (process 9, 0 keys); the group's data is on n2 and n3",
        ),
        (
            vec![returned(stranger(9)), foreign(linked(2)), replica(3, 1, 5)],
            "n1 came back without the group's history (process 9, 0 keys); already follow it: n2; \
             the group's data is on n3",
        ),
        (
            vec![returned(stranger(9)), foreign(linked(2))],
            "n1 came back without the group's history (process 9, 0 keys); already follow it: n2; \
             nobody holds the group's data any more",
        ),
        (
            vec![empty_of_ours, replica(2, 1, 5)],
            "n1 came back without the group's history (process 1, 0 keys); the group's data is on n2",
        ),
        (
            vec![with(foreign(master(1, 0)), |report| report.is_loading = true), linked(2)],
            "the master n1 is loading its data",
        ),
        (vec![master(1, 5), node(2, Some(1), Answer::Loading, Condition::Running)], "loading their data: n2"),
        (vec![master(1, 5), long_down(2)], "far behind, or without a link for long: n2"),
        (vec![behind, linked(2)], "far behind, or without a link for long: n2"),
        (vec![node(1, None, Answer::Loading, Condition::Running), linked(2)], "the master n1 is loading its data"),
        (
            vec![node(1, None, Answer::Error("NOAUTH".to_owned()), Condition::Running), linked(2)],
            "the master n1 answers, but not us: NOAUTH",
        ),
        (vec![master(1, 5), second_master.clone()], "n1 and n2 take writes at the same time"),
        (vec![dead(1, None), second_master], "n2 takes writes in place of n1"),
        (vec![demoted, linked(2)], "n1 is meant to be the master and follows another node"),
        (vec![master(1, 5), astray], "under n1, these follow another node than they are meant to: n2"),
        (vec![master(1, 5), dead(2, Some(1))], "cannot be reached: n2"),
        (vec![master(1, 5), empty], "a first sync never finished: n2"),
        (vec![master(1, 5), replica(2, 1, 5), linked(3)], "without a link to the upstream: n2"),
    ];
    for (nodes, words) in cases {
        let diagnosis = diagnose(&view(nodes));
        assert_eq!(diagnosis.to_string(), words);
        assert_eq!(diagnosis.hint().is_none(), diagnosis.is_healthy(), "{words}");
    }
}

fn kept(history: char, start: u64, end: u64) -> KeptStream {
    KeptStream::Dead { replid: id(history).to_string(), former: None, start, end }
}

#[test]
fn what_a_dead_master_left_is_salvaged_or_the_plan_says_why_not() {
    let with_kept = |mut node: NodeView, kept_stream| {
        node.kept_stream = kept_stream;
        node
    };
    let planned = |kept_stream| plan(vec![with_kept(dead(1, None), kept_stream), replica(2, 1, 60)]).expect("a plan");
    let salvaging = planned(kept('a', 0, 100));
    assert_eq!(steps_of(&salvaging)[0], "salvage what n1 had not sent to n2");
    assert_eq!((salvaging.loss.salvaged_bytes, salvaging.loss.to_string().as_str()), (40, "nothing"));
    assert_eq!(salvaging.not_salvaged, None);

    let too_far = planned(kept('a', 80, 100));
    assert_eq!(too_far.loss.to_string(), "40 bytes of the replication stream (offsets 60 to 100 of aaaaaaaa)");
    let unusable = || KeptStream::Unusable { why: "torn".to_owned() };
    for (kept_stream, reason) in [
        (KeptStream::Nothing, "its engine keeps the backlog in memory"),
        (unusable(), "torn"),
        (kept('b', 0, 100), "its backlog is of another history (bbbbbbbb)"),
    ] {
        let plan = planned(kept_stream);
        assert_eq!(plan.not_salvaged.as_ref().map(NoSalvage::to_string).as_deref(), Some(reason));
        assert_eq!(steps_of(&plan)[0], "promote n2");
        assert!(plan.loss.is_open());
    }

    // A hung one is ended first, and read then.
    let hung = with_kept(node(1, None, Answer::Silent, Condition::Stopped), KeptStream::StillWritten);
    let steps = steps_of(&plan(vec![hung, replica(2, 1, 60)]).expect("a plan"));
    assert_eq!(steps[..3], ["fence n1", "let n2 read to the end of the stream", "salvage what n1 had not sent to n2"]);

    // Who takes writes has a history of its own by now.
    let taken = with(replica(2, 1, 60), |report| report.replication.role = Role::Master);
    let plan = plan(vec![with_kept(dead(1, None), kept('a', 0, 100)), taken]).expect("a plan");
    assert_eq!(plan.not_salvaged, Some(NoSalvage::TakenOver));
}

#[test]
fn what_a_node_left_that_was_about_to_be_the_master_is_salvaged_where_the_old_one_lives_as_a_replica() {
    let mut handed_over = with(replica(1, 2, 100), |report| report.replication.priority = 0);
    handed_over.meant_upstream = None;
    let ended = |end| NodeView { kept_stream: kept('a', 0, end), ..dead(2, Some(1)) };
    let planned = |end| plan(vec![handed_over.clone(), ended(end), replica(3, 1, 60)]).expect("n3 can be promoted");
    let salvaging = planned(100);
    assert_eq!(steps_of(&salvaging)[..2], ["salvage what n2 had not sent to n3", "promote n3"]);
    assert_eq!((salvaging.loss.salvaged_bytes, salvaging.not_salvaged), (40, None));
    // What has nothing that the candidate lacks is left alone.
    let plan = planned(60);
    assert_eq!((steps_of(&plan)[0].as_str(), plan.not_salvaged), ("promote n3", Some(NoSalvage::Alive)));
}

#[test]
fn a_master_that_others_still_hear_from_is_ended_by_force_only() {
    let hears = with(replica(2, 1, 5), |report| upstream_of(report).link = Link::Up);
    let nodes = vec![node(1, None, Answer::Silent, Condition::Running), hears];
    assert!(matches!(plan(nodes.clone()), Err(Refusal::MasterUnreachable { .. })));
    let forced = FailoverPlan::new(&view(nodes), &Policy { force: true, ..Policy::default() }).expect("by force");
    assert_eq!(steps_of(&forced)[0], "fence n1");
}

#[test]
fn a_master_that_came_back_empty_is_replaced_by_who_still_has_the_groups_history() {
    for lost in [NodeView { answer: stranger(9), ..dead(1, None) }, foreign(master(1, 2))] {
        let nodes = vec![lost, foreign(replica(2, 1, 900)), replica(3, 1, 5)];
        let plan = plan(nodes).expect("n3 has it");
        assert_eq!((plan.candidate.as_str(), &plan.lineage), ("n3", &id('a')));
        assert!(matches!(plan.rejected[0].reason, Ineligible::OtherHistory { .. }), "{:?}", plan.rejected);
    }
}

#[test]
fn of_two_masters_the_one_that_a_person_names_by_force_is_kept_and_the_others_writes_written_down() {
    let second = with(replica(2, 1, 120), |report| {
        report.replication.role = Role::Master;
        report.replication.replid = id('b');
        report.replication.former = Some(crate::wire::FormerHistory { replid: id('a'), shared_up_to: 90 });
    });
    let nodes = vec![master(1, 100), second, replica(3, 1, 100)];
    let wanted = |node: &str, force| Policy { wanted: Some(node.to_owned()), force, ..Policy::default() };
    let planned = |node, force| FailoverPlan::new(&view(nodes.clone()), &wanted(node, force));
    assert!(matches!(planned("n2", false), Err(Refusal::TwoMasters { .. })));
    assert!(matches!(planned("n3", true), Err(Refusal::TwoMasters { .. })), "it is none of them");
    for (kept, other, gone) in [("n2", "n1", (id('a'), 90, 100)), ("n1", "n2", (id('b'), 90, 120))] {
        let plan = planned(kept, true).expect("a person has chosen");
        assert_eq!((plan.candidate.as_str(), plan.old_master.as_str()), (kept, other));
        assert_eq!(plan.steps[0], Step::Demote { node: other.to_owned(), to: kept.to_owned() });
        assert!(!plan.steps.iter().any(|step| matches!(step, Step::Fence { .. })), "{:?}", plan.steps);
        let lost = plan.loss.gone().expect("what only the other has");
        assert_eq!((lost.replid, lost.from, lost.to), gone);
    }
}

#[test]
fn how_old_a_candidates_data_is_follows_from_the_last_words_of_its_master() {
    let down = |number, seconds| {
        with(replica(number, 1, 90), |report| upstream_of(report).link = Link::Down { seconds: Some(seconds) })
    };
    let never_up =
        |number| with(replica(number, 1, 90), |report| upstream_of(report).link = Link::Down { seconds: None });
    let quiet = |number, seconds| {
        with(replica(number, 1, 90), |report| {
            (upstream_of(report).link, upstream_of(report).silent_seconds) = (Link::Up, Some(seconds));
        })
    };
    let priority = |node, priority| with(node, |report: &mut NodeReport| report.replication.priority = priority);
    let told = |nodes: Vec<NodeView>, kill_note| {
        let view = GroupView { kill_note, ..view([vec![dead(1, None)], nodes].concat()) };
        FailoverPlan::new(&view, &Policy::default()).expect("n2 can be promoted").loss.age.to_string()
    };
    let killed = |seconds_ago| Some(KillNote { offset: None, seconds_ago });
    assert_eq!(told(vec![down(2, 60)], killed(58)), "2 s old");
    assert_eq!(told(vec![down(2, 60)], killed(60)), "0 s old");
    assert_eq!(told(vec![quiet(2, 3)], killed(0)), "3 s old");
    assert_eq!(told(vec![down(2, 60)], None), "at most 60 s old");
    assert_eq!(told(vec![priority(down(2, 60), 1), down(3, 20)], None), "40 to 60 s old");
    assert_eq!(told(vec![never_up(2)], killed(5)), "of unknown age");
}

#[test]
fn a_candidate_that_was_cut_off_long_before_the_end_and_lacks_something_is_promoted_by_force_only() {
    let cut_off = with(replica(2, 1, 90), |report| upstream_of(report).link = Link::Down { seconds: Some(60) });
    let mut view = view(vec![dead(1, None), cut_off]);
    let planned = |view: &GroupView, policy: Policy| FailoverPlan::new(view, &policy);
    view.kill_note = Some(KillNote { offset: Some(100), seconds_ago: 10 });
    let refused = planned(&view, Policy::default()).expect_err("50 s and 10 bytes are missing").to_string();
    assert_eq!(
        refused,
        "n2 is stale: its data is 50 s old, and it lacks at least 10 bytes of the replication stream \
         (offsets 90 to 100 of aaaaaaaa)"
    );
    planned(&view, Policy { force: true, ..Policy::default() }).expect("by force");
    planned(&view, Policy { max_loss_bytes: Some(10), ..Policy::default() }).expect("that was allowed beforehand");
    view.kill_note = Some(KillNote { offset: Some(90), seconds_ago: 10 });
    planned(&view, Policy::default()).expect("it lacks nothing that anybody knows of");
    view.kill_note = Some(KillNote { offset: Some(100), seconds_ago: 57 });
    planned(&view, Policy::default()).expect("three seconds are a hiccup");
}

/// A small generator, so that a failing group can be made again from its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A random group under a dead or stopped master: chains, dead nodes, first syncs, foreign histories, equal offsets.
fn random_view(dice: &mut Dice) -> GroupView {
    let count = 2 + dice.roll(8) as u16;
    let mut lost = if dice.roll(3) == 0 { node(1, None, Answer::Silent, Condition::Stopped) } else { dead(1, None) };
    lost.kept_stream = match (lost.condition().expect("it is managed"), dice.roll(4)) {
        (_, 0) => KeptStream::Nothing,
        (Condition::Dead, 1) => KeptStream::Unusable { why: "torn".to_owned() },
        (Condition::Dead, _) => kept(['a', 'b'][dice.roll(2) as usize], dice.roll(3) * 10, 30 + dice.roll(4)),
        _ => KeptStream::StillWritten,
    };
    let mut nodes = vec![lost];
    for number in 2..=count {
        let of = 1 + dice.roll(u64::from(number - 1)) as u16;
        let survivor = with(replica(number, of, dice.roll(4) * 10), |report| {
            report.replication.priority = [0, 1, 100, 100][dice.roll(4) as usize];
            report.is_loading = dice.roll(10) == 0;
            if dice.roll(6) == 0 {
                report.replication.replid = id('b');
            }
            let upstream = upstream_of(report);
            upstream.holds_data = dice.roll(5) != 0;
            upstream.link = if dice.roll(2) == 0 { Link::Up } else { Link::Down { seconds: Some(1) } };
        });
        nodes.push(match dice.roll(6) {
            0 => dead(number, Some(of)),
            1 => node(number, Some(of), Answer::Silent, Condition::Running),
            _ => survivor,
        });
    }
    let mut view = view(nodes);
    if dice.roll(2) == 0 {
        view.recorded_replid = None;
    }
    view
}

/// What the model says of a node, written differently from the plan: all that makes it fit to be promoted.
fn is_fit(node: &NodeView, lineage: &ReplicationId) -> bool {
    node.report().is_some_and(|report| {
        let upstream = report.replication.upstream();
        !report.is_loading
            && upstream.is_some_and(|upstream| upstream.holds_data)
            && report.replication.replid == *lineage
            && report.replication.priority != 0
    })
}

/// Carries a plan out on the model: who is a master afterwards, and whom everybody follows.
fn carried_out(view: &GroupView, plan: &FailoverPlan) -> (Vec<String>, BTreeMap<String, String>) {
    let mut living: Vec<String> =
        view.nodes.iter().filter(|node| node.is_alive()).map(|node| node.name.clone()).collect();
    let mut follows: BTreeMap<String, String> =
        view.nodes.iter().filter_map(|node| Some((node.name.clone(), view.followed_by(node)?.name.clone()))).collect();
    let mut masters: Vec<String> = vec![view.meant_master().name.clone()];
    for step in &plan.steps {
        match step {
            Step::Fence { node } => living.retain(|name| name != node),
            Step::Demote { node, to } => {
                masters.retain(|name| name != node);
                follows.insert(node.clone(), to.clone());
            }
            Step::LeaveUnfenced { node } => assert!(!living.contains(node), "one that answers can be demoted"),
            Step::Promote { node } => {
                follows.remove(node);
                masters.push(node.clone());
                let writable: Vec<_> = masters.iter().filter(|master| living.contains(master)).collect();
                assert_eq!(writable, [node], "two masters at one moment");
            }
            Step::Attach { node, to } => drop(follows.insert(node.clone(), to.clone())),
            Step::HandOver { from, to } => {
                assert_eq!(follows.get(to), Some(from), "a master hands over to one that it feeds");
                follows.remove(to);
                follows.insert(from.clone(), to.clone());
                masters = vec![to.clone()];
            }
            Step::Repoint { nodes, to } => {
                assert!(!nodes.contains(&plan.candidate), "the candidate is re-pointed");
                follows.extend(nodes.iter().map(|node| (node.clone(), to.clone())));
            }
            Step::Salvage { node, to } => {
                assert!(!living.contains(node), "the file of a living process");
                assert_eq!((to, masters.contains(to)), (&plan.candidate, false), "a history that goes on elsewhere");
            }
            // A living one takes no write from then on.
            Step::KeepTail { node } => masters.retain(|master| master != node),
            Step::AwaitDrain { .. } | Step::Confirm { .. } | Step::ConfirmLinks { .. } => {}
        }
    }
    masters.retain(|master| living.contains(master));
    (masters, follows)
}

#[test]
fn any_plan_leaves_one_master_of_the_best_data_and_everybody_below_it() {
    let mut planned = 0;
    for seed in 0..20_000 {
        let view = random_view(&mut Dice(seed));
        let Ok(plan) = FailoverPlan::new(&view, &Policy::default()) else { continue };
        planned += 1;
        let candidate = view.node(&plan.candidate).expect("a node of the view");
        assert!(is_fit(candidate, &plan.lineage), "seed {seed}: {} is not fit", plan.candidate);
        let offset = |node: &NodeView| node.report().map_or(0, |report| report.replication.offset);
        let best = view.nodes.iter().filter(|node| is_fit(node, &plan.lineage)).map(offset).max();
        assert_eq!(Some(offset(candidate)), best, "seed {seed}: somebody fit has more");

        let (masters, follows) = carried_out(&view, &plan);
        assert_eq!(masters, std::slice::from_ref(&plan.candidate), "seed {seed}");
        for survivor in view.nodes.iter().filter(|node| node.report().is_some()) {
            let path = std::iter::successors(Some(&survivor.name), |name| follows.get(*name));
            let end = path.take(view.nodes.len() + 1).last();
            assert_eq!(end, Some(&plan.candidate), "seed {seed}: {} does not lead to it", survivor.name);
        }
        let decided = plan.ranked.len() + plan.rejected.len() + 1;
        assert_eq!(decided, view.nodes.len(), "seed {seed}: a node is neither ranked nor rejected");
    }
    assert!(planned > 5_000, "only {planned} groups could be repaired: the model is too bleak to show anything");
}

#[test]
fn a_refusal_means_that_nobody_was_fit() {
    for seed in 0..20_000 {
        let view = random_view(&mut Dice(seed));
        if let Err(Refusal::NoCandidate { rejected }) = FailoverPlan::new(&view, &Policy::default()) {
            assert_eq!(rejected.len() + 1, view.nodes.len(), "seed {seed}");
            for lineage in [id('a'), id('b')] {
                let holders = view.nodes.iter().filter(|node| is_fit(node, &lineage)).count();
                let with_data = view.nodes.iter().filter(|node| replication_with_data(node).is_some()).count();
                match &view.recorded_replid {
                    Some(recorded) if *recorded == lineage => assert_eq!(holders, 0, "seed {seed}"),
                    Some(_) => {}
                    None => assert!(holders * 2 <= with_data, "seed {seed}: {holders} of {with_data} were fit"),
                }
            }
        }
    }
}

/// A replica whose link is up.
pub fn linked(number: u16, of: u16, offset: u64) -> NodeView {
    with(replica(number, of, offset), |report| upstream_of(report).link = Link::Up)
}

fn switchover(nodes: Vec<NodeView>, wanted: Option<&str>, force: bool) -> Result<FailoverPlan, Refusal> {
    let policy = Policy { wanted: wanted.map(str::to_owned), force, ..Policy::default() };
    FailoverPlan::switchover(&view(nodes), &policy)
}

#[test]
fn a_switchover_lets_the_master_hand_over_and_everybody_follow() {
    let plan = switchover(vec![master(1, 90), linked(2, 1, 80), linked(3, 1, 90)], Some("n2"), false);
    let plan = plan.expect("the group is whole");
    let steps = [
        "hand over from n1 to n2",
        "confirm that n2 takes writes",
        "let n3 follow n2",
        "confirm the links of n1 and n3",
    ];
    assert_eq!(steps_of(&plan), steps);
    assert_eq!(plan.loss.bytes_min(), 0);
    assert_eq!(plan.upstreams, [("n1", "n2"), ("n3", "n2")].map(|(a, b)| (a.to_owned(), b.to_owned())).into());
}

#[test]
fn a_switchover_without_a_wish_goes_to_the_lowest_priority_number() {
    let urgent = with(linked(3, 1, 80), |report| report.replication.priority = 10);
    let never = with(linked(4, 1, 90), |report| report.replication.priority = 0);
    let nodes = vec![master(1, 90), linked(2, 1, 90), urgent, never];
    assert_eq!(switchover(nodes.clone(), None, false).expect("it is whole").candidate, "n3");
    assert!(matches!(switchover(nodes.clone(), Some("n4"), true), Err(Refusal::WantedIneligible { .. })));
    assert!(matches!(switchover(nodes.clone(), Some("n1"), false), Err(Refusal::MasterAlive { .. })));
    assert!(matches!(switchover(nodes, Some("n9"), false), Err(Refusal::NoSuchNode(_))));
}

#[test]
fn a_switchover_to_the_end_of_a_chain_attaches_it_to_the_master_first() {
    let nodes = vec![master(1, 90), linked(2, 1, 90), linked(3, 2, 90)];
    let plan = switchover(nodes, Some("n3"), false).expect("it is whole");
    let steps = [
        "let n3 follow n1 directly",
        "hand over from n1 to n3",
        "confirm that n3 takes writes",
        "let n2 follow n3",
        "confirm the links of n1 and n2",
    ];
    assert_eq!(steps_of(&plan), steps);
}

#[test]
fn a_switchover_is_refused_unless_the_group_is_whole() {
    let refused = |nodes: Vec<NodeView>, force| match switchover(nodes, None, force) {
        Err(Refusal::NotWhole { diagnosis }) => Some(diagnosis),
        _ => None,
    };
    let unlinked = vec![master(1, 90), linked(2, 1, 90), replica(3, 1, 90)];
    assert_eq!(refused(unlinked.clone(), false), Some(Diagnosis::LinksDown { nodes: vec!["n3".to_owned()] }));
    let forced = switchover(unlinked, None, true).expect("n3 is left behind by force");
    assert_eq!(forced.candidate, "n2");
    for nodes in [vec![dead(1, None), replica(2, 1, 90)], vec![master(1, 90), with(master(2, 90), |_| ())]] {
        assert!(refused(nodes, true).is_some(), "no force makes a hand-over of that");
    }
}

#[test]
fn any_switchover_leaves_one_master_and_everybody_below_it() {
    for seed in 0..2_000 {
        let mut dice = Dice(seed);
        let count = 2 + dice.roll(8) as u16;
        let mut nodes = vec![master(1, 90)];
        for number in 2..=count {
            nodes.push(linked(number, 1 + dice.roll(u64::from(number - 1)) as u16, 80 + dice.roll(11)));
        }
        let wanted = format!("n{}", 2 + dice.roll(u64::from(count - 1)));
        let view = view(nodes);
        let policy = Policy { wanted: Some(wanted.clone()), force: false, ..Policy::default() };
        let plan = FailoverPlan::switchover(&view, &policy).expect("the group is whole");
        let (masters, follows) = carried_out(&view, &plan);
        assert_eq!((masters, follows), (vec![wanted], plan.upstreams), "seed {seed}");
    }
}
