//! Who decides that a group gets another master. There is one such decider, never two: each would undo what the other has
//! done, and between them a group could have two masters.

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::diagnostic::Diagnostic;

/// `[failover] by`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A person, by `replctl promote` and `replctl switchover`.
    #[default]
    Replctl,
    /// The group's own Sentinels.
    Sentinel,
    /// `replctl guard`.
    Guard,
}

impl By {
    /// All of them.
    pub const ALL: [By; 3] = [By::Replctl, By::Sentinel, By::Guard];

    /// As a topology file writes it.
    pub fn name(self) -> &'static str {
        match self {
            By::Replctl => "replctl",
            By::Sentinel => "sentinel",
            By::Guard => "guard",
        }
    }
}

/// Who decides in a group whose file says this.
///
/// # Errors
/// It names the Sentinels, and there are none.
pub(super) fn resolve(written: Option<Spanned<By>>) -> Result<By, Vec<Diagnostic>> {
    match written {
        Some(by) if *by.get_ref() == By::Sentinel => {
            let error = Diagnostic::at(by.span(), "there are no sentinels to fail this group over");
            Err(vec![error.hint("`[sentinel]` is not supported yet by this version")])
        }
        Some(by) => Ok(by.into_inner()),
        None => Ok(By::default()),
    }
}
