//! What can be done to the link of a replica to the node above it, as `replctl link` and a drill's steps write it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Node;
use super::raw::bytes_of;

/// Most nodes of a group whose links can be broken: each may follow each other one, and every such pair takes a port.
pub const LINKED_NODES_MAX: usize = 24;

/// How a link is made to be. Each replaces the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum LinkFault {
    /// What is open is reset, and so is what comes.
    Cut {
        /// Not yet, but as soon as so many more bytes have been delivered.
        after_bytes: Option<u64>,
        /// Which bytes count.
        direction: LinkDirection,
    },
    /// What is open is reset, and nobody listens.
    Refuse,
    /// Nothing is delivered, and nothing is closed.
    HalfOpen {
        /// Which way.
        direction: LinkDirection,
    },
    /// It takes its time.
    Slow {
        /// How long a byte is on its way.
        latency: Duration,
        /// Up to so much more or less.
        jitter: Duration,
        /// Bytes a second at most.
        bandwidth: Option<u64>,
        /// How much longer the end of one side is kept from the other.
        #[serde(default)]
        close_delay: Duration,
        /// Which way.
        direction: LinkDirection,
    },
    /// Everything is let through.
    Heal,
}

/// Which way of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkDirection {
    /// From the replica: its requests and acknowledgements.
    Up,
    /// To the replica: the replication stream.
    Down,
    /// Each of them.
    #[default]
    Both,
}

/// What can be said of a fault, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkOptions {
    /// `--direction up|down|both`
    pub direction: Option<String>,
    /// `--latency 50ms`
    pub latency: Option<String>,
    /// `--jitter 10ms`
    pub jitter: Option<String>,
    /// `--bandwidth 1MB`, a second
    pub bandwidth: Option<String>,
    /// `--close-delay 1s`
    pub close_delay: Option<String>,
    /// `--after-bytes N`
    pub after_bytes: Option<String>,
}

/// The verbs of [`LinkFault::new`].
pub const LINK_VERBS: [&str; 5] = ["cut", "refuse", "half-open", "slow", "heal"];

impl LinkFault {
    /// Reads a verb with its options.
    ///
    /// # Errors
    /// There is no such verb, or it does not take what is said, in words.
    pub fn new(verb: &str, options: &LinkOptions) -> Result<Self, String> {
        let direction = LinkDirection::parse(options.direction.as_deref())?;
        let is_given = [
            ("direction", options.direction.is_some()),
            ("latency", options.latency.is_some()),
            ("jitter", options.jitter.is_some()),
            ("bandwidth", options.bandwidth.is_some()),
            ("close-delay", options.close_delay.is_some()),
            ("after-bytes", options.after_bytes.is_some()),
        ];
        let taken: &[&str] = match verb {
            "cut" => &["after-bytes", "direction"],
            "half-open" => &["direction"],
            "slow" => &["direction", "latency", "jitter", "bandwidth", "close-delay"],
            "refuse" | "heal" => &[],
            _ => return Err(format!("there are {}", LINK_VERBS.join(", "))),
        };
        if let Some((name, _)) = is_given.iter().find(|(name, is_given)| *is_given && !taken.contains(name)) {
            return Err(format!("`link {verb}` takes no --{name}"));
        }
        Ok(match verb {
            "cut" => {
                let after_bytes = options.after_bytes.as_deref().map(bytes).transpose()?;
                if after_bytes.is_none() && direction != LinkDirection::Both {
                    return Err(format!(
                        "a connection is cut both ways at once: `link half-open --direction {direction}` keeps it open"
                    ));
                }
                Self::Cut { after_bytes, direction }
            }
            "refuse" => Self::Refuse,
            "half-open" => Self::HalfOpen { direction },
            "slow" => {
                let latency = options.latency.as_deref().map(duration).transpose()?.unwrap_or_default();
                let jitter = options.jitter.as_deref().map(duration).transpose()?.unwrap_or_default();
                let bandwidth = options.bandwidth.as_deref().map(bytes).transpose()?;
                let close_delay = options.close_delay.as_deref().map(duration).transpose()?.unwrap_or_default();
                if latency.is_zero() && bandwidth.is_none() && close_delay.is_zero() {
                    return Err("`link slow` needs --latency 50ms, --bandwidth 1MB, --close-delay 1s or more of them"
                        .to_owned());
                }
                Self::Slow { latency, jitter, bandwidth, close_delay, direction }
            }
            _ => Self::Heal,
        })
    }

    /// Its verb.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Cut { .. } => "cut",
            Self::Refuse => "refuse",
            Self::HalfOpen { .. } => "half-open",
            Self::Slow { .. } => "slow",
            Self::Heal => "heal",
        }
    }
}

/// Why the links of these nodes cannot be broken.
pub(super) fn refusal(nodes: &[Node]) -> Option<String> {
    if let Some(node) = nodes.iter().find(|node| node.managed().is_none()) {
        return Some(format!("the links of {} cannot be broken: replctl has not started it", node.name));
    }
    let count = nodes.len();
    (count > LINKED_NODES_MAX).then(|| {
        format!("links can be broken in a group of at most {LINKED_NODES_MAX} nodes, and this one has {count}")
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{text:?} is no time: {error}"))
}

/// A number of bytes, or a size with its unit.
fn bytes(text: &str) -> Result<u64, String> {
    let bytes = text.parse().ok().or_else(|| bytes_of(text)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| format!("{text:?} is no number of bytes: 4096, 64KiB or 1MB"))
}

impl LinkDirection {
    fn parse(text: Option<&str>) -> Result<Self, String> {
        match text {
            Some("up") => Ok(Self::Up),
            Some("down") => Ok(Self::Down),
            Some("both") | None => Ok(Self::Both),
            Some(_) => Err("--direction is up (from the replica), down (to it) or both".to_owned()),
        }
    }

    fn suffix(self) -> String {
        if self == Self::Both { String::new() } else { format!(" --direction {self}") }
    }
}

impl fmt::Display for LinkDirection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Both => "both",
        })
    }
}

/// Its options, as they are written.
impl fmt::Display for LinkFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { after_bytes: None, .. } | Self::Refuse | Self::Heal => Ok(()),
            Self::Cut { after_bytes: Some(bytes), direction } => {
                write!(out, " --after-bytes {bytes}{}", direction.suffix())
            }
            Self::HalfOpen { direction } => out.write_str(&direction.suffix()),
            Self::Slow { latency, jitter, bandwidth, close_delay, direction } => {
                if !latency.is_zero() {
                    write!(out, " --latency {}", humantime::format_duration(*latency))?;
                }
                if !jitter.is_zero() {
                    write!(out, " --jitter {}", humantime::format_duration(*jitter))?;
                }
                if let Some(bandwidth) = bandwidth {
                    write!(out, " --bandwidth {bandwidth}")?;
                }
                if !close_delay.is_zero() {
                    write!(out, " --close-delay {}", humantime::format_duration(*close_delay))?;
                }
                out.write_str(&direction.suffix())
            }
        }
    }
}
