//! What a guard writes into the journal: what it decided, and who saw what.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A decision of a guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardNote {
    /// What it does, or does not.
    pub verdict: GuardVerdict,
    /// Why, in words.
    pub reason: String,
    /// What that rests on, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
}

/// What a guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardVerdict {
    /// It begins to watch.
    Watches,
    /// It replaces a lost master.
    Replaces,
    /// It lets nodes follow whom they are meant to.
    Repairs,
    /// It starts nodes that have died.
    Starts,
    /// It does nothing, since that could do harm.
    Refuses,
    /// It could not do what it began, and tries again.
    Fails,
    /// It waits: it has replaced too many masters lately.
    HoldsBack,
    /// Maintenance began: it watches and does nothing.
    Pauses,
    /// Maintenance is over.
    Resumes,
    /// Somebody has looked into its failovers: they do not count any more.
    Acknowledged,
    /// It ends.
    Ends,
}

/// What somebody saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// How long before the decision, in milliseconds.
    pub ms_ago: u64,
    /// A node, or `guard`.
    pub by: String,
    /// What, in words.
    pub saw: String,
}

impl GuardVerdict {
    /// Whether it says that nothing is done, or until when.
    pub fn is_inaction(self) -> bool {
        matches!(self, Self::Refuses | Self::HoldsBack | Self::Pauses | Self::Resumes | Self::Acknowledged)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Watches => "watches",
            Self::Replaces => "replaces",
            Self::Repairs => "repairs",
            Self::Starts => "starts",
            Self::Refuses => "refuses",
            Self::Fails => "fails",
            Self::HoldsBack => "holds back",
            Self::Pauses => "pauses",
            Self::Resumes => "resumes",
            Self::Acknowledged => "acknowledged",
            Self::Ends => "ends",
        }
    }
}

impl fmt::Display for GuardNote {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "guard {}: {}", self.verdict.name(), self.reason)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ms before, {}: {}", self.ms_ago, self.by, self.saw)
    }
}
