//! `ACL`, as far as there is something to be said: there is one user, `default`, who may do everything except what this
//! server was told to deny. What is denied is denied until the server ends; `CONFIG REWRITE` does not keep it.

use super::{Args, ErrorReply, Flow, Result, ServerContext, table};
use crate::config::Secret;

pub(super) fn whoami(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    context.reply().bulk(b"default");
    Ok(Flow::Continue)
}

pub(super) fn users(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let mut reply = context.reply();
    reply.array(1);
    reply.bulk(b"default");
    Ok(Flow::Continue)
}

pub(super) fn list(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let instance = &context.instance;
    let password = if instance.config.requirepass.is_some() { "#" } else { "nopass" };
    let denied: String = instance.denied_commands.iter().map(|name| format!(" -{name}")).collect();
    let line = format!("user default on {password} sanitize-payload ~* &* +@all{denied}");
    let mut reply = context.reply();
    reply.array(1);
    reply.bulk(line.as_bytes());
    Ok(Flow::Continue)
}

/// `SETUSER default rule…`: all rules or none.
pub(super) fn setuser(context: &mut ServerContext, args: Args) -> Result<Flow> {
    if !args.is(2, "default") {
        return Err(ErrorReply::new("ERR repld knows no user but 'default'"));
    }
    let mut denied = context.instance.denied_commands.clone();
    let mut password = context.instance.config.requirepass.clone();
    for rule in args.from(3) {
        match rule {
            b"nopass" => password = None,
            b"on" | b"~*" | b"allkeys" | b"&*" | b"allchannels" | b"sanitize-payload" | b"skip-sanitize-payload" => {}
            b"+@all" | b"allcommands" => denied.clear(),
            [b'>', secret @ ..] => password = Secret::new(secret),
            [b'+', name @ ..] => drop(denied.remove(command_name(name)?)),
            [b'-', name @ ..] => drop(denied.insert(command_name(name)?)),
            // The rule is not quoted: it may hold a password or its hash.
            _ => {
                return Err(ErrorReply::new(
                    "ERR a rule for 'default' is one of '+command', '-command', '+@all', '>password', 'nopass', 'on', '~*', '&*' here",
                ));
            }
        }
    }
    context.instance.denied_commands = denied;
    context.instance.config.requirepass = password;
    context.ok()
}

fn command_name(name: &[u8]) -> Result<&'static str> {
    let unknown = || ErrorReply::quoting("ERR Unknown command or category name in ACL: '", name, "'");
    table::find_by_full_name(name).map(|command| command.name).ok_or_else(unknown)
}
