//! Which RDB formats an engine writes and reads: what a replica must be able to read to be synchronized in full.
//!
//! | engine | writes | reads |
//! |---|---|---|
//! | Redis 5.0 to 6.2, 7.0, 7.2, 7.4 and 8.0 | 9, 10, 11, 12 | its own and older ones |
//! | Valkey 7.2, 8 | 11 | 11 and older ones |
//! | Valkey 9 | 80; 11 for replicas that do not say that they read 80 | 80, 11 and older ones |
//! | repld | 9; 12 or, for Valkey 9, 80 if there is what 9 has no place for | 12 and older ones, 80 |
//!
//! Source: `RDB_VERSION` and `RDB_FOREIGN_VERSION_MIN` in `src/rdb.h` of Redis and Valkey. Of versions that are not listed nothing
//! is known, and nothing is claimed.

use std::fmt;

use crate::topology::EngineFamily;

/// An engine in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The engine.
    pub family: EngineFamily,
    /// Its version, as `--version` told it; empty if nobody asked.
    pub version: String,
}

/// Whether a replica can take over its master's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It reads whatever its master may send.
    Known,
    /// Nobody here knows.
    Unknown,
    /// It reads nothing of what its master may send: at best this format.
    Impossible(u32),
}

impl Build {
    /// Major and minor version; `None`: it is unknown.
    fn release(&self) -> Option<(u32, u32)> {
        let mut numbers = self.version.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
            _ => None,
        }
    }

    /// The formats that it may send to a replica, oldest first; empty: unknown.
    fn sends(&self) -> &'static [u32] {
        match (self.family, self.release()) {
            (EngineFamily::Repld, _) => &[9, 12],
            (EngineFamily::Redis, Some((5..=6, _))) => &[9],
            (EngineFamily::Redis, Some((7, 0))) => &[10],
            (EngineFamily::Redis, Some((7, 2))) | (EngineFamily::Valkey, Some((7..=8, _))) => &[11],
            (EngineFamily::Redis, Some((7, 4) | (8, 0))) => &[12],
            (EngineFamily::Valkey, Some((9, _))) => &[11, 80],
            _ => &[],
        }
    }

    /// As [`Build::sends`], to a replica that says who it is.
    fn sends_to(&self, replica: &Build) -> &'static [u32] {
        match (self.family, replica.family, replica.release()) {
            (EngineFamily::Repld, EngineFamily::Valkey, Some((9, _))) => &[9, 80],
            _ => self.sends(),
        }
    }

    /// Whether it reads a format; `None`: unknown.
    fn reads(&self, rdb: u32) -> Option<bool> {
        match self.family {
            EngineFamily::Repld => Some(rdb <= 12 || rdb == 80),
            EngineFamily::Redis | EngineFamily::Valkey => {
                let own = self.sends();
                own.last().map(|_| rdb <= own[0] || own.contains(&rdb))
            }
        }
    }

    /// Whether it could be synchronized in full by a master of another build.
    pub fn reads_from(&self, master: &Build) -> Reading {
        let sent = master.sends_to(self);
        let reads: Option<Vec<bool>> = sent.iter().map(|rdb| self.reads(*rdb)).collect();
        match (sent.first(), reads) {
            (Some(_), Some(reads)) if reads.iter().all(|reads| *reads) => Reading::Known,
            (Some(oldest), Some(reads)) if !reads.contains(&true) => Reading::Impossible(*oldest),
            // The same build reads what it wrote, whichever it is.
            _ if self == master && self.release().is_some() => Reading::Known,
            _ => Reading::Unknown,
        }
    }

    /// Whether it can start on the files that a server of another build has left: the same engine, and no older.
    pub fn reads_files_of(&self, before: &Build) -> bool {
        let (old, new) = (before.release(), self.release());
        self.family == before.family && old.is_some() && new >= old
    }
}

impl fmt::Display for Build {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version.as_str() {
            "" => out.write_str(self.family.name()),
            version => write!(out, "{} {version}", self.family.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> Build {
        let (family, version) = text.split_once(' ').expect("a name and a version");
        let family = EngineFamily::ALL.into_iter().find(|known| known.name() == family).expect("a family");
        Build { family, version: version.to_owned() }
    }

    #[test]
    fn a_replica_is_known_to_read_what_is_no_newer_than_itself() {
        for (replica, master) in [
            ("redis 7.0.15", "redis 6.2.1"),
            ("redis 8.0.2", "repld 0.1.0"),
            ("valkey 9.1.0", "repld 0.1.0"),
            ("repld 0.1.0", "redis 8.0.2"),
            ("repld 0.1.0", "valkey 9.1.0"),
            ("valkey 9.1.0", "redis 7.2.4"),
            ("valkey 9.1.0", "valkey 8.1.1"),
            ("valkey 9.1.0", "valkey 9.0.0"),
            ("redis 99.1.0", "redis 99.1.0"),
        ] {
            assert_eq!(build(replica).reads_from(&build(master)), Reading::Known, "{replica} below {master}");
        }
    }

    #[test]
    fn what_a_replica_cannot_read_is_told_with_its_format() {
        for (replica, master, rdb) in [
            ("redis 7.0.15", "valkey 9.1.0", 11),
            ("redis 7.0.15", "redis 7.2.4", 11),
            ("valkey 9.1.0", "redis 7.4.1", 12),
            ("valkey 8.1.1", "redis 8.0.0", 12),
        ] {
            assert_eq!(build(replica).reads_from(&build(master)), Reading::Impossible(rdb), "{replica} below {master}");
        }
    }

    #[test]
    fn of_unknown_versions_nothing_is_claimed() {
        for (replica, master) in [
            ("redis 7.2.4", "valkey 9.1.0"),
            ("redis 7.0.15", "repld 0.1.0"),
            ("redis 99.0.0", "redis 7.0.15"),
            ("repld 0.1.0", "redis 99.0.0"),
            ("redis 7.0.15", "redis "),
        ] {
            assert_eq!(build(replica).reads_from(&build(master)), Reading::Unknown, "{replica} below {master}");
        }
    }

    #[test]
    fn what_is_said_of_repld_is_what_it_does() {
        assert_eq!(repld::rdb::Format::PLAIN, repld::rdb::Format::Redis(build("repld 0.1.0").sends()[0]));
        assert_eq!(build("repld 0.1.0").reads(repld::rdb::VERSION_READ_MAX), Some(true));
        assert_eq!(build("repld 0.1.0").reads(repld::rdb::VERSION_READ_MAX + 1), Some(false));
    }

    #[test]
    fn only_files_of_the_same_engine_and_no_newer_one_are_started_on() {
        assert!(build("redis 7.2.4").reads_files_of(&build("redis 7.0.15")));
        assert!(!build("redis 7.0.15").reads_files_of(&build("redis 7.2.4")));
        assert!(!build("valkey 8.1.1").reads_files_of(&build("redis 7.0.15")));
        assert!(!build("repld 0.1.0").reads_files_of(&build("repld ")));
    }
}
