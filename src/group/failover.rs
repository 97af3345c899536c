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

use super::plan::{FailoverPlan, LossEstimate, Policy, Refusal, Step};
use super::view::GroupView;

/// How often a plan that no longer fits what is seen is made anew.
const PLANS_MAX: usize = 3;

/// A promotion or switchover under way: its plan, and how far it has come.
#[derive(Debug, Clone)]
pub struct Failover {
    policy: Policy,
    plan: FailoverPlan,
    loss: LossEstimate,
    plans_made: usize,
    steps_done: usize,
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
        Ok(Self::of_plan(FailoverPlan::new(view, policy)?, policy))
    }

    /// Decides to let a master that works hand over.
    ///
    /// # Errors
    /// As [`FailoverPlan::switchover`].
    pub fn switchover(view: &GroupView, policy: &Policy) -> Result<Self, Refusal> {
        Ok(Self::of_plan(FailoverPlan::switchover(view, policy)?, policy))
    }

    fn of_plan(plan: FailoverPlan, policy: &Policy) -> Self {
        Self { policy: policy.clone(), loss: plan.loss.clone(), plan, plans_made: 1, steps_done: 0 }
    }

    /// The plan that is carried out.
    pub fn plan(&self) -> &FailoverPlan {
        &self.plan
    }

    /// What is lost, as far as it is known by now.
    pub fn loss(&self) -> &LossEstimate {
        &self.loss
    }

    /// What is to be done first, or after a new plan.
    pub fn first(&self) -> Next {
        self.plan.steps.get(self.steps_done).map_or(Next::Finish, |step| Next::Step(step.clone()))
    }

    /// What is to be done after a step, given what came of it.
    pub fn next(&mut self, outcome: StepOutcome) -> Next {
        match outcome {
            StepOutcome::Done => {}
            StepOutcome::Drained(offsets) if self.is_overtaken(&offsets) => return self.give_up_plan(),
            StepOutcome::Drained(_) => {}
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

    /// Decides anew, from what is seen now.
    ///
    /// # Errors
    /// As [`FailoverPlan::new`].
    pub fn replan(&mut self, view: &GroupView) -> Result<Next, Refusal> {
        self.plan = FailoverPlan::new(view, &self.policy)?;
        self.loss = self.plan.loss.clone();
        self.plans_made += 1;
        self.steps_done = 0;
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
        was_best && plan.ranked.iter().any(|one| Some(now(&one.node, one.offset)) > of_candidate)
    }

    fn give_up_plan(&self) -> Next {
        if self.plans_made < PLANS_MAX {
            return Next::Observe;
        }
        self.fail(format!("the replicas kept changing over {PLANS_MAX} plans"))
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
