//! What a user may do: one of the alternatives of which a command must satisfy one.

use crate::command::table::{self, Command};
use crate::command::{Args, category, keyspec};
use crate::glob::{self, Case};

/// Why a rule cannot be followed, in Redis's words.
pub(super) type Refusal = &'static str;

const SYNTAX: Refusal = "Syntax error";
const UNKNOWN_COMMAND: Refusal = "Unknown command or category name in ACL";

/// What stands against a command, the weakest reason first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// It may not be run at all.
    Command,
    /// Not with this argument as a key.
    Key(usize),
    /// Not with this argument as a channel.
    Channel(usize),
}

/// Keys that may be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyPattern {
    pattern: Vec<u8>,
    read: bool,
    write: bool,
}

/// A rule about commands; of several that concern one, the last holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum CommandRule {
    Category(&'static str, bool),
    /// With its subcommands.
    Command(&'static str, bool),
    /// With this first argument.
    FirstArgument(&'static str, Vec<u8>),
}

impl CommandRule {
    fn concerns(&self, command: &Command, args: Option<Args>) -> bool {
        match self {
            CommandRule::Category(name, _) => {
                category::of(command) & category::named(name.as_bytes()).unwrap_or(0) != 0
            }
            CommandRule::Command(name, _) => is_part(command.name, name),
            CommandRule::FirstArgument(name, argument) => {
                let given = args.and_then(|args| args.maybe(1));
                command.name == *name && given.is_some_and(|given| given.eq_ignore_ascii_case(argument))
            }
        }
    }

    fn allows(&self) -> bool {
        match self {
            CommandRule::Category(_, allows) | CommandRule::Command(_, allows) => *allows,
            CommandRule::FirstArgument(..) => true,
        }
    }

    /// Whether a newer rule says all that this one does.
    fn is_covered_by(&self, newer: &CommandRule) -> bool {
        match (self, newer) {
            (CommandRule::Category(old, _), CommandRule::Category(new, _)) => old == new,
            (CommandRule::Command(old, _) | CommandRule::FirstArgument(old, _), CommandRule::Command(new, _)) => {
                is_part(old, new)
            }
            (old, new) => old == new,
        }
    }

    fn describe(&self) -> String {
        let sign = if self.allows() { '+' } else { '-' };
        match self {
            CommandRule::Category(name, _) => format!("{sign}@{name}"),
            CommandRule::Command(name, _) => format!("{sign}{name}"),
            CommandRule::FirstArgument(name, argument) => format!("{sign}{name}|{}", String::from_utf8_lossy(argument)),
        }
    }
}

/// Whether the name is that of the command, or of a part of it.
fn is_part(name: &str, command: &str) -> bool {
    name.strip_prefix(command).is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
}

/// Commands, keys and channels that go together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Every command that no rule concerns.
    all_commands: bool,
    commands: Vec<CommandRule>,
    all_keys: bool,
    keys: Vec<KeyPattern>,
    pub(super) all_channels: bool,
    channels: Vec<Vec<u8>>,
}

impl Selector {
    /// That of a new user.
    pub(super) fn new(all_channels: bool) -> Selector {
        Selector { all_channels, ..Selector::default() }
    }

    /// May do everything.
    pub(super) fn is_unrestricted(&self) -> bool {
        self.all_commands && self.commands.is_empty() && self.all_keys && self.all_channels
    }

    /// Follows a rule.
    pub(super) fn apply(&mut self, rule: &[u8]) -> Result<(), Refusal> {
        match rule.to_ascii_lowercase().as_slice() {
            b"allkeys" | b"~*" => {
                self.all_keys = true;
                self.keys.clear();
            }
            b"resetkeys" => {
                self.all_keys = false;
                self.keys.clear();
            }
            b"allchannels" | b"&*" => {
                self.all_channels = true;
                self.channels.clear();
            }
            b"resetchannels" => {
                self.all_channels = false;
                self.channels.clear();
            }
            b"allcommands" | b"+@all" => {
                self.all_commands = true;
                self.commands.clear();
            }
            b"nocommands" | b"-@all" => {
                self.all_commands = false;
                self.commands.clear();
            }
            _ => return self.apply_pattern(rule),
        }
        Ok(())
    }

    fn apply_pattern(&mut self, rule: &[u8]) -> Result<(), Refusal> {
        match rule {
            [b'~', pattern @ ..] => self.add_keys(pattern, true, true),
            [b'%', rest @ ..] => {
                let tilde = memchr::memchr(b'~', rest).ok_or(SYNTAX)?;
                let (access, pattern) = (rest[..tilde].to_ascii_lowercase(), &rest[tilde + 1..]);
                if access.is_empty() || access.iter().any(|letter| !b"rw".contains(letter)) {
                    return Err(SYNTAX);
                }
                self.add_keys(pattern, access.contains(&b'r'), access.contains(&b'w'))
            }
            [b'&', pattern @ ..] => {
                if self.all_channels {
                    return Err(
                        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have \
                         any effect. Try 'resetchannels' to start with an empty list of channels",
                    );
                }
                check_pattern(pattern)?;
                if !self.channels.iter().any(|known| known == pattern) {
                    self.channels.push(pattern.to_vec());
                }
                Ok(())
            }
            [b'+', name @ ..] => self.add_command(name, true),
            [b'-', name @ ..] => self.add_command(name, false),
            _ => Err(SYNTAX),
        }
    }

    fn add_keys(&mut self, pattern: &[u8], read: bool, write: bool) -> Result<(), Refusal> {
        if self.all_keys {
            return Err(
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. \
                 Try 'resetkeys' to start with an empty list of patterns",
            );
        }
        check_pattern(pattern)?;
        match self.keys.iter_mut().find(|known| known.pattern == pattern) {
            Some(known) => {
                known.read |= read;
                known.write |= write;
            }
            None => self.keys.push(KeyPattern { pattern: pattern.to_vec(), read, write }),
        }
        Ok(())
    }

    fn add_command(&mut self, name: &[u8], allows: bool) -> Result<(), Refusal> {
        let rule = parse_command(name, allows)?;
        self.commands.retain(|older| !older.is_covered_by(&rule));
        // Of a command that may or may not be run already, nothing new is said.
        let is_news = match &rule {
            CommandRule::Category(..) => true,
            CommandRule::Command(name, _) => table::all()
                .filter(|command| is_part(command.name, name))
                .any(|command| self.allows(command, None) != allows),
            CommandRule::FirstArgument(name, _) => {
                table::find(name.as_bytes()).is_some_and(|command| !self.allows(command, None))
            }
        };
        if is_news {
            self.commands.push(rule);
        }
        Ok(())
    }

    fn allows(&self, command: &Command, args: Option<Args>) -> bool {
        let rule = self.commands.iter().rev().find(|rule| rule.concerns(command, args));
        rule.map_or(self.all_commands, CommandRule::allows)
    }

    /// Whether a command may be run with these arguments.
    pub(super) fn check(&self, command: &Command, args: Args) -> Result<(), Denied> {
        if !command.is(table::NO_AUTH) && !self.allows(command, Some(args)) {
            return Err(Denied::Command);
        }
        if !self.all_keys {
            self.check_keys(command, args)?;
        }
        if self.all_channels { Ok(()) } else { self.check_channels(command, args) }
    }

    fn check_keys(&self, command: &Command, args: Args) -> Result<(), Denied> {
        for (place, access) in keyspec::keys(command, args) {
            let reads = access & keyspec::ACCESS != 0;
            let writes = access & (keyspec::INSERT | keyspec::DELETE | keyspec::UPDATE) != 0;
            let name = args.get(place);
            let permits = |known: &KeyPattern| {
                (known.read || !reads)
                    && (known.write || !writes)
                    && glob::matches(&known.pattern, name, Case::Sensitive)
            };
            if !self.keys.iter().any(permits) {
                return Err(Denied::Key(place));
            }
        }
        // Which keys these words of SORT lead to depends on what is in others.
        let reads_all = self.keys.iter().any(|known| known.read && known.pattern == b"*");
        let is_sort = matches!(command.name, "sort" | "sort_ro") && !reads_all;
        let leads_on = |place: &usize| {
            (args.is(place - 1, "by") || args.is(place - 1, "get")) && memchr::memchr(b'*', args.get(*place)).is_some()
        };
        match (3..args.len()).find(|place| is_sort && leads_on(place)) {
            Some(place) => Err(Denied::Key(place)),
            None => Ok(()),
        }
    }

    fn check_channels(&self, command: &Command, args: Args) -> Result<(), Denied> {
        let places = match command.name {
            "publish" | "spublish" => 1..2,
            "subscribe" | "ssubscribe" | "psubscribe" => 1..args.len(),
            _ => return Ok(()),
        };
        let is_pattern = command.name == "psubscribe";
        for place in places {
            if !self.permits_channel(args.get(place), is_pattern) {
                return Err(Denied::Channel(place));
            }
        }
        Ok(())
    }

    /// Whether a channel, or exactly this pattern of channels, is allowed.
    pub(super) fn permits_channel(&self, name: &[u8], is_pattern: bool) -> bool {
        let permits = |known: &Vec<u8>| {
            if is_pattern { known == name } else { glob::matches(known, name, Case::Sensitive) }
        };
        self.all_channels || self.channels.iter().any(permits)
    }

    pub(super) fn describe_commands(&self) -> String {
        let base = if self.all_commands { "+@all" } else { "-@all" };
        let rules = self.commands.iter().map(CommandRule::describe);
        std::iter::once(base.to_owned()).chain(rules).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn describe_keys(&self) -> Vec<u8> {
        if self.all_keys {
            return b"~*".to_vec();
        }
        let describe = |known: &KeyPattern| {
            let access: &[u8] = match (known.read, known.write) {
                (true, true) => b"~",
                (true, false) => b"%R~",
                (false, _) => b"%W~",
            };
            [access, &known.pattern].concat()
        };
        self.keys.iter().map(describe).collect::<Vec<_>>().join(&b' ')
    }

    pub(super) fn describe_channels(&self) -> Vec<u8> {
        if self.all_channels {
            return b"&*".to_vec();
        }
        self.channels.iter().map(|known| [b"&", &known[..]].concat()).collect::<Vec<_>>().join(&b' ')
    }

    /// All its rules, in a form that [`Selector::apply`] reads back one by one.
    pub(super) fn describe(&self) -> Vec<u8> {
        let channels = self.describe_channels();
        let channels = if self.all_channels { channels } else { [&b"resetchannels"[..], &channels].join(&b' ') };
        let parts = [self.describe_keys(), channels.trim_ascii_end().to_vec(), self.describe_commands().into_bytes()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b' ')
    }
}

fn check_pattern(pattern: &[u8]) -> Result<(), Refusal> {
    let is_bad = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    if pattern.iter().any(is_bad) { Err(SYNTAX) } else { Ok(()) }
}

fn parse_command(name: &[u8], allows: bool) -> Result<CommandRule, Refusal> {
    if let [b'@', wanted @ ..] = name {
        let known = category::NAMES.iter().find(|known| known.as_bytes().eq_ignore_ascii_case(wanted));
        return known.map(|known| CommandRule::Category(known, allows)).ok_or(UNKNOWN_COMMAND);
    }
    if let Some(command) = table::find_by_full_name(name) {
        return Ok(CommandRule::Command(command.name, allows));
    }
    let bar = memchr::memchr(b'|', name).ok_or(UNKNOWN_COMMAND)?;
    let (command, argument) = (table::find(&name[..bar]).ok_or(UNKNOWN_COMMAND)?, &name[bar + 1..]);
    let second_bar = memchr::memchr(b'|', argument);
    let is_subcommand = second_bar.is_some_and(|end| command.subcommand(&argument[..end]).is_some());
    match (argument, command.subcommands, second_bar) {
        _ if is_subcommand && allows => Err("Allowing first-arg of a subcommand is not supported"),
        ([], ..) => Err(SYNTAX),
        (_, [], None) if allows => Ok(CommandRule::FirstArgument(command.name, argument.to_ascii_lowercase())),
        _ => Err(UNKNOWN_COMMAND),
    }
}
