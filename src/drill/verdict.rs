//! What a drill found, and what follows from it. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::account::Account;
use super::contents::Divergence;
use super::overhead::LinkOverhead;
use super::timing::{Latencies, Outage};
use crate::group::Resync;
use crate::topology::{Expectations, Load, WishedResync};

/// Everything that a drill found.
#[derive(Debug, Clone, Serialize)]
pub struct DrillReport {
    /// The drill.
    pub drill: String,
    /// What decided the writers' choices.
    pub seed: u64,
    /// What follows.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was found.
    #[serde(flatten)]
    pub findings: Findings,
    /// The whole drill, from the group's start to its end, in microseconds.
    pub took_us: u64,
}

/// What was found, before it is judged.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// What was written.
    pub load: Load,
    /// What was wished.
    pub expect: Expectations,
    /// What was done, in order; where one failed, those after it were not done.
    pub steps: Vec<StepTime>,
    /// What became of the writes. `None`: this load's writes cannot be told apart.
    pub account: Option<Account>,
    /// How the registers behaved, if there were any.
    pub registers: Option<Registers>,
    /// The longest time without an acknowledged write since the first step that disturbs.
    pub outage: Outage,
    /// How long requests took.
    pub latency: Latencies,
    /// What promotions said that they lost.
    pub claims: Vec<Claim>,
    /// The nodes at the end, in topology order.
    pub nodes: Vec<NodeEnd>,
    /// The first difference between two nodes' data.
    pub divergence: Option<Divergence>,
    /// Why the nodes were not all level at the end.
    pub not_level: Option<String>,
    /// Nodes that were masters at the end.
    pub masters: Vec<String>,
    /// Whether a disturbance met the load. `None`: nothing disturbed.
    pub was_under_load: Option<bool>,
    /// What the proxies of links cost, where there are any.
    pub link_overhead: Option<LinkOverhead>,
}

/// One step that was done.
#[derive(Debug, Clone, Serialize)]
pub struct StepTime {
    /// As the file writes it.
    pub step: String,
    /// When it began, in microseconds since the load's beginning.
    pub began_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What it did.
    pub done: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// What a promotion said of what it loses.
#[derive(Debug, Clone, Serialize)]
pub struct Claim {
    /// The new master.
    pub node: String,
    /// In words.
    pub words: String,
    /// Bytes of the replication stream, at least.
    pub bytes: u64,
    /// Whether it is known where the old master ended.
    pub is_exact: bool,
}

/// How registers behaved.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Registers {
    /// How many were used.
    pub count: usize,
    /// Those whose answers no single copy could have given.
    pub violations: Vec<u32>,
    /// Those for which the search was given up.
    pub unknown: Vec<u32>,
}

/// A node at the end.
#[derive(Debug, Clone, Serialize)]
pub struct NodeEnd {
    /// Its name.
    pub node: String,
    /// What it was.
    pub state: NodeState,
    /// The program and its version.
    pub engine: String,
    /// How it came to a new history during the drill; `None`: it did not.
    pub resync: Option<Resync>,
    /// Bytes of its history. `None`: it did not answer.
    pub offset: Option<u64>,
    /// Keys of the drill. `None`: they could not be read.
    pub keys: Option<usize>,
}

/// What a node is at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It takes writes.
    Master,
    /// It follows.
    Replica,
    /// It runs and does not answer.
    Silent,
    /// Its process is stopped.
    Paused,
    /// It does not run.
    Dead,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// All that was expected holds, and a fault was there to try it.
    Passed,
    /// Something does not hold.
    Failed {
        /// What, each with its smallest evidence.
        reasons: Vec<String>,
    },
    /// Nothing was tried.
    Inconclusive {
        /// Why.
        reason: String,
    },
}

impl Verdict {
    /// Judges. What does not hold counts also where nothing was tried.
    pub fn of(findings: &Findings) -> Self {
        let mut reasons = Vec::new();
        reasons.extend(findings.steps.iter().filter_map(StepTime::failure));
        if let Some(account) = &findings.account {
            reasons.extend(judge_account(account, findings));
        }
        reasons.extend(findings.registers.iter().filter_map(Registers::failure));
        reasons.extend(judge_outage(findings));
        reasons.extend(judge_nodes(findings));
        if !reasons.is_empty() {
            return Self::Failed { reasons };
        }
        match findings.was_under_load {
            Some(true) if findings.registers.as_ref().is_some_and(|registers| !registers.unknown.is_empty()) => {
                let reason =
                    "the registers' history is too long to be searched: use fewer writers or a rate".to_owned();
                Self::Inconclusive { reason }
            }
            Some(true) => Self::Passed,
            Some(false) => Self::Inconclusive { reason: "no write was on its way when something happened".to_owned() },
            None => Self::Inconclusive { reason: "nothing happened that disturbs writes or links".to_owned() },
        }
    }
}

impl StepTime {
    fn failure(&self) -> Option<String> {
        self.error.as_ref().map(|error| format!("the step {} failed: {error}", self.step))
    }
}

impl Registers {
    fn failure(&self) -> Option<String> {
        let first = self.violations.first()?;
        let (bad, all) = (self.violations.len(), self.count);
        Some(format!("{bad} of {all} registers are not linearizable, the first is drill:register:{first}"))
    }
}

fn judge_account(account: &Account, findings: &Findings) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(allowed) = findings.expect.lost.filter(|allowed| account.lost > *allowed) {
        reasons.push(format!("{} acknowledged writes are lost, {allowed} may be{}", account.lost, first_lost(account)));
    }
    if let Some(anomaly) = account.first_anomaly.as_ref().filter(|_| account.has_anomaly()) {
        let Account { duplicated, resurrected, unknown, out_of_order, holes, .. } = account;
        reasons.push(format!(
            "what is there cannot be explained ({duplicated} duplicated, {resurrected} resurrected, {unknown} unknown, \
             {out_of_order} out of order, {holes} holes): {anomaly}"
        ));
    }
    // A promotion that knows where the old master ended knows what it loses. Other failures could explain a loss.
    let says_nothing = |claim: &Claim| claim.is_exact && claim.bytes == 0;
    if account.lost > 0 && !findings.claims.is_empty() && findings.claims.iter().all(says_nothing) {
        reasons.push(format!(
            "promote said that nothing is lost, and {} writes are{}",
            account.lost,
            first_lost(account)
        ));
    }
    reasons
}

fn first_lost(account: &Account) -> String {
    account.first_lost.as_ref().map_or_else(String::new, |first| {
        format!(
            ": the first is {} of writer {}, which {} acknowledged at {:.1} ms",
            first.what,
            first.writer,
            first.node,
            first.acknowledged_us as f64 / 1000.0
        )
    })
}

fn judge_outage(findings: &Findings) -> Option<String> {
    let (allowed, outage) = (findings.expect.outage?, findings.outage);
    let allowed_us = super::timing::micros(allowed);
    (outage.overall_us > allowed_us).then(|| {
        let from = outage.from_us as f64 / 1000.0;
        let (took, may) = (outage.overall_us as f64 / 1000.0, allowed_us as f64 / 1000.0);
        let end = if outage.has_ended { "" } else { ", to the load's end" };
        format!("no write was acknowledged for {took:.1} ms from {from:.1} ms on{end}; it may be {may:.1} ms")
    })
}

fn judge_nodes(findings: &Findings) -> Vec<String> {
    let (expect, mut reasons) = (&findings.expect, Vec::new());
    if findings.masters.len() != expect.master_count {
        let who = if findings.masters.is_empty() { "nobody".to_owned() } else { findings.masters.join(", ") };
        reasons.push(format!("at the end {who} is a master, and {} should be", expect.master_count));
    }
    if expect.converged {
        reasons.extend(findings.not_level.clone());
        reasons.extend(findings.divergence.as_ref().map(|found| {
            let others =
                if found.keys > 1 { format!(", and {} more keys differ", found.keys - 1) } else { String::new() };
            format!(
                "{} and {} do not hold the same: {} {} on {}{others}",
                found.node, found.reference, found.key, found.how, found.node
            )
        }));
    }
    if let Some(wished) = expect.resync {
        let wished_kind = if wished == WishedResync::Partial { Resync::Partial } else { Resync::Full };
        let others = findings.nodes.iter().filter(|node| node.resync.is_some_and(|resync| resync != wished_kind));
        reasons.extend(others.map(|node| {
            let name = |resync| match resync {
                Resync::Partial => "a partial resync",
                Resync::Full => "a full resync",
                Resync::Unknown => "nothing that its log tells",
            };
            format!(
                "{} came to its master's history by {}, and not by {}",
                node.node,
                name(node.resync.unwrap_or(Resync::Unknown)),
                name(wished_kind)
            )
        }));
    }
    reasons
}

/// How many drills ended how.
pub fn tally(reports: &[DrillReport]) -> BTreeMap<&'static str, usize> {
    let mut tally = BTreeMap::new();
    for report in reports {
        let name = match report.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed { .. } => "failed",
            Verdict::Inconclusive { .. } => "inconclusive",
        };
        *tally.entry(name).or_default() += 1;
    }
    tally
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn good() -> Findings {
        Findings {
            load: Load::default(),
            expect: Expectations { lost: Some(0), outage: Some(Duration::from_millis(100)), ..Expectations::default() },
            steps: Vec::new(),
            account: Some(Account { issued: 10, survived: 10, ..Account::default() }),
            registers: None,
            outage: Outage { overall_us: 50_000, worst_writer_us: 50_000, from_us: 0, has_ended: true },
            latency: Latencies::default(),
            claims: Vec::new(),
            nodes: Vec::new(),
            divergence: None,
            not_level: None,
            masters: vec!["n2".to_owned()],
            was_under_load: Some(true),
            link_overhead: None,
        }
    }

    fn account(findings: &mut Findings) -> &mut Account {
        findings.account.as_mut().expect("it has one")
    }

    #[test]
    fn what_holds_passes_only_if_something_was_there_to_try_it() {
        assert_eq!(Verdict::of(&good()), Verdict::Passed);
        for was_under_load in [None, Some(false)] {
            let verdict = Verdict::of(&Findings { was_under_load, ..good() });
            assert!(matches!(verdict, Verdict::Inconclusive { .. }), "{verdict:?}");
        }
    }

    #[test]
    fn everything_that_does_not_hold_fails_and_is_told() {
        type Break = fn(&mut Findings);
        let broken: [(&str, Break); 9] = [
            ("1 acknowledged writes are lost", |of| account(of).lost = 1),
            ("cannot be explained", |of| {
                account(of).holes = 1;
                account(of).first_anomaly = Some("a hole".to_owned());
            }),
            ("promote said that nothing is lost", |of| {
                account(of).lost = 1;
                of.expect.lost = None;
                of.claims.push(Claim { node: "n2".to_owned(), words: "nothing".to_owned(), bytes: 0, is_exact: true });
            }),
            ("no write was acknowledged for 200.0 ms", |of| of.outage.overall_us = 200_000),
            ("at the end nobody is a master", |of| of.masters.clear()),
            ("n3 has no link", |of| of.not_level = Some("n3 has no link".to_owned())),
            ("do not hold the same", |of| {
                let (node, reference, key) = ("n3".to_owned(), "n2".to_owned(), "drill:set:1".to_owned());
                of.divergence = Some(Divergence { node, reference, key, how: "is missing", keys: 1 });
            }),
            ("not linearizable", |of| {
                of.registers = Some(Registers { count: 2, violations: vec![1], unknown: Vec::new() });
            }),
            ("the step promote failed: no candidate", |of| {
                of.was_under_load = None;
                let (step, error) = ("promote".to_owned(), Some("no candidate".to_owned()));
                of.steps.push(StepTime { step, began_us: 0, took_us: 0, done: String::new(), error });
            }),
        ];
        for (words, spoil) in broken {
            let mut findings = good();
            spoil(&mut findings);
            match Verdict::of(&findings) {
                Verdict::Failed { reasons } => assert!(reasons.iter().any(|one| one.contains(words)), "{reasons:?}"),
                verdict => panic!("{words}: {verdict:?}"),
            }
        }
    }

    #[test]
    fn a_full_resync_fails_where_a_partial_one_was_expected() {
        let mut findings = good();
        findings.expect.resync = Some(WishedResync::Partial);
        let node = |resync| NodeEnd {
            node: "n3".to_owned(),
            state: NodeState::Replica,
            engine: "repld".to_owned(),
            resync,
            offset: Some(1),
            keys: Some(1),
        };
        findings.nodes = vec![node(None), node(Some(Resync::Partial))];
        assert_eq!(Verdict::of(&findings), Verdict::Passed);
        findings.nodes.push(node(Some(Resync::Full)));
        assert!(matches!(Verdict::of(&findings), Verdict::Failed { .. }));
    }
}
