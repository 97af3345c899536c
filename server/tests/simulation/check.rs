//! What must hold at every moment, and what must hold when all is quiet.

use std::collections::{BTreeMap, HashMap};

use repld::instance::Instance;
use repld::replication::backlog::Remains;
use repld::replication::{Backlog, History, ReplicationId};

use crate::node::{Checked, Node, Wires};

/// The bytes of one history as they were first seen, from some offset on.
struct Ledger {
    start: u64,
    bytes: Vec<u8>,
}

impl Ledger {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Takes `bytes`, which a node has from offset `at` on: what is known must be the same, what follows is learned.
    fn learn(&mut self, at: u64, bytes: &[u8]) -> Result<(), u64> {
        let (from, until) = (at.max(self.start), (at + bytes.len() as u64).min(self.end()));
        if from < until {
            let known = &self.bytes[(from - self.start) as usize..(until - self.start) as usize];
            let given = &bytes[(from - at) as usize..(until - at) as usize];
            if let Some(place) = known.iter().zip(given).position(|(known, given)| known != given) {
                return Err(from + place as u64);
            }
        }
        if at <= self.end() && at + bytes.len() as u64 > self.end() {
            self.bytes.extend_from_slice(&bytes[(self.end() - at) as usize..]);
        }
        Ok(())
    }
}

/// What is known of all histories, and how far each node was held against them.
#[derive(Default)]
pub struct Ledgers {
    of: HashMap<ReplicationId, Ledger>,
    checked: HashMap<usize, (History, u64, u64)>,
}

impl Ledgers {
    /// Holds what a node has appended since the last time against what others have of the same history.
    pub fn check(&mut self, node: &Node) -> Checked<()> {
        let Some(instance) = &node.instance else {
            self.checked.remove(&node.index);
            return Ok(());
        };
        let replication = &instance.replication;
        let Some(backlog) = &replication.backlog else { return Ok(()) };
        if backlog.end() != replication.offset {
            return Err(format!(
                "node {} counts {} bytes and keeps up to {}",
                node.index,
                replication.offset,
                backlog.end()
            ));
        }
        if *backlog.history() != replication.history {
            return Err(format!("node {} has a backlog of another history", node.index));
        }
        let seen = (replication.history, backlog.start(), backlog.end());
        let from = match self.checked.insert(node.index, seen) {
            Some((history, _, end)) if history == replication.history && end <= backlog.end() => {
                end.max(backlog.start())
            }
            _ => backlog.start(),
        };
        if from == backlog.end() && self.of.contains_key(&replication.history.replid) {
            return Ok(());
        }
        let bytes = bytes_from(backlog, from);
        if let Some((previous, shared)) = replication.history.previous
            && shared > from
        {
            let shared = (shared.min(backlog.end()) - from) as usize;
            self.learn(node.index, previous, from, &bytes[..shared])?;
        }
        self.learn(node.index, replication.history.replid, from, &bytes)
    }

    fn learn(&mut self, node: usize, id: ReplicationId, at: u64, bytes: &[u8]) -> Checked<()> {
        let ledger = self.of.entry(id).or_insert_with(|| Ledger { start: at, bytes: Vec::new() });
        ledger.learn(at, bytes).map_err(|offset| format!("node {node} has other bytes of {id} at offset {offset}"))
    }
}

/// What a backlog holds.
#[derive(PartialEq)]
pub struct Kept {
    history: History,
    end: u64,
    selected_db: Option<u32>,
    bytes: Vec<u8>,
}

impl Kept {
    /// What a living node has.
    pub fn by(instance: &Instance) -> Option<Kept> {
        let backlog = instance.replication.backlog.as_ref()?;
        let (history, end, selected_db) = (*backlog.history(), backlog.end(), backlog.selected_db());
        Some(Kept { history, end, selected_db, bytes: bytes_from(backlog, backlog.start()) })
    }

    /// Holds what a killed node has left in its file against what it had.
    pub fn check_file(&self, index: usize, file: &std::path::Path) -> Checked<()> {
        let fail = |error: &dyn std::fmt::Display| format!("node {index} has left a backlog that is none: {error}");
        let remains = Remains::open(file).map_err(|error| fail(&error))?;
        let bytes = remains.bytes().map_err(|error| fail(&error))?;
        let selected_db = remains.selected_db();
        let left = Kept { history: remains.history, end: remains.end, selected_db, bytes };
        if left == *self { Ok(()) } else { Err(format!("node {index} has left another backlog than it had")) }
    }
}

fn bytes_from(backlog: &Backlog, from: u64) -> Vec<u8> {
    let (first, second) = backlog.slices(from).expect("it was asked for what is there");
    [first, second].concat()
}

/// Nobody may be said to have more than it has.
pub fn check_acknowledgements(node: &Node, wires: &Wires) -> Checked<()> {
    for connection in &node.connections {
        let Some(feed) = connection.session.feed.as_ref().filter(|feed| feed.is_online()) else { continue };
        let wire = &wires[&connection.wire];
        if feed.acknowledged.get() > wire.reached {
            return Err(format!(
                "node {} believes that node {} has {} bytes, which has {}",
                node.index,
                wire.replica,
                feed.acknowledged.get(),
                wire.reached
            ));
        }
    }
    Ok(())
}

/// What lies at a database and key: the value's type and digest, and its deadline.
type Data = BTreeMap<(usize, Vec<u8>), (&'static str, u128, Option<i64>)>;

fn data(instance: &Instance) -> Data {
    let mut data = Data::new();
    for db in 0..instance.keyspace.databases() {
        instance.keyspace.for_each(db, |entry| {
            let value = (entry.type_name(), entry.value().digest(), entry.deadline_ms());
            data.insert((db, entry.key().to_vec()), value);
        });
    }
    data
}

/// Both are at the same point of the same history, and have the same data.
pub fn check_equal(one: &Node, other: &Node) -> Checked<()> {
    let (Some(a), Some(b)) = (&one.instance, &other.instance) else { return Err("a node is not there".into()) };
    let point = |instance: &Instance| (instance.replication.history.replid, instance.replication.offset);
    if point(a) != point(b) {
        return Err(format!("node {} is at {:?}, node {} at {:?}", one.index, point(a), other.index, point(b)));
    }
    let (ours, theirs) = (data(a), data(b));
    if ours != theirs {
        let differs = ours.iter().find(|(place, value)| theirs.get(*place) != Some(*value));
        let differs = differs.or_else(|| theirs.iter().find(|(place, _)| !ours.contains_key(*place)));
        let ((db, key), _) = differs.expect("they differ");
        let place = (*db, key.clone());
        return Err(format!(
            "nodes {} and {} differ in database {db} at key {}: {:?} and {:?}",
            one.index,
            other.index,
            String::from_utf8_lossy(key),
            ours.get(&place),
            theirs.get(&place)
        ));
    }
    Ok(())
}
