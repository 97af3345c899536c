//! Full syncs: how long one takes on an idle master, and what it costs one that somebody reads, or writes as well.

use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use crate::paced::{Paced, Rate};
use crate::report::Rounds;
use crate::server::{Contestant, Part, Server};
use crate::{Versus, attach};

/// How long the paced client runs before the replica comes.
const WARM_UP: Duration = Duration::from_millis(500);

/// The way of loading that a replica is told, beside its default.
const DISKLESS_LOAD: &[&str] = &["--repl-diskless-load", "swapdb"];

/// What one full sync cost.
pub struct Sync {
    /// From REPLICAOF until the link is up and the replica has what the master had, in milliseconds.
    pub took_ms: f64,
    /// Processor time of the master and of the replica meanwhile, in milliseconds.
    pub cpu_ms: (f64, f64),
    /// The times of the paced client's requests meanwhile, in nanoseconds, if there was one.
    pub latency: Option<Histogram<u64>>,
    /// How much more memory the master's side took at the worst moment, in percent of what it had before.
    pub growth_percent: f64,
}

impl Versus {
    /// Every contestant as it is by default, and told to load without a file.
    pub fn full_syncs(&mut self) -> Result<()> {
        // What the kernel does for a loopback connection is done at the ordinary priority, and must not starve behind us.
        let _ = rustix::process::nice(10);
        let sizes = if self.is_quick { vec![self.keys] } else { vec![self.keys, 5 * self.keys] };
        let names: Vec<_> = self.contestants.iter().map(|contestant| contestant.name.clone()).collect();
        let names = [names.clone(), names.iter().map(|name| format!("{name}, diskless load")).collect()].concat();
        for keys in sizes {
            for rate in [None, Some(Rate::Reads), Some(Rate::ReadsAndWrites)] {
                let mut rounds = Rounds::new(names.len());
                for _ in 0..self.rounds {
                    for (index, name) in names.iter().enumerate() {
                        let contestant = &self.contestants[index % self.contestants.len()];
                        let directives = if index < self.contestants.len() { &[][..] } else { DISKLESS_LOAD };
                        let sync = self.full_sync(contestant, directives, keys, rate);
                        rounds.push(index, sync.with_context(|| name.clone())?);
                    }
                }
                let load = match rate {
                    None => "",
                    Some(Rate::Reads) => ", read master",
                    Some(Rate::ReadsAndWrites) => ", busy master",
                };
                self.report.full_sync(&format!("full sync of {keys} keys{load}"), &names, &rounds);
            }
        }
        let _ = rustix::process::nice(-10);
        Ok(())
    }

    fn full_sync(&self, contestant: &Contestant, directives: &[&str], keys: u64, rate: Option<Rate>) -> Result<Sync> {
        let master = self.start(contestant, Part::Master)?;
        crate::fill(&master, keys, None)?;
        let replica = Server::start_with(contestant, directives, &self.cores, Part::Replica)?;
        let paced = rate.map(|rate| Paced::start(master.port, keys, rate)).transpose()?;
        if let Some(paced) = &paced {
            std::thread::sleep(WARM_UP);
            paced.measure();
        }
        let before_bytes = master.resident_bytes_now()?;
        master.forget_peak()?;
        let cpu_before = (master.cpu_time()?, replica.cpu_time()?);
        let took = attach(&replica, &master)?;
        let cpu_ms =
            |server: &Server, before| Ok::<_, anyhow::Error>((server.cpu_time()? - before).as_secs_f64() * 1e3);
        Ok(Sync {
            took_ms: took.as_secs_f64() * 1e3,
            cpu_ms: (cpu_ms(&master, cpu_before.0)?, cpu_ms(&replica, cpu_before.1)?),
            latency: paced.map(Paced::finish).transpose()?,
            growth_percent: (master.peak_bytes()?.saturating_sub(before_bytes) + master.copied_bytes()?) as f64 * 100.0
                / before_bytes as f64,
        })
    }
}
