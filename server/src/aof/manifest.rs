//! The manifest: which files make up the append-only file, and in which order.
//!
//! ```text
//! file appendonly.aof.2.base.rdb seq 2 type b       the base: all data at one moment
//! file appendonly.aof.1.incr.aof seq 1 type h       history: superfluous since a rewrite, to be deleted
//! file appendonly.aof.2.incr.aof seq 2 type i       increments: what was written since, the oldest first
//! ```
//!
//! A name with blanks or quotes stands between double quotes, as in a configuration file. Keys that nobody knows are
//! skipped; lines that begin with `#` say nothing.
//!
//! Source: <https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/>.

use std::fmt::Write;

use crate::config::words;

/// The longest line, in bytes, its end included.
const LINE_BYTES_MAX: usize = 1024;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All data at one moment, as an image or as requests.
    Base,
    /// What was written since, as requests.
    Increment,
    /// Neither any more: it may be deleted.
    History,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Kind::Base => 'b',
            Kind::Increment => 'i',
            Kind::History => 'h',
        }
    }
}

/// One of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name, in the append-only file's directory.
    pub name: String,
    /// Its number among those of its kind.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
}

/// All of its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// The base, if there is one.
    pub base: Option<Part>,
    /// What may be deleted, the latest first.
    pub history: Vec<Part>,
    /// The increments, the oldest first.
    pub increments: Vec<Part>,
}

/// Why a manifest cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (line {line})")]
pub struct ManifestError {
    reason: &'static str,
    line: usize,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// It is none; the words are those of Redis, and the line is named.
    pub fn parse(text: &[u8]) -> Result<Manifest, ManifestError> {
        let mut manifest = Manifest::default();
        for (line, bytes) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            manifest.take_line(bytes).map_err(|reason| ManifestError { reason, line })?;
        }
        if manifest == Manifest::default() {
            return Err(ManifestError { reason: "Found an empty AOF manifest", line: 1 });
        }
        Ok(manifest)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        if line.starts_with(b"#") {
            return Ok(());
        }
        let line = match line.strip_suffix(b"\n") {
            Some(line) if line.len() < LINE_BYTES_MAX => line,
            _ => return Err("The AOF manifest file contains too long line"),
        };
        let part = parse_part(line)?;
        match part.kind {
            Kind::Base if self.base.is_some() => return Err("Found duplicate base file information"),
            Kind::Base => self.base = Some(part),
            Kind::History => self.history.push(part),
            Kind::Increment if self.increments.last().is_some_and(|last| last.seq >= part.seq) => {
                return Err("Found a non-monotonic sequence number");
            }
            Kind::Increment => self.increments.push(part),
        }
        Ok(())
    }

    /// What stands in the file.
    pub fn format(&self) -> String {
        let mut text = String::new();
        for Part { name, seq, kind } in self.base.iter().chain(&self.history).chain(&self.increments) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "file {} seq {seq} type {}", words::quote(name.as_bytes()), kind.letter());
        }
        text
    }

    /// The base that is next, of an append-only file whose names begin with `stem`: an image, or requests.
    pub fn next_base(&self, stem: &str, is_image: bool) -> Part {
        let seq = self.base.as_ref().map_or(0, |base| base.seq).saturating_add(1);
        let extension = if is_image { "rdb" } else { "aof" };
        Part { name: format!("{stem}.{seq}.base.{extension}"), seq, kind: Kind::Base }
    }

    /// The increment that is next.
    pub fn next_increment(&self, stem: &str) -> Part {
        let last = self.increments.last().map_or(0, |last| last.seq);
        let part = |seq| Part { name: format!("{stem}.{seq}.incr.aof"), seq, kind: Kind::Increment };
        let is_free = |part: &Part| self.history.iter().all(|old| old.name != part.name);
        // One of history may still have the number that comes next after all increments have gone.
        (last.saturating_add(1)..).map(part).find(is_free).expect("there are more numbers than names in the history")
    }

    /// The manifest after a rewrite: `base` holds everything before `increment`, or everything if there is none. What
    /// was there becomes history.
    pub fn rewritten(mut self, base: Part, increment: Option<&Part>) -> Manifest {
        let old_base = self.base.replace(base);
        let old = |part: &Part| increment.is_none_or(|increment| part.seq < increment.seq);
        let old_increments: Vec<Part> = self.increments.extract_if(.., |part| old(part)).collect();
        for part in old_base.into_iter().chain(old_increments.into_iter().rev()) {
            self.history.insert(0, Part { kind: Kind::History, ..part });
        }
        if let Some(increment) = increment.filter(|increment| !self.increments.contains(increment)) {
            self.increments.push(increment.clone());
        }
        self
    }

    /// The parts to be loaded, in order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.base.iter().chain(&self.increments)
    }
}

fn parse_part(line: &[u8]) -> Result<Part, &'static str> {
    const INVALID: &str = "Invalid AOF manifest file format";
    let words = words::split(line).map_err(|_| INVALID)?;
    if words.len() < 6 || !words.len().is_multiple_of(2) {
        return Err(INVALID);
    }
    let (mut name, mut seq, mut kind) = (None, None, None);
    for pair in words.chunks_exact(2) {
        match pair[0].to_ascii_lowercase().as_slice() {
            b"file" if pair[1].contains(&b'/') => return Err("File can't be a path, just a filename"),
            b"file" => name = String::from_utf8(pair[1].clone()).ok(),
            b"seq" => seq = std::str::from_utf8(&pair[1]).ok().and_then(|digits| digits.parse().ok()),
            b"type" => {
                kind = Some(match pair[1].as_slice() {
                    b"b" => Kind::Base,
                    b"i" => Kind::Increment,
                    b"h" => Kind::History,
                    _ => return Err("Unknown AOF file type"),
                });
            }
            _ => {}
        }
    }
    match (name, seq, kind) {
        (Some(name), Some(seq @ 1..), Some(kind)) if !matches!(name.as_str(), "" | "." | "..") => {
            Ok(Part { name, seq, kind })
        }
        _ => Err(INVALID),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_back_whatever_its_names_are() {
        let stem = " file seq \n\n.aof ";
        let mut manifest = Manifest::default();
        manifest = manifest.clone().rewritten(manifest.next_base(stem, true), Some(&manifest.next_increment(stem)));
        let text = manifest.format();
        assert_eq!(
            text,
            "file \" file seq \\n\\n.aof .1.base.rdb\" seq 1 type b\nfile \" file seq \\n\\n.aof .1.incr.aof\" seq 1 type i\n"
        );
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest));
        let more = b"# a comment\nfile a seq 3 type b newkey newvalue\nfile b seq 9 type i\n";
        assert_eq!(Manifest::parse(more).map(|manifest| manifest.increments[0].seq), Ok(9));
    }

    #[test]
    fn what_is_no_manifest_is_told_with_its_line() {
        let long = format!("file a seq 1 type b {}\n", "x y ".repeat(300));
        for (text, error) in [
            ("", "Found an empty AOF manifest (line 1)"),
            ("file a seq 1 type i\n\n", "Invalid AOF manifest file format (line 2)"),
            ("file a seq 1 type i newkey\n", "Invalid AOF manifest file format (line 1)"),
            ("file a seq x type i\n", "Invalid AOF manifest file format (line 1)"),
            ("filx a seq 1 type i\n", "Invalid AOF manifest file format (line 1)"),
            ("file ../a seq 1 type i\n", "File can't be a path, just a filename (line 1)"),
            ("file a seq 1 type x\n", "Unknown AOF file type (line 1)"),
            ("file a seq 2 type i\nfile b seq 1 type i\n", "Found a non-monotonic sequence number (line 2)"),
            ("file a seq 1 type b\nfile b seq 2 type b\n", "Found duplicate base file information (line 2)"),
            (long.as_str(), "The AOF manifest file contains too long line (line 1)"),
        ] {
            assert_eq!(Manifest::parse(text.as_bytes()).map_err(|error| error.to_string()), Err(error.into()));
        }
    }

    #[test]
    fn a_rewrite_turns_everything_before_its_increment_into_history() {
        let text = "file x.1.base.rdb seq 1 type b\nfile x.1.incr.aof seq 1 type i\nfile x.2.incr.aof seq 2 type i\n";
        let manifest = Manifest::parse(text.as_bytes()).expect("a manifest");
        let last = manifest.increments[1].clone();
        let after = manifest.clone().rewritten(manifest.next_base("x", true), Some(&last));
        assert_eq!(
            after.format(),
            "file x.2.base.rdb seq 2 type b\nfile x.1.incr.aof seq 1 type h\nfile x.1.base.rdb seq 1 type h\n\
             file x.2.incr.aof seq 2 type i\n"
        );
        let alone = manifest.clone().rewritten(manifest.next_base("x", false), None);
        assert_eq!((alone.increments.len(), alone.history.len()), (0, 3));
        assert_eq!(alone.next_increment("x").name, "x.3.incr.aof");
    }
}
