//! The decision on hand-made groups, and on random days against what must never happen.

use super::*;
use crate::group::plan::tests::{Dice, dead, master, node, replica, upstream_of, view, with};
use crate::group::{Answer, ServerView};

const DEADLINE: Duration = Duration::from_secs(1);
const TICK: u64 = 50;

fn settings() -> GuardSettings {
    GuardSettings {
        master: Some("n1".to_owned()),
        deadline: DEADLINE,
        restarts: false,
        max_loss_bytes: None,
        is_in_maintenance: false,
        acknowledgements: 0,
    }
}

fn linked(number: u16) -> NodeView {
    with(replica(number, 1, 5), |report| upstream_of(report).link = Link::Up)
}

fn whole() -> GroupView {
    view(vec![master(1, 5), linked(2), linked(3)])
}

fn lost() -> GroupView {
    view(vec![dead(1, None), replica(2, 1, 5), replica(3, 1, 5)])
}

/// The master is stopped; its sockets are as they were.
fn stopped() -> GroupView {
    view(vec![node(1, None, Answer::Silent, Condition::Stopped), linked(2), linked(3)])
}

/// A guard, the time, and what its looks show.
struct Bench {
    guard: Guard,
    now_ms: u64,
    view: GroupView,
}

impl Bench {
    fn new(settings: GuardSettings) -> Self {
        let now_ms = 1_000_000;
        Self { guard: Guard::new(settings, Duration::from_millis(now_ms), Vec::new()), now_ms, view: whole() }
    }

    fn step(&mut self, event: GuardEvent) -> Vec<GuardOrder> {
        let orders;
        (self.guard, orders) = self.guard.clone().step(Duration::from_millis(self.now_ms), event);
        orders
    }

    /// What comes of it, looks apart: they are had at once.
    fn tell(&mut self, event: GuardEvent) -> Vec<GuardOrder> {
        let mut orders = self.step(event);
        if orders.pop_if(|last| *last == GuardOrder::Look).is_some() {
            let seen = GuardEvent::Seen(Box::new(self.view.clone()));
            orders.extend(self.step(seen));
        }
        orders
    }

    /// Time passes, the guard runs, and the group is like this.
    fn pass(&mut self, ms: u64, view: &GroupView) -> Vec<GuardOrder> {
        self.view = view.clone();
        let mut orders = Vec::new();
        for _ in 0..ms / TICK {
            self.now_ms += TICK;
            orders.extend(self.tell(GuardEvent::Tick));
        }
        orders
    }

    fn end_of(&mut self, node: &str) -> Vec<GuardOrder> {
        self.view = lost();
        self.tell(GuardEvent::Ended { node: node.to_owned() })
    }

    /// The master dies, and is replaced if the guard wants that.
    fn fails_over(&mut self) -> Vec<GuardVerdict> {
        let orders = self.end_of("n1");
        if orders.iter().any(|order| matches!(order, GuardOrder::Promote(_))) {
            self.view = whole();
            self.tell(GuardEvent::Done(GuardDone::Done));
        }
        verdicts(&orders)
    }
}

fn verdicts(orders: &[GuardOrder]) -> Vec<GuardVerdict> {
    orders
        .iter()
        .filter_map(|order| match order {
            GuardOrder::Look => None,
            GuardOrder::Promote(note) | GuardOrder::Start(_, note) | GuardOrder::Note(note) => Some(note.verdict),
        })
        .collect()
}

#[test]
fn a_master_whose_process_has_ended_is_replaced_at_once() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.pass(10 * TICK, &whole()), []);
    let orders = bench.end_of("n1");
    assert_eq!(verdicts(&orders), [GuardVerdict::Replaces]);
    let [GuardOrder::Promote(note)] = orders.as_slice() else { panic!("{orders:?}") };
    assert_eq!(note.reason, "n1 is dead");
    assert_eq!(note.evidence[0].saw, "n1: its process has ended");
    assert_eq!(bench.pass(60_000, &lost()), [], "one at a time");
    bench.tell(GuardEvent::Done(GuardDone::Done));
    assert_eq!(bench.end_of("n3"), [], "a replica is no master");
}

#[test]
fn silence_counts_from_the_first_question_without_an_answer_and_only_up_to_the_next_one() {
    let mut bench = Bench::new(settings());
    for _ in 0..50 {
        bench.tell(GuardEvent::Asked);
        assert_eq!(bench.pass(800, &stopped()), [], "a stop of 800 ms");
        bench.tell(GuardEvent::Answered { is_master: true });
        assert_eq!(bench.pass(100, &whole()), []);
    }
    bench.tell(GuardEvent::Asked);
    assert_eq!(bench.pass(950, &stopped()), []);
    let orders = bench.pass(100, &stopped());
    assert_eq!(verdicts(&orders), [GuardVerdict::Replaces]);
    let [GuardOrder::Promote(note)] = orders.as_slice() else { panic!("{orders:?}") };
    let words: Vec<String> = note.evidence.iter().map(|one| format!("{}: {}", one.by, one.saw)).collect();
    assert!(words.contains(&"guard: n1: its process is stopped".to_owned()), "{words:?}");
    assert!(words.iter().any(|one| one.starts_with("n2: its link to 127.0.0.1:7001 is up")), "{words:?}");
}

#[test]
fn a_guard_that_did_not_run_blames_nobody() {
    let mut bench = Bench::new(settings());
    bench.tell(GuardEvent::Asked);
    for _ in 0..5 {
        // It is stopped for a minute with a question open, and sees the master stopped in the moment it wakes up.
        bench.now_ms += 60_000;
        assert_eq!(bench.pass(TICK, &stopped()), []);
    }
    bench.tell(GuardEvent::Answered { is_master: true });
    assert_eq!(bench.pass(5_000, &whole()), []);
}

#[test]
fn a_replica_that_hears_the_master_is_believed() {
    let hears = |number| with(linked(number), |report| upstream_of(report).silent_seconds = Some(1));
    let silent = view(vec![node(1, None, Answer::Silent, Condition::Running), hears(2), hears(3)]);
    let mut bench = Bench::new(settings());
    bench.tell(GuardEvent::Asked);
    let orders = bench.pass(30_000, &silent);
    assert_eq!(verdicts(&orders), [GuardVerdict::Refuses], "said once, and nothing done: {orders:?}");
}

#[test]
fn a_master_that_cannot_be_fenced_is_not_replaced_and_that_is_said_once() {
    let mut nodes = vec![node(1, None, Answer::Silent, Condition::Dead), replica(2, 1, 5), replica(3, 1, 5)];
    nodes[0].server = ServerView::Unmanaged { recorded_run_id: None, unfenced: None };
    let unreachable = view(nodes);
    let mut bench = Bench::new(settings());
    bench.tell(GuardEvent::Asked);
    bench.tell(GuardEvent::Broken { why: "the connection was closed".to_owned() });
    let orders = bench.pass(600_000, &unreachable);
    let [GuardOrder::Note(note)] = orders.as_slice() else { panic!("{orders:?}") };
    assert_eq!(note.verdict, GuardVerdict::Refuses);
    assert!(note.reason.contains("cannot be fenced"), "{}", note.reason);
    assert_eq!(note.evidence[0].saw, "the connection was closed");
    bench.tell(GuardEvent::Answered { is_master: true });
    bench.pass(10 * TICK * 10, &whole());
    bench.tell(GuardEvent::Asked);
    assert_eq!(verdicts(&bench.pass(5_000, &unreachable)), [GuardVerdict::Refuses], "the next time it is news again");
}

#[test]
fn a_fourth_failover_waits_for_an_acknowledgement_or_for_the_first_one_to_be_long_ago() {
    let mut bench = Bench::new(settings());
    for _ in 0..3 {
        assert_eq!(bench.fails_over(), [GuardVerdict::Replaces]);
        bench.pass(60_000, &whole());
    }
    assert_eq!(bench.fails_over(), [GuardVerdict::HoldsBack]);
    assert_eq!(bench.pass(60_000, &lost()), [], "and is not said again");
    let acknowledged = GuardSettings { acknowledgements: 1, ..settings() };
    assert_eq!(verdicts(&bench.tell(GuardEvent::Group(acknowledged))), [GuardVerdict::Replaces]);

    let mut bench = Bench::new(settings());
    for _ in 0..3 {
        bench.fails_over();
    }
    assert_eq!(bench.fails_over(), [GuardVerdict::HoldsBack]);
    let orders = bench.pass(590_000, &lost());
    assert_eq!(orders, []);
    assert_eq!(verdicts(&bench.pass(20_000, &lost())), [GuardVerdict::Replaces]);
}

#[test]
fn a_death_that_is_told_again_is_no_new_one() {
    let mut bench = Bench::new(settings());
    assert_eq!(verdicts(&bench.end_of("n1")), [GuardVerdict::Replaces]);
    let down = view(vec![dead(1, None), dead(2, Some(1)), dead(3, Some(1))]);
    bench.view = down.clone();
    let refused = GuardDone::Refused(Box::new(Refusal::Down));
    assert_eq!(verdicts(&bench.tell(GuardEvent::Done(refused))), [GuardVerdict::Refuses]);
    for _ in 0..10 {
        bench.tell(GuardEvent::Group(settings()));
        assert_eq!(bench.tell(GuardEvent::Ended { node: "n1".to_owned() }), []);
        assert_eq!(bench.pass(10_000, &down), []);
    }
}

#[test]
fn in_maintenance_nothing_is_done_and_afterwards_what_was_due() {
    let mut bench = Bench::new(GuardSettings { is_in_maintenance: true, restarts: true, ..settings() });
    let orders = bench.end_of("n1");
    assert_eq!(verdicts(&orders), [GuardVerdict::Refuses]);
    assert_eq!(bench.pass(60_000, &lost()), []);
    let over = GuardEvent::Group(GuardSettings { restarts: true, ..settings() });
    assert_eq!(verdicts(&bench.tell(over)), [GuardVerdict::Replaces]);
}

#[test]
fn a_master_that_was_ended_on_purpose_is_not_replaced() {
    let mut bench = Bench::new(settings());
    bench.tell(GuardEvent::Group(GuardSettings { master: None, ..settings() }));
    assert_eq!(bench.end_of("n1"), []);
    assert_eq!(bench.pass(60_000, &lost()), []);
}

#[test]
fn what_has_died_is_started_again_if_that_is_wished_and_ever_more_slowly() {
    let one_is_gone = view(vec![master(1, 5), linked(2), dead(3, Some(1))]);
    assert_eq!(Bench::new(settings()).pass(60_000, &one_is_gone), []);
    let mut bench = Bench::new(GuardSettings { restarts: true, ..settings() });
    let mut starts = 0;
    for _ in 0..600 {
        for order in bench.pass(1_000, &one_is_gone) {
            let GuardOrder::Start(nodes, _) = order else { panic!("{order:?}") };
            assert_eq!(nodes, ["n3"]);
            starts += 1;
            bench.tell(GuardEvent::Done(GuardDone::Failed("no".to_owned())));
        }
    }
    assert!((10..20).contains(&starts), "{starts} starts in ten minutes");
}

#[test]
fn what_fails_is_tried_again_ever_more_slowly() {
    let mut bench = Bench::new(settings());
    let mut tries = 0;
    for _ in 0..600 {
        for order in bench.pass(100, &lost()) {
            assert!(matches!(order, GuardOrder::Promote(_)), "{order:?}");
            tries += 1;
            let orders = bench.tell(GuardEvent::Done(GuardDone::Failed("no link".to_owned())));
            assert_eq!(verdicts(&orders), [GuardVerdict::Fails]);
        }
    }
    assert!((8..16).contains(&tries), "{tries} tries in a minute");
}

#[test]
fn a_stray_is_repaired_when_it_has_been_one_for_the_deadline() {
    let mut nodes = vec![master(1, 5), linked(2), with(replica(3, 2, 5), |report| upstream_of(report).link = Link::Up)];
    nodes[2].meant_upstream = Some("n1".to_owned());
    let strayed = view(nodes);
    let mut bench = Bench::new(settings());
    assert_eq!(bench.pass(900, &strayed), []);
    assert_eq!(verdicts(&bench.pass(1_100, &strayed)), [GuardVerdict::Repairs]);
}

/// What the world of a random day does between two ticks of the guard.
struct Day {
    dice: Dice,
    /// For how long the master has been stopped, and will be.
    stopped_ms: u64,
    until_ms: u64,
}

#[test]
fn on_no_day_of_stops_and_stalls_a_master_is_replaced_that_was_never_silent_for_the_deadline() {
    for seed in 0..60 {
        let mut bench = Bench::new(settings());
        let mut day = Day { dice: Dice(seed), stopped_ms: 0, until_ms: 0 };
        for _ in 0..400 {
            // The guard may be stopped or starved, the master stopped for up to 800 ms, and both at once.
            let gap = if day.dice.roll(10) == 0 { day.dice.roll(1_500) } else { TICK };
            bench.now_ms += gap;
            if day.until_ms == 0 && day.dice.roll(8) == 0 {
                day.until_ms = day.dice.roll(800) + 1;
            }
            day.stopped_ms += if day.until_ms > 0 { gap } else { 0 };
            let is_stopped = day.until_ms > 0 && day.stopped_ms < day.until_ms;
            bench.view = if is_stopped { stopped() } else { whole() };
            assert_eq!(bench.tell(GuardEvent::Tick), [], "seed {seed}");
            if !is_stopped {
                (day.stopped_ms, day.until_ms) = (0, 0);
                assert_eq!(bench.tell(GuardEvent::Answered { is_master: true }), [], "seed {seed}");
            }
            assert_eq!(bench.tell(GuardEvent::Asked), [], "seed {seed}");
        }
    }
}

#[test]
fn on_no_day_two_orders_are_under_way_or_too_many_masters_replaced_or_anything_done_in_maintenance() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut bench = Bench::new(GuardSettings { restarts: dice.roll(2) == 0, ..settings() });
        let mut wished = bench.guard.settings.clone();
        let (mut looks, mut acts) = (false, false);
        let mut replaced: Vec<u64> = Vec::new();
        for _ in 0..300 {
            bench.now_ms += dice.roll(20_000);
            let event = match dice.roll(9) {
                0 => GuardEvent::Asked,
                1 => GuardEvent::Answered { is_master: dice.roll(2) == 0 },
                2 => GuardEvent::Broken { why: "closed".to_owned() },
                3 | 4 => GuardEvent::Ended { node: format!("n{}", dice.roll(2) + 1) },
                5 => {
                    wished.is_in_maintenance = dice.roll(4) == 0;
                    if dice.roll(10) == 0 {
                        wished.acknowledgements += 1;
                        replaced.clear();
                    }
                    looks = false;
                    GuardEvent::Group(wished.clone())
                }
                6 if looks => {
                    looks = false;
                    let views = [whole(), lost(), stopped()];
                    GuardEvent::Seen(Box::new(views[usize::try_from(dice.roll(3)).expect("there are three")].clone()))
                }
                7 | 8 if acts => {
                    acts = false;
                    match dice.roll(3) {
                        0 => GuardEvent::Done(GuardDone::Moot),
                        1 => GuardEvent::Done(GuardDone::Failed("no".to_owned())),
                        _ => GuardEvent::Done(GuardDone::Done),
                    }
                }
                _ => GuardEvent::Tick,
            };
            let is_done = matches!(event, GuardEvent::Done(GuardDone::Done));
            let was_replacing = bench.guard.work == Work::Acting { replaces: true };
            let orders = bench.step(event);
            if is_done && was_replacing {
                replaced.push(bench.now_ms);
            }
            for order in &orders {
                match order {
                    GuardOrder::Look => {
                        assert!(!looks && !acts, "seed {seed}");
                        looks = true;
                    }
                    GuardOrder::Promote(note) => {
                        assert!(!acts && !wished.is_in_maintenance, "seed {seed}");
                        let recent = replaced.iter().filter(|at| bench.now_ms - **at < 600_000).count();
                        assert!(note.verdict != GuardVerdict::Replaces || recent < FAILOVERS_MAX, "seed {seed}");
                        (looks, acts) = (false, true);
                    }
                    GuardOrder::Start(..) => {
                        assert!(!acts && !wished.is_in_maintenance && wished.restarts, "seed {seed}");
                        acts = true;
                    }
                    GuardOrder::Note(_) => {}
                }
            }
        }
    }
}
