//! From files, standard input and the command line to a [`Config`].

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::directives::{Config, Directive};
use super::{kind, words};
use crate::glob;
use crate::log::reason;

/// A configuration longer than this is taken for a mistake, such as a wrong file.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Files that include each other come to an end here.
const INCLUDES_NESTED_MAX: usize = 16;

/// Why a configuration could not be loaded: everything that is wrong with it, each with its place.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    place: String,
    reason: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    /// A headline as Redis prints it, then a line for each problem: `FILE:LINE: REASON`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "*** FATAL CONFIG FILE ERROR (repld {}) ***", env!("CARGO_PKG_VERSION"))?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n{}: {}", problem.place, problem.reason))
    }
}

impl Config {
    /// Reads what the command line after the program's name says: `[CONF|-] [--directive value …] [-]`.
    ///
    /// The file comes first, then standard input (for a `-` at either end), then the directives of the command line;
    /// the last word on a directive holds. `save` and `client-output-buffer-limit` lines add up, as in Redis.
    ///
    /// # Errors
    /// Everything that is wrong, at once: files that cannot be read, unknown directives, values that are not possible.
    pub fn load(arguments: &[OsString], stdin: &mut dyn Read) -> Result<Config, ConfigError> {
        let command_line = CommandLine::parse(arguments);
        let mut loader = Loader::default();
        if let Some(path) = &command_line.file {
            // Absolute, since `CONFIG REWRITE` must find it again from another working directory.
            loader.config.file = std::path::absolute(path).ok();
            loader.file("command line", path, 0);
        }
        if command_line.stdin {
            match read_bounded(stdin) {
                Ok(text) => loader.text(&text, "standard input", 0),
                Err(error) => loader.problem("standard input", reason(&error)),
            }
        }
        for option in command_line.options {
            match option {
                Ok(words) => loader.line(&words, COMMAND_LINE, 0),
                Err(words::UnbalancedQuotes) => loader.problem(COMMAND_LINE, UNBALANCED.into()),
            }
        }
        let Loader { config, problems, .. } = loader.finish();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }

    /// What the file alone says, as far as it can be understood: the state that `CONFIG REWRITE` has to change.
    pub(super) fn of_text(text: &[u8]) -> Config {
        let mut loader = Loader::default();
        loader.text(text, "", 0);
        loader.finish().config
    }
}

/// What the arguments are called as a place.
const COMMAND_LINE: &str = "command line";

const UNBALANCED: &str = "Unbalanced quotes in configuration line";

/// The arguments, sorted: nothing is interpreted yet.
#[derive(Default)]
struct CommandLine {
    file: Option<PathBuf>,
    stdin: bool,
    /// Each as the words of a line.
    options: Vec<Result<Vec<Vec<u8>>, words::UnbalancedQuotes>>,
}

impl CommandLine {
    fn parse(arguments: &[OsString]) -> CommandLine {
        let mut parsed = CommandLine::default();
        let mut rest = arguments;
        if let [first, others @ ..] = rest
            && !first.as_bytes().starts_with(b"-")
        {
            parsed.file = Some(PathBuf::from(first));
            rest = others;
        }
        // Whether the last option has a value already, so that `--` begins another one.
        let mut complete = true;
        for (index, argument) in rest.iter().enumerate() {
            let word = argument.as_bytes();
            if word == b"-" && (index == rest.len() - 1 || index == 0 && parsed.file.is_none()) {
                parsed.stdin = true;
            } else if let Some(line) = word.strip_prefix(b"--").filter(|_| complete || parsed.ends_with_save()) {
                parsed.give_empty_save_a_value();
                let words = words::split(line);
                complete = words.as_ref().map_or(true, |words| words.len() > 1);
                parsed.options.push(words);
            } else {
                complete = true;
                match parsed.options.last_mut() {
                    Some(Ok(words)) => words.push(word.to_vec()),
                    Some(Err(words::UnbalancedQuotes)) => {}
                    None => parsed.options.push(Ok(vec![word.to_vec()])),
                }
            }
        }
        parsed.give_empty_save_a_value();
        parsed
    }

    fn ends_with_save(&self) -> bool {
        matches!(self.options.last(), Some(Ok(words)) if matches!(words.as_slice(), [only] if only.eq_ignore_ascii_case(b"save")))
    }

    /// `--save` without a value means `--save ""`, for scripts in which an empty word got lost.
    fn give_empty_save_a_value(&mut self) {
        if self.ends_with_save()
            && let Some(Ok(words)) = self.options.last_mut()
        {
            words.push(Vec::new());
        }
    }
}

#[derive(Default)]
struct Loader {
    config: Config,
    /// The first `save` line replaces the default save points, the others add to it.
    save_points_given: bool,
    problems: Vec<Problem>,
}

impl Loader {
    fn problem(&mut self, place: &str, reason: String) {
        self.problems.push(Problem { place: place.to_string(), reason });
    }

    fn file(&mut self, place: &str, path: &Path, depth: usize) {
        match File::open(path).and_then(|mut file| read_bounded(&mut file)) {
            Ok(text) => self.text(&text, &path.display().to_string(), depth),
            Err(error) => {
                self.problem(place, format!("can't open config file '{}': {}", path.display(), reason(&error)));
            }
        }
    }

    fn text(&mut self, text: &[u8], source: &str, depth: usize) {
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if is_comment(line) {
                continue;
            }
            let place = format!("{source}:{}", index + 1);
            match words::split(line) {
                Ok(words) => self.line(&words, &place, depth),
                Err(words::UnbalancedQuotes) => self.problem(&place, UNBALANCED.into()),
            }
        }
    }

    fn line(&mut self, line: &[Vec<u8>], place: &str, depth: usize) {
        let Some((name, words)) = line.split_first() else { return };
        let shown = String::from_utf8_lossy(name).to_lowercase();
        match shown.as_str() {
            "include" if words.len() == 1 => self.include(place, &words[0], depth),
            "user" => {
                if let Err(reason) = self.user(words) {
                    self.problem(place, reason);
                }
            }
            _ => match Directive::named(name) {
                Some(directive) => self.directive(directive, words, place),
                None => self.problem(place, unknown(&shown)),
            },
        }
    }

    fn directive(&mut self, directive: &'static Directive, words: &[Vec<u8>], place: &str) {
        if directive.name() == "save" && !std::mem::replace(&mut self.save_points_given, true) {
            self.config.save.clear();
        }
        if let Err(reason) = directive.update(&mut self.config, words) {
            let value: String = match (directive.sensitive, place) {
                (true, _) => " …".into(),
                // Where one word ends and the next begins is what is mostly wrong there.
                (false, COMMAND_LINE) => words.iter().map(|word| format!(" {}", quoted(word))).collect(),
                (false, _) => words.iter().map(|word| format!(" {}", String::from_utf8_lossy(word))).collect(),
            };
            self.problem(place, format!("'{}{value}': {reason}", directive.name()));
        }
    }

    /// `include FILE`, where the file's name (not its directory) may be a glob pattern, which may match nothing.
    fn include(&mut self, place: &str, pattern: &[u8], depth: usize) {
        if depth == INCLUDES_NESTED_MAX {
            return self.problem(place, format!("more than {INCLUDES_NESTED_MAX} files include one another"));
        }
        let path = kind::path(pattern);
        let is_pattern = pattern.iter().any(|byte| b"*?[".contains(byte));
        let (Some(name), true) = (path.file_name(), is_pattern) else { return self.file(place, &path, depth + 1) };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let matching =
            entries.filter(|entry| glob::matches(name.as_bytes(), entry.file_name().as_bytes(), glob::Case::Sensitive));
        let mut paths: Vec<PathBuf> = matching.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            self.file(place, &path, depth + 1);
        }
    }

    /// `user NAME rule…`, which is understood when the users are made.
    fn user(&mut self, words: &[Vec<u8>]) -> Result<(), String> {
        let [name, ..] = words else { return Err("wrong number of arguments".into()) };
        if self.config.users.iter().any(|line| line.split(|byte| *byte == b' ').nth(1) == Some(name)) {
            return Err("Duplicate user found. A user can only be defined once in config files".into());
        }
        self.config.users.push([&[b"user".to_vec()], words].concat().join(&b' '));
        Ok(())
    }

    fn finish(mut self) -> Loader {
        // Only the default is relative; a working directory that was removed is reported when it is used.
        self.config.dir = self.config.dir.canonicalize().unwrap_or(self.config.dir);
        self
    }
}

/// Whether a line of a configuration file says nothing.
pub(super) fn is_comment(line: &[u8]) -> bool {
    matches!(line.trim_ascii(), [] | [b'#', ..])
}

fn read_bounded(source: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    source.take(TEXT_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > TEXT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too long for a configuration"));
    }
    Ok(text)
}

fn quoted(word: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(word))
}

fn unknown(name: &str) -> String {
    // A longer one is no misspelling, and comparing takes the product of the lengths.
    let names = Directive::all().flat_map(|directive| directive.names).filter(|_| name.len() < 64);
    let nearest =
        names.map(|known| (edits(name, known), known)).min().filter(|(edits, known)| *edits <= 1 + known.len() / 4);
    match nearest {
        Some((_, known)) => format!("unknown directive '{name}' (did you mean '{known}'?)"),
        None => format!("unknown directive '{name}'"),
    }
}

/// The Levenshtein distance: how many bytes must be inserted, removed or replaced.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, from) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, to) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}
