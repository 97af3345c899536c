//! The server directives of a `config` table: which of them a topology may set.
//!
//! Directives are those of redis.conf (<https://redis.io/docs/latest/operate/oss_and_stack/management/config/>). They
//! are passed through as they are, one line of the server's configuration file each, so a value that could end its
//! line is refused, and so are the directives by which replctl places, wires and finds its nodes.

/// Longest value of a directive, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 1024;

/// Most directives of one node.
pub(super) const DIRECTIVES_MAX: usize = 128;

/// The directives that replctl sets itself, and why a topology cannot.
const OWNED: [(&str, &str); 24] = [
    ("bind", "every node listens on loopback only"),
    ("cluster-enabled", "a group is one master and its replicas, not a cluster"),
    ("daemonize", "replctl starts each node itself and must know its process"),
    ("dir", "each node has a directory of its own under the state directory"),
    ("include", "the included file could set what replctl sets itself"),
    ("logfile", "each node logs into its own directory: `replctl logs` shows it"),
    ("pidfile", "replctl records which process each node is"),
    ("port", "set the key `port` of the node instead"),
    ("replica-announce-ip", "nodes are known by the address that they listen on"),
    ("replica-announce-port", "nodes are known by the address that they listen on"),
    ("replica-announced", "Sentinel and replctl must see every node"),
    ("replica-priority", "set the key `priority` of the node instead"),
    ("replicaof", "set the key `replica-of` of the node instead"),
    ("slave-announce-ip", "nodes are known by the address that they listen on"),
    ("slave-announce-port", "nodes are known by the address that they listen on"),
    ("slave-priority", "set the key `priority` of the node instead"),
    ("slaveof", "set the key `replica-of` of the node instead"),
    ("supervised", "replctl starts each node itself and must know its process"),
    ("syslog-enabled", "each node logs into its own directory: `replctl logs` shows it"),
    ("tls-port", "nodes listen on one plain port"),
    ("tls-replication", "nodes listen on one plain port"),
    ("unixsocket", "nodes listen on one plain port"),
    ("unixsocketgroup", "nodes listen on one plain port"),
    ("unixsocketperm", "nodes listen on one plain port"),
];

/// Why a topology cannot set this directive (its name in lower case), if it cannot.
pub(super) fn owned(name: &str) -> Option<&'static str> {
    OWNED.iter().find(|(owned, _)| *owned == name).map(|(_, reason)| *reason)
}

/// Whether a directive's value is a secret, which must not be shown: a password or a list of users with theirs.
pub fn is_secret(name: &str) -> bool {
    matches!(name, "requirepass" | "masterauth" | "user" | "tls-key-file-pass" | "tls-client-key-file-pass")
}

/// Whether this can be a directive's name: letters, digits, `-`, `_`, `.`, and a letter first.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a value is a row of words as a configuration file writes them: every quote is closed, and what follows it is
/// a space. An unclosed one would make the server refuse its whole file.
pub(super) fn is_row_of_words(value: &str) -> bool {
    let mut chars = value.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '"' && char != '\'' {
            continue;
        }
        loop {
            match chars.next() {
                None => return false,
                Some('\\') => drop(chars.next()),
                Some(end) if end == char => break,
                Some(_) => {}
            }
        }
        if chars.peek().is_some_and(|next| *next != ' ') {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_must_be_closed() {
        for good in ["", "900 1", "\"\"", "'a b' c", "\"a\\\"b\"", "allkeys-lru"] {
            assert!(is_row_of_words(good), "{good}");
        }
        for bad in ["\"", "a 'b", "\"a\"b", "\"a\\\"", "''x"] {
            assert!(!is_row_of_words(bad), "{bad}");
        }
    }

    #[test]
    fn names_cannot_carry_anything_else_into_the_configuration_file() {
        assert!(is_name("repl-backlog-size") && is_name("search.threads"));
        for bad in ["", "a b", "a\nb", "-a", "#a", "ä", "1a"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
