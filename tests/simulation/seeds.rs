//! Random worlds of up to six nodes, each chosen by a seed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::check;
use crate::node::{Place, Process};
use crate::random::Random;
use crate::tool::Command;
use crate::world::{Checked, Fault, Happening, World};

/// More writes than that have no number.
const WRITES_MAX: u8 = 200;

/// How a run differs from others: what is rare in one is frequent in another, so that the rules' corners are met, too.
struct Manner {
    /// Somebody works on the group without the tool.
    is_strange: bool,
    /// How many of a hundred choices are the tool's, and how many more the wire's; the rest are the clients'.
    tool: usize,
    wire: usize,
    /// How many of a hundred commands are switchovers, and how many name a node.
    switchovers: usize,
    wishes: usize,
    /// How likely it is that right after a fault another one comes.
    burst: usize,
    /// How many of a hundred times the tool loses its patience.
    impatience: usize,
}

impl Manner {
    fn new(random: &mut Random) -> Manner {
        Manner {
            is_strange: random.chance(30),
            tool: random.pick(&[20, 45, 60]),
            wire: random.pick(&[6, 15, 30]),
            switchovers: random.pick(&[10, 25, 60]),
            wishes: random.pick(&[10, 50]),
            burst: random.pick(&[8, 8, 40]),
            impatience: random.pick(&[2, 10]),
        }
    }
}

/// What came of a seed.
pub struct Run {
    pub seed: u64,
    pub result: Checked<()>,
    pub happenings: Vec<Happening>,
    /// A digest of all states.
    pub trace: u64,
    world: World,
}

impl Run {
    pub fn report(&self) -> String {
        let what = self.result.as_ref().err().map_or("all is well", String::as_str);
        let happenings: Vec<String> = self.happenings.iter().map(|happening| format!("  {happening:?}")).collect();
        let nodes: Vec<String> = self.world.nodes.iter().map(|node| format!("  {node:?}")).collect();
        let (happenings, nodes) = (happenings.join("\n"), nodes.join("\n"));
        format!("{happenings}\n{nodes}\n  {:?}\n  {:?}\nseed {}: {what}", self.world.record, self.world.last, self.seed)
    }
}

/// Runs seeds from 0 on until one fails, on all cores. `before` is called in each thread.
pub fn first_failure(seeds: u64, before: impl Fn() + Sync) -> Option<Run> {
    let (next, failure) = (AtomicU64::new(0), Mutex::new(None::<Run>));
    let work = || {
        before();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let run = run(seed);
            if run.result.is_err() {
                next.fetch_max(seeds, Ordering::Relaxed);
                let mut failure = failure.lock().expect("no thread panics");
                if failure.as_ref().is_none_or(|first| run.seed < first.seed) {
                    *failure = Some(run);
                }
            }
        }
    };
    thread::scope(|scope| {
        (0..thread::available_parallelism().map_or(1, usize::from)).for_each(|_| drop(scope.spawn(work)));
    });
    failure.into_inner().expect("no thread panics")
}

pub fn run(seed: u64) -> Run {
    let mut random = Random::new(seed);
    let world = beginning(&mut random);
    let manner = Manner::new(&mut random);
    let mut run = Run { seed, result: Ok(()), happenings: Vec::new(), trace: 0, world };
    let (mut faults, steps) = (random.mostly_small(1, 8), 40 + random.below(120));
    for _ in 0..steps {
        let is_after_fault = matches!(run.happenings.last(), Some(Happening::Fault(_)));
        let happening = choose(&run.world, &mut random, &mut faults, &manner, is_after_fault);
        run.result = run.world.apply(&happening);
        run.happenings.push(happening);
        let mut hasher = DefaultHasher::new();
        (run.trace, &run.world).hash(&mut hasher);
        run.trace = hasher.finish();
        if run.result.is_err() {
            return run;
        }
    }
    run.result = check::finally(&mut run.world);
    run
}

fn beginning(random: &mut Random) -> World {
    let count = 2 + random.below(5);
    let above = |place: Place, random: &mut Random| match place {
        0 => None,
        _ if random.chance(75) => Some(0),
        _ => Some(random.below(place)),
    };
    let upstreams: Vec<Option<Place>> = (0..count).map(|place| above(place, random)).collect();
    let engines = random.below(3);
    let keeps = |random: &mut Random| engines == 0 || engines == 1 && random.chance(50);
    let keeps_data: Vec<bool> = (0..count).map(|_| keeps(random)).collect();
    let priorities: Vec<u8> = (0..count).map(|_| random.pick(&[100, 100, 100, 100, 10, 0])).collect();
    World::new(&upstreams, &keeps_data, &priorities)
}

fn choose(world: &World, random: &mut Random, faults: &mut usize, manner: &Manner, is_after_fault: bool) -> Happening {
    loop {
        let place = random.below(world.nodes.len());
        if world.nodes[place].process == Process::Stopped && random.chance(5) {
            return Happening::Fault(Fault::Continue(place));
        }
        if *faults > 0 && random.chance(if is_after_fault { manner.burst } else { 8 }) {
            if let Some(fault) = fault(world, place, random, manner.is_strange) {
                *faults -= 1;
                return Happening::Fault(fault);
            }
            continue;
        }
        let choice = random.below(100);
        let happening = if choice < manner.tool {
            tool(world, place, random, manner)
        } else if choice < manner.tool + manner.wire {
            let happenings = world.natural();
            (!happenings.is_empty()).then(|| happenings[random.below(happenings.len())].clone())
        } else {
            write(world, random)
        };
        if let Some(happening) = happening {
            return happening;
        }
        // Where nobody takes writes and nothing is on its way, only the tool or a person can do something.
        if world.tool.is_none() && random.chance(5) {
            return Happening::Begin(command(world, place, random, manner));
        }
        if world.natural().is_empty() && world.nodes[place].process == Process::Stopped {
            return Happening::Fault(Fault::Continue(place));
        }
    }
}

fn write(world: &World, random: &mut Random) -> Option<Happening> {
    let is_writable = |place: &Place| world.nodes[*place].is_running() && world.nodes[*place].takes_writes();
    let masters: Vec<Place> = world.places().filter(is_writable).collect();
    let is_possible = !masters.is_empty() && world.writes() < WRITES_MAX;
    is_possible.then(|| Happening::Write(random.pick(&masters)))
}

fn tool(world: &World, place: Place, random: &mut Random, manner: &Manner) -> Option<Happening> {
    match &world.tool {
        Some(tool) if tool.is_polling() => Some(Happening::Tool { late: random.chance(manner.impatience) }),
        Some(tool) => (!tool.is_waiting(world)).then_some(Happening::Tool { late: false }),
        None => random.chance(30).then(|| Happening::Begin(command(world, place, random, manner))),
    }
}

fn command(world: &World, place: Place, random: &mut Random, manner: &Manner) -> Command {
    let wanted = random.chance(manner.wishes).then_some(place);
    if random.chance(manner.switchovers) {
        return Command::Switchover { wanted };
    }
    match random.below(75) {
        0..50 => Command::Promote { wanted, force: random.chance(5) },
        50..57 => Command::Repoint { node: place, to: random.below(world.nodes.len()) },
        57..67 => Command::Start(place),
        _ => Command::Up,
    }
}

fn fault(world: &World, place: Place, random: &mut Random, is_strange: bool) -> Option<Fault> {
    let node = &world.nodes[place];
    let other = random.below(world.nodes.len());
    let fault = match random.below(if is_strange { 100 } else { 80 }) {
        0..15 => Fault::Kill(place),
        15..30 => Fault::KillMaster(world.record.master()),
        30..45 => Fault::Stop(place),
        45..60 => Fault::CutLink(place),
        60..80 => Fault::CrashTool,
        80..85 => Fault::RestartByHand(place),
        85..90 => Fault::EmptyMaster(place),
        90..93 => Fault::FollowByHand(place, None),
        93..97 => Fault::FollowByHand(place, Some(other)),
        _ => Fault::LoseDisk(place),
    };
    let is_possible = match fault {
        Fault::KillMaster(master) => world.nodes[master].is_alive(),
        Fault::CrashTool => world.tool.is_some(),
        Fault::LoseDisk(_) => !node.is_alive(),
        Fault::FollowByHand(_, above) => node.is_running() && above != Some(place),
        Fault::RestartByHand(_) | Fault::EmptyMaster(_) => true,
        Fault::Stop(_) => node.is_running(),
        _ => node.is_alive(),
    };
    is_possible.then_some(fault)
}
