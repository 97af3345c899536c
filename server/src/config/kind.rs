//! How each kind of directive is written: from the words of a line to a value, and back.
//!
//! The error texts are Redis's, since `CONFIG SET` shows them to clients.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::values::*;
use crate::notify::Classes;
use crate::replication::ReplicationId;

/// A way to write values of type `T`.
pub(super) trait Kind<T> {
    /// Whether several words may follow the name. One word is then split at its spaces first, so that
    /// `CONFIG SET save "3600 1"` and `--replicaof "127.0.0.1 6379"` say what the same line of a file says.
    const SEVERAL_WORDS: bool = false;

    /// Whether the value must not appear in errors and logs.
    const SENSITIVE: bool = false;

    /// Changes the value as the words say. There is exactly one unless [`SEVERAL_WORDS`](Self::SEVERAL_WORDS).
    fn update(&self, value: &mut T, words: &[Vec<u8>]) -> Result<(), String>;

    /// As `CONFIG GET` shows it. Reading it back, split at spaces for several words, gives the same value.
    fn print(&self, value: &T) -> Vec<u8>;
}

/// `yes` or `no`.
pub(super) struct YesNo;

impl Kind<bool> for YesNo {
    fn update(&self, value: &mut bool, words: &[Vec<u8>]) -> Result<(), String> {
        *value = match words[0].to_ascii_lowercase().as_slice() {
            b"yes" => true,
            b"no" => false,
            _ => return Err("argument must be 'yes' or 'no'".into()),
        };
        Ok(())
    }

    fn print(&self, value: &bool) -> Vec<u8> {
        if *value { b"yes".to_vec() } else { b"no".to_vec() }
    }
}

/// A decimal integer between two bounds, both included.
pub(super) struct Integer(pub i64, pub i64);

impl Integer {
    fn parse(&self, word: &[u8]) -> Result<i64, String> {
        let number = integer(word).ok_or("argument couldn't be parsed into an integer")?;
        in_range(number, self.0, self.1)
    }
}

impl<T: TryFrom<i64> + Copy + fmt::Display> Kind<T> for Integer {
    fn update(&self, value: &mut T, words: &[Vec<u8>]) -> Result<(), String> {
        let number = self.parse(&words[0])?;
        *value = T::try_from(number).map_err(|_| "argument is out of range".to_string())?;
        Ok(())
    }

    fn print(&self, value: &T) -> Vec<u8> {
        value.to_string().into_bytes()
    }
}

/// Whole seconds between two bounds.
pub(super) struct Seconds(pub i64, pub i64);

impl Kind<Duration> for Seconds {
    fn update(&self, value: &mut Duration, words: &[Vec<u8>]) -> Result<(), String> {
        *value = Duration::from_secs(Integer(self.0, self.1).parse(&words[0])?.unsigned_abs());
        Ok(())
    }

    fn print(&self, value: &Duration) -> Vec<u8> {
        value.as_secs().to_string().into_bytes()
    }
}

/// Numbers from 0 to 100, or none.
pub(super) struct Percentiles;

impl Kind<Vec<f64>> for Percentiles {
    const SEVERAL_WORDS: bool = true;

    fn update(&self, value: &mut Vec<f64>, words: &[Vec<u8>]) -> Result<(), String> {
        let number = |word: &Vec<u8>| std::str::from_utf8(word).ok()?.parse::<f64>().ok();
        let percentiles = words.iter().filter(|word| !word.is_empty()).map(|word| {
            number(word).filter(|number| (0.0..=100.0).contains(number)).ok_or("argument must be between 0 and 100")
        });
        *value = percentiles.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn print(&self, value: &Vec<f64>) -> Vec<u8> {
        value.iter().map(f64::to_string).collect::<Vec<_>>().join(" ").into_bytes()
    }
}

/// A permission mask in octal.
pub(super) struct Octal(pub u32);

impl Kind<u32> for Octal {
    fn update(&self, value: &mut u32, words: &[Vec<u8>]) -> Result<(), String> {
        let digits = std::str::from_utf8(&words[0]).ok().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| i64::from_str_radix(digits, 8).ok());
        let number = number.ok_or("argument couldn't be parsed as an octal number")?;
        match u32::try_from(number).ok().filter(|number| *number <= self.0) {
            Some(number) => *value = number,
            None => return Err(format!("argument must be between 0 and {:o} inclusive", self.0)),
        }
        Ok(())
    }

    fn print(&self, value: &u32) -> Vec<u8> {
        format!("{value:o}").into_bytes()
    }
}

/// An amount of memory in bytes, at least the first and at most the second; `1k` is 1,000 and `1kb` 1,024 bytes,
/// likewise `m`, `mb`, `g`, `gb`.
pub(super) struct Memory(pub u64, pub u64);

impl Kind<u64> for Memory {
    fn update(&self, value: &mut u64, words: &[Vec<u8>]) -> Result<(), String> {
        let bytes = parse_memory(&words[0]).ok_or("argument must be a memory value")?;
        *value = in_range(bytes, self.0, self.1)?;
        Ok(())
    }

    fn print(&self, value: &u64) -> Vec<u8> {
        value.to_string().into_bytes()
    }
}

/// An amount of memory, or hundredths of `maxmemory`.
pub(super) struct BytesOrPercent;

impl Kind<ClientMemory> for BytesOrPercent {
    fn update(&self, value: &mut ClientMemory, words: &[Vec<u8>]) -> Result<(), String> {
        *value = match words[0].strip_suffix(b"%") {
            Some(digits) => {
                let percent = integer(digits).filter(|percent| *percent >= 0);
                let percent = percent.ok_or("argument must be a memory or percent value")?;
                let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
                ClientMemory::Percent(percent.ok_or("percentage argument must be less or equal to 100")?)
            }
            None => {
                let bytes = parse_memory(&words[0]).ok_or("argument must be a memory or percent value")?;
                ClientMemory::Bytes(in_range(bytes, 0, i64::MAX as u64)?)
            }
        };
        Ok(())
    }

    fn print(&self, value: &ClientMemory) -> Vec<u8> {
        match value {
            ClientMemory::Bytes(bytes) => bytes.to_string().into_bytes(),
            ClientMemory::Percent(percent) => format!("{percent}%").into_bytes(),
        }
    }
}

/// One of several names.
pub(super) struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind<T> for Choice<T> {
    fn update(&self, value: &mut T, words: &[Vec<u8>]) -> Result<(), String> {
        let chosen = self.0.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(&words[0]));
        *value = chosen.ok_or_else(|| one_of(self.0.iter().map(|(name, _)| *name)))?.1;
        Ok(())
    }

    fn print(&self, value: &T) -> Vec<u8> {
        let name = self.0.iter().find(|(_, chosen)| chosen == value).map_or("", |(name, _)| *name);
        name.as_bytes().to_vec()
    }
}

/// Three scores for the kernel.
pub(super) struct OomScores;

impl Kind<[i32; 3]> for OomScores {
    const SEVERAL_WORDS: bool = true;

    fn update(&self, value: &mut [i32; 3], words: &[Vec<u8>]) -> Result<(), String> {
        let invalid = "Invalid oom-score-adj-values, elements must be between -2000 and 2000.";
        let score = |word: &Vec<u8>| integer(word).filter(|score| score.abs() <= 2000).map(|score| score as i32);
        let scores: Option<Vec<i32>> = words.iter().map(score).collect();
        *value = scores.ok_or(invalid)?.try_into().map_err(|_| "wrong number of arguments")?;
        Ok(())
    }

    fn print(&self, value: &[i32; 3]) -> Vec<u8> {
        value.map(|score| score.to_string()).join(" ").into_bytes()
    }
}

/// Letters for classes of keyspace events.
pub(super) struct EventClasses;

impl Kind<Classes> for EventClasses {
    fn update(&self, value: &mut Classes, words: &[Vec<u8>]) -> Result<(), String> {
        let unknown = "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.";
        *value = Classes::parse(&words[0]).ok_or(unknown)?;
        Ok(())
    }

    fn print(&self, value: &Classes) -> Vec<u8> {
        value.to_string().into_bytes()
    }
}

/// Any text; the empty one is none.
pub(super) struct Text;

impl Kind<Option<String>> for Text {
    fn update(&self, value: &mut Option<String>, words: &[Vec<u8>]) -> Result<(), String> {
        let text = text(&words[0])?;
        *value = (!text.is_empty()).then(|| text.to_string());
        Ok(())
    }

    fn print(&self, value: &Option<String>) -> Vec<u8> {
        value.clone().unwrap_or_default().into_bytes()
    }
}

/// The name of a history; none if empty.
pub(super) struct OptionalId;

impl Kind<Option<ReplicationId>> for OptionalId {
    fn update(&self, value: &mut Option<ReplicationId>, words: &[Vec<u8>]) -> Result<(), String> {
        let id = || ReplicationId::parse(&words[0]).ok_or("argument must be a replication id, 40 hexadecimal digits");
        *value = if words[0].is_empty() { None } else { Some(id()?) };
        Ok(())
    }

    fn print(&self, value: &Option<ReplicationId>) -> Vec<u8> {
        value.map(|id| id.as_str().as_bytes().to_vec()).unwrap_or_default()
    }
}

/// A password.
pub(super) struct Password;

impl Kind<Option<Secret>> for Password {
    const SENSITIVE: bool = true;

    fn update(&self, value: &mut Option<Secret>, words: &[Vec<u8>]) -> Result<(), String> {
        *value = Secret::new(&words[0]);
        Ok(())
    }

    fn print(&self, value: &Option<Secret>) -> Vec<u8> {
        value.as_ref().map(|secret| secret.expose().to_vec()).unwrap_or_default()
    }
}

/// A path; the empty one is none.
pub(super) struct OptionalPath;

impl Kind<Option<PathBuf>> for OptionalPath {
    fn update(&self, value: &mut Option<PathBuf>, words: &[Vec<u8>]) -> Result<(), String> {
        *value = (!words[0].is_empty()).then(|| path(&words[0]));
        Ok(())
    }

    fn print(&self, value: &Option<PathBuf>) -> Vec<u8> {
        value.as_deref().map(bytes).unwrap_or_default()
    }
}

/// A directory that exists; kept absolute.
pub(super) struct Directory;

impl Kind<PathBuf> for Directory {
    fn update(&self, value: &mut PathBuf, words: &[Vec<u8>]) -> Result<(), String> {
        let directory = path(&words[0]).canonicalize().map_err(|error| crate::log::reason(&error))?;
        if !directory.is_dir() {
            return Err("Not a directory".into());
        }
        *value = directory;
        Ok(())
    }

    fn print(&self, value: &PathBuf) -> Vec<u8> {
        bytes(value)
    }
}

/// The name of a file in the data directory: not empty, not a path.
pub(super) struct FileName;

impl Kind<String> for FileName {
    fn update(&self, value: &mut String, words: &[Vec<u8>]) -> Result<(), String> {
        let name = text(&words[0])?;
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err("argument can't be a path, just a filename".into());
        }
        *value = name.to_string();
        Ok(())
    }

    fn print(&self, value: &String) -> Vec<u8> {
        value.clone().into_bytes()
    }
}

/// Addresses to listen on; a single empty word is none at all.
pub(super) struct BindAddresses;

impl BindAddresses {
    const MAX: usize = 16;
}

impl Kind<Vec<BindAddress>> for BindAddresses {
    const SEVERAL_WORDS: bool = true;

    fn update(&self, value: &mut Vec<BindAddress>, words: &[Vec<u8>]) -> Result<(), String> {
        if words.len() > Self::MAX {
            return Err("Too many bind addresses specified.".into());
        }
        let address = |word: &Vec<u8>| {
            let word = text(word)?;
            let host = word.strip_prefix('-').unwrap_or(word);
            Ok(BindAddress { host: host.to_string(), optional: host.len() < word.len() })
        };
        let addresses =
            words.iter().filter(|word| !word.is_empty()).map(address).collect::<Result<Vec<_>, String>>()?;
        *value = addresses;
        Ok(())
    }

    fn print(&self, value: &Vec<BindAddress>) -> Vec<u8> {
        let word = |address: &BindAddress| format!("{}{}", if address.optional { "-" } else { "" }, address.host);
        value.iter().map(word).collect::<Vec<_>>().join(" ").into_bytes()
    }
}

/// `seconds changes` pairs, added to those there are; a single empty word removes them all.
pub(super) struct SavePoints;

impl Kind<Vec<SavePoint>> for SavePoints {
    const SEVERAL_WORDS: bool = true;

    fn update(&self, value: &mut Vec<SavePoint>, words: &[Vec<u8>]) -> Result<(), String> {
        if matches!(words, [only] if only.is_empty()) {
            value.clear();
            return Ok(());
        }
        let number = |word: &[u8]| integer(word).and_then(|number| u32::try_from(number).ok());
        let pair = |pair: &[Vec<u8>]| match pair {
            [seconds, changes] => Some(SavePoint {
                seconds: number(seconds).filter(|seconds| (1..=i32::MAX as u32).contains(seconds))?,
                changes: number(changes).filter(|changes| *changes <= i32::MAX as u32)?,
            }),
            _ => None,
        };
        let points = words.chunks(2).map(pair).collect::<Option<Vec<_>>>();
        value.extend(points.ok_or("Invalid save parameters")?);
        Ok(())
    }

    fn print(&self, value: &Vec<SavePoint>) -> Vec<u8> {
        let pair = |point: &SavePoint| format!("{} {}", point.seconds, point.changes);
        value.iter().map(pair).collect::<Vec<_>>().join(" ").into_bytes()
    }
}

/// `class hard soft seconds`, for one class or several; the others keep theirs.
pub(super) struct OutputLimitClasses;

impl Kind<OutputLimits> for OutputLimitClasses {
    const SEVERAL_WORDS: bool = true;

    fn update(&self, value: &mut OutputLimits, words: &[Vec<u8>]) -> Result<(), String> {
        if !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.".into());
        }
        let mut limits = *value;
        for words in words.chunks(4) {
            let class = match words[0].to_ascii_lowercase().as_slice() {
                b"normal" => &mut limits.normal,
                b"replica" | b"slave" => &mut limits.replica,
                b"pubsub" => &mut limits.pubsub,
                _ => return Err("Invalid client class specified in buffer limit configuration.".into()),
            };
            *class = output_limit(&words[1..])
                .ok_or("Error in hard, soft or soft_seconds setting in buffer limit configuration.")?;
        }
        *value = limits;
        Ok(())
    }

    fn print(&self, value: &OutputLimits) -> Vec<u8> {
        let class = |name: &str, limit: &OutputLimit| {
            format!("{name} {} {} {}", limit.hard_bytes, limit.soft_bytes, limit.soft.as_secs())
        };
        let classes = [class("normal", &value.normal), class("slave", &value.replica), class("pubsub", &value.pubsub)];
        classes.join(" ").into_bytes()
    }
}

fn output_limit(words: &[Vec<u8>]) -> Option<OutputLimit> {
    let seconds = integer(&words[2]).and_then(|seconds| u64::try_from(seconds).ok())?;
    Some(OutputLimit {
        hard_bytes: parse_memory(&words[0])?,
        soft_bytes: parse_memory(&words[1])?,
        soft: Duration::from_secs(seconds),
    })
}

/// `host port`, or `no one`.
pub(super) struct MasterAddress;

impl Kind<Option<Upstream>> for MasterAddress {
    const SEVERAL_WORDS: bool = true;

    fn update(&self, value: &mut Option<Upstream>, words: &[Vec<u8>]) -> Result<(), String> {
        *value = match words {
            [no, one] if no.eq_ignore_ascii_case(b"no") && one.eq_ignore_ascii_case(b"one") => None,
            [host, port] if !host.is_empty() => {
                let port = integer(port).and_then(|port| u16::try_from(port).ok());
                Some(Upstream { host: text(host)?.to_string(), port: port.ok_or("Invalid master port")? })
            }
            [empty] if empty.is_empty() => None,
            _ => return Err("wrong number of arguments".into()),
        };
        Ok(())
    }

    fn print(&self, value: &Option<Upstream>) -> Vec<u8> {
        value.as_ref().map(|upstream| format!("{} {}", upstream.host, upstream.port)).unwrap_or_default().into_bytes()
    }
}

/// `default`, or any of `save`, `nosave`, `now`, `force`.
pub(super) struct ShutdownFlags;

impl Kind<ShutdownOptions> for ShutdownFlags {
    const SEVERAL_WORDS: bool = true;

    fn update(&self, value: &mut ShutdownOptions, words: &[Vec<u8>]) -> Result<(), String> {
        const WORDS: [&str; 5] = ["default", "save", "nosave", "now", "force"];
        if words.is_empty() {
            return Err(one_of(WORDS));
        }
        let mut options = ShutdownOptions::default();
        for word in words {
            match word.to_ascii_lowercase().as_slice() {
                b"default" => {}
                b"save" if options.save != Some(false) => options.save = Some(true),
                b"nosave" if options.save != Some(true) => options.save = Some(false),
                b"save" | b"nosave" => return Err("shutdown can't both save and not save".into()),
                b"now" => options.now = true,
                b"force" => options.force = true,
                _ => return Err(one_of(WORDS)),
            }
        }
        *value = options;
        Ok(())
    }

    fn print(&self, value: &ShutdownOptions) -> Vec<u8> {
        let save = match value.save {
            None => None,
            Some(true) => Some("save"),
            Some(false) => Some("nosave"),
        };
        let flags = [save, value.now.then_some("now"), value.force.then_some("force")];
        let flags: Vec<&str> = flags.into_iter().flatten().collect();
        if flags.is_empty() { b"default".to_vec() } else { flags.join(" ").into_bytes() }
    }
}

/// What the value of a directive without a field must be: it is checked, kept and shown, and nothing else.
pub(super) enum Check {
    YesNo,
    Integer(i64, i64),
    Memory,
    OneOf(&'static [&'static str]),
    Text,
    /// Of the values that the check allows, the one that is possible here, and what is said of any other.
    Only(&'static Check, &'static str, &'static str),
}

impl Check {
    /// The value in the form in which it is kept.
    pub(super) fn normalize(&self, words: &[Vec<u8>]) -> Result<Vec<u8>, String> {
        let word = &words[0];
        match self {
            Check::YesNo => via(YesNo, false, words),
            Check::Integer(low, high) => via(Integer(*low, *high), 0_i64, words),
            Check::Memory => via(Memory(0, i64::MAX as u64), 0, words),
            Check::OneOf(names) => {
                let chosen = names.iter().find(|name| name.as_bytes().eq_ignore_ascii_case(word));
                chosen.map(|name| name.as_bytes().to_vec()).ok_or_else(|| one_of(names.iter().copied()))
            }
            Check::Text => Ok(word.clone()),
            Check::Only(check, only, reason) => {
                let value = check.normalize(words)?;
                if value == only.as_bytes() { Ok(value) } else { Err((*reason).into()) }
            }
        }
    }
}

fn via<T>(kind: impl Kind<T>, mut value: T, words: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    kind.update(&mut value, words)?;
    Ok(kind.print(&value))
}

/// Strictly decimal: no plus sign, no blanks, no leading zeros, no negative zero.
fn integer(word: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(word).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == word).then_some(number)
}

/// An amount of memory as a directive has it, in bytes.
pub fn parse_memory(word: &[u8]) -> Option<u64> {
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number: u64 = std::str::from_utf8(&word[..digits]).ok()?.parse().ok()?;
    let unit: u64 = match word[digits..].to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1_000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

fn in_range<T: PartialOrd + fmt::Display>(number: T, low: T, high: T) -> Result<T, String> {
    if number < low || number > high {
        return Err(format!("argument must be between {low} and {high} inclusive"));
    }
    Ok(number)
}

fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    format!("argument(s) must be one of the following: {}", names.join(", "))
}

fn text(word: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(word).map_err(|_| "argument must be UTF-8 text".into())
}

pub(super) fn path(word: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(word))
}

fn bytes(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}
