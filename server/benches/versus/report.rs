//! What was measured, as medians and ratios over interleaved rounds, and the bars it is held against.

use std::collections::HashMap;

use crate::client::Run;
use crate::sync::Sync;

/// A load that a server has answered.
pub struct Load {
    /// What the client saw.
    pub run: Run,
    /// Processor time of the server per request, in microseconds.
    pub cpu_us: f64,
    /// Requests answered per second (and applied by the replica, where there is one).
    pub per_sec: f64,
}

/// Samples of one measurement, a row for each contestant; the first one is the baseline of all ratios.
pub struct Rounds<T> {
    samples: Vec<Vec<T>>,
}

/// The ratios to the baseline of the same round.
pub struct Ratio {
    median: f64,
    min: f64,
    max: f64,
}

impl<T> Rounds<T> {
    /// No samples yet.
    pub fn new(contestants: usize) -> Self {
        Rounds { samples: (0..contestants).map(|_| Vec::new()).collect() }
    }

    /// Adds the contestant's sample of the next round.
    pub fn push(&mut self, contestant: usize, sample: T) {
        self.samples[contestant].push(sample);
    }

    /// One figure of each sample.
    pub fn map<U>(&self, figure: impl Fn(&T) -> U) -> Rounds<U> {
        Rounds { samples: self.samples.iter().map(|samples| samples.iter().map(&figure).collect()).collect() }
    }

    fn median(&self, contestant: usize, figure: impl Fn(&T) -> f64) -> f64 {
        median(self.samples[contestant].iter().map(figure).collect())
    }

    fn ratio(&self, contestant: usize, figure: impl Fn(&T) -> f64) -> Ratio {
        let rounds = self.samples[contestant].iter().zip(&self.samples[0]);
        let ratios: Vec<f64> = rounds.map(|(own, baseline)| figure(own) / figure(baseline)).collect();
        Ratio {
            min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            max: ratios.iter().copied().fold(0.0, f64::max),
            median: median(ratios),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    (low + high) / 2.0
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>6.2} [{:.2}-{:.2}]", self.median, self.min, self.max)
    }
}

/// What repld promises beside redis-server: name of the figure, and its bound.
const BARS: &[(&str, Bound)] = &[
    ("SET P=1 throughput", Bound::AtLeast(1.3)),
    ("GET P=1 throughput", Bound::AtLeast(1.3)),
    ("SET P=1 server CPU per request", Bound::AtMost(0.77)),
    ("GET P=1 server CPU per request", Bound::AtMost(0.77)),
    ("SET P=16 throughput", Bound::AtLeast(2.0)),
    ("GET P=16 throughput", Bound::AtLeast(2.0)),
    ("SET P=64 throughput", Bound::AtLeast(2.5)),
    ("GET P=64 throughput", Bound::AtLeast(2.5)),
    ("SET P=16, replica caught up throughput", Bound::AtLeast(1.6)),
    ("bytes per key", Bound::AtMost(0.65)),
    ("LPUSH P=16, small throughput", Bound::AtLeast(1.5)),
    ("LPUSH P=16, large throughput", Bound::AtLeast(1.5)),
    ("RPOP P=16, small throughput", Bound::AtLeast(1.5)),
    ("RPOP P=16, large throughput", Bound::AtLeast(1.5)),
    ("HSET P=16, small throughput", Bound::AtLeast(1.5)),
    ("HSET P=16, large throughput", Bound::AtLeast(1.5)),
    ("SADD P=16, small throughput", Bound::AtLeast(1.5)),
    ("SADD P=16, large throughput", Bound::AtLeast(1.5)),
    ("ZADD P=16, small throughput", Bound::AtLeast(1.5)),
    ("ZADD P=16, large throughput", Bound::AtLeast(1.5)),
    ("XADD P=16, small throughput", Bound::AtLeast(1.5)),
    ("XADD P=16, large throughput", Bound::AtLeast(1.5)),
    ("bytes per key: string of 8 bytes", Bound::AtMost(1.0)),
    ("bytes per key: string of 64 bytes", Bound::AtMost(1.0)),
    ("bytes per key: integer", Bound::AtMost(1.0)),
    ("bytes per key: hash of 5 fields", Bound::AtMost(1.0)),
    ("bytes per key: hash of 20 fields", Bound::AtMost(1.0)),
    ("bytes per key: set of 10 integers", Bound::AtMost(1.0)),
    ("bytes per key: set of 10 strings", Bound::AtMost(1.0)),
    ("bytes per key: sorted set of 10", Bound::AtMost(1.0)),
    ("bytes per key: list of 10", Bound::AtMost(1.0)),
    ("bytes per key: stream of 10", Bound::AtMost(1.0)),
    ("full sync of 1000000 keys", Bound::AtMost(0.333)),
    ("full sync of 5000000 keys", Bound::AtMost(0.333)),
    ("full sync of 1000000 keys, read master p99.9", Bound::AtMost(0.2)),
    ("full sync of 5000000 keys, read master p99.9", Bound::AtMost(0.2)),
    ("full sync of 1000000 keys, busy master p99.9", Bound::AtMost(0.2)),
    ("full sync of 5000000 keys, busy master p99.9", Bound::AtMost(0.2)),
    ("full sync of 1000000 keys, busy master growth %", Bound::AtMost(10.0)),
    ("full sync of 5000000 keys, busy master growth %", Bound::AtMost(10.0)),
];

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// Prints each measurement as it comes and keeps the ratios that [`BARS`] asks for.
pub struct Report {
    names: Vec<String>,
    subject: usize,
    ratios: HashMap<String, f64>,
    paced_by_client: bool,
}

impl Report {
    /// A report on the contestants `names`, of which `subject` is held against the bars.
    pub fn new(names: Vec<String>, subject: usize) -> Self {
        Report { names, subject, ratios: HashMap::new(), paced_by_client: false }
    }

    /// Prints a load's table.
    pub fn load(&mut self, title: &str, rounds: &Rounds<Load>) {
        println!(
            "\n{title:<34}{:>12}  {:<20}{:>9}  {:<20}{:>8}{:>9}{:>9}",
            "requests/s", " ratio", "CPU us", " ratio", "p50 us", "p99", "p99.9"
        );
        for (index, name) in self.names.iter().enumerate() {
            let at = |quantile| rounds.median(index, |load| load.run.latency.value_at_quantile(quantile) as f64 / 1e3);
            let client_busy = rounds.median(index, |load| load.run.client_busy);
            let paced_by_client = client_busy > 0.9;
            self.paced_by_client |= paced_by_client;
            println!(
                "  {name:<32}{:>12.0}  {:<20}{:>9.2}  {:<20}{:>8.0}{:>9.0}{:>9.0}{}",
                rounds.median(index, |load| load.per_sec),
                rounds.ratio(index, |load| load.per_sec).to_string(),
                rounds.median(index, |load| load.cpu_us),
                rounds.ratio(index, |load| load.cpu_us).to_string(),
                at(0.5),
                at(0.99),
                at(0.999),
                if paced_by_client { " *" } else { "" },
            );
        }
        self.keep(format!("{title} throughput"), rounds, |load| load.per_sec);
        self.keep(format!("{title} server CPU per request"), rounds, |load| load.cpu_us);
    }

    /// Prints the table of a single figure, of which less is better.
    pub fn figure(&mut self, title: &str, rounds: &Rounds<f64>) {
        println!("\n{title:<34}{:>12}  {:<20}", "", " ratio");
        for (index, name) in self.names.iter().enumerate() {
            let ratio = rounds.ratio(index, |&figure| figure).to_string();
            println!("  {name:<32}{:>12.1}  {ratio:<20}", rounds.median(index, |&figure| figure));
        }
        self.keep(title.to_owned(), rounds, |&figure| figure);
    }

    /// Prints a table of full syncs, whose rows are `names`.
    pub fn full_sync(&mut self, title: &str, names: &[String], rounds: &Rounds<Sync>) {
        println!(
            "\n{title:<42}{:>8}  {:<20}{:>11}{:>11}{:>9}{:>9}{:>9}  {:<20}{:>9}",
            "ms", " ratio", "master CPU", "replica", "p99 ms", "p99.9", "max", " ratio of p99.9", "growth %"
        );
        let quantile = |sync: &Sync, quantile| {
            sync.latency.as_ref().map_or(f64::NAN, |latency| latency.value_at_quantile(quantile) as f64 / 1e6)
        };
        let is_busy = rounds.samples[0].iter().all(|sync| sync.latency.is_some());
        for (index, name) in names.iter().enumerate() {
            print!(
                "  {name:<40}{:>8.0}  {:<20}{:>11.0}{:>11.0}",
                rounds.median(index, |sync| sync.took_ms),
                rounds.ratio(index, |sync| sync.took_ms).to_string(),
                rounds.median(index, |sync| sync.cpu_ms.0),
                rounds.median(index, |sync| sync.cpu_ms.1),
            );
            if is_busy {
                print!(
                    "{:>9.2}{:>9.2}{:>9.2}  {:<20}{:>9.1}",
                    rounds.median(index, |sync| quantile(sync, 0.99)),
                    rounds.median(index, |sync| quantile(sync, 0.999)),
                    rounds.median(index, |sync| quantile(sync, 1.0)),
                    rounds.ratio(index, |sync| quantile(sync, 0.999)).to_string(),
                    rounds.median(index, |sync| sync.growth_percent),
                );
            }
            println!();
        }
        self.keep(title.to_owned(), rounds, |sync| sync.took_ms);
        if is_busy {
            self.keep(format!("{title} p99.9"), rounds, |sync| quantile(sync, 0.999));
            let growth = rounds.median(self.subject, |sync| sync.growth_percent);
            self.ratios.insert(format!("{title} growth %"), growth);
        }
    }

    fn keep<T>(&mut self, name: String, rounds: &Rounds<T>, figure: impl Fn(&T) -> f64) {
        self.ratios.insert(name, rounds.ratio(self.subject, figure).median);
    }

    /// Prints each bar with its figure and the verdict.
    pub fn summary(&self) {
        if self.paced_by_client {
            println!("\n* the client was busy for more than 90% of the time: it set the pace, the server can do more");
        }
        if self.subject == 0 {
            println!("\nnothing to compare with: no ratios, no bars");
            return;
        }
        println!("\n{} beside {}:", self.names[self.subject], self.names[0]);
        for (name, bound) in BARS {
            let figure = self.ratios.get(*name);
            let (bound, met) = match *bound {
                Bound::AtLeast(least) => (format!("at least {least:.2}"), figure.map(|&figure| figure >= least)),
                Bound::AtMost(most) => (format!("at most {most:.2}"), figure.map(|&figure| figure <= most)),
            };
            let figure = figure.map_or("     -".to_owned(), |figure| format!("{figure:>6.2}"));
            let verdict = met.map_or("not measured", |met| if met { "pass" } else { "FAIL" });
            println!("  {name:<48}{figure}  {bound:<14}  {verdict}");
        }
    }
}
