//! The user's own program, run when another node has become the master: to tell people, or a load balancer.
//!
//! It can undo nothing and block nothing: what it is told has happened. It gets the facts in its environment:
//!
//! ```text
//! REPLCTL_GROUP, REPLCTL_STATE_DIR            replctl in the hook speaks of this group
//! REPLCTL_COMMAND                             promote, switchover or guard
//! REPLCTL_OLD_MASTER, REPLCTL_NEW_MASTER      nodes
//! REPLCTL_OLD_ADDRESS, REPLCTL_NEW_ADDRESS    127.0.0.1:6379
//! ```

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::Group;

/// A hook that takes longer is ended: the group is locked meanwhile.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the group's hook, if it has one, after `command` has replaced `old` by `new`. Its output goes to stderr.
///
/// # Errors
/// It cannot be run, fails, or takes too long; the words say which.
pub async fn after_promote(group: &Group, command: &str, old: &str, new: &str) -> Result<(), String> {
    let Some((program, arguments)) = group.run.after_promote.split_first() else { return Ok(()) };
    let address = |name: &str| group.run.node(name).map_or_else(String::new, |node| node.clients_address().to_string());
    let mut hook = Command::new(program);
    hook.args(arguments)
        .env("REPLCTL_GROUP", &group.run.group)
        .env("REPLCTL_STATE_DIR", group.dir.state_dir())
        .env("REPLCTL_COMMAND", command)
        .env("REPLCTL_OLD_MASTER", old)
        .env("REPLCTL_OLD_ADDRESS", address(old))
        .env("REPLCTL_NEW_MASTER", new)
        .env("REPLCTL_NEW_ADDRESS", address(new))
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .kill_on_drop(true);
    let failed = |why: String| format!("the hook {program} {why}");
    match tokio::time::timeout(LIMIT, hook.status()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("failed ({status})"))),
        Ok(Err(error)) => Err(failed(format!("cannot be run: {error}"))),
        Err(_) => Err(failed(format!("took longer than {} s and was ended", LIMIT.as_secs()))),
    }
}
