//! `ACL`: users and what they may do.

mod selector;
mod user;

use std::path::PathBuf;
use std::rc::Rc;

pub use selector::Denied;
pub use user::{LogEntry, User, Users};

use super::{Args, Command, ErrorReply, Flow, Result, ServerContext, category, parse_integer, table};
use crate::client::{Client, Session};
use crate::instance::{Instance, Random};
use crate::log::log;
use crate::pubsub::Topic;

/// So many entries of the log are shown unless told otherwise.
const SHOWN: usize = 10;

const NO_FILE: ErrorReply = ErrorReply::new(
    "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER \
     command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in \
     the Redis configuration.",
);

pub(super) fn whoami(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let user = Rc::clone(&context.session.client.user.borrow());
    context.reply().bulk(&user.name);
    Ok(Flow::Continue)
}

pub(super) fn users(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let names: Vec<Vec<u8>> = context.instance.users.iter().map(|user| user.name.clone()).collect();
    reply_list(context, &names);
    Ok(Flow::Continue)
}

pub(super) fn list(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let lines: Vec<Vec<u8>> = context.instance.users.iter().map(|user| user.describe()).collect();
    reply_list(context, &lines);
    Ok(Flow::Continue)
}

fn reply_list(context: &mut ServerContext, items: &[Vec<u8>]) {
    let mut reply = context.reply();
    reply.array(items.len());
    items.iter().for_each(|item| reply.bulk(item));
}

/// `CAT [category]`.
pub(super) fn cat(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let names: Vec<Vec<u8>> = match args.len() {
        2 => category::NAMES.iter().map(|name| name.as_bytes().to_vec()).collect(),
        3 => {
            let unknown = || ErrorReply::quoting("ERR Unknown category '", args.get(2), "'");
            let wanted = category::named(args.get(2)).ok_or_else(unknown)?;
            let belongs = |command: &&Command| category::of(command) & wanted != 0;
            table::all().filter(belongs).map(|command| command.name.as_bytes().to_vec()).collect()
        }
        _ => return Err(ErrorReply::subcommand_arguments(args)),
    };
    reply_list(context, &names);
    Ok(Flow::Continue)
}

pub(super) fn getuser(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let Some(rules) = context.instance.users.get(args.get(2)).map(|user| user.rules()) else {
        context.reply().null_array();
        return Ok(Flow::Continue);
    };
    let mut reply = context.reply();
    let flags = rules.flags();
    reply.map(6);
    reply.bulk(b"flags");
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"passwords");
    reply.array(rules.passwords.len());
    rules.passwords.iter().for_each(|hash| reply.bulk(hash.as_bytes()));
    let describe = |selector: &selector::Selector, reply: &mut crate::resp::Reply| {
        let commands = selector.describe_commands().into_bytes();
        let facts =
            [("commands", commands), ("keys", selector.describe_keys()), ("channels", selector.describe_channels())];
        for (name, fact) in facts {
            reply.bulk(name.as_bytes());
            reply.bulk(&fact);
        }
    };
    describe(&rules.root, &mut reply);
    reply.bulk(b"selectors");
    reply.array(rules.selectors.len());
    for selector in &rules.selectors {
        reply.map(3);
        describe(selector, &mut reply);
    }
    Ok(Flow::Continue)
}

/// `SETUSER name rule…`: all rules or none.
pub(super) fn setuser(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let rules: Vec<&[u8]> = args.from(3).collect();
    let instance = &mut context.instance;
    let all_channels = instance.config.acl_pubsub_default;
    let user = instance.users.set(args.get(2), &rules, all_channels);
    let user = user.map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
    instance.remember_users();
    let doomed = instance.listeners_without_permission(&user);
    end(context, &doomed)
}

pub(super) fn deluser(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.from(2).any(|name| name == b"default") {
        return Err(ErrorReply::new("ERR The 'default' user cannot be removed"));
    }
    let gone: Vec<Rc<User>> = args.from(2).filter_map(|name| context.instance.users.remove(name)).collect();
    context.instance.remember_users();
    let doomed = context.instance.clients_of(&gone);
    context.reply().integer(gone.len() as i64);
    Ok(kill(context, &doomed))
}

/// Answers, and ends connections.
fn end(context: &mut ServerContext, doomed: &[Rc<Client>]) -> Result<Flow> {
    context.reply().ok();
    Ok(kill(context, doomed))
}

fn kill(context: &ServerContext, doomed: &[Rc<Client>]) -> Flow {
    let own = context.session.client.id;
    doomed.iter().filter(|client| client.id != own).for_each(|client| client.kill());
    // The present one gets its answer.
    if doomed.iter().any(|client| client.id == own) { Flow::Close } else { Flow::Continue }
}

/// `GENPASS [bits]`.
pub(super) fn genpass(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let bits = args.maybe(2).map_or(Ok(256), parse_integer)?;
    if !(1..=4096).contains(&bits) || args.len() > 3 {
        return Err(ErrorReply::new(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
        ));
    }
    let digits = (bits as usize).div_ceil(4);
    let text: String = (0..digits.div_ceil(16)).map(|_| format!("{:016x}", Random::from_system().next_u64())).collect();
    context.reply().bulk(&text.as_bytes()[..digits]);
    Ok(Flow::Continue)
}

/// `LOG [count | RESET]`.
pub(super) fn log(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if args.len() > 3 {
        return Err(ErrorReply::subcommand_arguments(args));
    }
    if args.is(2, "reset") {
        context.instance.users.log.clear();
        return context.ok();
    }
    let most = args.maybe(2).map_or(Ok(SHOWN as i64), parse_integer)?.max(0) as usize;
    let now_ms = context.instance.now_ms;
    let log = &context.instance.users.log;
    let mut reply = crate::resp::Reply::new(context.out, context.session.protocol);
    reply.array(log.len().min(most));
    for entry in log.iter().take(most) {
        reply.map(7);
        reply.bulk(b"count");
        reply.integer(entry.count as i64);
        let facts: [(&str, &[u8]); 4] = [
            ("reason", entry.reason.as_bytes()),
            ("context", entry.context.as_bytes()),
            ("object", &entry.object),
            ("username", &entry.user),
        ];
        for (name, fact) in facts {
            reply.bulk(name.as_bytes());
            reply.bulk(fact);
        }
        reply.bulk(b"age-seconds");
        reply.double((now_ms - entry.at_ms).max(0) as f64 / 1000.0);
        reply.bulk(b"client-info");
        reply.bulk(entry.client.as_bytes());
    }
    Ok(Flow::Continue)
}

/// `DRYRUN user command argument…`.
pub(super) fn dryrun(context: &mut ServerContext, args: Args) -> Result<Flow> {
    let unknown = || ErrorReply::quoting("ERR User '", args.get(2), "' not found");
    let user = Rc::clone(context.instance.users.get(args.get(2)).ok_or_else(unknown)?);
    let inner = args.inner(3);
    let command =
        table::resolve(inner).map_err(|_| ErrorReply::quoting("ERR Command '", args.get(3), "' not found"))?;
    if !command.takes(inner.len()) {
        return Err(ErrorReply::arity(command.name));
    }
    let (what, name, kind) = match user.check(command, inner) {
        Ok(()) => return context.ok(),
        Err(Denied::Command) => ("run", command.name.as_bytes(), "command"),
        Err(Denied::Key(place)) => ("access", inner.get(place), "key"),
        Err(Denied::Channel(place)) => ("access", inner.get(place), "channel"),
    };
    let name = String::from_utf8_lossy(name);
    let text = format!("This user has no permissions to {what} the '{name}' {kind}");
    context.reply().bulk(text.as_bytes());
    Ok(Flow::Continue)
}

/// Reads the file again: all of it or nothing. Who is not the default user has to come in anew.
pub(super) fn load(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let path = context.instance.acl_file().ok_or(NO_FILE)?;
    let gone = context.instance.load_users(&path).map_err(|error| ErrorReply::owned(format!("ERR {error}")))?;
    let doomed = context.instance.clients_of(&gone);
    end(context, &doomed)
}

pub(super) fn save(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let path = context.instance.acl_file().ok_or(NO_FILE)?;
    let lines = context.instance.users.iter().map(|user| [&user.describe()[..], b"\n"].concat());
    let text: Vec<u8> = lines.collect::<Vec<_>>().concat();
    if let Err(error) = crate::config::replace_file(&path, &text) {
        log!(Warning, "Can't write the ACL file {}: {error}", path.display());
        return Err(ErrorReply::new(
            "ERR There was an error trying to save the ACLs. Please check the server logs for more information",
        ));
    }
    context.ok()
}

impl Instance {
    fn acl_file(&self) -> Option<PathBuf> {
        self.config.aclfile.as_ref().map(|path| self.config.dir.join(path))
    }

    /// Makes the users that the configuration or the file that it names wants.
    ///
    /// # Errors
    /// What is wrong there.
    pub fn make_users(&mut self) -> std::result::Result<(), String> {
        let lines = std::mem::take(&mut self.config.users);
        let all_channels = self.config.acl_pubsub_default;
        match self.acl_file() {
            Some(_) if !lines.is_empty() => {
                return Err(
                    "users are configured both in 'user' directives and in the file of 'aclfile': use one".into()
                );
            }
            Some(path) => drop(self.load_users(&path)?),
            None if lines.is_empty() => {}
            None => {
                let named_default =
                    lines.iter().any(|line| line.split(|byte| *byte == b' ').nth(1) == Some(b"default"));
                let default = self.users.default_user().rules();
                self.users
                    .replace(lines.iter().map(|line| &line[..]), all_channels)
                    .map_err(|errors| errors.concat())?;
                if !named_default {
                    self.users.default_user().set_rules(default);
                }
                self.config.users = lines;
            }
        }
        Ok(())
    }

    fn load_users(&mut self, path: &std::path::Path) -> std::result::Result<Vec<Rc<User>>, String> {
        let text = std::fs::read(path)
            .map_err(|error| format!("Error loading ACLs, opening file '{}': {error}", path.display()))?;
        let lines = text.split(|byte| *byte == b'\n');
        self.users.replace(lines, self.config.acl_pubsub_default).map_err(|errors| {
            format!(
                "{}WARNING: ACL errors detected, no change to the previously active ACL rules was performed",
                errors.concat()
            )
        })
    }

    /// Lets `CONFIG REWRITE` know of the users, unless they have a file of their own.
    pub(super) fn remember_users(&mut self) {
        let is_plain = self.users.iter().len() == 1 && self.users.default_user().is_unrestricted();
        if self.config.aclfile.is_none() && !(is_plain && self.config.users.is_empty()) {
            self.config.users = self.users.iter().map(|user| user.describe()).collect();
        }
    }

    fn clients_of(&self, users: &[Rc<User>]) -> Vec<Rc<Client>> {
        let is_theirs = |client: &&Rc<Client>| users.iter().any(|user| Rc::ptr_eq(user, &client.user.borrow()));
        self.clients.values().filter(is_theirs).cloned().collect()
    }

    /// Connections that listen to what their user may not listen to any more.
    fn listeners_without_permission(&self, user: &Rc<User>) -> Vec<Rc<Client>> {
        let rules = user.rules();
        let may_listen = |client: &Client| {
            [(Topic::Channel, false), (Topic::Shard, false), (Topic::Pattern, true)].into_iter().all(
                |(topic, is_pattern)| {
                    let names = self.pubsub.subscriptions(topic, client.id);
                    names.iter().all(|name| rules.permits_channel(name, is_pattern))
                },
            )
        };
        let listeners = self.clients_of(std::slice::from_ref(user)).into_iter();
        listeners.filter(|client| client.subscriptions.get().any() && !may_listen(client)).collect()
    }

    /// Lets a connection be this user from now on.
    ///
    /// # Errors
    /// There is no such user, or the password is wrong.
    pub(super) fn log_in(&mut self, session: &mut Session, name: &[u8], password: &[u8]) -> Result<()> {
        let Some(user) = self.users.authenticate(name, password) else {
            self.note_refusal(session, "auth", b"AUTH", name);
            return Err(ErrorReply::new("WRONGPASS invalid username-password pair or user is disabled."));
        };
        *session.client.user.borrow_mut() = Rc::clone(user);
        session.authenticated = true;
        Ok(())
    }

    /// Whether the user of a session may run a command.
    ///
    /// # Errors
    /// What stands against it, which is noted.
    pub(super) fn check_permission(
        &mut self,
        session: &Session,
        command: &Command,
        args: Args,
    ) -> std::result::Result<(), Denied> {
        let user = Rc::clone(&session.client.user.borrow());
        let checked = user.check(command, args);
        if let Err(denied) = checked {
            let (reason, object) = match denied {
                Denied::Command => ("command", command.name.as_bytes()),
                Denied::Key(place) => ("key", args.get(place)),
                Denied::Channel(place) => ("channel", args.get(place)),
            };
            self.note_refusal(session, reason, object, &user.name);
        }
        checked
    }

    fn note_refusal(&mut self, session: &Session, reason: &'static str, object: &[u8], user: &[u8]) {
        let in_transaction = session.transaction.is_some() || self.transaction_stream.is_some();
        let entry = LogEntry {
            count: 1,
            reason,
            context: if in_transaction { "multi" } else { "toplevel" },
            object: object.to_vec(),
            user: user.to_vec(),
            at_ms: self.now_ms,
            client: session.client.describe(self.now_ms),
        };
        self.users.note(entry, self.config.acllog_max_len);
    }
}

impl Denied {
    /// As a client is told of it.
    pub(super) fn reply(self, command: &Command, args: Args) -> ErrorReply {
        let text = match self {
            Denied::Key(place)
                if place > 2 && matches!(command.name, "sort" | "sort_ro") && !args.is(place - 1, "store") =>
            {
                let option = if args.is(place - 1, "by") { "BY" } else { "GET" };
                return ErrorReply::owned(format!(
                    "ERR {option} option of SORT denied due to insufficient ACL permissions."
                ));
            }
            Denied::Command => format!("run the '{}' command", command.name),
            Denied::Key(_) => "access one of the keys used as arguments".into(),
            Denied::Channel(_) => "access one of the channels used as arguments".into(),
        };
        ErrorReply::owned(format!("NOPERM this user has no permissions to {text}"))
    }

    /// The same for a command of a transaction, when that ends.
    pub(super) fn reply_at_exec(self) -> ErrorReply {
        let reason = match self {
            Denied::Command => "no permission to execute the command or subcommand",
            Denied::Key(_) => "no permission to touch the specified keys",
            Denied::Channel(_) => "no permission to access one of the channels used as arguments to the command",
        };
        ErrorReply::owned(format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This \
             command is no longer allowed for the following reason: {reason}"
        ))
    }
}
