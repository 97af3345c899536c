//! A master's writes held back while this program lives, and little longer.
//!
//! `CLIENT PAUSE` ends by itself after the time that it is given. It is given little and renewed: if this program is killed,
//! the master takes writes again before anybody has run the command a second time.
//!
//! ```text
//!          PAUSE 2000   PAUSE 2000   PAUSE 2000           UNPAUSE
//! ---------|------------|------------|--------------------|---
//!          0 ms         500          1000       is_held until 2000
//! ```
//!
//! Source: <https://redis.io/docs/latest/commands/client-pause/>: a pause that is asked for during another one extends it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::wire::{NodeClient, WireError};

/// How long writes are held back after this program's last sign of life.
const LENGTH: Duration = Duration::from_secs(2);
/// Between two signs of life.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// An order that relies on the pause is given so long before its end at the latest.
const MARGIN: Duration = Duration::from_secs(1);

/// A pause of a node's writes. Dropped without [`WritePause::end`], it ends by itself.
#[derive(Debug)]
pub(super) struct WritePause {
    client: NodeClient,
    /// When the order was given that the node obeyed last.
    renewed: Arc<Mutex<Instant>>,
    renewal: JoinHandle<()>,
}

impl WritePause {
    /// Holds back the writes of a node from now on.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn begin(client: &NodeClient) -> Result<Self, WireError> {
        let renewed = Arc::new(Mutex::new(hold(client).await?));
        let (shared, own) = (Arc::clone(&renewed), client.clone());
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEW_EVERY).await;
                // A node that does not obey now may do so the next time; meanwhile the time since tells.
                if let Ok(now) = hold(&own).await {
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = now;
                }
            }
        });
        Ok(Self { client: client.clone(), renewed, renewal })
    }

    /// Whether no write can have been taken since it began, nor will be for a second from now: this program may itself have been
    /// stopped for longer than the pause.
    pub fn is_held(&self) -> bool {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < LENGTH - MARGIN
    }

    /// Lets the node take writes again. A replica refuses them at once then, which a pause would only hold back.
    pub async fn end(self) {
        self.renewal.abort();
        // A node that does not answer goes on by itself.
        let _ = self.client.command(&["CLIENT", "UNPAUSE"]).await;
    }
}

impl Drop for WritePause {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Asks for one length of pause; returns when.
async fn hold(client: &NodeClient) -> Result<Instant, WireError> {
    let now = Instant::now();
    let length_ms = LENGTH.as_millis().to_string();
    client.command(&["CLIENT", "PAUSE", &length_ms, "WRITE"]).await?;
    Ok(now)
}
