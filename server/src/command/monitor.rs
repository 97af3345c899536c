//! `MONITOR`, and what must not be seen by those who look on: <https://redis.io/docs/latest/commands/monitor/>.

use std::rc::Rc;

use super::execute::Call;
use super::{Args, Command, Flow, Result, ServerContext, table};
use crate::client::Session;
use crate::config::Config;
use crate::instance::Instance;

const REDACTED: &[u8] = b"(redacted)";

pub(super) fn monitor(context: &mut ServerContext, _args: Args) -> Result<Flow> {
    let ServerContext { instance, session, .. } = context;
    if !session.client.monitors.replace(true) {
        instance.monitors.push(Rc::clone(&session.client));
    }
    context.ok()
}

/// The arguments of a request, without those that are secret.
pub(super) fn shown(command: &Command, args: Args) -> Vec<Vec<u8>> {
    let is_secret = |index: usize| match command.name {
        "auth" => index > 0,
        "acl|setuser" | "acl|deluser" | "acl|getuser" => index > 1,
        "hello" => (index > 2 && args.is(index - 1, "auth")) || (index > 3 && args.is(index - 2, "auth")),
        "migrate" => {
            let follows = |distance: usize, word: &str| index >= 6 + distance && args.is(index - distance, word);
            follows(1, "auth") || follows(1, "auth2") || follows(2, "auth2")
        }
        "config|set" => index > 2 && index % 2 == 1 && Config::is_sensitive(args.get(index - 1)),
        _ => false,
    };
    let show = |(index, argument): (usize, &[u8])| if is_secret(index) { REDACTED } else { argument }.to_vec();
    args.from(0).enumerate().map(show).collect()
}

impl Instance {
    /// Shows a request that was run to those who look on.
    pub(super) fn show(&mut self, session: &Session, call: &Call) {
        if call.command.is(table::ADMIN) || call.command.is(table::SKIP_MONITOR) || self.loading.is_some() {
            return;
        }
        let now_us = self.end_run();
        let client = &session.client;
        let mut line =
            format!("+{}.{:06} [{} {}]", now_us / 1_000_000, now_us % 1_000_000, session.db(), client.address);
        for argument in shown(call.command, call.args) {
            line.push_str(" \"");
            line.push_str(&escaped(&argument));
            line.push('"');
        }
        line.push_str("\r\n");
        for monitor in &self.monitors {
            monitor.send(|mailbox| mailbox.extend_from_slice(line.as_bytes()));
        }
    }

    /// Ends a connection's looking on.
    pub(crate) fn forget_monitor(&mut self, session: &Session) {
        if session.client.monitors.replace(false) {
            self.monitors.retain(|monitor| monitor.id != session.client.id);
        }
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\\' | b'"' => text.extend(['\\', char::from(*byte)]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            7 => text.push_str("\\a"),
            8 => text.push_str("\\b"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text
}
