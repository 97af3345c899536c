//! The replica's side of the handshake, line by line: <https://redis.io/docs/latest/commands/psync/>.

use std::fmt;

use super::ReplicationId;
use crate::resp::append_request;

/// What a replica has to say to its upstream.
#[derive(Debug, Clone, Default)]
pub struct Greeting {
    /// User name (none for the default one) and password.
    pub auth: Option<(Option<String>, Vec<u8>)>,
    /// The port this replica can be reached at.
    pub listening_port: u16,
    /// The address, if the one that the upstream sees is not it.
    pub announced_ip: Option<String>,
    /// The history and the bytes of it that this replica has; none asks for everything.
    pub resume: Option<(ReplicationId, u64)>,
    /// The upstream is a replica that shall take over.
    pub failover: bool,
    /// A history that the upstream must have.
    pub expected: Option<ReplicationId>,
    /// The name of this run of this replica, by which a circle is noticed.
    pub run_id: Option<ReplicationId>,
}

/// What the upstream agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An image of everything up to `offset` follows, then the stream.
    Full {
        /// The history's name.
        id: ReplicationId,
        /// Bytes of it in the image.
        offset: u64,
    },
    /// The stream goes on, perhaps under a new name.
    Partial {
        /// That name.
        id: Option<ReplicationId>,
    },
}

/// Where the handshake stands: what the next line answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The `PING`.
    AwaitPong,
    /// The question for the upstream's histories, before it is told any secret.
    AwaitIdentity,
    /// The `AUTH`.
    AwaitAuth,
    /// So many `REPLCONF`s, which were sent together. `PSYNC` is not among them: Redis refuses it to a client that has
    /// replies waiting.
    AwaitReplconf(u8),
    /// The `PSYNC`.
    AwaitSync,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes and go on from there.
    Send(Handshake, Vec<u8>),
    /// Read another line.
    Wait(Handshake),
    /// Agreed.
    Done(Answer),
    /// Not now; why. Try again.
    Retry(String),
    /// The upstream says no; its words. Trying again helps only if somebody changes something.
    Refused(String),
    /// Following this upstream would do harm; why.
    Harmful(String),
}

impl Handshake {
    /// The first state and what is sent to reach it.
    pub fn begin() -> (Handshake, Vec<u8>) {
        (Handshake::AwaitPong, request(&[b"PING"]))
    }

    /// Takes one line from the upstream, without its end.
    pub fn on_line(self, greeting: &Greeting, line: &[u8]) -> Step {
        // An empty line says only that the upstream is alive and busy.
        if line.is_empty() {
            return Step::Wait(self);
        }
        let text = || String::from_utf8_lossy(line).into_owned();
        match self {
            Handshake::AwaitPong => {
                let lively = [b"+PONG".as_slice(), b"-NOAUTH", b"-NOPERM", b"-ERR operation not permitted"];
                if !lively.iter().any(|answer| line.starts_with(answer)) {
                    return Step::Retry(format!("Error reply to PING from master: '{}'", text()));
                }
                match greeting.expected {
                    None => authenticate(greeting),
                    Some(_) => Step::Send(Handshake::AwaitIdentity, request(&[b"REPLID"])),
                }
            }
            Handshake::AwaitIdentity if greeting.expected.is_none_or(|id| names(line, id)) => authenticate(greeting),
            Handshake::AwaitIdentity => Step::Harmful(format!(
                "The master has not the history that replica-expect-master-id names, or cannot say so (it is no repld): \
                 it is told no password, and not followed. Its answer: '{}'",
                text()
            )),
            Handshake::AwaitAuth if line[0] == b'-' => Step::Refused(format!("Unable to AUTH to MASTER: {}", text())),
            Handshake::AwaitAuth => identify(greeting),
            Handshake::AwaitReplconf(_) if line.starts_with(b"-CYCLE") => {
                Step::Harmful(format!("The master follows this server: {}", text()))
            }
            // An old upstream may not know an option; that is no reason not to follow it.
            Handshake::AwaitReplconf(1) => ask(greeting),
            Handshake::AwaitReplconf(left) => Step::Wait(Handshake::AwaitReplconf(left - 1)),
            Handshake::AwaitSync => agreement(line),
        }
    }
}

fn request(arguments: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    append_request(&mut out, arguments);
    out
}

fn authenticate(greeting: &Greeting) -> Step {
    match &greeting.auth {
        None => identify(greeting),
        Some((None, password)) => Step::Send(Handshake::AwaitAuth, request(&[b"AUTH", password])),
        Some((Some(user), password)) => {
            Step::Send(Handshake::AwaitAuth, request(&[b"AUTH", user.as_bytes(), password]))
        }
    }
}

/// Whether an upstream's answer to `REPLID` names this history.
fn names(line: &[u8], id: ReplicationId) -> bool {
    let names = line.strip_prefix(b"+REPLID ").unwrap_or_default();
    names.split(|byte| *byte == b' ').any(|name| name == id.as_str().as_bytes())
}

/// What a repld says of itself when it is followed: `+CHAIN run-id … OF replid …`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ancestry {
    /// Its run id, and those of the servers above it.
    pub chain: Vec<ReplicationId>,
    /// The names of its history, the present one first.
    pub lineage: Vec<ReplicationId>,
}

impl Ancestry {
    /// As an upstream's answer to `REPLCONF repld-run-id` says it. Others do not know the question.
    pub fn parse(line: &[u8]) -> Option<Ancestry> {
        let text = std::str::from_utf8(line).ok()?.strip_prefix("+CHAIN ")?;
        let (chain, lineage) = text.split_once(" OF ")?;
        let ids =
            |text: &str| text.split(' ').map(|id| ReplicationId::parse(id.as_bytes())).collect::<Option<Vec<_>>>();
        Some(Ancestry { chain: ids(chain)?, lineage: ids(lineage)? })
    }
}

impl fmt::Display for Ancestry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |ids: &[ReplicationId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        write!(f, "CHAIN {} OF {}", ids(&self.chain), ids(&self.lineage))
    }
}

/// The version of Valkey whose images are read here: one that is told of none leaves out what older ones cannot load. Redis
/// does not know the option.
const READS_IMAGES_OF: &[u8] = b"9.0.0";

fn identify(greeting: &Greeting) -> Step {
    let mut out = Vec::new();
    let mut count = 3;
    append_request(&mut out, &[b"REPLCONF", b"listening-port", greeting.listening_port.to_string().as_bytes()]);
    if let Some(ip) = &greeting.announced_ip {
        append_request(&mut out, &[b"REPLCONF", b"ip-address", ip.as_bytes()]);
        count += 1;
    }
    if let Some(run_id) = &greeting.run_id {
        append_request(&mut out, &[b"REPLCONF", b"repld-run-id", run_id.as_str().as_bytes()]);
        count += 1;
    }
    append_request(&mut out, &[b"REPLCONF", b"version", READS_IMAGES_OF]);
    append_request(&mut out, &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]);
    Step::Send(Handshake::AwaitReplconf(count), out)
}

fn ask(greeting: &Greeting) -> Step {
    let (id, next) = match &greeting.resume {
        // The wire names the next byte wanted.
        Some((id, offset)) => (id.to_string(), (offset + 1).to_string()),
        None => ("?".into(), "-1".into()),
    };
    let mut arguments = vec![b"PSYNC".as_slice(), id.as_bytes(), next.as_bytes()];
    if greeting.failover {
        arguments.push(b"FAILOVER");
    }
    Step::Send(Handshake::AwaitSync, request(&arguments))
}

fn agreement(line: &[u8]) -> Step {
    let text = String::from_utf8_lossy(line);
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        ["+FULLRESYNC", id, offset, ..] => match (ReplicationId::parse(id.as_bytes()), offset.parse()) {
            (Some(id), Ok(offset)) => Step::Done(Answer::Full { id, offset }),
            _ => Step::Refused(format!("Master replied with wrong +FULLRESYNC syntax: '{text}'")),
        },
        ["+CONTINUE"] => Step::Done(Answer::Partial { id: None }),
        ["+CONTINUE", id, ..] => match ReplicationId::parse(id.as_bytes()) {
            Some(id) => Step::Done(Answer::Partial { id: Some(id) }),
            None => Step::Refused(format!("Master replied with wrong +CONTINUE syntax: '{text}'")),
        },
        ["-NOMASTERLINK" | "-LOADING", ..] => {
            Step::Retry(format!("Master is currently unable to PSYNC but should be in the future: {text}"))
        }
        _ => Step::Refused(format!("Unexpected reply to PSYNC from master: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn greeting() -> Greeting {
        let id = ReplicationId::parse(ID.as_bytes()).expect("40 digits");
        Greeting { listening_port: 6380, resume: Some((id, 41)), ..Greeting::default() }
    }

    fn sent(step: Step) -> (Handshake, String) {
        match step {
            Step::Send(next, bytes) => (next, String::from_utf8(bytes).expect("ASCII")),
            other => panic!("nothing sent: {other:?}"),
        }
    }

    #[test]
    fn the_request_names_the_byte_after_those_applied() {
        let (next, bytes) = sent(Handshake::AwaitPong.on_line(&greeting(), b"+PONG"));
        assert_eq!(next, Handshake::AwaitReplconf(3));
        assert!(bytes.contains("6380"), "{bytes}");
        assert_eq!(next.on_line(&greeting(), b"+OK"), Step::Wait(Handshake::AwaitReplconf(2)));
        let step = Handshake::AwaitReplconf(1).on_line(&greeting(), b"-ERR Unrecognized REPLCONF option");
        let (next, bytes) = sent(step);
        assert_eq!(next, Handshake::AwaitSync);
        assert_eq!(bytes, format!("*3\r\n$5\r\nPSYNC\r\n$40\r\n{ID}\r\n$2\r\n42\r\n"));
    }

    #[test]
    fn the_password_is_sent_before_anything_else_and_a_wrong_one_is_told() {
        let greeting = Greeting { auth: Some((None, b"secret".to_vec())), ..greeting() };
        let (next, bytes) = sent(Handshake::AwaitPong.on_line(&greeting, b"-NOAUTH Authentication required."));
        assert_eq!((next, bytes.as_str()), (Handshake::AwaitAuth, "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"));
        assert!(matches!(next.on_line(&greeting, b"-WRONGPASS no"), Step::Refused(why) if why.contains("WRONGPASS")));
        assert_eq!(sent(next.on_line(&greeting, b"+OK")).0, Handshake::AwaitReplconf(3));
    }

    #[test]
    fn each_answer_to_psync_is_understood() {
        let answer = |line: &str| Handshake::AwaitSync.on_line(&greeting(), line.as_bytes());
        let id = ReplicationId::parse(ID.as_bytes()).expect("40 digits");
        assert_eq!(answer(&format!("+FULLRESYNC {ID} 7")), Step::Done(Answer::Full { id, offset: 7 }));
        assert_eq!(answer("+CONTINUE"), Step::Done(Answer::Partial { id: None }));
        assert_eq!(answer(&format!("+CONTINUE {ID}")), Step::Done(Answer::Partial { id: Some(id) }));
        assert_eq!(answer(""), Step::Wait(Handshake::AwaitSync));
        assert!(matches!(answer("-LOADING Redis is loading"), Step::Retry(_)));
        assert!(matches!(answer("-NOMASTERLINK Can't SYNC"), Step::Retry(_)));
        assert!(matches!(answer("+FULLRESYNC x 7"), Step::Refused(_)));
        assert!(matches!(answer("-ERR unknown command"), Step::Refused(_)));
    }
}
