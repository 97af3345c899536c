//! Which version an image is written in: the oldest that has a place for everything in it, or, where that is newer than its
//! reader, the newest that the reader loads.
//!
//! ```text
//! REDIS0009   Redis 5.0 and later, Valkey    everything else
//! REDIS0010   Redis 7.0 and later, Valkey    libraries of functions
//! REDIS0012   Redis 7.4 and later            deadlines of hash fields
//! VALKEY080   Valkey 9.0 and later           deadlines of hash fields, laid out otherwise
//! ```

/// The version of Valkey that has its own images.
const VALKEY_OWN: u32 = 9;

/// How an image is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Redis's, in this version.
    Redis(u32),
    /// Valkey's.
    Valkey,
}

/// What not every version has a place for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// There are libraries of functions.
    pub functions: bool,
    /// There are hashes with fields that have deadlines.
    pub field_deadlines: bool,
}

impl Contents {
    /// Whatever there may be.
    pub const ALL: Contents = Contents { functions: true, field_deadlines: true };
}

/// Who reads an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A server that loads Redis's images up to this version.
    Redis(u32),
    /// Valkey 9.0 or later.
    Valkey,
}

/// The oldest version with libraries of functions, that with deadlines of hash fields, and the one before both.
const WITH_FUNCTIONS: u32 = 10;
const WITH_FIELD_DEADLINES: u32 = 12;
const PLAIN: u32 = 9;

impl Format {
    /// What everybody reads.
    pub const PLAIN: Format = Format::Redis(PLAIN);

    /// The bytes that an image begins with.
    pub(super) fn preamble(self) -> String {
        match self {
            Format::Redis(version) => format!("REDIS{version:04}"),
            Format::Valkey => format!("VALKEY{:03}", super::VERSION_VALKEY),
        }
    }

    /// Whether it has a place for libraries of functions.
    pub fn has_functions(self) -> bool {
        match self {
            Format::Redis(version) => version >= WITH_FUNCTIONS,
            Format::Valkey => true,
        }
    }

    /// Whether it has a place for deadlines of hash fields.
    pub fn has_field_deadlines(self) -> bool {
        match self {
            Format::Redis(version) => version >= WITH_FIELD_DEADLINES,
            Format::Valkey => true,
        }
    }
}

impl Reader {
    /// A server like this one.
    pub const OWN: Reader = Reader::Redis(WITH_FIELD_DEADLINES);

    /// Who says by `REPLCONF version` that this is its version. Of all servers only Valkey does, from 8.0 on.
    pub fn of_version(version: &str) -> Option<Reader> {
        /// What the versions of Valkey before its own images load.
        const BEFORE: u32 = 11;
        let major: u32 = version.split('.').next()?.parse().ok()?;
        Some(if major >= VALKEY_OWN { Reader::Valkey } else { Reader::Redis(BEFORE) })
    }

    /// How to write for it.
    pub fn format(self, contents: Contents) -> Format {
        match self {
            Reader::Valkey if contents.field_deadlines => Format::Valkey,
            Reader::Redis(newest) if contents.field_deadlines && newest >= WITH_FIELD_DEADLINES => {
                Format::Redis(WITH_FIELD_DEADLINES)
            }
            Reader::Redis(newest) if newest < WITH_FUNCTIONS => Format::PLAIN,
            _ if contents.functions => Format::Redis(WITH_FUNCTIONS),
            _ => Format::PLAIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_what_it_can_load() {
        let contents = |functions, field_deadlines| Contents { functions, field_deadlines };
        let format = |reader: Reader, of| reader.format(of).preamble();
        for reader in [Reader::OWN, Reader::Valkey, Reader::Redis(9), Reader::Redis(11)] {
            assert_eq!(format(reader, contents(false, false)), "REDIS0009");
        }
        assert_eq!(format(Reader::Redis(9), contents(true, true)), "REDIS0009");
        assert_eq!(format(Reader::Redis(11), contents(true, true)), "REDIS0010");
        assert_eq!(format(Reader::Redis(11), contents(false, true)), "REDIS0009");
        assert_eq!(format(Reader::OWN, contents(true, true)), "REDIS0012");
        assert_eq!(format(Reader::Valkey, contents(true, false)), "REDIS0010");
        assert_eq!(format(Reader::Valkey, contents(false, true)), "VALKEY080");
        assert_eq!(Reader::of_version("9.1.0"), Some(Reader::Valkey));
        assert_eq!(Reader::of_version("8.1.3"), Some(Reader::Redis(11)));
        assert_eq!(Reader::of_version("unstable"), None);
    }
}
