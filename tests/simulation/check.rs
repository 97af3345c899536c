//! What must hold at every moment, when the tool decides or orders something, and when all is quiet.

use replctl::group::{Diagnosis, FailoverPlan, HandOverEnd, Step, diagnose};

use crate::node::{Place, Upstream};
use crate::tool::{Command, Ending, Tool};
use crate::view::{id, name, place, view};
use crate::world::{Checked, Fault, Happening, World};

/// Never do two nodes take writes, but where a stranger made one of them a master. A stopped one counts: it may go on.
pub fn always(world: &World) -> Checked<()> {
    let masters: Vec<Place> =
        world.places().filter(|place| world.nodes[*place].takes_writes() && !world.nodes[*place].by_stranger).collect();
    if masters.len() > 1 {
        return Err(format!("{} take writes", listed(&masters)));
    }
    Ok(())
}

/// No plan re-points its own candidate, or leaves anybody without a way to it.
pub fn plan(plan: &FailoverPlan) -> Checked<()> {
    let repoints = |step: &Step| matches!(step, Step::Repoint { nodes, .. } if nodes.contains(&plan.candidate));
    if plan.steps.iter().any(repoints) || plan.upstreams.contains_key(&plan.candidate) {
        return Err(format!("a plan re-points its own candidate {}", plan.candidate));
    }
    for below in plan.upstreams.keys() {
        let above = std::iter::successors(Some(below), |node| plan.upstreams.get(*node));
        if above.take(plan.upstreams.len() + 1).last() != Some(&plan.candidate) {
            return Err(format!("a plan leaves {below} without a way to {}", plan.candidate));
        }
    }
    Ok(())
}

/// The order to become a master is about to be given.
pub fn promoted(world: &World, plan: &FailoverPlan, candidate: Place, command: Command) -> Checked<()> {
    let node = &world.nodes[candidate];
    // What befell it since the last look at it, the order that comes next cannot see.
    if node.is_master() || world.touched[candidate] {
        return Ok(());
    }
    let who = name(candidate);
    if !node.has_data {
        return Err(format!("{who} is promoted and has no complete data"));
    }
    if node.priority == 0 {
        return Err(format!("{who} is promoted with priority 0"));
    }
    let is_former = node.former.is_some_and(|(replid, _)| id(replid) == plan.lineage);
    if id(node.replid) != plan.lineage && !is_former {
        return Err(format!("{who} is promoted and is of another history"));
    }
    let old = &world.nodes[place(&plan.old_master)];
    // One that lives and exchanges no roles came back, or somebody demoted it: nobody waits for a stream that does not end. Force
    // and a wish may choose who has less.
    let lives = old.is_alive() && old.handing_over.is_none();
    if lives || command != (Command::Promote { wanted: None, force: false }) {
        return Ok(());
    }
    let is_comparable = |other: &Place| !is_fed_by_touched(world, *other) && !is_fed_by_stranger(world, *other);
    for other in world.places().filter(|other| *other != candidate && is_comparable(other)) {
        let rival = &world.nodes[other];
        let is_eligible =
            rival.is_running() && !rival.is_loading && !rival.is_master() && rival.has_data && rival.priority > 0;
        let is_known = world.record.started[other] == Some(rival.start);
        if is_eligible && is_known && rival.replid == node.replid && rival.offset() > node.offset() {
            return Err(format!("{who} is promoted at {}, and {} has {}", node.offset(), name(other), rival.offset()));
        }
    }
    Ok(())
}

/// Whether a node that something befell after the tool had looked at it is this one, or hands it what nobody could have seen: one
/// that was stopped goes on, and reads what lay in its socket.
fn is_fed_by_touched(world: &World, place: Place) -> bool {
    chain(world, place).filter(|above| !world.nodes[*above].is_master()).any(|above| world.touched[above])
}

/// Whether what feeds this node is a process that the tool does not know, or was made a master behind its back: nobody waits for
/// the end of such a stream. It may have died since.
fn is_fed_by_stranger(world: &World, place: Place) -> bool {
    let is_strange =
        |above: Place| world.nodes[above].by_stranger || world.record.started[above] != Some(world.nodes[above].start);
    chain(world, place).skip(1).any(is_strange)
}

/// A node and those above it, linked or not, living or not.
fn chain(world: &World, place: Place) -> impl Iterator<Item = Place> {
    let above = |place: &Place| match world.nodes[*place].upstream {
        Some(Upstream::Node(above)) => Some(above),
        _ => None,
    };
    std::iter::successors(Some(place), above).take(world.nodes.len())
}

/// The order to exchange roles is about to be given: the replica has all that the master has.
pub fn handing_over(world: &World, old: Place, new: Place) -> Checked<()> {
    let (left, right) = (&world.nodes[old], &world.nodes[new]);
    // Either may have changed since it was asked, which the order cannot see.
    let is_calm = !world.touched[old] && !world.touched[new];
    if is_calm && left.data != right.data {
        let (from, to) = (name(old), name(new));
        return Err(format!(
            "{from} is at {} and is to hand over to {to}, which is at {}",
            left.offset(),
            right.offset()
        ));
    }
    Ok(())
}

/// The exchange of roles is over: a master that was left alone is one again if it did not work.
pub fn handed_over(world: &World, old: Place, new: Place, end: &HandOverEnd) -> Checked<()> {
    let (left, right) = (&world.nodes[old], &world.nodes[new]);
    let is_calm = !world.touched[old] && !world.touched[new];
    if is_calm && left.takes_writes() && right.takes_writes() {
        return Err(format!("{} and {} take writes after a switchover", name(old), name(new)));
    }
    match end {
        HandOverEnd::TakenOver if is_calm && !right.is_master() => {
            Err(format!("{} has handed over and {} is no master", name(old), name(new)))
        }
        HandOverEnd::Restored(_) if !world.touched[old] && !left.takes_writes() => {
            Err(format!("{} was not restored", name(old)))
        }
        _ => Ok(()),
    }
}

/// A run of the tool is over: what it says of the group is so.
pub fn ended(world: &World, tool: &Tool) -> Checked<()> {
    status(world)?;
    let is_failover = matches!(tool.command, Command::Promote { .. } | Command::Switchover { .. });
    let is_calm = !world.touched.contains(&true);
    if is_failover && is_calm && tool.ending == Some(Ending::Done) {
        let master = &world.nodes[world.record.master()];
        if !(master.is_running() && master.takes_writes()) {
            return Err(format!("{:?} is done and {} takes no writes", tool.command, name(world.record.master())));
        }
    }
    Ok(())
}

/// `status` tells the truth.
pub fn status(world: &World) -> Checked<()> {
    let alive = || world.places().filter(|place| world.nodes[*place].is_alive());
    let masters: Vec<Place> =
        alive().filter(|place| world.nodes[*place].is_master() && world.nodes[*place].is_running()).collect();
    let diagnosis = diagnose(&view(&world.record, &world.nodes, &world.nodes));
    let is_true = match &diagnosis {
        Diagnosis::Healthy => {
            masters == [world.record.master()]
                && alive().count() == world.nodes.len()
                && alive().all(|place| masters.contains(&place) || world.nodes[place].is_linked())
        }
        Diagnosis::TwoMasters { masters: told } => told.len() > 1 && told.len() <= masters.len(),
        Diagnosis::MasterDead { master } => {
            let known = world.record.started[place(master)];
            !world.nodes[place(master)].is_alive() || known != Some(world.nodes[place(master)].start)
        }
        Diagnosis::MasterMoved { to, .. } => masters.contains(&place(to)),
        Diagnosis::Down => alive().all(|place| world.record.started[place] != Some(world.nodes[place].start)),
        _ => true,
    };
    if is_true { Ok(()) } else { Err(format!("status says {diagnosis}, and that is not so")) }
}

/// Lets the present run end, everything calm down, and `promote` run again; then looks what there is.
pub fn finally(world: &mut World) -> Checked<()> {
    run_out(world)?;
    for place in world.places() {
        if world.nodes[place].process == crate::node::Process::Stopped {
            world.apply(&Happening::Fault(Fault::Continue(place)))?;
        }
    }
    settle(world)?;
    for _ in 0..2 {
        world.apply(&Happening::Begin(Command::Promote { wanted: None, force: false }))?;
        run_out(world)?;
        settle(world)?;
    }
    status(world)?;
    let last = world.last.clone();
    world.apply(&Happening::Begin(Command::Up))?;
    run_out(world)?;
    settle(world)?;
    world.last = last;
    if matches!(diagnose(&view(&world.record, &world.nodes, &world.nodes)), Diagnosis::Cycle { .. }) {
        // A server that nobody knows follows the node that was just started below it: `status` tells, and names the remedy.
        world.apply(&Happening::Begin(Command::Promote { wanted: None, force: false }))?;
        run_out(world)?;
        settle(world)?;
    }
    judge(world)
}

fn judge(world: &World) -> Checked<()> {
    let alive = || world.places().filter(|place| world.nodes[*place].is_alive());
    let masters: Vec<Place> = alive().filter(|place| world.nodes[*place].takes_writes()).collect();
    let refused = match &world.last {
        Some(Ending::Refused(reason)) => reason.as_str(),
        Some(Ending::Failed(reason)) => return Err(format!("a promotion in a quiet group failed: {reason}")),
        _ => "",
    };
    let is_named = ["no node can be promoted", "nothing of the group runs", "take writes at the same time"]
        .iter()
        .any(|known| refused.contains(known));
    let [master] = masters.as_slice() else {
        let is_strange = alive().any(|place| world.nodes[place].by_stranger);
        let is_unknown = alive().any(|place| world.record.started[place] != Some(world.nodes[place].start));
        let is_excused = is_named && (masters.is_empty() || is_strange) || is_unknown;
        return if is_excused { Ok(()) } else { Err(format!("masters at the end: {masters:?}, {refused:?}")) };
    };
    let is_ours = |place: Place| world.record.started[place] == Some(world.nodes[place].start);
    if is_named || !is_ours(*master) {
        return Ok(());
    }
    if let Some(lonely) = alive().find(|place| is_ours(*place) && !leads_to(world, *place, *master)) {
        return Err(format!("{} is not linked to {} at the end", name(lonely), name(*master)));
    }
    let has = |write: &u8| world.nodes[*master].data.contains(write);
    if let Some((promoted, writes)) = &world.promised
        && let Some(lost) = writes.iter().find(|write| !has(write))
    {
        return Err(format!("{} was promoted with write {lost}, and {} lacks it", name(*promoted), name(*master)));
    }
    if !world.is_lossy
        && let Some(lost) = world.acknowledged.iter().find(|write| !has(write))
    {
        return Err(format!("write {lost} is lost"));
    }
    Ok(())
}

fn leads_to(world: &World, place: Place, master: Place) -> bool {
    let above = |place: &Place| match world.nodes[*place].upstream {
        Some(Upstream::Node(above)) if world.nodes[*place].is_linked() => Some(above),
        _ => None,
    };
    std::iter::successors(Some(place), above).take(world.nodes.len()).any(|place| place == master)
}

/// Until nothing happens by itself any more.
pub fn settle(world: &mut World) -> Checked<()> {
    for _ in 0..10_000 {
        match world.natural().first() {
            Some(happening) => world.apply(&happening.clone())?,
            None => return Ok(()),
        }
    }
    Err("it never becomes quiet".to_owned())
}

/// Until the tool has ended.
pub fn run_out(world: &mut World) -> Checked<()> {
    for _ in 0..10_000 {
        let Some(tool) = &world.tool else { return Ok(()) };
        let (waits, polls) = (tool.is_waiting(world), tool.is_polling());
        match world.natural().first() {
            Some(happening) if waits || polls => world.apply(&happening.clone())?,
            _ => world.apply(&Happening::Tool { late: polls })?,
        }
    }
    Err("the tool never ends".to_owned())
}

fn listed(places: &[Place]) -> String {
    places.iter().map(|place| name(*place)).collect::<Vec<_>>().join(" and ")
}
