//! The tool in the model: the real decisions ([`Failover`], [`HandOver`], [`RepointPlan`], what `up` and `start` refuse), carried
//! out on the model's nodes. One step is what no crash can divide.

use std::collections::BTreeMap;
use std::time::Duration;

use replctl::group::{
    Failover, GroupView, HandOver, HandOverEnd, HandOverOrder, Next, Policy, RepointPlan, Step, StepOutcome, Word,
    refuse_if_unsafe, refuse_older_master,
};

use crate::check;
use crate::node::{HandingOver, Node, Place, Process, Upstream};
use crate::view::{self, address, name, place, view};
use crate::world::{Checked, World};

/// Longer than anything is waited for.
const LATE: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    Promote { wanted: Option<Place>, force: bool },
    Switchover { wanted: Option<Place> },
    Repoint { node: Place, to: Place },
    Start(Place),
    Up,
}

/// A run of the tool, where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tool {
    pub command: Command,
    stage: Stage,
    /// The processes to which it has connections.
    connected: Vec<Option<u8>>,
    /// The processes that it knows by their identity, to signal them.
    known: Vec<Option<u8>>,
    draining: Vec<Place>,
    /// Replicas that were sent to the ghost, and how far that goes.
    haunted: Vec<(Place, usize)>,
    /// Two nodes exchange their roles, and it waits for the end of that.
    is_looking_again: bool,
    /// It serves what this dead node left, up to here.
    pub ghost: Option<(Place, usize)>,
    pub ending: Option<Ending>,
}

/// How a run of the tool ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    Done,
    Refused(String),
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// It has the processes' states and asks one node after the other.
    Looking {
        processes: Vec<Node>,
        answers: Vec<Node>,
        failover: Option<Failover>,
    },
    Working {
        failover: Failover,
        step: Step,
        part: Part,
    },
    Repointing {
        node: Place,
        to: Place,
    },
    Starting {
        left: Vec<Place>,
    },
    /// The new roles go into the nodes' configuration files.
    WritingConfigs,
}

/// Where in a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Beginning,
    Salvaging { from: usize, end: usize },
    Exchanging(HandOver),
    Ordering,
    Remembering,
    Repointing { left: Vec<Place> },
}

impl Tool {
    pub fn new(command: Command, world: &mut World) -> Tool {
        let mut tool = Tool {
            command,
            stage: Stage::WritingConfigs,
            connected: vec![None; world.nodes.len()],
            known: vec![None; world.nodes.len()],
            draining: Vec::new(),
            haunted: Vec::new(),
            is_looking_again: false,
            ghost: None,
            ending: None,
        };
        tool.look(world, None);
        tool
    }

    fn look(&mut self, world: &mut World, failover: Option<Failover>) {
        world.touched.fill(false);
        self.known.clone_from(&world.record.started);
        self.stage = Stage::Looking { processes: world.nodes.clone(), answers: Vec::new(), failover };
    }

    /// Whether it would only ask the same again. `late` ends that.
    pub fn is_polling(&self) -> bool {
        let Stage::Working { part: Part::Exchanging(exchange), .. } = &self.stage else {
            return self.is_looking_again && matches!(self.stage, Stage::Looking { .. });
        };
        matches!(exchange.order(), HandOverOrder::AskNew { is_again: true } | HandOverOrder::AskOld { is_again: true })
    }

    /// Whether it waits for something that has not come and may still.
    pub fn is_waiting(&self, world: &World) -> bool {
        match &self.stage {
            Stage::Working { step: Step::AwaitDrain { nodes }, .. } => {
                nodes.iter().any(|node| self.still_drains(world, place(node)))
            }
            Stage::Working { step: Step::Salvage { to, .. }, part: Part::Salvaging { end, .. }, .. } => {
                self.still_reads(world, place(to), *end)
            }
            Stage::Working { step: Step::Attach { node, to }, .. } => {
                let (node, to) = (place(node), place(to));
                self.reaches(world, node) && self.reaches(world, to) && self.is_attaching(world, node, to)
            }
            Stage::Working { part: Part::Repointing { left }, .. } => {
                left.first().is_some_and(|node| match self.haunted.iter().find(|(haunted, _)| haunted == node) {
                    Some((_, end)) => self.still_reads(world, *node, *end),
                    None => self.draining.contains(node) && self.still_drains(world, *node),
                })
            }
            _ => false,
        }
    }

    fn still_drains(&self, world: &World, node: Place) -> bool {
        self.reaches(world, node) && world.still_reads(node)
    }

    fn still_reads(&self, world: &World, node: Place, end: usize) -> bool {
        let model = &world.nodes[node];
        // Not from a file that somebody has removed meanwhile.
        let is_served = matches!(model.upstream, Some(Upstream::GhostOf(old)) if world.nodes[old].offset() >= end);
        self.reaches(world, node) && model.offset() < end && is_served
    }

    fn is_attaching(&self, world: &World, node: Place, to: Place) -> bool {
        let model = &world.nodes[node];
        model.upstream == Some(Upstream::Node(to)) && !model.is_linked() && world.nodes[to].is_master()
    }

    /// Whether an order would be heard.
    fn reaches(&self, world: &World, node: Place) -> bool {
        let model = &world.nodes[node];
        model.is_running() && self.connected[node] == Some(model.start)
    }

    fn signals(&self, world: &World, node: Place) -> bool {
        self.known[node] == Some(world.nodes[node].start)
    }

    fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
    }

    fn refuse(&mut self, reason: &impl ToString) {
        self.end(Ending::Refused(reason.to_string()));
    }

    fn fail(&mut self, reason: &str) {
        self.end(Ending::Failed(reason.to_owned()));
    }

    fn one_step(&mut self, world: &mut World, late: bool) -> Checked<()> {
        match self.stage.clone() {
            Stage::Looking { processes, mut answers, failover } => {
                let asked = if world.looks_at_once { world.nodes.len() } else { answers.len() + 1 };
                let seen = world.nodes.clone();
                for place in answers.len()..asked {
                    let node = seen[place].clone();
                    let is_heard =
                        node.is_running() && !node.is_loading && processes[place].process != Process::Stopped;
                    self.connected[place] = (is_heard && self.known[place] == Some(node.start)).then_some(node.start);
                    answers.push(node);
                    if is_heard {
                        // By the next question it has read what lay in its sockets at this one.
                        world.take_request(place);
                    }
                }
                if answers.len() < world.nodes.len() {
                    self.stage = Stage::Looking { processes, answers, failover };
                    return Ok(());
                }
                let seen = view(&world.record, &processes, &answers);
                let is_promotion = matches!(self.command, Command::Promote { .. }) || failover.is_some();
                if is_promotion && !late && seen.exchanging().is_some() {
                    self.look(world, failover);
                    self.is_looking_again = true;
                    return Ok(());
                }
                self.decide(world, &seen, failover)
            }
            Stage::Working { failover, step, part } => self.work(world, failover, &step, part, late),
            Stage::Repointing { node, to } => {
                if !self.reaches(world, node) || !world.follow(node, Upstream::Node(to)) {
                    self.fail("the replica does not answer");
                    return Ok(());
                }
                world.record.upstreams[node] = Some(to);
                world.nodes[node].config = Some(to);
                self.end(Ending::Done);
                Ok(())
            }
            Stage::Starting { mut left } => {
                match left.pop() {
                    Some(node) => {
                        // A port that somebody else holds is refused, or chosen anew.
                        if !world.nodes[node].is_alive() {
                            world.start(node, world.record.upstreams[node]);
                            world.record.started[node] = Some(world.nodes[node].start);
                        }
                        self.stage = Stage::Starting { left };
                    }
                    None => {
                        let master = &world.nodes[world.record.master()];
                        if master.is_running() && master.is_master() {
                            world.record.replid = Some(master.replid);
                        }
                        self.end(Ending::Done);
                    }
                }
                Ok(())
            }
            Stage::WritingConfigs => {
                for place in world.places() {
                    world.nodes[place].config = world.record.upstreams[place];
                }
                self.end(Ending::Done);
                Ok(())
            }
        }
    }

    fn decide(&mut self, world: &mut World, seen: &GroupView, failover: Option<Failover>) -> Checked<()> {
        if let Some(mut failover) = failover {
            match failover.replan(seen) {
                Ok(next) => return self.go_on(world, failover, next),
                Err(refusal) => self.refuse(&refusal),
            }
            return Ok(());
        }
        let policy = |wanted: Option<Place>, force| Policy {
            wanted: wanted.map(name),
            force,
            max_loss_bytes: None,
            keeps_salvaged: false,
            finishes: None,
        };
        let failover = match self.command {
            Command::Promote { wanted, force } => Failover::promote(seen, &policy(wanted, force)),
            Command::Switchover { wanted } => Failover::switchover(seen, &policy(wanted, false)),
            Command::Repoint { node, to } => {
                match RepointPlan::new(seen, &name(node), &name(to), false) {
                    Ok(_) => self.stage = Stage::Repointing { node, to },
                    Err(refusal) => self.refuse(&refusal),
                }
                return Ok(());
            }
            Command::Start(node) => {
                match refuse_older_master(seen, &[name(node)], false) {
                    Ok(()) => {
                        take_roles(world, seen);
                        self.stage = Stage::Starting { left: self.dead(seen, &[node]) };
                    }
                    Err(refusal) => self.refuse(&refusal),
                }
                return Ok(());
            }
            Command::Up => {
                match refuse_if_unsafe(seen) {
                    Ok(()) => {
                        take_roles(world, seen);
                        self.stage = Stage::Starting { left: self.dead(seen, &world.places().collect::<Vec<_>>()) };
                    }
                    Err(refusal) => self.refuse(&refusal),
                }
                return Ok(());
            }
        };
        match failover {
            Ok(failover) => {
                let next = failover.first();
                self.go_on(world, failover, next)
            }
            Err(refusal) => {
                self.refuse(&refusal);
                Ok(())
            }
        }
    }

    fn dead(&self, seen: &GroupView, of: &[Place]) -> Vec<Place> {
        of.iter().copied().filter(|node| !seen.nodes[*node].is_alive()).collect()
    }

    fn go_on(&mut self, world: &mut World, failover: Failover, next: Next) -> Checked<()> {
        check::plan(failover.plan())?;
        match next {
            Next::Step(step) => self.stage = Stage::Working { failover, step, part: Part::Beginning },
            Next::Observe => self.look(world, Some(failover)),
            Next::Finish => self.stage = Stage::WritingConfigs,
            Next::Fail { reason, .. } => self.fail(&reason),
        }
        Ok(())
    }

    fn step_done(&mut self, world: &mut World, mut failover: Failover, outcome: StepOutcome) -> Checked<()> {
        let next = failover.next(outcome);
        self.go_on(world, failover, next)
    }

    fn work(&mut self, world: &mut World, failover: Failover, step: &Step, part: Part, late: bool) -> Checked<()> {
        let again = |part: Part| Stage::Working { failover: failover.clone(), step: step.clone(), part };
        match (step, part) {
            (Step::Fence { node }, _) => {
                self.kill(world, place(node));
                self.step_done(world, failover, StepOutcome::Done)
            }
            (Step::AwaitDrain { nodes }, _) => {
                self.draining = nodes.iter().map(|node| place(node)).collect();
                let is_through = |node: &Place| self.reaches(world, *node) && !world.still_reads(*node);
                let ranked = failover.plan().ranked.iter().map(|one| place(&one.node));
                let through = ranked.filter(|node| self.draining.contains(node)).filter(is_through);
                let offsets: BTreeMap<String, u64> =
                    through.map(|node| (name(node), world.nodes[node].offset() as u64)).collect();
                self.step_done(world, failover, StepOutcome::Drained(offsets))
            }
            (Step::Salvage { node, to }, Part::Beginning) => {
                let (old, candidate) = (place(node), place(to));
                if !self.reaches(world, candidate) {
                    self.fail("the candidate does not answer");
                    return Ok(());
                }
                let (from, dead) = (world.nodes[candidate].offset(), &world.nodes[old]);
                let is_readable = !dead.is_alive() && dead.keeps_data && dead.has_data;
                let own = world.nodes[candidate].replid;
                let is_same =
                    dead.replid == own || dead.former.is_some_and(|(replid, shared)| replid == own && from <= shared);
                let continues = is_same && (dead.backlog_start..=dead.offset()).contains(&from);
                let end = dead.offset();
                if !is_readable || !continues {
                    let master_end = (is_readable && is_same).then_some(end as u64);
                    let outcome = StepOutcome::Salvaged { candidate_offset: from as u64, master_end, bytes: None };
                    return self.step_done(world, failover, outcome);
                }
                if from < end {
                    self.ghost = Some((old, end));
                    self.haunt(world, candidate, old);
                }
                self.stage = again(Part::Salvaging { from, end });
                Ok(())
            }
            (Step::Salvage { node, to }, Part::Salvaging { from, end }) => {
                let (old, candidate) = (place(node), place(to));
                let is_there = self.reaches(world, candidate) && world.nodes[candidate].offset() >= end;
                if is_there && from < end {
                    for below in world.places() {
                        let is_told = failover.plan().repoints_to_candidate(&name(below));
                        let model = &world.nodes[below];
                        let is_of = view::id(model.replid) == failover.plan().lineage;
                        let lacks = !model.is_master() && model.has_data && is_of;
                        if is_told && lacks && model.offset() < end && self.reaches(world, below) {
                            self.haunt(world, below, old);
                            self.haunted.push((below, end));
                        }
                    }
                }
                // One that stands still is not waited for for ever: what that costs is told.
                world.is_lossy |= !is_there;
                let outcome = StepOutcome::Salvaged {
                    candidate_offset: from as u64,
                    master_end: Some(end as u64),
                    bytes: is_there.then_some((end - from) as u64),
                };
                self.step_done(world, failover, outcome)
            }
            (Step::Attach { node, to }, Part::Beginning) => {
                if self.reaches(world, place(node)) && world.follow(place(node), Upstream::Node(place(to))) {
                    self.stage = again(Part::Remembering);
                } else {
                    self.fail("the candidate cannot be told to follow the master");
                }
                Ok(())
            }
            (Step::Attach { node, to }, _) => {
                if !self.reaches(world, place(node)) || !world.nodes[place(node)].is_linked_to(place(to)) {
                    self.fail("the candidate has no link to the master");
                    return Ok(());
                }
                self.step_done(world, failover, StepOutcome::Done)
            }
            (Step::HandOver { to, .. }, Part::Beginning) => {
                intend(world, &failover);
                self.stage = again(Part::Exchanging(HandOver::new(Duration::from_secs(5), address(place(to)))));
                Ok(())
            }
            (Step::HandOver { from, to }, Part::Exchanging(exchange)) => {
                let (old, new) = (place(from), place(to));
                if let HandOverOrder::Over(end) = exchange.order() {
                    check::handed_over(world, old, new, &end)?;
                    match end {
                        HandOverEnd::TakenOver => {
                            if self.reaches(world, new) {
                                world.nodes[new].is_paused = false;
                            }
                            if world.nodes[new].is_running() && world.nodes[new].is_master() {
                                world.promise(new);
                            }
                            return self.step_done(world, failover, StepOutcome::Done);
                        }
                        HandOverEnd::Restored(reason) => {
                            world.record.promoting = None;
                            self.fail(&reason);
                            return Ok(());
                        }
                        HandOverEnd::Unsettled(_) => {
                            return self.step_done(world, failover, StepOutcome::Unsettled);
                        }
                    }
                }
                if matches!(exchange.order(), HandOverOrder::Exchange { .. }) {
                    check::handing_over(world, old, new)?;
                }
                let word = self.obey(world, &exchange.order(), old, new);
                let now = if late { LATE } else { Duration::ZERO };
                self.stage = again(Part::Exchanging(exchange.next(word, now)));
                Ok(())
            }
            (Step::Promote { .. }, Part::Beginning) => {
                intend(world, &failover);
                self.stage = again(Part::Ordering);
                Ok(())
            }
            (Step::Promote { node }, _) => {
                let candidate = place(node);
                if !self.reaches(world, candidate) {
                    self.fail("the candidate does not answer");
                    return Ok(());
                }
                if !failover.fits(&view::replication(&world.nodes[candidate])) {
                    world.record.promoting = None;
                    return self.step_done(world, failover, StepOutcome::Misfit);
                }
                check::promoted(world, failover.plan(), candidate, self.command)?;
                world.give_up(&failover, candidate);
                if !world.nodes[candidate].is_master() {
                    world.become_master(candidate);
                }
                world.nodes[candidate].is_paused = false;
                world.promise(candidate);
                self.step_done(world, failover, StepOutcome::Done)
            }
            (Step::Confirm { node }, Part::Beginning) => {
                if self.reaches(world, place(node)) && world.nodes[place(node)].is_master() {
                    self.stage = again(Part::Remembering);
                } else {
                    self.fail("the candidate is no master");
                }
                Ok(())
            }
            (Step::Confirm { node }, _) => {
                let master = place(node);
                world.record.upstreams[master] = None;
                for (below, above) in &failover.plan().upstreams {
                    world.record.upstreams[place(below)] = Some(place(above));
                }
                world.record.replid = Some(world.nodes[master].replid);
                world.record.promoting = None;
                self.step_done(world, failover, StepOutcome::Done)
            }
            (Step::Repoint { nodes, .. }, Part::Beginning) => {
                self.stage = again(Part::Repointing { left: nodes.iter().map(|node| place(node)).collect() });
                Ok(())
            }
            (Step::Repoint { to, .. }, Part::Repointing { mut left }) => {
                if left.is_empty() {
                    return self.step_done(world, failover, StepOutcome::Done);
                }
                let node = left.remove(0);
                if self.reaches(world, node) {
                    world.nodes[node].handing_over = None;
                    world.follow(node, Upstream::Node(place(to)));
                }
                self.stage = again(Part::Repointing { left });
                Ok(())
            }
            (Step::Demote { node, to }, _) => {
                if self.reaches(world, place(node)) {
                    world.follow(place(node), Upstream::Node(place(to)));
                }
                self.step_done(world, failover, StepOutcome::Done)
            }
            // Who is not there in time is only told of.
            (Step::ConfirmLinks { .. } | Step::KeepTail { .. } | Step::LeaveUnfenced { .. }, _) => {
                self.step_done(world, failover, StepOutcome::Done)
            }
            (step, part) => unreachable!("{part:?} is no part of {step}"),
        }
    }

    /// A replica takes the rest of the dead master's stream from a ghost of it.
    fn haunt(&self, world: &mut World, node: Place, old: Place) {
        let is_served = world.nodes[node].can_resume(&world.nodes[old]);
        if world.follow(node, Upstream::GhostOf(old)) && is_served {
            world.resume(node, old);
        }
    }

    fn kill(&self, world: &mut World, node: Place) {
        if self.signals(world, node) && world.nodes[node].is_alive() {
            world.kill(node);
        }
    }

    fn obey(&self, world: &mut World, order: &HandOverOrder, old: Place, new: Place) -> Word {
        let failed = |done: bool| if done { Word::Done } else { Word::Failed("no".to_owned()) };
        match order {
            HandOverOrder::AskNew { .. } => self.ask(world, new),
            HandOverOrder::AskOld { .. } => self.ask(world, old),
            _ if !self.reaches(world, old) => Word::Failed("no answer".to_owned()),
            HandOverOrder::Pause => {
                world.nodes[old].is_paused = true;
                Word::Done
            }
            HandOverOrder::Unpause => {
                world.nodes[old].is_paused = false;
                Word::Done
            }
            HandOverOrder::Exchange { .. } => {
                let is_possible = world.nodes[old].is_master()
                    && world.nodes[old].handing_over.is_none()
                    && world.nodes[new].is_linked_to(old);
                if is_possible {
                    world.nodes[old].handing_over = Some(HandingOver::Waiting(new));
                }
                failed(is_possible)
            }
            HandOverOrder::FollowNew => failed(world.follow(old, Upstream::Node(new))),
            HandOverOrder::Over(_) => unreachable!("nothing is ordered when all is over"),
        }
    }

    /// A node's answer; what lay in its sockets before the question, it has read by then or does at once.
    fn ask(&self, world: &mut World, node: Place) -> Word {
        if !self.reaches(world, node) {
            return Word::Failed("no answer".to_owned());
        }
        let state = view::replication(&world.nodes[node]);
        world.take_request(node);
        Word::State(Box::new(state))
    }
}

/// The order that nothing takes back comes next.
fn intend(world: &mut World, failover: &Failover) {
    let plan = failover.plan();
    let above = |node: Place| plan.upstreams.get(&name(node)).map(|above| place(above));
    let candidate = place(&plan.candidate);
    let node = &world.nodes[candidate];
    let before = (!node.is_master()).then_some(node.replid);
    world.record.promoting = Some((candidate, world.places().map(above).collect(), before));
}

/// Roles as they are meant by now.
fn take_roles(world: &mut World, seen: &GroupView) {
    let meant = |node: Place| seen.nodes[node].meant_upstream.as_ref().map(|above| place(above));
    let meant: Vec<Option<Place>> = world.places().map(meant).collect();
    if world.record.upstreams != meant {
        world.record.upstreams = meant;
        world.record.promoting = None;
    }
}

impl World {
    /// The tool goes one step on.
    pub fn tool_step(&mut self, late: bool) -> Checked<()> {
        let Some(mut tool) = self.tool.take() else { return Ok(()) };
        tool.one_step(self, late)?;
        match tool.ending {
            Some(_) => {
                let ending = check::ended(self, &tool);
                self.last = tool.ending;
                self.end_tool();
                ending
            }
            None => {
                self.tool = Some(tool);
                Ok(())
            }
        }
    }

    /// Beside a master that there is already, what only the old one has is lost: no more than is told.
    fn give_up(&mut self, failover: &Failover, master: Place) {
        let old = place(&failover.plan().old_master);
        let is_replaced = old != master && self.nodes[master].is_master();
        let Some(gone) = failover.loss().gone().filter(|_| is_replaced) else { return };
        let told = self.nodes[old].data.get(gone.from as usize..gone.to as usize).unwrap_or_default();
        self.acknowledged.retain(|write| !told.contains(write));
    }

    /// What the node has that was made the master is to stay.
    pub fn promise(&mut self, node: Place) {
        let data = &self.nodes[node].data;
        self.promised = Some((node, data.iter().copied().filter(|write| self.acknowledged.contains(write)).collect()));
    }
}
