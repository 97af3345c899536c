//! What a node holds of a drill's keys afterwards, read back as any client reads it.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use redis::Value;
use serde::Serialize;

use super::load::SHARED_KEYS;
use crate::wire::{NodeClient, WireError};

/// Keys that are asked for in one round trip.
const BATCH: usize = 500;

/// A node's data, as far as the writers made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Every key with a digest of its value.
    digests: BTreeMap<String, u64>,
    /// The numbers of `SET`s of unique keys whose value is right.
    pub numbers: HashSet<u64>,
    /// The lists, by their numbers.
    pub lists: Vec<Vec<u64>>,
    /// The counters, by their numbers.
    pub counters: Vec<u64>,
    /// The registers that hold anything.
    pub registers: BTreeMap<u32, u64>,
}

/// The first key that two nodes do not hold alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The node.
    pub node: String,
    /// The one that it was compared with.
    pub reference: String,
    /// The first key, in the order of their names.
    pub key: String,
    /// How it differs.
    pub how: &'static str,
    /// How many keys do.
    pub keys: usize,
}

/// Removes the keys of a drill from a master.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn remove(client: &NodeClient) -> Result<(), WireError> {
    let mut cursor = "0".to_owned();
    loop {
        let (next, keys) = scan(client, &cursor).await?;
        for batch in keys.chunks(BATCH) {
            let words: Vec<&str> = std::iter::once("DEL").chain(batch.iter().map(String::as_str)).collect();
            client.command(&words).await?;
        }
        cursor = next;
        if cursor == "0" {
            return Ok(());
        }
    }
}

/// Some of the drill's keys, and from where to go on.
async fn scan(client: &NodeClient, cursor: &str) -> Result<(String, Vec<String>), WireError> {
    let reply = client.command(&["SCAN", cursor, "MATCH", "drill:*", "COUNT", "1000"]).await?;
    redis::from_redis_value(reply).map_err(|error| WireError::Nonsense(format!("SCAN: {error}")))
}

impl Contents {
    /// Reads them.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn read(client: &NodeClient) -> Result<Self, WireError> {
        let shared = usize::try_from(SHARED_KEYS).unwrap_or_default();
        let mut contents = Self { lists: vec![Vec::new(); shared], counters: vec![0; shared], ..Self::default() };
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys) = scan(client, &cursor).await?;
            for batch in keys.chunks(BATCH) {
                contents.read_keys(client, batch).await?;
            }
            cursor = next;
            if cursor == "0" {
                return Ok(contents);
            }
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    async fn read_keys(&mut self, client: &NodeClient, keys: &[String]) -> Result<(), WireError> {
        let commands: Vec<Vec<&str>> = keys.iter().map(|key| command_for(key)).collect();
        let words: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
        for (key, reply) in keys.iter().zip(client.pipeline(&words).await?) {
            let reply = reply?;
            // It has expired since it was listed.
            if !matches!(&reply, Value::Nil) && !matches!(&reply, Value::Array(values) if values.is_empty()) {
                self.enter(key, reply);
            }
        }
        Ok(())
    }

    fn enter(&mut self, key: &str, mut value: Value) {
        if let (true, Value::Array(values)) = (is_unordered(key), &mut value) {
            sort(values, if kind_of(key) == "hash" { 2 } else { 1 });
        }
        let mut hasher = DefaultHasher::new();
        format!("{value:?}").hash(&mut hasher);
        self.digests.insert(key.to_owned(), hasher.finish());
        let number = key.rsplit(':').next().and_then(|number| number.parse::<usize>().ok());
        let Some(number) = number else { return };
        match kind_of(key) {
            "set" if number_of(&value) == Some(number as u64) => {
                self.numbers.insert(number as u64);
            }
            "list" if number < self.lists.len() => {
                let Value::Array(values) = value else { return };
                self.lists[number] = values.iter().filter_map(number_of).collect();
            }
            "counter" if number < self.counters.len() => self.counters[number] = number_of(&value).unwrap_or(0),
            "register" => {
                self.registers.extend(u32::try_from(number).ok().zip(number_of(&value)));
            }
            _ => {}
        }
    }

    /// The first key that is not the same here and in `reference`.
    pub fn divergence(&self, node: &str, reference: &Contents, of: &str) -> Option<Divergence> {
        let missing = reference.digests.iter().filter_map(|(key, digest)| match self.digests.get(key) {
            None => Some((key, "is missing")),
            Some(own) if own != digest => Some((key, "has another value")),
            Some(_) => None,
        });
        let more = self.digests.keys().filter(|key| !reference.digests.contains_key(*key));
        let mut differences: Vec<(&String, &'static str)> =
            missing.chain(more.map(|key| (key, "is there, and should not be"))).collect();
        differences.sort_unstable();
        let (key, how) = differences.first()?;
        let (node, reference) = (node.to_owned(), of.to_owned());
        Some(Divergence { node, reference, key: (*key).clone(), how, keys: differences.len() })
    }
}

fn kind_of(key: &str) -> &str {
    key.split(':').nth(1).unwrap_or_default()
}

fn is_unordered(key: &str) -> bool {
    matches!(kind_of(key), "hash" | "members")
}

/// The writers name their keys after what is in them.
fn command_for(key: &str) -> Vec<&str> {
    match kind_of(key) {
        "list" => vec!["LRANGE", key, "0", "-1"],
        "hash" => vec!["HGETALL", key],
        "members" => vec!["SMEMBERS", key],
        "zset" => vec!["ZRANGE", key, "0", "-1", "WITHSCORES"],
        "stream" => vec!["XRANGE", key, "-", "+"],
        _ => vec!["GET", key],
    }
}

/// Sorts what a server lists in no order, `width` values at a time.
fn sort(values: &mut Vec<Value>, width: usize) {
    let mut groups: Vec<Vec<Value>> = values.chunks(width).map(<[Value]>::to_vec).collect();
    groups.sort_by_key(|group| format!("{group:?}"));
    *values = groups.into_iter().flatten().collect();
}

fn number_of(value: &Value) -> Option<u64> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn with(entries: &[(&str, Value)]) -> Contents {
        let mut contents = Contents { lists: vec![Vec::new(); 8], counters: vec![0; 8], ..Contents::default() };
        entries.iter().for_each(|(key, value)| contents.enter(key, value.clone()));
        contents
    }

    #[test]
    fn a_key_whose_value_is_not_the_one_that_was_written_does_not_count_as_there() {
        let contents = with(&[("drill:set:7", bulk("0000007")), ("drill:set:8", bulk("0000009"))]);
        assert_eq!((contents.numbers, contents.digests.len()), (HashSet::from([7]), 2));
    }

    #[test]
    fn the_order_of_a_sets_members_is_no_difference_and_that_of_a_list_is() {
        let array = |words: &[&str]| Value::Array(words.iter().map(|word| bulk(word)).collect());
        let one = with(&[("drill:members:1", array(&["a", "b"])), ("drill:hash:1", array(&["x", "1", "a", "2"]))]);
        let other = with(&[("drill:members:1", array(&["b", "a"])), ("drill:hash:1", array(&["a", "2", "x", "1"]))]);
        assert_eq!(one.divergence("n2", &other, "n1"), None);
        let swapped = with(&[("drill:hash:1", array(&["a", "1", "x", "2"])), ("drill:members:1", array(&["a", "b"]))]);
        assert_eq!(swapped.divergence("n2", &other, "n1").map(|found| found.key), Some("drill:hash:1".to_owned()));
        let (one, other) =
            (with(&[("drill:list:1", array(&["1", "2"]))]), with(&[("drill:list:1", array(&["2", "1"]))]));
        assert!(one.divergence("n2", &other, "n1").is_some());
    }

    #[test]
    fn a_key_that_is_missing_or_one_too_many_is_a_difference() {
        let (less, more) = (with(&[]), with(&[("drill:set:1", bulk("1"))]));
        assert_eq!(less.divergence("n2", &more, "n1").map(|found| found.how), Some("is missing"));
        let found = more.divergence("n2", &less, "n1").expect("it differs");
        assert_eq!((found.how, found.keys, found.reference.as_str()), ("is there, and should not be", 1, "n1"));
    }
}
