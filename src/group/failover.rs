//! What a promotion or switchover does next, as a value: no clock, no wire, no process.
//!
//! ```text
//! view --promote--> Next::Step(fence n1) --Done--> Next::Step(await-drain) --Drained--> Next::Step(promote n2) …
//!                                                            |                          … --Done--> Next::Finish
//!                                        Next::Observe <-- the candidate is not the best any more
//!                                            |
//!                                          view --replan--> Next::Step(…), or Refusal
//! ```
//!
//! [`promote`](super::promote) drives it against real servers, and the simulation against a model of them. What happens inside
//! a step is the driver's, but for the exchange of roles, which is a machine of its own ([`HandOver`](super::HandOver)). A step
//! that fails ends the run; the same command again decides anew from what it sees.

use std::collections::BTreeMap;

use super::diagnosis::{Diagnosis, diagnose};
use super::plan::{FailoverPlan, LossEstimate, Policy, Refusal, Step};
use super::view::GroupView;
use crate::wire::Replication;

/// How often a plan that no longer fits what is seen is made anew.
const PLANS_MAX: usize = 3;

/// A promotion or switchover under way: its plan, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failover {
    policy: Policy,
    plan: FailoverPlan,
    loss: LossEstimate,
    plans_dropped: usize,
    steps_done: usize,
    sight: Sight,
    /// The view said so: see [`GroupView::is_disputed`].
    is_disputed: bool,
}

/// What the plan rests on. The nodes are asked one after the other, and two of them may exchange their roles meanwhile: where
/// that could be, only what is seen twice counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sight {
    /// Nothing that was seen counts any more.
    None,
    /// Seen once, where that is not enough.
    Once,
    /// It counts.
    Sure,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This step, and then [`Failover::next`].
    Step(Step),
    /// What is seen no longer fits the plan, and nothing has been promoted yet: look again, and then [`Failover::replan`].
    Observe,
    /// Nothing: all is done.
    Finish,
    /// Nothing: this step must not, or cannot, be gone beyond.
    Fail {
        /// The step.
        step: Step,
        /// Why.
        reason: String,
    },
}

/// What came of a step that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOutcome {
    /// It is done.
    Done,
    /// `await-drain`: where the nodes are that have read to the end. One that is not among them gave no word, and is where it
    /// was when the plan was made.
    Drained(BTreeMap<String, u64>),
    /// `promote`: nothing was ordered, since the candidate is not any more what was planned with.
    Misfit,
    /// `hand-over`: it has begun, and did not come to its end. Whoever takes writes, or is to, is seen next.
    Unsettled,
    /// `salvage`
    Salvaged {
        /// Where the candidate was before.
        candidate_offset: u64,
        /// Where the old master ended in the plan's history, if its backlog could be read.
        master_end: Option<u64>,
        /// How many bytes the candidate was handed; `None`: they could not be handed over.
        bytes: Option<u64>,
    },
}

impl Failover {
    /// Decides to replace a lost master.
    ///
    /// # Errors
    /// As [`FailoverPlan::new`].
    pub fn promote(view: &GroupView, policy: &Policy) -> Result<Self, Refusal> {
        Ok(Self::of_plan(FailoverPlan::new(view, policy)?, policy, Sight::None.after(view), view.is_disputed))
    }

    /// Decides to let a master that works hand over; or to go on with a hand-over that was not seen to its end.
    ///
    /// # Errors
    /// As [`FailoverPlan::switchover`].
    pub fn switchover(view: &GroupView, policy: &Policy) -> Result<Self, Refusal> {
        match policy.finishes {
            Some(_) => Self::promote(view, policy),
            None => Ok(Self::of_plan(FailoverPlan::switchover(view, policy)?, policy, Sight::Sure, view.is_disputed)),
        }
    }

    fn of_plan(plan: FailoverPlan, policy: &Policy, sight: Sight, is_disputed: bool) -> Self {
        Self {
            policy: policy.clone(),
            loss: plan.loss.clone(),
            plan,
            plans_dropped: 0,
            steps_done: 0,
            sight,
            is_disputed,
        }
    }

    /// The plan that is carried out.
    pub fn plan(&self) -> &FailoverPlan {
        &self.plan
    }

    /// What is lost, as far as it is known by now.
    pub fn loss(&self) -> &LossEstimate {
        &self.loss
    }

    /// The same, for what only the driver can find out.
    pub fn loss_mut(&mut self) -> &mut LossEstimate {
        &mut self.loss
    }

    /// What it may do.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is to be done first, or after a new plan.
    pub fn first(&self) -> Next {
        if self.sight != Sight::Sure {
            return Next::Observe;
        }
        self.plan.steps.get(self.steps_done).map_or(Next::Finish, |step| Next::Step(step.clone()))
    }

    /// What is to be done after a step, given what came of it.
    pub fn next(&mut self, outcome: StepOutcome) -> Next {
        match outcome {
            // What it had asked of another node before its end, that one may read only now.
            StepOutcome::Done if self.is_disputed && matches!(self.plan.steps[self.steps_done], Step::Fence { .. }) => {
                self.sight = Sight::None;
                return Next::Observe;
            }
            StepOutcome::Done => {}
            StepOutcome::Drained(offsets) if self.is_overtaken(&offsets) => return self.drop_plan(),
            // What is lost now is counted from where they got by reading on.
            StepOutcome::Drained(offsets) => {
                let of_candidate = offsets.get(&self.plan.candidate).copied().unwrap_or(0);
                self.loss.candidate_offset = self.loss.candidate_offset.max(of_candidate);
                self.loss.survivor_offset = self.loss.survivor_offset.max(of_candidate);
            }
            StepOutcome::Misfit | StepOutcome::Unsettled => return self.drop_plan(),
            StepOutcome::Salvaged { candidate_offset, master_end, bytes } => {
                self.loss.candidate_offset = candidate_offset;
                self.loss.master_end = master_end.or(self.loss.master_end);
                self.loss.salvaged_bytes = bytes.unwrap_or(0);
                if bytes.is_none()
                    && let Some(reason) = self.too_much_loss()
                {
                    return self.fail(reason);
                }
            }
        }
        self.steps_done += 1;
        self.first()
    }

    /// Whether the candidate, as it is just before it is made the master, still holds what it was chosen for. Who follows a port
    /// on which somebody starts an empty master loses all that it has in milliseconds.
    pub fn fits(&self, candidate: &Replication) -> bool {
        let planned = self.plan.ranked.iter().find(|one| one.node == self.plan.candidate).map_or(0, |one| one.offset);
        let holds_data =
            candidate.upstream().is_none_or(|upstream| upstream.holds_data) || planted!(NeverSyncedPromoted);
        let former = candidate.former.as_ref().map(|former| &former.replid);
        let continues =
            candidate.replid == self.plan.lineage || former == Some(&self.plan.lineage) || planted!(HistoryIgnored);
        holds_data && continues && candidate.offset >= planned
    }

    /// Decides anew, from what is seen now: what began as a switchover goes on as a promotion.
    ///
    /// # Errors
    /// As [`FailoverPlan::new`].
    pub fn replan(&mut self, view: &GroupView) -> Result<Next, Refusal> {
        self.plan = FailoverPlan::new(view, &self.policy)?;
        self.loss = self.plan.loss.clone();
        self.steps_done = 0;
        self.sight = self.sight.after(view);
        self.is_disputed = view.is_disputed;
        Ok(self.first())
    }

    /// The old master is gone, and who could be promoted has read all that it sent: whether another node than the candidate
    /// has most. Where the candidate was chosen by name though it was behind, that is no news.
    fn is_overtaken(&self, offsets: &BTreeMap<String, u64>) -> bool {
        let plan = &self.plan;
        let now = |node: &str, planned: u64| offsets.get(node).copied().unwrap_or(planned);
        let was_best = plan.ranked.first().is_some_and(|best| best.node == plan.candidate);
        let of_candidate =
            plan.ranked.iter().find(|one| one.node == plan.candidate).map(|one| now(&one.node, one.offset));
        was_best
            && !planted!(OvertakenIgnored)
            && plan.ranked.iter().any(|one| Some(now(&one.node, one.offset)) > of_candidate)
    }

    fn drop_plan(&mut self) -> Next {
        self.plans_dropped += 1;
        self.sight = Sight::None;
        if self.plans_dropped < PLANS_MAX {
            return Next::Observe;
        }
        self.fail(format!("the group kept changing over {PLANS_MAX} plans"))
    }

    /// What could not be salvaged is lost; the promotion goes on without it, unless that is more than is allowed.
    fn too_much_loss(&self) -> Option<String> {
        let max_bytes = self.policy.max_loss_bytes.filter(|_| !self.policy.force)?;
        let is_too_much = self.loss.bytes_min() > max_bytes;
        let words =
            || format!("{} would be lost, and max-loss allows {max_bytes} bytes; --force accepts it", self.loss);
        is_too_much.then(words)
    }

    fn fail(&self, reason: String) -> Next {
        Next::Fail { step: self.plan.steps[self.steps_done].clone(), reason }
    }
}

impl Sight {
    /// After another look.
    fn after(self, view: &GroupView) -> Self {
        match self {
            Self::None if may_be_exchanging(view) => Self::Once,
            _ => Self::Sure,
        }
    }
}

/// Whether a node may become a master by itself: one was told to hand over, and nobody saw the end of that; or nobody has died,
/// and nobody takes writes.
fn may_be_exchanging(view: &GroupView) -> bool {
    !planted!(LooksOnce) && (view.is_disputed || matches!(diagnose(view), Diagnosis::NoMaster { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::plan::tests::{dead, node, replica, upstream_of, view, with};
    use crate::group::{Answer, NodeView};
    use crate::process::Condition;
    use crate::wire::Link;

    fn linked(number: u16, offset: u64) -> NodeView {
        with(replica(number, 1, offset), |report| upstream_of(report).link = Link::Up)
    }

    /// The master is stopped, and its replicas have so much.
    fn hung(offsets: [u64; 2]) -> GroupView {
        let master = node(1, None, Answer::Silent, Condition::Stopped);
        view(vec![master, linked(2, offsets[0]), linked(3, offsets[1])])
    }

    fn words(next: &Next) -> String {
        match next {
            Next::Step(step) => step.to_string(),
            Next::Observe => "look".to_owned(),
            Next::Finish => "finish".to_owned(),
            Next::Fail { reason, .. } => reason.clone(),
        }
    }

    fn drained(offsets: [u64; 2]) -> StepOutcome {
        StepOutcome::Drained(BTreeMap::from([("n2".to_owned(), offsets[0]), ("n3".to_owned(), offsets[1])]))
    }

    #[test]
    fn who_has_most_when_all_is_read_is_promoted() {
        let cases = [([5, 4], "promote n2"), ([7, 7], "promote n2"), ([5, 6], "look")];
        for (offsets, expected) in cases {
            let mut failover = Failover::promote(&hung([5, 4]), &Policy::default()).expect("n2 can be promoted");
            assert_eq!(words(&failover.first()), "fence n1");
            assert_eq!(words(&failover.next(StepOutcome::Done)), "let n2 and n3 read to the end of the stream");
            assert_eq!(words(&failover.next(drained(offsets))), expected, "{offsets:?}");
        }
    }

    #[test]
    fn a_plan_that_never_fits_is_given_up() {
        let lost = view(vec![dead(1, None), replica(2, 1, 5)]);
        let mut failover = Failover::promote(&lost, &Policy::default()).expect("n2 can be promoted");
        for _ in 1..PLANS_MAX {
            assert_eq!(words(&failover.next(StepOutcome::Misfit)), "look");
            failover.replan(&lost).expect("n2 can be promoted");
        }
        assert_eq!(words(&failover.next(StepOutcome::Misfit)), "the group kept changing over 3 plans");
    }

    #[test]
    fn after_a_change_that_broke_off_only_what_is_seen_twice_counts_and_again_after_a_fence() {
        let disputed = GroupView { is_disputed: true, ..hung([5, 4]) };
        let mut failover = Failover::promote(&disputed, &Policy::default()).expect("n2 can be promoted");
        assert_eq!(words(&failover.first()), "look");
        assert_eq!(words(&failover.replan(&disputed).expect("n2 can be promoted")), "fence n1");
        assert_eq!(words(&failover.next(StepOutcome::Done)), "look");
        let ended = view(vec![dead(1, None), replica(2, 1, 5), replica(3, 1, 4)]);
        let ended = GroupView { is_disputed: true, ..ended };
        assert_eq!(words(&failover.replan(&ended).expect("n2 can be promoted")), "look");
        assert_eq!(words(&failover.replan(&ended).expect("n2 can be promoted")), "promote n2");
    }
}
