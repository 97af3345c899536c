//! What the proxies of links cost: the same requests, sent to a node directly and by the proxy of a link to it.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::timing::micros;
use crate::group::{Group, GroupError, endpoint};
use crate::topology::Address;
use crate::wire::{Endpoint, NodeClient, WireError};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Requests whose round trips are taken, on each way.
const ROUND_TRIPS: usize = 200;
/// Requests that carry much, on each way.
const BULKS: usize = 8;
/// What each of them carries there and back.
const BULK_BYTES: usize = 1 << 20;

/// A link's two ways, compared before anything is written or broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkOverhead {
    /// The replica whose link it is.
    pub from: String,
    /// The node that it follows.
    pub to: String,
    /// Without the proxy.
    pub direct: Way,
    /// By it.
    pub by_proxy: Way,
}

/// What one way takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Way {
    /// The median of round trips of a `PING`, in microseconds.
    pub round_trip_us: u64,
    /// Bytes a second, there and back together, in the median of `ECHO`s of a megabyte.
    pub bytes_per_sec: u64,
}

impl LinkOverhead {
    /// Measures it on the first link of a group. `None`: its links are not carried by proxies.
    ///
    /// # Errors
    /// A node does not answer.
    pub async fn measure(group: &Group) -> Result<Option<Self>, GroupError> {
        for node in &group.run.nodes {
            let Some(upstream) = group.run.upstream_of(node) else { continue };
            let ports = node.managed().map(|server| &server.link_ports);
            let Some(link) = ports.and_then(|ports| ports.iter().find(|link| link.to == upstream.name)) else {
                continue;
            };
            let direct = endpoint(upstream);
            let by_proxy = Endpoint { address: Address::loopback(link.port), ..direct.clone() };
            let ways = compare(&direct, &by_proxy).await;
            let (from, to) = (node.name.clone(), upstream.name.clone());
            let [direct, by_proxy] = ways.map_err(|source| GroupError::Wire { node: to.clone(), source })?;
            return Ok(Some(Self { from, to, direct, by_proxy }));
        }
        Ok(None)
    }
}

/// One after the other in turn, so that both meet the same machine.
async fn compare(direct: &Endpoint, by_proxy: &Endpoint) -> Result<[Way; 2], WireError> {
    let clients = [NodeClient::connect(direct, LIMIT).await?, NodeClient::connect(by_proxy, LIMIT).await?];
    let bulk = "x".repeat(BULK_BYTES);
    let pings = in_turn(&clients, &["PING"], ROUND_TRIPS).await?;
    let bulks = in_turn(&clients, &["ECHO", &bulk], BULKS).await?;
    Ok([0, 1].map(|way| Way {
        round_trip_us: micros(pings[way]),
        bytes_per_sec: (2.0 * BULK_BYTES as f64 / bulks[way].as_secs_f64()) as u64,
    }))
}

/// The medians of the round trips of a request on each of two ways.
async fn in_turn(clients: &[NodeClient; 2], words: &[&str], count: usize) -> Result<[Duration; 2], WireError> {
    let mut times = [Vec::with_capacity(count), Vec::with_capacity(count)];
    for _ in 0..count {
        for (client, times) in clients.iter().zip(&mut times) {
            let began = Instant::now();
            client.command(words).await?;
            times.push(began.elapsed());
        }
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[count / 2]
    }))
}
