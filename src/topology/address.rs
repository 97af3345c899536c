//! Where a server listens: a host and a port, as people write it and as servers tell it of each other.
//!
//! ```text
//! db1.example.com:6379    10.0.0.7:6379    [2001:db8::7]:6379
//! ```
//!
//! Two addresses that look different may be one server, and a loopback address means another machine on every machine:
//! what a server says of others is taken from where that server is ([`Address::seen_from`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Longest name of a host, in bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// A host, by name or number, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// A port of this machine, on 127.0.0.1.
    pub fn loopback(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }

    /// Reads `host:port`; an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// What is wrong with it, to follow "it".
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(number)) if number.parse::<Ipv6Addr>().is_ok() => number,
            Some(_) => return Err("has brackets around what is no IPv6 address"),
            None if host.contains(':') => return Err("has an IPv6 address without brackets"),
            None => host,
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if host.is_empty() {
            return Err("has no host");
        }
        if host.len() > HOST_BYTES_MAX || host.starts_with('-') || !host.bytes().all(is_plain) {
            return Err("has a host that can be neither a name nor an IP address");
        }
        match port.parse() {
            Ok(number) if number > 0 && !port.starts_with('+') => Ok(Self { host: host.to_owned(), port: number }),
            _ => Err("has a port that is not from 1 to 65535"),
        }
    }

    /// Whether it is of the machine of whoever speaks of it.
    pub fn is_loopback(&self) -> bool {
        self.number().is_some_and(|number| number.is_loopback())
    }

    /// Whether both are one place, as far as can be told without asking anybody.
    pub fn is_same(&self, other: &Address) -> bool {
        let is_same_host = || match (self.number(), other.number()) {
            (Some(one), Some(other)) => one == other,
            _ => self.host.eq_ignore_ascii_case(&other.host),
        };
        self.port == other.port && is_same_host()
    }

    /// What this address means when the server at `teller` tells it: that one's own machine, if it is a loopback one.
    pub fn seen_from(&self, teller: &Address) -> Address {
        let is_of_teller = self.is_loopback() && !teller.is_loopback();
        let host = if is_of_teller { &teller.host } else { &self.host };
        Address { host: host.clone(), port: self.port }
    }

    /// Host and port, as two words of a command.
    pub fn into_words(self) -> (String, String) {
        (self.host, self.port.to_string())
    }

    /// The IP address, where it is known without asking anybody. Servers that listen on loopback listen on 127.0.0.1, and
    /// mostly on ::1, too.
    fn number(&self) -> Option<IpAddr> {
        if self.host.eq_ignore_ascii_case("localhost") || self.host == "::1" {
            return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        self.host.parse::<IpAddr>().ok().map(|number| number.to_canonical())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

/// What a node asks of its clients: nothing, a password, or a user and a password.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// `None`: the default user.
    pub user: Option<String>,
    /// `None`: it asks for none.
    pub password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = if self.password.is_some() { "with a password" } else { "without a password" };
        write!(out, "{} {secret}", self.user.as_deref().unwrap_or("default"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|wrong| panic!("{text} {wrong}"))
    }

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        for good in ["127.0.0.1:6379", "db1.example.com:1", "[2001:db8::7]:65535", "localhost:80"] {
            assert_eq!(address(good).to_string(), good);
        }
        for bad in ["", ":", "host", "host:", ":6379", "host:0", "host:65536", "host:+1", "::1:6379", "[::1:6379"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        for bad in ["[host]:6379", "a b:6379", "-h:6379", "a\n:6379", "host:63 79", &format!("{}:1", "x".repeat(254))] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_loopback_address_is_of_the_machine_of_who_tells_it() {
        let near = address("127.0.0.1:6380");
        assert!(near.is_same(&address("localhost:6380")) && near.is_same(&address("[::1]:6380")));
        assert!(!near.is_same(&address("127.0.0.1:6381")) && !near.is_same(&address("127.0.0.2:6380")));
        assert!(address("[::ffff:10.0.0.7]:1").is_same(&address("10.0.0.7:1")));
        assert!(address("DB1:1").is_same(&address("db1:1")) && !address("db1:1").is_same(&address("db2:1")));
        assert_eq!(near.seen_from(&address("10.0.0.7:6379")), address("10.0.0.7:6380"));
        assert_eq!(address("10.0.0.8:1").seen_from(&near), address("10.0.0.8:1"));
    }
}
