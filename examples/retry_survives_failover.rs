//! A test of an application's retry logic: its writes go on when the master dies and a replica takes over.
//!
//! ```console
//! $ cargo build && cargo run --example retry_survives_failover
//! ```
//!
//! In a project of its own, `main` would be a `#[tokio::test]`.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use replctl::Group;

/// The application: it counts, on whichever of its servers takes writes.
struct Counter {
    servers: Vec<String>,
    connection: Option<MultiplexedConnection>,
}

impl Counter {
    /// Adds one. Where the master is gone it goes through the servers, again and again for at most `patience`.
    async fn add(&mut self, patience: Duration) -> redis::RedisResult<u64> {
        let give_up = Instant::now() + patience;
        for attempt in 0.. {
            let server = &self.servers[attempt % self.servers.len()];
            match add_at(&mut self.connection, server).await {
                Ok(count) => return Ok(count),
                Err(error) if Instant::now() > give_up => return Err(error),
                Err(_) => self.connection = None,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        unreachable!("attempts end by an answer or by patience")
    }
}

async fn add_at(connection: &mut Option<MultiplexedConnection>, server: &str) -> redis::RedisResult<u64> {
    let connected = match connection.take() {
        Some(connected) => connected,
        None => redis::Client::open(server)?.get_multiplexed_async_connection().await?,
    };
    redis::cmd("INCR").arg("visits").query_async(connection.insert(connected)).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut group = Group::trio().up().await?;
    let servers = group.nodes().into_iter().map(|node| node.url).collect();
    let mut counter = Counter { servers, connection: None };
    for expected in 1..=100 {
        assert_eq!(counter.add(Duration::ZERO).await?, expected);
    }

    let dead = group.kill_master().await?;
    assert!(counter.add(Duration::ZERO).await.is_err(), "without a master nothing is counted");
    let began = Instant::now();
    let (promotion, count) = tokio::join!(group.promote(), counter.add(Duration::from_secs(5)));
    let promotion = promotion?;
    println!("{} died, {} took over, the next write took {:?}", dead.name, promotion.to, began.elapsed());

    assert_eq!(promotion.lost_bytes, 0);
    assert_eq!(count?, 101, "the new master has every acknowledged write");
    Ok(())
}
