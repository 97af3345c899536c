//! `INFO` as one node's report on itself.
//!
//! ```text
//! # Replication
//! role:slave                                 -> Role::Replica
//! master_host:127.0.0.1  master_port:6379    -> the upstream
//! master_link_status:down                    -> Link::Down
//! master_link_down_since_seconds:-1          -> the link was never up in this process's life
//! slave_repl_offset:1288  slave_priority:100
//! master_replid:8c1f…  master_replid2:0000…  master_repl_offset:1288  second_repl_offset:-1
//! slave0:ip=127.0.0.1,port=6380,state=online,offset=1288,lag=0
//! ```
//!
//! Source: <https://redis.io/docs/latest/commands/info/>. Unknown lines are skipped, so that every version and fork can be
//! read; a missing role or replication id is refused, since without them nothing can be decided. Offsets here are bytes
//! applied; the wire's `second_repl_offset` is one more than that and is converted here.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::topology::{Address, EngineFamily};

/// An INFO reply is a few kilobytes; whatever is longer is not one.
const INFO_BYTES_MAX: usize = 1 << 20;
/// More attached replicas than any group has.
const REPLICAS_MAX: usize = 10_000;
/// Redis before 7 says "down since the epoch" for a link that was never up.
const NEVER_UP_SECONDS: i64 = 1_000_000_000;

/// The name of a replication history: forty hexadecimal digits. Offsets are comparable only within one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicationId(String);

impl ReplicationId {
    /// `None` if `text` is not forty hexadecimal digits, or all zeros, the wire's way to say "none".
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_id && text.bytes().any(|byte| byte != b'0')).then(|| Self(text.to_owned()))
    }

    /// The first eight digits, enough for a person to tell two apart.
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl fmt::Display for ReplicationId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What one node says of itself at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// What it is.
    #[serde(skip)]
    pub family: EngineFamily,
    /// Its version: `valkey_version` or `repld_version` where there is one, else `redis_version`.
    pub version: String,
    /// Random at every start of the server.
    pub run_id: String,
    /// The server's pid, as it sees itself.
    pub process_id: u32,
    /// It reads its data set from disk or from its upstream and cannot serve yet.
    pub is_loading: bool,
    /// Keys in all databases.
    pub keys: u64,
    /// Full synchronizations served since the server started.
    pub sync_full: u64,
    /// Partial synchronizations served since the server started.
    pub sync_partial_ok: u64,
    /// Its part in the group.
    #[serde(flatten)]
    pub replication: Replication,
}

/// A node's part in its group: INFO's section `replication`, cheap enough to be asked for every millisecond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replication {
    /// Master, or replica of whom.
    #[serde(flatten)]
    pub role: Role,
    /// The history that this node is part of.
    pub replid: ReplicationId,
    /// The history it was part of before, and the last offset that both share.
    pub former: Option<FormerHistory>,
    /// Bytes of the history applied.
    pub offset: u64,
    /// `replica-priority`: lower is promoted first, 0 never.
    pub priority: u32,
    /// It is about to exchange roles with one of its replicas (`master_failover_state`).
    pub is_handing_over: bool,
    /// The part of the stream that its backlog holds, as offsets. `None`: it has no backlog.
    pub backlog: Option<Range<u64>>,
    /// The replicas that are attached to this node.
    pub replicas: Vec<AttachedReplica>,
}

/// A history that ended in the present one by a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerHistory {
    /// Its name.
    pub replid: ReplicationId,
    /// Up to this many bytes it is the same as the present one.
    pub shared_up_to: u64,
}

/// A node's role, as it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Role {
    /// It takes writes.
    Master,
    /// It follows another node.
    Replica(Upstream),
}

/// The link of a replica to the node that it follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// As given to REPLICAOF.
    pub host: String,
    /// As given to REPLICAOF.
    pub port: u16,
    /// How the link is.
    pub link: Link,
    /// For how many seconds nothing has come over a link that is up.
    pub silent_seconds: Option<u64>,
    /// The data set of this replica is a prefix of its history: it has been synchronized, and no later full
    /// synchronization has begun to replace it. `false` is what makes an empty replica look complete.
    pub holds_data: bool,
}

impl Upstream {
    /// The address that was given to REPLICAOF.
    pub fn address(&self) -> Address {
        Address { host: self.host.clone(), port: self.port }
    }
}

/// The state of a replication link, seen from the replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Link {
    /// The stream flows.
    Up,
    /// A full synchronization is under way.
    Syncing {
        /// Bytes of the snapshot received so far.
        received_bytes: u64,
        /// Its length, if the upstream said so beforehand.
        total_bytes: Option<u64>,
    },
    /// There is no stream.
    Down {
        /// For how long; `None`: it was never up since the server started.
        seconds: Option<u64>,
    },
}

/// A replica as its upstream sees it: the `slaveN:` lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachedReplica {
    /// The address that it is known by.
    pub host: String,
    /// The port it listens on.
    pub port: u16,
    /// `online` once it takes the stream.
    pub is_online: bool,
    /// The offset that it acknowledged last: up to a second old.
    pub acknowledged_offset: u64,
}

/// Why an INFO reply is not a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// It is longer than any INFO reply.
    #[error("an INFO reply of {0} bytes")]
    TooLong(usize),
    /// A field is missing without which nothing can be decided, or it makes no sense.
    #[error("INFO has no usable {0}")]
    Field(&'static str),
}

impl NodeReport {
    /// Reads the reply to `INFO`.
    ///
    /// # Errors
    /// The reply is too long, or the role, a replication id or an offset is missing.
    pub fn parse(text: &str) -> Result<Self, ReportError> {
        let info = Info::parse(text)?;
        let (family, version) = info.family();
        Ok(Self {
            family,
            version: version.to_owned(),
            run_id: info.get("run_id").unwrap_or_default().to_owned(),
            process_id: info.number("process_id").unwrap_or_default(),
            is_loading: info.is("loading") || info.is("async_loading"),
            keys: info.keys(),
            sync_full: info.number("sync_full").unwrap_or_default(),
            sync_partial_ok: info.number("sync_partial_ok").unwrap_or_default(),
            replication: info.replication()?,
        })
    }
}

impl AttachedReplica {
    /// The address that it is known by.
    pub fn address(&self) -> Address {
        Address { host: self.host.clone(), port: self.port }
    }
}

/// What a node has of which histories, alive or dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Its history.
    pub replid: ReplicationId,
    /// The one before, if it knows of one.
    pub former: Option<FormerHistory>,
    /// So many bytes of the stream.
    pub end: u64,
}

impl Past {
    /// The offset up to which both have the same stream; `None` if their histories tell of none.
    pub fn shared_with(&self, other: &Self) -> Option<u64> {
        let left = |one: &Self, replid: &ReplicationId| {
            one.former.as_ref().filter(|former| former.replid == *replid).map(|former| former.shared_up_to)
        };
        if self.replid == other.replid {
            return Some(self.end.min(other.end));
        }
        let both = || {
            let own = self.former.as_ref()?;
            Some(own.shared_up_to.min(left(other, &own.replid)?))
        };
        left(self, &other.replid).or_else(|| left(other, &self.replid)).or_else(both)
    }
}

impl Replication {
    /// The offset up to which this node and another one have the same stream; `None` if their histories tell of none.
    pub fn shared_with(&self, other: &Self) -> Option<u64> {
        self.past().shared_with(&other.past())
    }

    /// What it has of which histories.
    pub fn past(&self) -> Past {
        Past { replid: self.replid.clone(), former: self.former.clone(), end: self.offset }
    }

    /// Reads the reply to `INFO replication`.
    ///
    /// # Errors
    /// As [`NodeReport::parse`].
    pub fn parse(text: &str) -> Result<Self, ReportError> {
        Info::parse(text)?.replication()
    }

    /// Whether it takes writes, as far as its role goes.
    pub fn is_master(&self) -> bool {
        self.role == Role::Master
    }

    /// The node it follows; `None` for a master.
    pub fn upstream(&self) -> Option<&Upstream> {
        match &self.role {
            Role::Master => None,
            Role::Replica(upstream) => Some(upstream),
        }
    }

    /// Whether its link is up, and to this address as it was given to REPLICAOF.
    pub fn is_linked_to(&self, address: &Address) -> bool {
        self.upstream().is_some_and(|upstream| upstream.link == Link::Up && upstream.address() == *address)
    }
}

/// The fields of an INFO reply by name.
struct Info<'a>(HashMap<&'a str, &'a str>);

impl<'a> Info<'a> {
    fn parse(text: &'a str) -> Result<Self, ReportError> {
        if text.len() > INFO_BYTES_MAX {
            return Err(ReportError::TooLong(text.len()));
        }
        Ok(Self(text.lines().filter_map(|line| line.split_once(':')).collect()))
    }

    fn replication(&self) -> Result<Replication, ReportError> {
        let offset = self.number("master_repl_offset").ok_or(ReportError::Field("master_repl_offset"))?;
        Ok(Replication {
            role: match self.get("role") {
                Some("master") => Role::Master,
                Some("slave") => Role::Replica(self.upstream(offset)?),
                _ => return Err(ReportError::Field("role")),
            },
            replid: self
                .get("master_replid")
                .and_then(ReplicationId::parse)
                .ok_or(ReportError::Field("master_replid"))?,
            former: self.former_history(),
            offset,
            priority: self.number("slave_priority").unwrap_or(100),
            is_handing_over: self.get("master_failover_state").is_some_and(|state| state != "no-failover"),
            backlog: self.backlog(),
            replicas: self.attached_replicas(),
        })
    }

    fn family(&self) -> (EngineFamily, &'a str) {
        let of_its_own = |family, field| self.get(field).map(|version| (family, version));
        of_its_own(EngineFamily::Valkey, "valkey_version")
            .or_else(|| of_its_own(EngineFamily::Repld, "repld_version"))
            .unwrap_or((EngineFamily::Redis, self.get("redis_version").unwrap_or_default()))
    }

    fn get(&self, field: &str) -> Option<&'a str> {
        self.0.get(field).map(|value| value.trim_end())
    }

    fn number<T: std::str::FromStr>(&self, field: &str) -> Option<T> {
        self.get(field)?.parse().ok()
    }

    fn is(&self, field: &str) -> bool {
        self.get(field) == Some("1")
    }

    /// The wire tells the number of the first byte; bytes applied before it are one less.
    fn backlog(&self) -> Option<Range<u64>> {
        let first_byte: u64 =
            self.number("repl_backlog_first_byte_offset").filter(|_| self.is("repl_backlog_active"))?;
        let start = first_byte.saturating_sub(1);
        Some(start..start.saturating_add(self.number("repl_backlog_histlen")?))
    }

    fn former_history(&self) -> Option<FormerHistory> {
        let replid = self.get("master_replid2").and_then(ReplicationId::parse)?;
        let next_byte: u64 = self.number("second_repl_offset")?;
        Some(FormerHistory { replid, shared_up_to: next_byte.saturating_sub(1) })
    }

    fn upstream(&self, history_offset: u64) -> Result<Upstream, ReportError> {
        let host = self.get("master_host").ok_or(ReportError::Field("master_host"))?;
        let port = self.number("master_port").ok_or(ReportError::Field("master_port"))?;
        let link = self.link();
        // While the link is down a server tells the offset from which it could resume. One that has thrown away its
        // old state for a full synchronization that did not finish has none, and says 0, 1 or -1 in its place.
        let resumable: Option<i64> = self.number("slave_repl_offset");
        let can_resume = resumable.is_some_and(|offset| u64::try_from(offset) == Ok(history_offset));
        let was_up = !matches!(link, Link::Down { seconds: None });
        let holds_data = link == Link::Up || (can_resume && (was_up || history_offset > 1));
        let silent_seconds = self.number("master_last_io_seconds_ago").filter(|_| link == Link::Up);
        Ok(Upstream { host: host.to_owned(), port, link, silent_seconds, holds_data })
    }

    fn link(&self) -> Link {
        if self.get("master_link_status") == Some("up") {
            return Link::Up;
        }
        if self.is("master_sync_in_progress") {
            return Link::Syncing {
                received_bytes: self.number("master_sync_read_bytes").unwrap_or_default(),
                total_bytes: self.number("master_sync_total_bytes").filter(|&bytes| bytes > 0),
            };
        }
        let seconds =
            self.number("master_link_down_since_seconds").filter(|seconds| (0..NEVER_UP_SECONDS).contains(seconds));
        Link::Down { seconds: seconds.and_then(|seconds| u64::try_from(seconds).ok()) }
    }

    fn attached_replicas(&self) -> Vec<AttachedReplica> {
        let count = self.number("connected_slaves").unwrap_or(0).min(REPLICAS_MAX);
        (0..count).filter_map(|number| parse_attached(self.get(&format!("slave{number}"))?)).collect()
    }

    /// The sum over the `dbN:keys=…,expires=…` lines.
    fn keys(&self) -> u64 {
        let is_database = |name: &str| {
            name.strip_prefix("db")
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        };
        let counts =
            self.0.iter().filter(|(name, _)| is_database(name)).filter_map(|(_, value)| {
                value.split(',').find_map(|part| part.strip_prefix("keys="))?.parse::<u64>().ok()
            });
        counts.fold(0, u64::saturating_add)
    }
}

/// `ip=127.0.0.1,port=6380,state=online,offset=1288,lag=0`
fn parse_attached(line: &str) -> Option<AttachedReplica> {
    let parts: HashMap<&str, &str> = line.split(',').filter_map(|part| part.split_once('=')).collect();
    Some(AttachedReplica {
        host: parts.get("ip").map(|host| (*host).to_owned())?,
        port: parts.get("port")?.parse().ok()?,
        is_online: parts.get("state") == Some(&"online"),
        acknowledged_offset: parts.get("offset")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8c1f05d0f2b4c3e1a6d7988877665544332211ab";
    const OTHER: &str = "11223344556677889900aabbccddeeff00112233";

    fn replica(link: &str) -> String {
        format!(
            "# Replication\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:6379\r\n{link}slave_priority:50\r\n\
             connected_slaves:0\r\nmaster_replid:{ID}\r\nmaster_replid2:{}\r\nmaster_repl_offset:1288\r\n\
             second_repl_offset:-1\r\n",
            "0".repeat(40)
        )
    }

    fn upstream_of(link: &str) -> Upstream {
        Replication::parse(&replica(link)).expect("a whole reply").upstream().expect("a replica").clone()
    }

    #[test]
    fn a_masters_reply_names_its_replicas_and_its_former_history() {
        let text = format!(
            "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.1\r\nprocess_id:4711\r\nrun_id:abc\r\n# Persistence\r\n\
             loading:0\r\nasync_loading:0\r\n# Stats\r\nsync_full:2\r\nsync_partial_ok:1\r\n# Replication\r\nrole:master\r\n\
             connected_slaves:3\r\nslave0:ip=127.0.0.1,port=6380,state=online,offset=1200,lag=0\r\n\
             slave1:ip=127.0.0.1,port=6381,state=wait_bgsave,offset=0,lag=0\r\nslave2:nonsense\r\nmaster_replid:{ID}\r\n\
             master_replid2:{OTHER}\r\nmaster_repl_offset:1288\r\nsecond_repl_offset:1001\r\n# Keyspace\r\n\
             db0:keys=7,expires=0,avg_ttl=0\r\ndb12:keys=5,expires=0,avg_ttl=0\r\n"
        );
        let report = NodeReport::parse(&text).expect("a whole reply");
        assert_eq!((report.version.as_str(), report.process_id, report.keys), ("8.1.1", 4711, 12));
        assert_eq!((report.sync_full, report.sync_partial_ok), (2, 1));
        let Replication { role, offset, former, replicas, .. } = report.replication;
        assert_eq!((role, offset), (Role::Master, 1288));
        let former = former.expect("it was promoted once");
        assert_eq!((former.replid.to_string().as_str(), former.shared_up_to), (OTHER, 1000));
        assert_eq!(replicas.len(), 2);
        assert!(replicas[0].is_online && !replicas[1].is_online);
    }

    #[test]
    fn a_linked_replica_holds_data() {
        let upstream = upstream_of("master_link_status:up\r\nslave_repl_offset:1288\r\n");
        assert_eq!((upstream.link, upstream.holds_data, upstream.port), (Link::Up, true, 6379));
    }

    #[test]
    fn a_replica_that_lost_its_link_still_holds_data() {
        let upstream =
            upstream_of("master_link_status:down\r\nslave_repl_offset:1288\r\nmaster_link_down_since_seconds:4\r\n");
        assert_eq!((upstream.link, upstream.holds_data), (Link::Down { seconds: Some(4) }, true));
    }

    #[test]
    fn a_replica_restarted_from_its_snapshot_holds_data_though_its_link_was_never_up() {
        let upstream =
            upstream_of("master_link_status:down\r\nslave_repl_offset:1288\r\nmaster_link_down_since_seconds:-1\r\n");
        assert_eq!((upstream.link, upstream.holds_data), (Link::Down { seconds: None }, true));
    }

    #[test]
    fn a_replica_whose_full_sync_did_not_finish_holds_none_whatever_its_history_says() {
        for offset in ["0", "1", "-1"] {
            for since in ["-1", "5", "1795374379"] {
                let upstream = upstream_of(&format!(
                    "master_link_status:down\r\nslave_repl_offset:{offset}\r\nmaster_link_down_since_seconds:{since}\r\n"
                ));
                assert!(!upstream.holds_data, "offset {offset}, down since {since}");
            }
        }
    }

    #[test]
    fn a_full_sync_under_way_tells_its_progress() {
        let upstream = upstream_of(
            "master_link_status:down\r\nmaster_sync_in_progress:1\r\nslave_repl_offset:1\r\n\
             master_sync_total_bytes:1000\r\nmaster_sync_read_bytes:250\r\nmaster_link_down_since_seconds:-1\r\n",
        );
        assert_eq!(upstream.link, Link::Syncing { received_bytes: 250, total_bytes: Some(1000) });
        assert!(!upstream.holds_data);
    }

    #[test]
    fn two_histories_part_where_the_one_that_was_promoted_says() {
        let replication = |replid: &str, offset: u64, former: &str, second: i64| {
            let text = format!(
                "role:master\r\nmaster_replid:{replid}\r\nmaster_replid2:{former}\r\nmaster_repl_offset:{offset}\r\n\
                 second_repl_offset:{second}\r\n"
            );
            Replication::parse(&text).expect("a whole reply")
        };
        let none = "0".repeat(40);
        let third = "f".repeat(40);
        let old = replication(ID, 1000, &none, -1);
        let new = replication(OTHER, 950, ID, 901);
        assert_eq!((old.shared_with(&new), new.shared_with(&old)), (Some(900), Some(900)));
        let other_heir = replication(&third, 990, ID, 881);
        assert_eq!(new.shared_with(&other_heir), Some(880));
        assert_eq!(old.shared_with(&replication(ID, 10, &none, -1)), Some(10));
        assert_eq!(old.shared_with(&replication(&third, 1000, &none, -1)), None);
    }

    #[test]
    fn a_backlog_is_told_in_bytes_applied() {
        let text = |active: u8| {
            format!(
                "role:master\r\nmaster_replid:{ID}\r\nmaster_repl_offset:150\r\nrepl_backlog_active:{active}\r\n\
                 repl_backlog_first_byte_offset:101\r\nrepl_backlog_histlen:50\r\n"
            )
        };
        let backlog = |active| Replication::parse(&text(active)).expect("a whole reply").backlog;
        assert_eq!((backlog(1), backlog(0)), (Some(100..150), None));
    }

    #[test]
    fn a_reply_without_what_decides_is_refused() {
        let whole = replica("master_link_status:up\r\nslave_repl_offset:1288\r\n");
        for field in ["role", "master_replid", "master_repl_offset", "master_host", "master_port"] {
            let without: String = whole
                .lines()
                .filter(|line| !line.starts_with(&format!("{field}:")))
                .map(|line| format!("{line}\r\n"))
                .collect();
            assert_eq!(NodeReport::parse(&without).err(), Some(ReportError::Field(field)));
        }
        assert_eq!(NodeReport::parse(&"x".repeat(2 << 20)).err(), Some(ReportError::TooLong(2 << 20)));
    }

    #[test]
    fn a_huge_count_of_replicas_costs_nothing() {
        let text = format!(
            "role:master\r\nconnected_slaves:18446744073709551615\r\nmaster_replid:{ID}\r\nmaster_repl_offset:0\r\n"
        );
        assert_eq!(Replication::parse(&text).expect("a whole reply").replicas, []);
    }

    #[test]
    fn no_reply_makes_the_parser_panic() {
        let whole = replica("master_link_status:up\r\nslave_repl_offset:1288\r\n");
        let mut state = 1_u64;
        for _ in 0..2_000 {
            let mut bytes = whole.clone().into_bytes();
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            let _ = NodeReport::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
