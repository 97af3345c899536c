//! `replctl ls`: the groups of this state directory.

use replctl::group::{Group, GroupError, living, unmanaged};
use replctl::process::{GroupDir, servers};
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
    /// Its state cannot be read; why.
    damage: Option<String>,
}

impl LsArgs {
    /// Lists every group that was started and not wiped.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let mut listed = Vec::new();
        for dir in context.state()?.groups()? {
            let group = match Group::open(dir.clone()) {
                Ok(group) => group,
                Err(error) => {
                    listed.push(damaged(&dir, &error)?);
                    continue;
                }
            };
            let living = living(&group)?;
            let nodes_alive = living.iter().filter(|(name, _)| group.run.node(name).is_some()).count();
            listed.push(Listed {
                is_up: group.run.is_adopted() || !living.is_empty(),
                nodes: group.run.nodes.len(),
                nodes_alive,
                nodes_unmanaged: unmanaged(&group).len(),
                master: group.run.master().name.clone(),
                group: group.run.group,
                damage: None,
            });
        }
        if context.printer.is_json() {
            context.printer.object(&serde_json::json!({ "groups": listed }));
            return Ok(ExitCode::Done);
        }
        let rows = listed.iter().map(|one| {
            let state = match (&one.damage, one.is_up) {
                (Some(_), _) => "damaged",
                (None, true) => "up",
                (None, false) => "down",
            };
            let managed = one.nodes - one.nodes_unmanaged;
            let alive = if managed == 0 { "-".to_owned() } else { format!("{} of {managed}", one.nodes_alive) };
            let unmanaged = if one.nodes_unmanaged == 0 { "-".to_owned() } else { one.nodes_unmanaged.to_string() };
            vec![one.group.clone(), state.to_owned(), alive, unmanaged, one.master.clone()]
        });
        context.printer.data(table::plain(&["group", "state", ">nodes alive", ">unmanaged", "master"], rows));
        Ok(ExitCode::Done)
    }
}

/// A group of which only its processes tell something.
fn damaged(dir: &GroupDir, error: &GroupError) -> anyhow::Result<Listed> {
    let nodes_alive = servers(dir)?.len();
    Ok(Listed {
        group: dir.name().to_owned(),
        is_up: nodes_alive > 0,
        nodes: nodes_alive,
        nodes_alive,
        nodes_unmanaged: 0,
        master: String::new(),
        damage: Some(error.to_string()),
    })
}
