//! Talking to servers: one connection per node, every wait bounded, `INFO` read into a [`NodeReport`].
//!
//! Built on the redis crate's plain multiplexed connection. Its connection manager is not used: it retries with jitter,
//! and whoever asks whether a node is dead wants the first answer. Its default response timeout (500 ms) is not used
//! either: every connection is given its own.

mod report;
mod words;

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError, Value,
};

use crate::failpoint;
use crate::topology::{Address, Login};

pub use report::{
    AttachedReplica, FormerHistory, Link, NodeReport, Past, Replication, ReplicationId, ReportError, Role, Upstream,
};
pub use words::split_words;

/// Where a node listens, and what it asks of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is reached from here.
    pub address: Address,
    /// Where the other nodes reach it, and what they call it.
    pub announced: Address,
    /// Who to log in as.
    pub login: Login,
    /// Ports that stand for other nodes' own where this node follows them: (the other's own, the one that stands for it).
    pub link_ports: Vec<(u16, u16)>,
}

impl Endpoint {
    /// Where this node reaches another one.
    fn way_to(&self, other: &Address) -> Address {
        let port = self.link_ports.iter().find(|(own, _)| *own == other.port).map_or(other.port, |(_, port)| *port);
        Address { host: other.host.clone(), port }
    }

    /// Whom this node means by the address that it follows.
    fn meant_by(&self, mut replication: Replication) -> Replication {
        if let Role::Replica(upstream) = &mut replication.role
            && let Some((own, _)) = self.link_ports.iter().find(|(_, port)| *port == upstream.port)
        {
            upstream.port = *own;
        }
        replication
    }
}

/// Why a node did not answer as it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WireError {
    /// Nobody listens on its port.
    #[error("nobody listens at {0}")]
    Refused(Address),
    /// It cannot be reached: no such host, no route.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Its address.
        address: Address,
        /// What the system said.
        reason: String,
    },
    /// It did not answer in time.
    #[error("no answer in {} ms", .0.as_millis())]
    Silent(Duration),
    /// It closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// It answered with an error: code and text.
    #[error("{code} {text}")]
    Server {
        /// `ERR`, `LOADING`, `NOAUTH` and so on.
        code: String,
        /// The rest of the line.
        text: String,
    },
    /// It answered with something that makes no sense.
    #[error("{0}")]
    Nonsense(String),
}

impl WireError {
    /// Whether the server answers and asks to come back when it has loaded its data.
    pub fn is_loading(&self) -> bool {
        matches!(self, Self::Server { code, .. } if code == "LOADING")
    }

    fn of(error: &RedisError, endpoint: &Endpoint, limit: Duration) -> Self {
        if error.is_timeout() {
            return Self::Silent(limit);
        }
        if error.is_connection_refusal() {
            return Self::Refused(endpoint.address.clone());
        }
        if error.is_connection_dropped() || error.is_io_error() {
            return Self::Closed;
        }
        match error.code() {
            Some(code) => Self::Server { code: code.to_owned(), text: error.detail().unwrap_or_default().to_owned() },
            None => Self::Nonsense(error.to_string()),
        }
    }
}

/// A connection to one node. Cloning it shares the connection.
#[derive(Clone)]
pub struct NodeClient {
    connection: MultiplexedConnection,
    endpoint: Endpoint,
    limit: Duration,
}

impl fmt::Debug for NodeClient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "NodeClient({:?})", self.endpoint)
    }
}

impl NodeClient {
    /// Connects once, without retry. `limit` bounds this and every later answer.
    ///
    /// # Errors
    /// Nobody listens, or no answer came in time, or the password is wrong.
    pub async fn connect(endpoint: &Endpoint, limit: Duration) -> Result<Self, WireError> {
        let wire_error = |error: RedisError| match WireError::of(&error, endpoint, limit) {
            // Nothing was open that could be closed.
            WireError::Closed if error.is_io_error() && !error.is_connection_dropped() => {
                WireError::Unreachable { address: endpoint.address.clone(), reason: error.to_string() }
            }
            error => error,
        };
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(password) = &endpoint.login.password {
            settings = settings.set_password(password);
        }
        if let Some(user) = &endpoint.login.user {
            settings = settings.set_username(user);
        }
        let Address { host, port } = endpoint.address.clone();
        let info = ConnectionAddr::Tcp(host, port)
            .into_connection_info()
            .map_err(wire_error)?
            .set_redis_settings(settings)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(Some(limit));
        let client = Client::open(info).map_err(wire_error)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(wire_error)?;
        Ok(Self { connection, endpoint: endpoint.clone(), limit })
    }

    /// Where the node is reached from here.
    pub fn address(&self) -> &Address {
        &self.endpoint.address
    }

    /// Where the other nodes reach it, and what they call it.
    pub fn announced(&self) -> &Address {
        &self.endpoint.announced
    }

    /// Lets the node follow another one, at the address where nodes reach that.
    ///
    /// # Errors
    /// As [`NodeClient::command`].
    pub async fn follow(&self, upstream: &Address) -> Result<(), WireError> {
        self.command(&self.words_to_follow(upstream)).await.map(drop)
    }

    /// The command that lets it.
    pub fn words_to_follow(&self, upstream: &Address) -> [String; 3] {
        let (host, port) = self.endpoint.way_to(upstream).into_words();
        ["REPLICAOF".to_owned(), host, port]
    }

    /// Whether its links go by other ports than the nodes' own.
    pub fn has_link_ports(&self) -> bool {
        !self.endpoint.link_ports.is_empty()
    }

    /// Where the node is reached, and as whom.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Runs one command.
    ///
    /// # Errors
    /// An error reply is an error, too.
    pub async fn command<A: AsRef<[u8]>>(&self, words: &[A]) -> Result<Value, WireError> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word.as_ref());
        }
        pass_order("sending", words);
        let reply = self.connection.clone().send_packed_command(&command).await.map_err(|error| self.error(&error))?;
        pass_order("sent", words);
        self.without_error(reply)
    }

    /// Runs commands in one write, one result each.
    ///
    /// # Errors
    /// The connection failed; an error reply is the error of its command only.
    pub async fn pipeline(&self, commands: &[&[&str]]) -> Result<Vec<Result<Value, WireError>>, WireError> {
        let mut pipeline = redis::Pipeline::with_capacity(commands.len());
        for words in commands {
            let (name, rest) = words.split_first().expect("a command has a name");
            let command = pipeline.cmd(name);
            for word in rest {
                command.arg(*word);
            }
            pass_order("sending", words);
        }
        let replies = self
            .connection
            .clone()
            .send_packed_commands(&pipeline, 0, commands.len())
            .await
            .map_err(|error| self.error(&error))?;
        commands.iter().for_each(|words| pass_order("sent", words));
        Ok(replies.into_iter().map(|reply| self.without_error(reply)).collect())
    }

    /// The value of a configuration directive; `None`: it has no such directive.
    ///
    /// # Errors
    /// As [`NodeClient::command`]; it may not be allowed.
    pub async fn directive(&self, name: &str) -> Result<Option<String>, WireError> {
        let reply = self.command(&["CONFIG", "GET", name]).await?;
        let pair: Vec<String> =
            redis::from_redis_value(reply).map_err(|error| WireError::Nonsense(format!("CONFIG GET: {error}")))?;
        Ok(pair.into_iter().nth(1))
    }

    /// The node's report on itself, from all default sections of INFO.
    ///
    /// # Errors
    /// No answer, an error reply, or an answer that is not INFO's.
    pub async fn report(&self) -> Result<NodeReport, WireError> {
        let text = self.info(&["INFO"]).await?;
        let report = NodeReport::parse(&text).map_err(|error| WireError::Nonsense(error.to_string()))?;
        Ok(NodeReport { replication: self.endpoint.meant_by(report.replication), ..report })
    }

    /// The node's part in its group, from one section of INFO.
    ///
    /// # Errors
    /// As [`NodeClient::report`].
    pub async fn replication(&self) -> Result<Replication, WireError> {
        let text = self.info(&["INFO", "replication"]).await?;
        let replication = Replication::parse(&text).map_err(|error| WireError::Nonsense(error.to_string()))?;
        Ok(self.endpoint.meant_by(replication))
    }

    async fn info(&self, command: &[&str]) -> Result<String, WireError> {
        let reply = self.command(command).await?;
        redis::from_redis_value(reply).map_err(|error| WireError::Nonsense(format!("INFO: {error}")))
    }

    fn without_error(&self, reply: Value) -> Result<Value, WireError> {
        match reply {
            Value::ServerError(error) => Err(self.error(&error.into())),
            reply => Ok(reply),
        }
    }

    fn error(&self, error: &RedisError) -> WireError {
        WireError::of(error, &self.endpoint, self.limit)
    }
}

/// Lets a test kill this program before and after a command that changes a node.
fn pass_order<A: AsRef<[u8]>>(when: &str, words: &[A]) {
    const ORDERS: [&[u8]; 3] = [b"REPLICAOF", b"CLIENT", b"FAILOVER"];
    const TO_SENTINELS: [&[u8]; 2] = [b"REMOVE", b"MONITOR"];
    let is_one_of = |word: Option<&A>, known: &[&[u8]]| word.is_some_and(|word| known.contains(&word.as_ref()));
    if is_one_of(words.first(), &ORDERS) || is_one_of(words.get(1), &TO_SENTINELS) {
        let words = words.iter().take(2).map(|word| String::from_utf8_lossy(word.as_ref()));
        failpoint::pass(|| words.fold(when.to_owned(), |point, word| format!("{point} {word}")));
    }
}
