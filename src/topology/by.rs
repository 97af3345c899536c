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

/// Who decides in a group whose file says this, and where Sentinels ask nobody.
///
/// # Errors
/// It names the Sentinels, and there are none; or somebody else, and there are some.
pub(super) fn resolve(written: Option<Spanned<By>>, has_sentinels: bool) -> Result<By, Vec<Diagnostic>> {
    let Some(by) = written else { return Ok(if has_sentinels { By::Sentinel } else { By::default() }) };
    let error = match (by.get_ref(), has_sentinels) {
        (By::Sentinel, false) => {
            let error = Diagnostic::at(by.span(), "there are no sentinels to fail this group over");
            error.hint("write `[sentinel]` and below it `count = 3`")
        }
        (By::Replctl | By::Guard, true) => {
            let message = format!("the sentinels decide by themselves, and `{}` would, too", by.get_ref().name());
            Diagnostic::at(by.span(), message).hint("leave `by` out, or `[sentinel]`")
        }
        _ => return Ok(by.into_inner()),
    };
    Err(vec![error])
}
