//! `replctl cli`: a word with one node.
//!
//! Replies are shown as redis-cli shows them to a person, each with its type:
//!
//! ```text
//! 127.0.0.1:6379 n1> role
//! 1) "master"
//! 2) (integer) 1288
//! 3) (empty array)
//! ```

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use redis::Value;
use replctl::group::endpoint;
use replctl::process::RunSentinel;
use replctl::wire::{NodeClient, WireError, split_words};
use serde_json::json;

use super::context::Context;
use super::{ExitCode, Failure};

/// Long enough for commands that wait; a person has Ctrl-C.
const ANSWER_LIMIT: Duration = Duration::from_secs(3600);

/// `replctl cli NODE [CMD..]`
#[derive(Debug, clap::Args)]
pub struct CliArgs {
    /// The node or sentinel to talk to
    node: String,

    /// A command and its arguments [default: one per line from standard input]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl CliArgs {
    /// Runs one command, or those that are read from standard input. An error reply to the one command is a failure.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let group = context.group()?;
        let sentinel = group.run.sentinel(&self.node).map(RunSentinel::endpoint);
        let Some(endpoint) = sentinel.or_else(|| group.run.node(&self.node).map(endpoint)) else {
            let failure = Failure::new(ExitCode::Usage, format_args!("the group has no node {}", self.node));
            return Err(failure.hint("replctl status lists the nodes").into());
        };
        context.block_on(async {
            let client = NodeClient::connect(&endpoint, ANSWER_LIMIT).await;
            let client =
                client.map_err(|error| Failure::new(ExitCode::Failed, format_args!("{}: {error}", self.node)))?;
            if self.command.is_empty() {
                return self.converse(context, &client).await;
            }
            let words: Vec<&[u8]> = self.command.iter().map(String::as_bytes).collect();
            show(context, client.command(&words).await)
        })
    }

    async fn converse(&self, context: &Context<'_>, client: &NodeClient) -> anyhow::Result<ExitCode> {
        let stdin = std::io::stdin();
        let is_person = stdin.is_terminal() && !context.printer.is_json();
        let mut line = String::new();
        loop {
            if is_person {
                eprint!("{} {}> ", client.address(), self.node);
                std::io::stderr().flush()?;
            }
            line.clear();
            if stdin.lock().read_line(&mut line)? == 0 || !context.printer.is_stdout_open() {
                return Ok(ExitCode::Done);
            }
            match split_words(&line) {
                Some(words) if words.is_empty() => {}
                Some(words)
                    if words.len() == 1
                        && [&b"quit"[..], b"exit"].contains(&words[0].to_ascii_lowercase().as_slice()) =>
                {
                    return Ok(ExitCode::Done);
                }
                Some(words) => drop(show(context, client.command(&words).await)?),
                None => context.printer.warning("a quote is not closed"),
            }
        }
    }
}

fn show(context: &Context<'_>, reply: Result<Value, WireError>) -> anyhow::Result<ExitCode> {
    let printer = context.printer;
    match reply {
        Ok(value) if printer.is_json() => printer.object(&json!({ "reply": as_json(&value) })),
        Ok(value) => printer.data(as_text(&value, 0)),
        Err(WireError::Server { code, text }) => {
            let error = format!("{code} {text}");
            match printer.is_json() {
                true => printer.object(&json!({ "error_reply": error })),
                false => printer.data(format_args!("(error) {error}")),
            }
            return Ok(ExitCode::Failed);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::Done)
}

/// A reply with its type; what it contains is indented by `indent` columns, except on the first line.
fn as_text(value: &Value, indent: usize) -> String {
    match value {
        Value::Nil => "(nil)".to_owned(),
        Value::Int(number) => format!("(integer) {number}"),
        Value::Okay => "OK".to_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::BulkString(bytes) => quoted(bytes),
        Value::Double(number) => format!("(double) {number}"),
        Value::Boolean(truth) => format!("({truth})"),
        Value::VerbatimString { text, .. } => text.clone(),
        Value::BigNumber(digits) => format!("(big number) {}", String::from_utf8_lossy(digits)),
        Value::ServerError(error) => format!("(error) {} {}", error.code(), error.details().unwrap_or_default()),
        Value::Array(values) => listed(values, indent, "array"),
        Value::Set(values) => listed(values, indent, "set"),
        Value::Push { data, .. } => listed(data, indent, "push"),
        Value::Attribute { data, .. } => as_text(data, indent),
        Value::Map(pairs) => {
            let values: Vec<Value> = pairs.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect();
            listed(&values, indent, "map")
        }
        other => format!("{other:?}"),
    }
}

fn listed(values: &[Value], indent: usize, kind: &str) -> String {
    if values.is_empty() {
        return format!("(empty {kind})");
    }
    let width = values.len().to_string().len();
    let line = |(index, value): (usize, &Value)| {
        let margin = if index == 0 { 0 } else { indent };
        format!("{:margin$}{:>width$}) {}", "", index + 1, as_text(value, indent + width + 2))
    };
    values.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// Text in double quotes, with what is not printable as an escape.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', byte as char]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(byte as char),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

/// Bytes that are no text become text with replacement characters.
fn as_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Nil => serde_json::Value::Null,
        Value::Int(number) => json!(number),
        Value::Okay => json!("OK"),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => json!(text),
        Value::BulkString(bytes) | Value::BigNumber(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Double(number) => json!(number),
        Value::Boolean(truth) => json!(truth),
        Value::Array(values) | Value::Set(values) | Value::Push { data: values, .. } => {
            values.iter().map(as_json).collect()
        }
        Value::Map(pairs) => pairs.iter().map(|(key, value)| json!([as_json(key), as_json(value)])).collect(),
        Value::Attribute { data, .. } => as_json(data),
        Value::ServerError(error) => json!({ "error": error.code() }),
        other => json!(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn replies_are_shown_with_their_types() {
        assert_eq!(as_text(&Value::Nil, 0), "(nil)");
        assert_eq!(as_text(&Value::Int(-3), 0), "(integer) -3");
        assert_eq!(as_text(&bulk("a \"b\"\n\u{1}"), 0), r#""a \"b\"\n\x01""#);
        assert_eq!(as_text(&Value::Array(vec![]), 0), "(empty array)");
    }

    #[test]
    fn nested_arrays_are_indented_under_their_number() {
        let replica = Value::Array(vec![bulk("127.0.0.1"), bulk("6380")]);
        let role = Value::Array(vec![bulk("master"), Value::Int(7), Value::Array(vec![replica])]);
        assert_eq!(as_text(&role, 0), "1) \"master\"\n2) (integer) 7\n3) 1) 1) \"127.0.0.1\"\n      2) \"6380\"");
    }
}
