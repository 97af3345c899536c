//! `oom-score-adj`: how willingly the kernel ends this process when memory runs out.
//! <https://man7.org/linux/man-pages/man5/proc_pid_oom_score_adj.5.html>

use std::fs;
use std::io;

use crate::config::OomScoreAdj;

const FILE: &str = "/proc/self/oom_score_adj";
/// The kernel takes numbers up to this, and down to its negative.
const MOST: i32 = 1000;

/// What the score was before this server changed it; `None` while it has not.
#[derive(Debug, Default)]
pub struct OomScore(Option<i32>);

impl OomScore {
    /// Sets the score, or gives the old one back.
    ///
    /// # Errors
    /// The kernel does not let this process do so, or has no such score.
    pub fn set(&mut self, kind: OomScoreAdj, value: i32) -> io::Result<()> {
        let base = match self.0 {
            Some(base) => base,
            None if kind == OomScoreAdj::No => return Ok(()),
            None => read()?,
        };
        let score = match kind {
            OomScoreAdj::No => base,
            OomScoreAdj::Relative => (base + value).clamp(-MOST, MOST),
            OomScoreAdj::Absolute => value.clamp(-MOST, MOST),
        };
        fs::write(FILE, score.to_string())?;
        self.0 = (kind != OomScoreAdj::No).then_some(base);
        Ok(())
    }
}

fn read() -> io::Result<i32> {
    fs::read_to_string(FILE)?.trim().parse().map_err(io::Error::other)
}
