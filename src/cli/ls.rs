//! `replctl ls`: the groups of this state directory.

use replctl::group::{Group, living, unmanaged};
use serde::Serialize;

use super::ExitCode;
use super::context::Context;
use crate::ui::table;

/// `replctl ls`
#[derive(Debug, clap::Args)]
pub struct LsArgs {}

/// One group, as its files and `/proc` have it: no server is asked.
#[derive(Serialize)]
struct Listed {
    group: String,
    is_up: bool,
    nodes: usize,
    nodes_alive: usize,
    /// Of those that replctl did not start nothing is known without asking them.
    nodes_unmanaged: usize,
    master: String,
}

impl LsArgs {
    /// Lists every group that was started and not wiped.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let mut listed = Vec::new();
        for dir in context.state()?.groups()? {
            let group = Group::open(dir)?;
            let nodes_alive = living(&group)?.len();
            listed.push(Listed {
                is_up: group.run.is_adopted() || nodes_alive > 0,
                nodes: group.run.nodes.len(),
                nodes_alive,
                nodes_unmanaged: unmanaged(&group).len(),
                master: group.run.master().name.clone(),
                group: group.run.group,
            });
        }
        if context.printer.is_json() {
            context.printer.object(&serde_json::json!({ "groups": listed }));
            return Ok(ExitCode::Done);
        }
        let rows = listed.iter().map(|one| {
            let state = if one.is_up { "up" } else { "down" };
            let managed = one.nodes - one.nodes_unmanaged;
            let alive = if managed == 0 { "-".to_owned() } else { format!("{} of {managed}", one.nodes_alive) };
            let unmanaged = if one.nodes_unmanaged == 0 { "-".to_owned() } else { one.nodes_unmanaged.to_string() };
            vec![one.group.clone(), state.to_owned(), alive, unmanaged, one.master.clone()]
        });
        context.printer.data(table::plain(&["group", "state", ">nodes alive", ">unmanaged", "master"], rows));
        Ok(ExitCode::Done)
    }
}
