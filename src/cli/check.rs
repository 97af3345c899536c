//! `replctl check`: whether a topology file is right, and what it describes.

use std::path::PathBuf;

use replctl::topology::{self, ManagedNode, Node, NodeServer, Sentinels, Topology};
use serde_json::json;

use super::ExitCode;
use crate::ui::Printer;

/// `replctl check [FILE]`
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The topology file [default: replctl.toml here, else the built-in trio]
    file: Option<PathBuf>,
}

impl CheckArgs {
    /// Prints the nodes as a tree, with `-v` each with its directives.
    pub fn run(&self, printer: &Printer) -> anyhow::Result<ExitCode> {
        let topology = Topology::find(self.file.as_deref())?;
        if printer.is_json() {
            printer.object(&as_json(&topology));
        } else {
            printer.data(Tree { topology: &topology, shows_directives: printer.is_verbose() }.text());
        }
        Ok(ExitCode::Done)
    }
}

fn as_json(topology: &Topology) -> serde_json::Value {
    let nodes: Vec<_> = topology.nodes().iter().map(node_as_json).collect();
    let mut object = json!({
        "name": topology.name(),
        "nodes": nodes,
        "max_loss_bytes": topology.max_loss_bytes(),
        "by": topology.by(),
    });
    if let Some(sentinels) = topology.sentinels() {
        object["sentinels"] = json!({
            "count": sentinels.count,
            "quorum": sentinels.quorum,
            "engine": { "family": sentinels.engine.family.name(), "path": sentinels.engine.path },
        });
    }
    object
}

fn node_as_json(node: &Node) -> serde_json::Value {
    let server = match &node.server {
        NodeServer::Managed(managed) => {
            let config: serde_json::Map<_, _> =
                directives(managed).map(|(name, value)| (name.into(), value.into())).collect();
            json!({
                "port": managed.port,
                "engine": { "family": managed.engine.family.name(), "path": managed.engine.path },
                "priority": managed.priority,
                "optional": managed.optional,
                "config": config,
            })
        }
        NodeServer::Unmanaged(unmanaged) => json!({
            "endpoint": unmanaged.endpoint.to_string(),
            "user": unmanaged.user,
            "password_file": unmanaged.password_file,
        }),
    };
    let mut object = json!({ "name": node.name, "replica_of": node.replica_of, "managed": node.managed().is_some() });
    if let (Some(all), serde_json::Value::Object(of_server)) = (object.as_object_mut(), server) {
        all.extend(of_server);
    }
    object
}

/// A node's directives with their values, secrets veiled.
fn directives(node: &ManagedNode) -> impl Iterator<Item = (&str, &str)> {
    node.config.iter().map(|(name, value)| (name.as_str(), if topology::is_secret(name) { "***" } else { value }))
}

/// The nodes, each below its upstream.
struct Tree<'a> {
    topology: &'a Topology,
    shows_directives: bool,
}

impl Tree<'_> {
    fn text(&self) -> String {
        let nodes = self.topology.nodes();
        let count = if nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", nodes.len()) };
        let mut lines = vec![format!("ok: group {}, {count}", self.topology.name())];
        // Master first, then depth-first; a stack, because a chain may be a thousand nodes long.
        let mut stack = vec![(self.topology.master(), 0)];
        while let Some((node, depth)) = stack.pop() {
            self.push_node(node, depth, &mut lines);
            let below: Vec<&Node> = self.topology.replicas_of(&node.name).collect();
            stack.extend(below.into_iter().rev().map(|replica| (replica, depth + 1)));
        }
        if let Some(Sentinels { count, quorum, engine, .. }) = self.topology.sentinels() {
            lines.push(format!("  {count} sentinels  {engine}, quorum {quorum}"));
        }
        lines.join("\n")
    }

    fn push_node(&self, node: &Node, depth: usize, lines: &mut Vec<String>) {
        let indent = "  ".repeat(depth + 1);
        let managed = match &node.server {
            NodeServer::Managed(managed) => managed,
            NodeServer::Unmanaged(unmanaged) => {
                return lines.push(format!("{indent}{}  unmanaged, at {}", node.name, unmanaged.endpoint));
            }
        };
        let port = managed.port.map_or("automatic port".to_owned(), |port| format!("port {port}"));
        let optional = if managed.optional { ", optional" } else { "" };
        lines.push(format!("{indent}{}  {}, {port}{optional}", node.name, managed.engine));
        if self.shows_directives {
            lines.extend(directives(managed).map(|(name, value)| format!("{indent}    {name} {value}")));
        }
    }
}
