//! Ports of this machine: free ones, and who holds one that is not free.
//!
//! Source: proc_net_tcp(5). A line of `/proc/net/tcp`; state `0A` is LISTEN, the tenth column the socket's inode:
//! ```text
//!   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
//!    0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 54321 1 …
//! ```

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Where the system takes the ports of outgoing connections from, if it does not say.
const EPHEMERAL: (u16, u16) = (32768, 60999);
/// Ports below this are for those who were told theirs.
const LOWEST: u16 = 10_000;

/// `count` different ports on which nobody listens on 127.0.0.1.
///
/// They lie outside the range from which outgoing connections get theirs, where there is room: a node keeps its port while
/// it is down, and any client of this machine could sit on it by then. Between this call and the server's own bind somebody else may
/// take one: the server says so when it starts.
///
/// # Errors
/// The system has no free port left.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let (low, high) = ephemeral_range();
    let quiet: Vec<u16> = (LOWEST..low).chain(high.saturating_add(1)..u16::MAX).collect();
    // Two tools that choose at once begin at different places, and groups that one process starts at once get different ports:
    // each choice goes on where the last one ended.
    static NEXT: LazyLock<Mutex<usize>> =
        LazyLock::new(|| Mutex::new(RandomState::new().hash_one(std::process::id()) as usize));
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    // All are held until the last is chosen, or the same one could be chosen twice.
    let mut held = Vec::with_capacity(count);
    for _ in 0..quiet.len() {
        if held.len() == count {
            break;
        }
        *next = next.wrapping_add(1);
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, quiet[*next % quiet.len()])).ok());
    }
    while held.len() < count {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    held.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

/// `net.ipv4.ip_local_port_range`: its first and last port.
fn ephemeral_range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().map(|bound| bound.parse().ok());
    match (bounds.next().flatten(), bounds.next().flatten()) {
        (Some(low), Some(high)) if low <= high => (low, high),
        _ => EPHEMERAL,
    }
}

/// The ports on which some process of this machine listens, each with its socket's inode.
#[derive(Debug, Default)]
pub struct Listeners(HashMap<u16, u64>);

/// Somebody who listens on a port that was meant for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// The port it holds.
    pub port: u16,
    /// Its pid and command name, if this user may see them.
    pub process: Option<(u32, String)>,
}

impl fmt::Display for Stranger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((pid, command)) => write!(out, "port {} is held by {command} (pid {pid})", self.port),
            None => write!(out, "port {} is held by a process of another user", self.port),
        }
    }
}

impl Listeners {
    /// Reads the kernel's tables once; a table that cannot be read counts as empty.
    pub fn read() -> Self {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        Self(tables.iter().flat_map(|table| table.lines()).filter_map(parse_listener).collect())
    }

    /// Who listens on `port`, if anybody does.
    pub fn on(&self, port: u16) -> Option<Stranger> {
        self.0.get(&port).map(|&inode| Stranger { port, process: owner_of_socket(inode) })
    }
}

fn parse_listener(line: &str) -> Option<(u16, u64)> {
    let mut columns = line.split_whitespace().skip(1);
    let (_, port) = columns.next()?.rsplit_once(':')?;
    let is_listening = columns.nth(1)? == "0A";
    let inode = columns.nth(5)?.parse().ok()?;
    is_listening.then_some((u16::from_str_radix(port, 16).ok()?, inode))
}

/// Looks through the open files of every process that this user may look into.
fn owner_of_socket(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid| holds_file(*pid, &wanted)).map(|pid: u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, command.trim().to_owned())
    })
}

fn holds_file(pid: u32, wanted: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_from_each_other() {
        let mut ports = free_ports(50).expect("the system has fifty ports");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn free_ports_are_none_that_an_outgoing_connection_may_get() {
        let (low, high) = ephemeral_range();
        let ports = free_ports(3).expect("the system has three ports");
        assert!(ports.iter().all(|port| !(low..=high).contains(port)) || high - low > 50_000, "{ports:?}");
    }

    #[test]
    fn a_stranger_on_a_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let stranger = Listeners::read().on(port).expect("the listener is seen");
        assert_eq!(stranger.process.as_ref().map(|(pid, _)| *pid), Some(std::process::id()));
        drop(listener);
        assert_eq!(Listeners::read().on(port), None);
    }

    #[test]
    fn a_connection_is_no_listener() {
        let connected = "  1: 0100007F:18EB 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 54322 1";
        let listening = "  0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 54321 1";
        assert_eq!(parse_listener(connected), None);
        assert_eq!(parse_listener(listening), Some((0x18EB, 54321)));
        assert_eq!(parse_listener("  sl  local_address rem_address   st tx_queue"), None);
    }
}
