//! `replctl logs`: what the nodes wrote into their logs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use replctl::group::{Group, listed};
use replctl::process::{GUARD, RunNode};
use serde_json::json;

use super::context::Context;
use super::{ExitCode, Failure};

/// Between two looks at the logs that are followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);
/// A line without an end is cut here.
const LINE_BYTES_MAX: usize = 64 << 10;

/// `replctl logs [NODE..] [-f]`
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// The nodes, the sentinels, or `guard` [default: all]
    nodes: Vec<String>,

    /// Go on with what is written from now on, until interrupted
    #[arg(short, long)]
    follow: bool,
}

impl LogsArgs {
    /// Prints the logs, each line with its node's name; with `--json` one object per line.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let mut logs = self.logs(&context.group()?)?;
        loop {
            for log in &mut logs {
                for line in log.new_lines()? {
                    show(context, &log.node, &line);
                }
            }
            if !self.follow || !context.printer.is_stdout_open() {
                return Ok(ExitCode::Done);
            }
            std::thread::sleep(FOLLOW_EVERY);
        }
    }

    fn logs(&self, group: &Group) -> Result<Vec<Log>, Failure> {
        let of_guard = group.dir.log_file(GUARD);
        let is_guard = |name: &str| name == "guard" && of_guard.exists() && group.run.node(name).is_none();
        let is_known =
            |name: &String| group.run.node(name).is_some() || group.run.sentinel(name).is_some() || is_guard(name);
        if let Some(unknown) = self.nodes.iter().find(|name| !is_known(name)) {
            let failure = Failure::new(ExitCode::Usage, format_args!("the group has no node {unknown}"));
            return Err(failure.hint("replctl status lists the nodes"));
        }
        let is_wanted = |name: &str| self.nodes.is_empty() || self.nodes.iter().any(|wanted| wanted == name);
        let nodes: Vec<&RunNode> = group.run.nodes.iter().filter(|node| is_wanted(&node.name)).collect();
        let unmanaged: Vec<String> =
            nodes.iter().filter(|node| node.unmanaged().is_some()).map(|node| node.name.clone()).collect();
        let guard = (is_guard("guard") && is_wanted("guard")).then(|| Log::new("guard", of_guard.clone()));
        let sentinels = group.run.sentinels().iter().filter(|sentinel| is_wanted(&sentinel.name));
        let sentinels: Vec<&String> = sentinels.map(|sentinel| &sentinel.name).collect();
        if unmanaged.len() == nodes.len() && sentinels.is_empty() && guard.is_none() {
            let message = format!("there is no log of {}: replctl did not start it", listed(&unmanaged));
            return Err(Failure::new(ExitCode::Failed, message).hint("it is where the server was told to write it"));
        }
        let nodes = nodes.into_iter().filter(|node| node.managed().is_some()).map(|node| &node.name);
        let servers = nodes.chain(sentinels).map(|name| Log::new(name, group.dir.log_file(name)));
        Ok(servers.chain(guard).collect())
    }
}

fn show(context: &Context<'_>, node: &str, line: &str) {
    match context.printer.is_json() {
        true => context.printer.object(&json!({ "node": node, "line": line })),
        false => context.printer.data(format_args!("{node} | {line}")),
    }
}

/// A log that is read as it grows.
struct Log {
    node: String,
    path: PathBuf,
    /// Bytes read so far.
    position: u64,
    /// The beginning of a line whose end is not written yet.
    unfinished: Vec<u8>,
}

impl Log {
    fn new(node: &str, path: PathBuf) -> Self {
        Self { node: node.to_owned(), path, position: 0, unfinished: Vec::new() }
    }

    /// The lines that were finished since the last call. A file that is not there yet, or no longer, has none.
    fn new_lines(&mut self) -> io::Result<Vec<String>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() < self.position {
            self.position = 0;
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = std::mem::take(&mut self.unfinished);
        let before = bytes.len();
        file.read_to_end(&mut bytes)?;
        self.position += (bytes.len() - before) as u64;
        let end = match bytes.iter().rposition(|&byte| byte == b'\n') {
            _ if bytes.len() > LINE_BYTES_MAX && !bytes.contains(&b'\n') => bytes.len(),
            Some(last) => last + 1,
            None => 0,
        };
        self.unfinished = bytes.split_off(end);
        Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_is_shown_once_and_only_when_it_is_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        let mut log = Log::new("n1", path.clone());
        assert_eq!(log.new_lines().expect("no file, no lines"), Vec::<String>::new());
        let mut file = File::create(&path).expect("the directory is ours");
        file.write_all(b"one\ntw").expect("the file is ours");
        assert_eq!(log.new_lines().expect("it is readable"), ["one"]);
        file.write_all(b"o\nthree\n").expect("the file is ours");
        assert_eq!(log.new_lines().expect("it is readable"), ["two", "three"]);
        assert_eq!(log.new_lines().expect("it is readable"), Vec::<String>::new());
    }

    #[test]
    fn a_log_that_was_emptied_is_read_from_its_start() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        let mut log = Log::new("n1", path.clone());
        std::fs::write(&path, "a long first line\n").expect("the directory is ours");
        assert_eq!(log.new_lines().expect("it is readable"), ["a long first line"]);
        std::fs::write(&path, "short\n").expect("the directory is ours");
        assert_eq!(log.new_lines().expect("it is readable"), ["short"]);
    }
}
