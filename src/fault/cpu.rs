//! Processors that others keep busy.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A busy thread for every processor that this process may use, at the priority of everybody else, until it is dropped. They end
/// with the process, however that ends.
pub struct CpuHog {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl CpuHog {
    /// Begins at once.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start() -> io::Result<Self> {
        let mut hog = Self { ends: Arc::default(), threads: Vec::new() };
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            let ends = Arc::clone(&hog.ends);
            let busy = move || while !ends.load(Ordering::Relaxed) {};
            hog.threads.push(thread::Builder::new().name("cpu-hog".to_owned()).spawn(busy)?);
        }
        Ok(hog)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }
}

impl Drop for CpuHog {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("it does nothing that could panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The processor time of this process's hogs, in ticks of the system's clock.
    fn ticks_of_hogs() -> Vec<u64> {
        let tasks = fs::read_dir("/proc/self/task").expect("Linux").flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        let of_hog = |stat: String| {
            let (name, rest) = stat.split_once(") ")?;
            let ticks = rest.split(' ').nth(11)?.parse().ok()?;
            name.ends_with("(cpu-hog").then_some(ticks)
        };
        stats.filter_map(of_hog).collect()
    }

    #[test]
    fn every_processor_is_kept_busy_until_the_hog_is_dropped() {
        let hog = CpuHog::start().expect("threads");
        while ticks_of_hogs().len() < hog.threads() || ticks_of_hogs().contains(&0) {
            thread::yield_now();
        }
        drop(hog);
        assert_eq!(ticks_of_hogs(), [0; 0]);
    }
}
