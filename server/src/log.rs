//! The server's log, in Redis's line format, so that people and tools that read one read the other:
//!
//! ```text
//! 4242:M 22 Nov 2026 19:00:59.554 * Ready to accept connections
//! pid :role  local time           level message
//! ```
//!
//! Role letters: `M` master, `S` replica, `C` starting. Levels: `.` debug, `-` verbose, `*` notice, `#` warning.
//! (Format: <https://redis.io/docs/latest/operate/oss_and_stack/management/troubleshooting/>, and redis.conf on `loglevel`.)
//!
//! The log is one per process and may be written from any thread: a line is one `write` to a file opened for
//! appending, so lines never mix. The file is opened anew for each line, so a rotated log needs no signal.
//! Control characters in a message are escaped: what a client sends cannot forge a line.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How important a line is; those below the configured level are not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Much that helps only while developing.
    Debug,
    /// Rarely useful, but not a mess.
    Verbose,
    /// What an operator wants to read; the default.
    Notice,
    /// What an operator must read.
    Warning,
}

/// What the process is to its peers, told by one letter in each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// `C`: reading its configuration.
    Starting = b'C',
    /// `M`.
    Master = b'M',
    /// `S`.
    Replica = b'S',
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Notice as u8);
static ROLE: AtomicU8 = AtomicU8::new(Role::Starting as u8);
/// `None`: standard output.
static FILE: RwLock<Option<PathBuf>> = RwLock::new(None);

/// Writes one line at a [`Level`], named without its type: `log!(Notice, "{bytes} bytes received")`.
/// The arguments are not evaluated when the level is filtered out.
macro_rules! log {
    ($level:ident, $($message:tt)+) => {
        if $crate::log::enabled($crate::log::Level::$level) {
            $crate::log::write($crate::log::Level::$level, ::std::format_args!($($message)+));
        }
    };
}
pub(crate) use log;

/// Sends the log to `file` (appended, created if it is not there), or to standard output.
///
/// # Errors
/// The file cannot be opened for appending; the log then stays where it was.
pub fn set_file(file: Option<&Path>) -> io::Result<()> {
    file.map(open).transpose()?;
    *FILE.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = file.map(Path::to_path_buf);
    Ok(())
}

/// Sets the least level that is written.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Sets the role letter of the lines to come.
pub fn set_role(role: Role) {
    ROLE.store(role as u8, Ordering::Relaxed);
}

/// Whether lines of this level are written.
#[inline]
pub fn enabled(level: Level) -> bool {
    level as u8 >= LEVEL.load(Ordering::Relaxed)
}

/// The operating system's words for an error, without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Writes one line, whatever its level; the `log!` macro looks at that first. A line that cannot be written is dropped: there is nowhere
/// left to complain, and a full disk must not stop the server.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    let role = char::from(ROLE.load(Ordering::Relaxed));
    let line = line(std::process::id(), role, SystemTime::now(), level, message);
    let file = FILE.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let _ = match file.as_deref() {
        Some(path) => open(path).and_then(|mut file| file.write_all(line.as_bytes())),
        // `Stdout` is line-buffered and the line ends the buffer, so this too is one write.
        None => io::stdout().lock().write_all(line.as_bytes()),
    };
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn line(pid: u32, role: char, now: SystemTime, level: Level, message: fmt::Arguments<'_>) -> String {
    let mark = match level {
        Level::Debug => '.',
        Level::Verbose => '-',
        Level::Notice => '*',
        Level::Warning => '#',
    };
    let mut line = format!("{pid}:{role} {} {mark} ", local_time(now));
    for character in message.to_string().chars() {
        match character {
            control if control.is_control() => line.extend(control.escape_default()),
            printable => line.push(printable),
        }
    }
    line.push('\n');
    line
}

/// `DD Mon YYYY HH:MM:SS.mmm` in the process's time zone.
fn local_time(now: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since_epoch.as_secs() as libc::time_t;
    // SAFETY: `tm` is a plain C struct for which all-zero bytes are a valid value.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live, properly aligned locals; `localtime_r` keeps neither. Should it fail
    // (a year beyond its range), `time` stays the zeroed value.
    unsafe { libc::localtime_r(&seconds, &mut time) };
    let month = MONTHS.get(time.tm_mon as usize).unwrap_or(&"Jan");
    format!(
        "{:02} {month} {} {:02}:{:02}:{:02}.{:03}",
        time.tm_mday,
        time.tm_year + 1900,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
        since_epoch.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 14 November 2023, 22:13:20.123 UTC: a time zone changes the day and the hour, but neither month nor seconds.
    const WHEN: Duration = Duration::from_millis(1_700_000_000_123);

    #[test]
    fn a_line_has_pid_role_date_level_and_message() {
        let line = line(42, 'M', UNIX_EPOCH + WHEN, Level::Warning, format_args!("it {}", "broke"));
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], "42:M");
        assert_eq!(words[2..4], ["Nov", "2023"]);
        assert!(words[4].ends_with(":20.123"), "{line}");
        assert!(line.ends_with(" # it broke\n"), "{line}");
    }

    #[test]
    fn a_message_cannot_forge_a_second_line() {
        let line = line(1, 'S', UNIX_EPOCH, Level::Notice, format_args!("name\r\n1:M forged\u{1b}[0m é"));
        assert!(line.ends_with("* name\\r\\n1:M forged\\u{1b}[0m é\n"), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn lines_are_appended_to_the_log_file_and_filtered_by_level() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("repld.log");
        set_file(Some(&path)).expect("an appendable file");
        log!(Warning, "first of {}", "two");
        let mut evaluated = false;
        log!(Debug, "{}", std::mem::replace(&mut evaluated, true));
        assert!(!evaluated);
        // A rotation: the next line goes to a new file.
        std::fs::rename(&path, directory.path().join("repld.log.1")).expect("renamed");
        log!(Warning, "second");
        assert!(set_file(Some(&directory.path().join("absent/repld.log"))).is_err());
        log!(Warning, "third");
        set_file(None).expect("standard output is always there");
        let rotated = std::fs::read_to_string(directory.path().join("repld.log.1")).expect("a log");
        assert!(rotated.contains("first of two"));
        let current = std::fs::read_to_string(&path).expect("a log");
        assert!(current.contains("second") && current.contains("third") && !current.contains("first"));
    }
}
