//! Who answers at an unmanaged node's address, and what a plan does with a master that cannot be killed.

use super::*;
use crate::group::plan::tests::{id, linked, master, view, with};
use crate::group::view::ServerView;
use crate::group::{Diagnosis, FailoverPlan, Policy, Step, diagnose};
use crate::wire::{FormerHistory, Role};

/// The node as one that replctl did not start, with the run id that its report has.
fn unmanaged(mut node: NodeView) -> NodeView {
    node.server = ServerView::Unmanaged { recorded_run_id: Some("run".to_owned()), unfenced: None };
    node
}

fn unfenced(mut node: NodeView, shared_up_to: u64) -> NodeView {
    let noted = Unfenced { replid: id('a').to_string(), shared_up_to };
    node.server = ServerView::Unmanaged { recorded_run_id: Some("run".to_owned()), unfenced: Some(noted) };
    node
}

fn answering(mut node: NodeView, answer: Answer) -> NodeView {
    node.answer = answer;
    node
}

/// Another process than the recorded one, with `keys` keys.
fn restarted(node: NodeView, keys: u64) -> NodeView {
    with(node, |report| (report.run_id, report.keys) = ("another".to_owned(), keys))
}

fn of_history(node: NodeView, replid: char, former: Option<(char, u64)>) -> NodeView {
    with(node, |report| {
        report.replication.replid = id(replid);
        report.replication.former =
            former.map(|(replid, shared_up_to)| FormerHistory { replid: id(replid), shared_up_to });
    })
}

fn meant_below(mut node: NodeView, upstream: &str) -> NodeView {
    node.meant_upstream = Some(upstream.to_owned());
    node
}

fn plan(nodes: Vec<NodeView>, force: bool) -> Result<Vec<String>, String> {
    let mut view = view(nodes);
    mark_strangers(&mut view);
    let plan = FailoverPlan::new(&view, &Policy { force, ..Policy::default() });
    plan.map(|plan| plan.steps.iter().map(Step::to_string).collect()).map_err(|refusal| refusal.to_string())
}

fn diagnosis(nodes: Vec<NodeView>) -> Diagnosis {
    let mut view = view(nodes);
    mark_strangers(&mut view);
    diagnose(&view)
}

fn trio(first: NodeView) -> Vec<NodeView> {
    vec![first, unmanaged(linked(2, 1, 90)), unmanaged(linked(3, 1, 90))]
}

#[test]
fn a_master_that_answers_is_demoted_before_another_takes_over() {
    let nodes = || trio(unmanaged(master(1, 90)));
    assert!(plan(nodes(), false).is_err());
    let steps = plan(nodes(), true).expect("force allows it");
    assert_eq!(
        steps,
        [
            "hold back n1's writes and let it follow n2",
            "promote n2",
            "confirm that n2 takes writes",
            "let n3 follow n2",
            "confirm the links of n1 and n3",
        ]
    );
}

#[test]
fn a_master_that_does_not_answer_is_given_up_by_force_only() {
    for answer in [Answer::NotListening, Answer::Silent] {
        let nodes = || trio(answering(unmanaged(master(1, 90)), answer.clone()));
        let Diagnosis::MasterUnreachable { linked, .. } = diagnosis(nodes()) else { panic!("{answer:?}") };
        assert_eq!(linked, ["n2", "n3"], "who says that it is served is named");
        let refusal = plan(nodes(), false).expect_err("nobody knows whether it is dead");
        assert!(refusal.contains("cannot be fenced") && refusal.contains("n2 and n3 say that it serves"), "{refusal}");
        let steps = plan(nodes(), true).expect("force allows it");
        assert_eq!(steps[0], "leave n1 unfenced, and note that");
        assert!(steps.iter().all(|step| !step.starts_with("fence")), "{steps:?}");
    }
}

#[test]
fn another_server_at_an_address_is_told_from_the_one_that_was_restarted() {
    let replica = || unmanaged(linked(2, 1, 90));
    let answers = |second: NodeView| {
        let mut view = view(vec![unmanaged(master(1, 90)), second]);
        mark_strangers(&mut view)
    };
    let as_master = |node: NodeView| with(node, |report| report.replication.role = Role::Master);
    assert_eq!(answers(restarted(replica(), 5)), [""; 0], "it follows a node of the group");
    assert_eq!(answers(as_master(restarted(of_history(replica(), 'b', None), 0))), [""; 0], "it is empty");
    assert_eq!(answers(as_master(restarted(of_history(replica(), 'b', Some(('a', 80))), 5))), [""; 0], "it was one");
    assert_eq!(answers(as_master(restarted(of_history(replica(), 'b', None), 5))), ["n2"]);
    assert_eq!(answers(as_master(of_history(replica(), 'b', None))), [""; 0], "its run id is known");
}

#[test]
fn a_master_that_came_back_with_less_than_its_replicas_hold_is_replaced() {
    let back = |former| restarted(of_history(unmanaged(master(1, 95)), 'b', former), 5);
    let with_less = Diagnosis::MasterCameBackWithLess { master: "n1".to_owned() };
    assert_eq!(diagnosis(trio(back(Some(('a', 80))))), with_less);
    assert_eq!(diagnosis(trio(restarted(of_history(unmanaged(master(1, 0)), 'b', None), 0))), with_less);
    assert_eq!(diagnosis(trio(back(Some(('a', 90))))), Diagnosis::Healthy, "it has all that they have");
    let steps = plan(trio(back(Some(('a', 80)))), false).expect("its replicas have more");
    assert_eq!(steps[..2], ["hold back n1's writes and let it follow n2", "promote n2"]);
}

#[test]
fn what_came_back_never_counts_as_the_groups_master() {
    let old = || meant_below(unfenced(master(1, 120), 90), "n2");
    let new = |node: NodeView| {
        let mut node = of_history(unmanaged(node), 'b', Some(('a', 90)));
        node.meant_upstream = None;
        node
    };
    let third = || meant_below(of_history(unmanaged(linked(3, 2, 100)), 'b', None), "n2");
    let nodes = || vec![old(), new(master(2, 100)), third()];
    let returned = diagnosis(nodes());
    assert!(matches!(&returned, Diagnosis::UnfencedMaster { nodes, .. } if *nodes == ["n1"]), "{returned:?}");
    let steps = plan(nodes(), false).expect("n1 can be demoted");
    assert_eq!(steps, ["hold back n1's writes and let it follow n2", "confirm the links of n1 and n3"]);

    let lost = answering(new(master(2, 100)), Answer::NotListening);
    let alone = || vec![old(), lost.clone(), third()];
    assert!(matches!(diagnosis(alone()), Diagnosis::MasterUnreachable { .. }), "n1 has not taken n2's place");
    assert!(plan(alone(), false).is_err());
}

#[test]
fn somebodys_data_are_dropped_by_force_only_and_never_along_the_way() {
    let old = || restarted(of_history(meant_below(unfenced(master(1, 120), 90), "n2"), 'd', None), 7);
    let mut new = unmanaged(master(2, 100));
    new.meant_upstream = None;
    let third = meant_below(unmanaged(linked(3, 2, 100)), "n2");
    let nodes = || vec![old(), new.clone(), third.clone()];
    assert!(plan(nodes(), false).expect_err("it may be a stranger").contains("not the group's: n1"));
    plan(nodes(), true).expect("force takes it back");
    let lost = answering(new.clone(), Answer::NotListening);
    let steps = plan(vec![old(), lost, third.clone()], true).expect("n3 takes over");
    assert!(steps.iter().all(|step| !step.contains("n1")), "that was not asked for: {steps:?}");
}

#[test]
fn a_node_on_another_machine_is_never_sent_to_a_loopback_address() {
    let elsewhere = |mut node: NodeView| {
        node.address.host = "10.0.0.7".to_owned();
        node.announced = node.address.clone();
        node
    };
    let followed = |node: NodeView| {
        with(node, |report| match &mut report.replication.role {
            Role::Replica(upstream) => upstream.host = "10.0.0.7".to_owned(),
            Role::Master => {}
        })
    };
    let first = || answering(elsewhere(unmanaged(master(1, 90))), Answer::NotListening);
    let near = || followed(linked(2, 1, 95));
    let far = || elsewhere(followed(unmanaged(linked(3, 1, 90))));
    let steps = plan(vec![first(), near(), far()], true).expect("n3 can be followed by both");
    assert!(steps.contains(&"promote n3".to_owned()) && steps.contains(&"let n2 follow n3".to_owned()), "{steps:?}");
    let refusal = plan(vec![elsewhere(unmanaged(master(1, 90))), near()], true).expect_err("n1 could not follow");
    assert!(refusal.contains("could not be reached by n1"), "{refusal}");
    plan(vec![first(), near()], true).expect("nobody is left behind");
}

#[test]
fn a_promotion_that_broke_off_between_demotion_and_promotion_is_completed() {
    let demoted = meant_below(unmanaged(linked(1, 2, 90)), "n1");
    let demoted = NodeView { meant_upstream: None, ..demoted };
    let nodes = vec![demoted, unmanaged(linked(2, 1, 90)), unmanaged(linked(3, 1, 90))];
    let circle = ["n1".to_owned(), "n2".to_owned()].to_vec();
    assert_eq!(diagnosis(nodes.clone()), Diagnosis::Cycle { nodes: circle, master: None });
    let steps = plan(nodes, false).expect("one of them takes over");
    assert!(steps.iter().any(|step| step.starts_with("promote")), "{steps:?}");
}

#[test]
fn what_an_old_master_has_of_its_own_is_counted_by_the_history_that_is_shared() {
    let own = |node: NodeView| node.report().expect("it has one").replication.clone();
    let new = own(of_history(master(2, 300), 'b', Some(('a', 90))));
    let bytes = |old: NodeView| diverged_bytes(&own(old), &new, None);
    assert_eq!(bytes(master(1, 120)), Some(30), "it went on in the history that the new one left");
    assert_eq!(bytes(master(1, 80)), Some(0));
    assert_eq!(bytes(of_history(master(1, 120), 'c', Some(('a', 80)))), Some(40), "it was restarted at 80");
    assert_eq!(bytes(of_history(master(1, 320), 'b', None)), Some(20));
    assert_eq!(bytes(of_history(master(1, 120), 'c', None)), None);
    let later = own(of_history(master(2, 300), 'd', Some(('b', 200))));
    let noted = Unfenced { replid: id('a').to_string(), shared_up_to: 90 };
    assert_eq!(diverged_bytes(&own(master(1, 120)), &later, Some(&noted)), Some(30), "the note outlives the history");
}

#[test]
fn a_run_id_is_noted_only_of_who_is_the_groups_for_certain() {
    use crate::process::{RunNode, RunState, Server, UnmanagedServer};
    use crate::topology::{Address, Login};
    let recorded = |name: &str, upstream: Option<&str>| RunNode {
        name: name.to_owned(),
        wished_upstream: None,
        upstream: upstream.map(str::to_owned),
        server: Server::Unmanaged(UnmanagedServer {
            address: Address::loopback(1),
            announced: Address::loopback(1),
            login: Login::default(),
            run_id: Some("run".to_owned()),
            unfenced: None,
        }),
    };
    let seen = |second: NodeView| {
        let mut run = RunState::new("g", None, vec![recorded("n1", None), recorded("n2", Some("n1"))]);
        let is_new = recognise(&mut run, &view(vec![unmanaged(master(1, 90)), second]));
        let run_id = run.node("n2").and_then(|node| node.unmanaged()).and_then(|server| server.run_id.clone());
        (is_new, run_id.expect("it was recorded"))
    };
    assert_eq!(seen(unmanaged(linked(2, 1, 90))), (false, "run".to_owned()));
    assert_eq!(seen(restarted(unmanaged(linked(2, 1, 90)), 1)), (true, "another".to_owned()));
    assert_eq!(seen(restarted(meant_below(unmanaged(master(2, 90)), "n1"), 1)), (false, "run".to_owned()));
    let elsewhere = restarted(unmanaged(linked(2, 9, 90)), 1);
    assert_eq!(seen(elsewhere), (false, "run".to_owned()));
}
