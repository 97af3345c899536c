//! Every order of events in a small world, breadth first, each state once.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use crate::check;
use crate::tool::Command;
use crate::world::{Fault, Happening, World};

/// How much may happen.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub faults: usize,
    pub writes: u8,
    pub runs: usize,
}

/// What was found: the number of states, and what led to the first that must not be.
pub struct Search {
    pub states: usize,
    pub violation: Option<(String, Vec<Happening>)>,
}

/// How the state was reached: from which other one, by what.
type Steps = Vec<(usize, Option<Happening>)>;

pub fn search(first: &World, commands: &[Command], bounds: Bounds) -> Search {
    let mut seen = HashSet::from([digest(&(first, 0_usize, 0_usize))]);
    let mut steps: Steps = vec![(0, None)];
    let mut queue = VecDeque::from([(first.clone(), 0, 0, 0)]);
    while let Some((world, index, faults, runs)) = queue.pop_front() {
        for happening in happenings(&world, commands, bounds, faults, runs) {
            let mut next = world.clone();
            let result = next.apply(&happening).and_then(|()| match next.tool {
                Some(_) => Ok(()),
                None => check::finally(&mut next.clone()),
            });
            let faults = faults + usize::from(matches!(happening, Happening::Fault(fault) if counts(fault)));
            let runs = runs + usize::from(matches!(happening, Happening::Begin(_)));
            if seen.insert(digest(&(&next, faults, runs))) || result.is_err() {
                steps.push((index, Some(happening)));
                if let Err(what) = result {
                    return Search { states: seen.len(), violation: Some((what, path(&steps))) };
                }
                queue.push_back((next, steps.len() - 1, faults, runs));
            }
        }
    }
    Search { states: seen.len(), violation: None }
}

/// A stopped process goes on some time; that is no fault more.
fn counts(fault: Fault) -> bool {
    !matches!(fault, Fault::Continue(_))
}

fn happenings(world: &World, commands: &[Command], bounds: Bounds, faults: usize, runs: usize) -> Vec<Happening> {
    let mut all = world.natural();
    match &world.tool {
        Some(tool) => {
            if !tool.is_waiting(world) {
                all.push(Happening::Tool { late: false });
            }
            if tool.is_polling() {
                all.push(Happening::Tool { late: true });
            }
        }
        None if runs < bounds.runs => all.extend(commands.iter().map(|command| Happening::Begin(*command))),
        None => {}
    }
    let writable = |place: &usize| world.nodes[*place].is_running() && world.nodes[*place].takes_writes();
    if world.writes() < bounds.writes {
        all.extend(world.places().filter(writable).map(Happening::Write));
    }
    let mut befall = |fault: Fault| all.push(Happening::Fault(fault));
    let is_left = faults < bounds.faults;
    if is_left && world.tool.is_some() {
        befall(Fault::CrashTool);
    }
    for place in world.places() {
        let node = &world.nodes[place];
        if is_left && node.is_alive() {
            befall(Fault::Kill(place));
        }
        if is_left && node.is_running() {
            befall(Fault::Stop(place));
        }
        if node.process == crate::node::Process::Stopped {
            befall(Fault::Continue(place));
        }
        if is_left && (node.is_linked() || node.handing_over.is_some()) {
            befall(Fault::CutLink(place));
        }
    }
    all
}

fn digest(state: &impl Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

fn path(steps: &Steps) -> Vec<Happening> {
    let mut happenings = Vec::new();
    let mut index = steps.len() - 1;
    while let (before, Some(happening)) = &steps[index] {
        happenings.push(happening.clone());
        index = *before;
    }
    happenings.reverse();
    happenings
}
