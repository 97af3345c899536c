//! The topology file as it is written: every key known, every value of its type and in its range, nothing yet said
//! about how the nodes hang together.
//!
//! It is read from the parsed TOML document ([TOML 1.0](https://toml.io/en/v1.0.0)) by hand and not through serde,
//! because serde stops at the first error and a person wants to see them all.

mod drill;

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, nearest, quoted};
use super::sentinel::{self, RawSentinel};
use super::{Address, By, Engine, EngineFamily, GuardWish, NODES_MAX, UnmanagedNode, directive};

pub(super) use drill::RawDrill;

/// Longest name of a group or a node, in bytes: it is a directory's name and a word on the command line.
const NAME_BYTES_MAX: usize = 64;

/// Shortest `[guard] deadline`.
const DEADLINE_MIN: Duration = Duration::from_millis(100);

/// `replica-priority` is a C int in the servers.
const PRIORITY_MAX: i64 = i32::MAX as i64;

const TOP_KEYS: [&str; 9] = ["name", "defaults", "node", "failover", "guard", "sentinel", "faults", "hooks", "drill"];
const SENTINEL_KEYS: [&str; 6] = ["count", "quorum", "down-after", "failover-timeout", "fast", "engine"];
const NODE_KEYS: [&str; 12] = [
    "name",
    "port",
    "count",
    "engine",
    "replica-of",
    "priority",
    "optional",
    "config",
    "managed",
    "endpoint",
    "user",
    "password-file",
];
/// What only a node has that replctl starts, and only one that it does not.
const MANAGED_KEYS: [&str; 6] = ["port", "count", "engine", "priority", "optional", "config"];
const UNMANAGED_KEYS: [&str; 3] = ["endpoint", "user", "password-file"];
const DEFAULTS_KEYS: [&str; 5] = ["engine", "replica-of", "priority", "optional", "config"];
const ENGINES: [&str; 3] = ["repld", "redis-server", "valkey-server"];
const FAMILIES: [&str; 3] = ["repld", "redis", "valkey"];

type Value<'i> = Spanned<DeValue<'i>>;
type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;

/// The whole file.
#[derive(Debug, Default)]
pub(super) struct RawTopology {
    pub name: Option<String>,
    pub defaults: Settings,
    pub nodes: Vec<RawNode>,
    pub failover: RawFailover,
    pub guard: GuardWish,
    pub sentinel: Option<RawSentinel>,
    pub after_promote: Vec<String>,
    /// Where `links = true` is written.
    pub link_faults: Option<Range<usize>>,
    pub drills: Vec<RawDrill>,
}

/// `[failover]`
#[derive(Debug, Default)]
pub(super) struct RawFailover {
    pub max_loss_bytes: Option<u64>,
    pub by: Option<Spanned<By>>,
}

/// One `[[node]]`.
#[derive(Debug)]
pub(super) struct RawNode {
    pub name: Spanned<String>,
    pub port: Option<Spanned<u16>>,
    pub count: Option<Spanned<usize>>,
    /// Of `managed = false`; where its `endpoint` is written.
    pub unmanaged: Option<Spanned<UnmanagedNode>>,
    pub settings: Settings,
}

/// What a `[[node]]` says or `[defaults]` say for it.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub engine: Option<Engine>,
    pub replica_of: Option<Spanned<String>>,
    pub priority: Option<u32>,
    pub optional: Option<Spanned<bool>>,
    pub config: BTreeMap<String, String>,
}

/// Reads the file's text; `directory` is what a relative path in it starts from.
///
/// # Errors
/// Everything that is wrong with its keys and values, or with its syntax: text that is not TOML is not looked at
/// further, since what a parser makes of it says little.
pub(super) fn read(text: &str, directory: &Path) -> Result<RawTopology, Vec<Diagnostic>> {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        return Err(syntax_diagnostics(text, &syntax_errors));
    }
    let mut reader = Reader { directory, errors: Vec::new() };
    let topology = reader.topology(document.get_ref());
    if reader.errors.is_empty() { Ok(topology) } else { Err(reader.errors) }
}

/// The first error of each line: the others come from the parser's attempts to go on.
fn syntax_diagnostics(text: &str, errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    let mut last_start = None;
    for error in errors {
        let span = error.span().unwrap_or_default();
        let is_same_line = last_start.is_some_and(|last| {
            let between = text.as_bytes().get(usize::min(last, span.start)..usize::max(last, span.start));
            !between.unwrap_or_default().contains(&b'\n')
        });
        if !is_same_line {
            last_start = Some(span.start);
            diagnostics.push(Diagnostic::at(span, format!("this is not TOML: {}", error.message())));
        }
    }
    diagnostics
}

/// Reads values, and notes what is wrong with them instead of stopping.
struct Reader<'a> {
    directory: &'a Path,
    errors: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn topology(&mut self, table: &DeTable) -> RawTopology {
        let mut topology = RawTopology::default();
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => topology.name = self.name(key, value).map(Spanned::into_inner),
                "defaults" => topology.defaults = self.defaults(key, value),
                "node" => topology.nodes = self.nodes(value),
                "failover" => topology.failover = self.failover(key, value),
                "guard" => topology.guard = self.guard(key, value),
                "faults" => topology.link_faults = self.faults(key, value),
                "hooks" => topology.after_promote = self.hooks(key, value),
                "drill" => topology.drills = self.drills(value),
                "sentinel" => topology.sentinel = Some(self.sentinel(key, value)),
                _ => self.unknown_key(key, "a topology", &TOP_KEYS),
            }
        }
        topology
    }

    fn nodes(&mut self, value: &Value) -> Vec<RawNode> {
        let Some(nodes) = value.get_ref().as_array() else {
            let found = described(value.get_ref());
            self.error(
                Diagnostic::at(value.span(), format!("`node` must be an array of tables, found {found}"))
                    .hint("write `[[node]]` above each node"),
            );
            return Vec::new();
        };
        nodes.iter().filter_map(|node| self.node(node)).collect()
    }

    fn node(&mut self, value: &Value) -> Option<RawNode> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type("a node", "a table", value);
            return None;
        };
        let (mut name, mut port, mut count, mut settings) = (None, None, None, Settings::default());
        let is_managed = self.is_managed(table);
        for (key, value) in table {
            if self.is_misplaced(key, is_managed) {
                continue;
            }
            match key.get_ref().as_ref() {
                "name" => name = self.name(key, value),
                "port" => port = self.port(key, value),
                "count" => count = self.integer(key, value, 1..=NODES_MAX as i64),
                "managed" | "endpoint" | "user" | "password-file" => {}
                _ if self.setting(&mut settings, key, value) => {}
                _ => self.unknown_key(key, "`[[node]]`", &NODE_KEYS),
            }
        }
        let unmanaged = if is_managed { None } else { self.unmanaged(table, value) };
        if !table.contains_key("name") {
            self.error(Diagnostic::at(value.span(), "this node has no name").hint("add `name = \"n1\"`"));
        }
        Some(RawNode { name: name?, port, count, unmanaged, settings })
    }

    fn is_managed(&mut self, table: &DeTable) -> bool {
        let written = table.get_key_value("managed").and_then(|(key, value)| self.boolean(key, value));
        written.is_none_or(Spanned::into_inner)
    }

    /// Notes a key that this kind of node cannot have.
    fn is_misplaced(&mut self, key: &Key, is_managed: bool) -> bool {
        let name = key.get_ref().as_ref();
        let (message, hint) = match is_managed {
            true if UNMANAGED_KEYS.contains(&name) => {
                (format!("`{name}` is for a node that replctl does not start"), "add `managed = false`")
            }
            false if MANAGED_KEYS.contains(&name) => {
                let hint = match name {
                    "port" => "its port is a part of its `endpoint`",
                    "count" => "write one `[[node]]` for each",
                    _ => "it is set where the server is started",
                };
                (format!("a node with `managed = false` cannot have `{name}`"), hint)
            }
            _ => return false,
        };
        self.error(Diagnostic::at(key.span(), message).hint(hint));
        true
    }

    /// What `managed = false` needs: where the server is, and who to log in as.
    fn unmanaged(&mut self, table: &DeTable, node: &Value) -> Option<Spanned<UnmanagedNode>> {
        let Some((key, value)) = table.get_key_value("endpoint") else {
            let error = Diagnostic::at(node.span(), "this node has `managed = false` and no `endpoint`");
            self.error(error.hint("add `endpoint = \"host:port\"`"));
            return None;
        };
        let text = self.string(key, value)?;
        let endpoint = Address::parse(text.get_ref()).map_err(|wrong| {
            let message = format!("{} is not an endpoint: it {wrong}", quoted(text.get_ref()));
            self.error(Diagnostic::at(value.span(), message).hint("`host:port`, with an IPv6 address in brackets"));
        });
        let mut optional = |name: &str| {
            let (key, value) = table.get_key_value(name)?;
            Some((self.string(key, value)?, value.span()))
        };
        let (user, file) = (optional("user"), optional("password-file"));
        let password_file = file.and_then(|(file, span)| self.path(file.into_inner(), span));
        let user = user.map(|(user, _)| user.into_inner());
        Some(Spanned::new(value.span(), UnmanagedNode { endpoint: endpoint.ok()?, user, password_file }))
    }

    /// A file's path, which starts from the topology's directory.
    fn path(&mut self, path: String, span: Range<usize>) -> Option<PathBuf> {
        if path.is_empty() || path.contains(char::is_control) {
            self.error(Diagnostic::at(span, "a path cannot be empty or contain control characters"));
            return None;
        }
        let path = self.directory.join(path);
        // Nothing here is done in the directory that the tool was called in.
        Some(std::path::absolute(&path).unwrap_or(path))
    }

    fn defaults(&mut self, key: &Key, value: &Value) -> Settings {
        let mut defaults = Settings::default();
        for (key, value) in self.table(key, value).into_iter().flatten() {
            match key.get_ref().as_ref() {
                own @ ("name" | "port" | "count" | "managed" | "endpoint" | "user" | "password-file") => {
                    let message = format!("`{own}` cannot have a default");
                    self.error(Diagnostic::at(key.span(), message).hint("it belongs to one `[[node]]`"));
                }
                _ if self.setting(&mut defaults, key, value) => {}
                _ => self.unknown_key(key, "`[defaults]`", &DEFAULTS_KEYS),
            }
        }
        defaults
    }

    /// Reads a key that `[[node]]` and `[defaults]` share; `false` if it is none.
    fn setting(&mut self, settings: &mut Settings, key: &Key, value: &Value) -> bool {
        match key.get_ref().as_ref() {
            "engine" => settings.engine = self.engine(value),
            "replica-of" => settings.replica_of = self.name(key, value),
            "priority" => settings.priority = self.integer(key, value, 0..=PRIORITY_MAX).map(Spanned::into_inner),
            "optional" => settings.optional = self.boolean(key, value),
            "config" => settings.config = self.config(key, value),
            _ => return false,
        }
        true
    }

    fn failover(&mut self, key: &Key, value: &Value) -> RawFailover {
        let mut failover = RawFailover::default();
        for (key, value) in self.table(key, value).into_iter().flatten() {
            match key.get_ref().as_ref() {
                "max-loss" => failover.max_loss_bytes = self.byte_size(key, value),
                "by" => failover.by = self.by(key, value),
                _ => self.unknown_key(key, "`[failover]`", &["max-loss", "by"]),
            }
        }
        failover
    }

    fn by(&mut self, key: &Key, value: &Value) -> Option<Spanned<By>> {
        let name = self.string(key, value)?;
        let by = By::ALL.into_iter().find(|by| by.name() == name.get_ref());
        if by.is_none() {
            let message = format!("nobody called {} fails a group over", quoted(name.get_ref()));
            self.unknown_value(value, &message, &By::ALL.map(By::name));
        }
        Some(Spanned::new(value.span(), by?))
    }

    fn guard(&mut self, key: &Key, value: &Value) -> GuardWish {
        let mut guard = GuardWish::default();
        for (key, value) in self.table(key, value).into_iter().flatten() {
            match key.get_ref().as_ref() {
                "deadline" => guard.deadline = self.deadline(key, value),
                "restart" => guard.restarts = self.boolean(key, value).is_some_and(Spanned::into_inner),
                _ => self.unknown_key(key, "`[guard]`", &["deadline", "restart"]),
            }
        }
        guard
    }

    /// Below the least one, an ordinary pause of the scheduler would be somebody's death.
    fn deadline(&mut self, key: &Key, value: &Value) -> Option<Duration> {
        let deadline = self.time(key, value)?;
        if deadline < DEADLINE_MIN {
            let message = format!("a deadline of less than {} ms is none", DEADLINE_MIN.as_millis());
            self.error(Diagnostic::at(value.span(), message).hint("`deadline = \"1s\"`"));
            return None;
        }
        Some(deadline)
    }

    fn sentinel(&mut self, key: &Key, value: &Value) -> RawSentinel {
        let mut sentinel = RawSentinel {
            span: key.span(),
            count: None,
            quorum: None,
            down_after: None,
            failover_timeout: None,
            is_fast: false,
            engine: None,
        };
        for (key, value) in self.table(key, value).into_iter().flatten() {
            match key.get_ref().as_ref() {
                "count" => sentinel.count = self.integer(key, value, 1..=sentinel::COUNT_MAX).map(Spanned::into_inner),
                "quorum" => sentinel.quorum = self.integer(key, value, 1..=sentinel::COUNT_MAX),
                "down-after" => sentinel.down_after = self.milliseconds(key, value),
                "failover-timeout" => {
                    sentinel.failover_timeout = self.milliseconds(key, value).map(Spanned::into_inner);
                }
                "fast" => sentinel.is_fast = self.boolean(key, value).is_some_and(Spanned::into_inner),
                "engine" => sentinel.engine = self.engine(value).map(|engine| Spanned::new(value.span(), engine)),
                _ => self.unknown_key(key, "`[sentinel]`", &SENTINEL_KEYS),
            }
        }
        sentinel
    }

    /// A time of at least a millisecond and at most a day, as Sentinel counts them.
    fn milliseconds(&mut self, key: &Key, value: &Value) -> Option<Spanned<Duration>> {
        let text = self.string(key, value)?;
        let time = humantime::parse_duration(text.get_ref()).ok();
        let time = time.filter(|time| (1..=86_400_000).contains(&time.as_millis()));
        if time.is_none() {
            let message = format!("{} is no time from 1ms to 1day", quoted(text.get_ref()));
            self.error(Diagnostic::at(value.span(), message).hint("a number and a unit: `500ms`, `2s`, `1m`"));
        }
        time.map(|time| Spanned::new(value.span(), time))
    }

    /// Where `links = true` is written.
    fn faults(&mut self, key: &Key, value: &Value) -> Option<Range<usize>> {
        let mut links = None;
        for (key, value) in self.table(key, value).into_iter().flatten() {
            match key.get_ref().as_ref() {
                "links" => links = self.boolean(key, value).filter(|links| *links.get_ref()).map(|links| links.span()),
                _ => self.unknown_key(key, "`[faults]`", &["links"]),
            }
        }
        links
    }

    fn hooks(&mut self, key: &Key, value: &Value) -> Vec<String> {
        let mut after_promote = Vec::new();
        for (key, value) in self.table(key, value).into_iter().flatten() {
            match key.get_ref().as_ref() {
                "after-promote" => after_promote = self.command(value),
                _ => self.unknown_key(key, "`[hooks]`", &["after-promote"]),
            }
        }
        after_promote
    }

    /// A program and its arguments.
    fn command(&mut self, value: &Value) -> Vec<String> {
        let words = value.get_ref().as_array().map(|words| words.iter().map(|word| word.get_ref().as_str()));
        match words.and_then(|words| words.collect::<Option<Vec<&str>>>()) {
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => {
                words.into_iter().map(str::to_owned).collect()
            }
            _ => {
                let message = "`after-promote` must be a program with its arguments, as an array of strings";
                self.error(Diagnostic::at(value.span(), message).hint("`after-promote = [\"notify\", \"ops\"]`"));
                Vec::new()
            }
        }
    }

    fn engine(&mut self, value: &Value) -> Option<Engine> {
        match value.get_ref() {
            DeValue::String(name) => {
                let family = EngineFamily::ALL.into_iter().find(|family| family.program() == name.as_ref());
                if family.is_none() {
                    self.unknown_value(value, &format!("unknown engine {}", quoted(name)), &ENGINES);
                }
                Some(Engine { family: family?, path: None })
            }
            DeValue::Table(table) => self.engine_table(table, value.span()),
            _ => {
                self.wrong_type("`engine`", "a string or a table with `family` and `path`", value);
                None
            }
        }
    }

    fn engine_table(&mut self, table: &DeTable, span: Range<usize>) -> Option<Engine> {
        let (mut family, mut path) = (None, None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "family" => family = self.family(key, value),
                "path" => path = self.string(key, value),
                _ => self.unknown_key(key, "`engine`", &["family", "path"]),
            }
        }
        if !table.contains_key("family") {
            self.error(
                Diagnostic::at(span, "this engine has no `family`")
                    .hint("add `family = \"repld\"`, `\"redis\"` or `\"valkey\"`"),
            );
        }
        let path = match path {
            Some(path) => Some(self.path(path.get_ref().clone(), path.span())?),
            None => None,
        };
        Some(Engine { family: family?, path })
    }

    fn family(&mut self, key: &Key, value: &Value) -> Option<EngineFamily> {
        let name = self.string(key, value)?;
        let family = EngineFamily::ALL.into_iter().find(|family| family.name() == name.get_ref());
        if family.is_none() {
            self.unknown_value(value, &format!("unknown engine family {}", quoted(name.get_ref())), &FAMILIES);
        }
        family
    }

    fn config(&mut self, key: &Key, value: &Value) -> BTreeMap<String, String> {
        let Some(table) = self.table(key, value) else { return BTreeMap::new() };
        if table.len() > directive::DIRECTIVES_MAX {
            let message = format!("`config` has more than {} directives", directive::DIRECTIVES_MAX);
            self.error(Diagnostic::at(key.span(), message));
            return BTreeMap::new();
        }
        let mut config = BTreeMap::new();
        for (key, value) in table {
            let name = key.get_ref().to_ascii_lowercase();
            if !self.may_set(&name, key, value) {
                continue;
            }
            let Some(text) = self.directive_value(key, value) else { continue };
            if config.insert(name, text).is_some() {
                let message = format!("the directive {} is set twice, in other letters", quoted(key.get_ref()));
                self.error(Diagnostic::at(key.span(), message));
            }
        }
        config
    }

    fn may_set(&mut self, name: &str, key: &Key, value: &Value) -> bool {
        if !directive::is_name(name) {
            let message = format!("{} is not the name of a server directive", quoted(key.get_ref()));
            self.error(Diagnostic::at(key.span(), message));
            return false;
        }
        if let Some(reason) = directive::owned(name) {
            let span = key.span().start..value.span().end;
            let message = format!("the directive {} belongs to replctl", quoted(key.get_ref()));
            self.error(Diagnostic::at(span, message).hint(reason));
            return false;
        }
        true
    }

    /// A directive's value as a configuration file writes it.
    fn directive_value(&mut self, key: &Key, value: &Value) -> Option<String> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(integer) => integer.to_string(),
                Err(_) => integer.to_string(),
            },
            DeValue::Float(float) => float.as_str().to_owned(),
            DeValue::Boolean(boolean) => if *boolean { "yes" } else { "no" }.to_owned(),
            _ => {
                let what = format!("the directive {}", quoted(key.get_ref()));
                self.wrong_type(&what, "a string, a number or a boolean", value);
                return None;
            }
        };
        let wrong = if text.contains(char::is_control) {
            "contains a control character, which could start a directive of its own"
        } else if !directive::is_row_of_words(&text) {
            "has a quote that is not closed, or not followed by a space"
        } else if text.len() > directive::VALUE_BYTES_MAX {
            "is longer than 1024 bytes"
        } else {
            return Some(text);
        };
        let message = format!("the value of {} {wrong}", quoted(key.get_ref()));
        self.error(Diagnostic::at(value.span(), message));
        None
    }

    fn name(&mut self, key: &Key, value: &Value) -> Option<Spanned<String>> {
        let name = self.string(key, value)?;
        if let Some(wrong) = wrong_name(name.get_ref()) {
            let message = format!("{} is not a name: {wrong}", quoted(name.get_ref()));
            self.error(Diagnostic::at(value.span(), message));
            return None;
        }
        Some(name)
    }

    fn port(&mut self, key: &Key, value: &Value) -> Option<Spanned<u16>> {
        if value.get_ref().as_integer().is_some_and(|port| port.as_str() == "0") {
            self.error(
                Diagnostic::at(value.span(), "`port` must be from 1 to 65535")
                    .hint("leave it out to let `up` choose a free one"),
            );
            return None;
        }
        self.integer(key, value, 1..=65535)
    }

    fn integer<T: TryFrom<i64>>(&mut self, key: &Key, value: &Value, range: RangeInclusive<i64>) -> Option<Spanned<T>> {
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(&format!("`{}`", key.get_ref()), "an integer", value);
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            let message = format!("`{}` must be from {} to {}", key.get_ref(), range.start(), range.end());
            self.error(Diagnostic::at(value.span(), message));
        }
        number.map(|number| Spanned::new(value.span(), number))
    }

    fn boolean(&mut self, key: &Key, value: &Value) -> Option<Spanned<bool>> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(&format!("`{}`", key.get_ref()), "`true` or `false`", value);
        }
        boolean.map(|boolean| Spanned::new(value.span(), boolean))
    }

    fn string(&mut self, key: &Key, value: &Value) -> Option<Spanned<String>> {
        let string = value.get_ref().as_str();
        if string.is_none() {
            self.wrong_type(&format!("`{}`", key.get_ref()), "a string", value);
        }
        string.map(|string| Spanned::new(value.span(), string.to_owned()))
    }

    fn byte_size(&mut self, key: &Key, value: &Value) -> Option<u64> {
        let text = self.string(key, value)?;
        let bytes = bytes_of(text.get_ref());
        if bytes.is_none() {
            let message = format!("{} is not a size in bytes", quoted(text.get_ref()));
            self.error(
                Diagnostic::at(value.span(), message)
                    .hint("a whole number and a unit: B, KB, MB, GB (1000s) or KiB, MiB, GiB (1024s)"),
            );
        }
        bytes
    }

    fn table<'t, 'i>(&mut self, key: &Key, value: &'t Value<'i>) -> Option<&'t DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(&format!("`{}`", key.get_ref()), "a table", value);
        }
        table
    }

    fn error(&mut self, diagnostic: Diagnostic) {
        self.errors.push(diagnostic);
    }

    fn wrong_type(&mut self, what: &str, expected: &str, value: &Value) {
        let message = format!("{what} must be {expected}, found {}", described(value.get_ref()));
        self.error(Diagnostic::at(value.span(), message));
    }

    fn unknown_key(&mut self, key: &Key, place: &str, valid: &[&str]) {
        let hint = match nearest(key.get_ref(), valid.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if valid.contains(&"config") => {
                format!("it has {}; server directives go into `config`", listed(valid))
            }
            None => format!("it has {}", listed(valid)),
        };
        let message = format!("unknown key {} in {place}", quoted(key.get_ref()));
        self.error(Diagnostic::at(key.span(), message).hint(hint));
    }

    fn unknown_value(&mut self, value: &Value, message: &str, valid: &[&str]) {
        let near = value.get_ref().as_str().and_then(|wrong| nearest(wrong, valid.iter().copied()));
        let hint =
            near.map_or_else(|| format!("there are {}", listed(valid)), |near| format!("did you mean `{near}`?"));
        self.error(Diagnostic::at(value.span(), message).hint(hint));
    }
}

/// What is wrong with a name of a group or a node: it becomes a directory and a word on the command line.
pub(super) fn wrong_name(name: &str) -> Option<&'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Some("it is longer than 64 bytes")
    } else if !name.bytes().all(is_allowed) {
        Some("it may have letters, digits, `-`, `_` and `.`")
    } else if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        Some("it must start with a letter or a digit")
    } else {
        None
    }
}

/// The bytes that a size like `0B`, `64KB` or `1MiB` stands for; `None` if it is no size.
pub fn bytes_of(size: &str) -> Option<u64> {
    let digits = size.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = size.split_at(digits);
    let unit_bytes: u64 = match unit.trim_start_matches(' ') {
        "B" => 1,
        "KB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_bytes)
}

fn described(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// `a`, `b` and `c`
fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_a_whole_number_and_a_unit() {
        assert_eq!(bytes_of("0B"), Some(0));
        assert_eq!(bytes_of("64KB"), Some(64_000));
        assert_eq!(bytes_of("1MiB"), Some(1_048_576));
        assert_eq!(bytes_of("2 GiB"), Some(2_147_483_648));
        for bad in ["", "1", "KB", "-1B", "1.5KB", "1kb", "99999999999999999999B", "18446744073709551615GB"] {
            assert_eq!(bytes_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_safe_as_directories_and_words() {
        for good in ["n1", "r-98", "a.b_c", "0"] {
            assert_eq!(wrong_name(good), None, "{good}");
        }
        for bad in ["", ".", "..", "-n", ".hidden", "a/b", "a b", "ä", "n\n", &"x".repeat(65)] {
            assert!(wrong_name(bad).is_some(), "{bad}");
        }
    }
}
