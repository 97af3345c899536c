//! The types of what directives say, where it is more than a number, a word or yes and no.

use std::fmt;
use std::time::Duration;

/// One address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindAddress {
    /// An IP address or a host's name; `*` is every IPv4 interface, `::*` every IPv6 one.
    pub host: String,
    /// Written `-host`: it is no error if the machine has no such address.
    pub optional: bool,
}

impl BindAddress {
    /// The host in the form that socket calls take: the unspecified address for a `*`.
    pub fn host(&self) -> &str {
        match self.host.as_str() {
            "*" => "0.0.0.0",
            "::*" => "::",
            host => host,
        }
    }
}

/// A password: any bytes, never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A secret of at least one byte; the empty one means that there is none.
    pub fn new(bytes: &[u8]) -> Option<Secret> {
        (!bytes.is_empty()).then(|| Secret(bytes.to_vec()))
    }

    /// The bytes to be sent or compared (in constant time).
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A snapshot is due when at least so many keys were changed since the last one, at least so many seconds ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavePoint {
    /// At least 1.
    pub seconds: u32,
    /// 0 asks for a snapshot every [`seconds`](Self::seconds) even without a change.
    pub changes: u32,
}

/// The master of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// An IP address or a host's name.
    pub host: String,
    /// At 0, as Redis has it too, nobody can be reached.
    pub port: u16,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How much memory all clients may take together (`maxmemory-clients`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMemory {
    /// So many bytes; 0: any number.
    Bytes(u64),
    /// So many hundredths of `maxmemory`, if there is one.
    Percent(u8),
}

impl ClientMemory {
    /// With less, nobody could say that it should be more.
    const LEAST_BYTES: u64 = 128 * 1024;

    /// The number of bytes, of a server with this `maxmemory`; `None` for any number.
    pub fn bytes(self, maxmemory: u64) -> Option<u64> {
        let bytes = match self {
            ClientMemory::Bytes(bytes) => bytes,
            ClientMemory::Percent(percent) => (u128::from(maxmemory) * u128::from(percent) / 100) as u64,
        };
        (bytes > 0).then_some(bytes.max(Self::LEAST_BYTES))
    }
}

/// How much unsent output a client may pile up before it is disconnected, per class of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// Clients that are neither of the others.
    pub normal: OutputLimit,
    /// Replicas.
    pub replica: OutputLimit,
    /// Clients with a subscription.
    pub pubsub: OutputLimit,
}

/// The limits of one class; zeros mean that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputLimit {
    /// Disconnect at once beyond so many bytes.
    pub hard_bytes: u64,
    /// Disconnect when it was beyond so many bytes …
    pub soft_bytes: u64,
    /// … for so long without a pause.
    pub soft: Duration,
}

impl OutputLimit {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.hard_bytes > 0 || self.soft_bytes > 0
    }
}

/// When what was written to the append-only file is forced onto the disk (`appendfsync`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Once a second, by another thread.
    EverySecond,
    /// Before the replies to what was written.
    Always,
    /// When the operating system likes.
    Never,
}

/// Whether the kernel is told how willingly it shall end this process (`oom-score-adj`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomScoreAdj {
    /// It is not.
    No,
    /// By a number that is added to the score it had at the start.
    Relative,
    /// By the score itself.
    Absolute,
}

/// How a replica loads a full resynchronization (`repl-diskless-load`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisklessLoad {
    /// Through a file: the old data stay until the new have come whole.
    Disabled,
    /// From the socket, if there are no data to lose.
    OnEmptyDb,
    /// From the socket into a second key space, exchanged when it is complete.
    SwapDb,
}

/// Who may use something dangerous (`enable-debug-command`, `enable-protected-configs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Nobody.
    No,
    /// Everybody.
    Yes,
    /// Clients from this machine.
    Local,
}

impl Allowed {
    /// Whether a client from this machine, or from another, may.
    pub fn to(self, client: Origin) -> bool {
        self == Allowed::Yes || self == Allowed::Local && client == Origin::Local
    }
}

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A loopback address or a Unix socket.
    Local,
    /// Elsewhere.
    Remote,
}

/// What happens on SIGTERM or SIGINT (`shutdown-on-sigterm`, `shutdown-on-sigint`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShutdownOptions {
    /// Whether the data are saved; `None`: if there are save points.
    pub save: Option<bool>,
    /// Do not wait for replicas that lag.
    pub now: bool,
    /// Exit even if saving fails.
    pub force: bool,
}

/// What goes when memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryPolicy {
    /// Nothing: what needs memory is refused.
    NoEviction,
    /// Any key.
    AllKeys(Order),
    /// Keys that would expire some time.
    Volatile(Order),
}

/// Which of them goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one that was not used for longest.
    Lru,
    /// The one that is used least.
    Lfu,
    /// Any.
    Random,
    /// The one that would expire first.
    Ttl,
}
