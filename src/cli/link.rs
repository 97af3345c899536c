//! `replctl link`: what is between a replica and the node above it is broken, slowed, or healed.

use clap::ValueEnum;
use replctl::fault::{self, EdgeState};
use replctl::group::{EVERYBODY, LinkPlan, break_link, link_states};
use replctl::topology::{LinkFault, LinkOptions};
use serde_json::json;

use super::context::Context;
use super::{ExitCode, Failure};
use crate::ui::table;

/// `replctl link VERB [NODE]`
#[derive(Debug, clap::Args)]
pub struct LinkArgs {
    /// What to do
    #[arg(value_enum)]
    verb: Verb,

    /// The replica whose link it is
    #[arg(required_if_eq_any([("verb", "cut"), ("verb", "refuse"), ("verb", "half-open"), ("verb", "slow"), ("verb", "heal")]))]
    node: Option<String>,

    /// The node at the link's other end [default: the one that it follows]
    #[arg(long, value_name = "NODE")]
    to: Option<String>,

    /// half-open, slow, cut --after-bytes: from the replica, to the replica, or both [default: both]
    #[arg(long, value_name = "up|down|both")]
    direction: Option<String>,

    /// slow: how long a byte is on its way
    #[arg(long, value_name = "TIME")]
    latency: Option<String>,

    /// slow: up to so much more or less
    #[arg(long, value_name = "TIME")]
    jitter: Option<String>,

    /// slow: bytes a second at most, such as 1MB
    #[arg(long, value_name = "BYTES")]
    bandwidth: Option<String>,

    /// slow: so much later one side is told that the other has closed
    #[arg(long, value_name = "TIME")]
    close_delay: Option<String>,

    /// cut: not yet, but when so many more bytes have been delivered
    #[arg(long, value_name = "N")]
    after_bytes: Option<String>,

    /// Say which link is meant, and leave it alone
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verb {
    /// Reset connections, those that are open and those that come
    Cut,
    /// Reset what is open and listen no more
    Refuse,
    /// Deliver nothing and close nothing
    HalfOpen,
    /// Deliver late, or little at a time
    Slow,
    /// Let everything through again
    Heal,
    /// Show how the links are
    Status,
}

impl LinkArgs {
    /// Tells the process that carries the links.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        match self.node.as_deref().filter(|_| self.verb != Verb::Status) {
            Some(node) => self.change(node, context),
            None => self.status(context),
        }
    }

    fn status(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let group = context.group()?;
        let states = context.block_on(async { Ok(link_states(&group).await?) })?;
        let follows = |state: &EdgeState| {
            let node = group.run.node(&state.aim.from);
            node.and_then(|node| node.upstream.as_ref()) == Some(&state.aim.to)
        };
        let owner = |state: &EdgeState| match state.aim.from == EVERYBODY {
            true => state.aim.to.clone(),
            false => state.aim.from.clone(),
        };
        let is_shown = |state: &EdgeState| {
            let is_of_node = self.node.as_ref().is_none_or(|node| *node == owner(state));
            is_of_node && (follows(state) || state.connections > 0 || state.fault != LinkFault::Heal)
        };
        show(states.into_iter().filter(is_shown).collect(), context);
        Ok(ExitCode::Done)
    }

    fn change(&self, node: &str, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let fault = self.fault()?;
        let (group, _lock) = context.settled_group("link")?;
        let plan = LinkPlan::new(&group, node, self.to.as_deref(), fault.clone())?;
        if self.dry_run {
            match context.printer.is_json() {
                true => context.printer.object(&json!({ "plan": plan })),
                false => {
                    let (verb, from, to) = (fault.verb(), &plan.from, &plan.to);
                    context.printer.data(format_args!("would {verb} {from} -> {to}{fault}"));
                }
            }
            return Ok(ExitCode::Done);
        }
        let state = context.record(
            &group.dir,
            |event| context.narrate(event),
            async |recorder| Ok(break_link(&group.dir, plan, recorder).await?),
        )?;
        match context.printer.is_json() {
            true => context.printer.object(&state),
            false => {
                let (from, to) = (&state.aim.from, &state.aim.to);
                context.printer.data(format_args!("{from} -> {to}: {}{}", fault.verb(), fault));
            }
        }
        Ok(ExitCode::Done)
    }

    fn fault(&self) -> anyhow::Result<LinkFault> {
        let verb = self.verb.to_possible_value().expect("no verb is hidden");
        let options = LinkOptions {
            direction: self.direction.clone(),
            latency: self.latency.clone(),
            jitter: self.jitter.clone(),
            bandwidth: self.bandwidth.clone(),
            close_delay: self.close_delay.clone(),
            after_bytes: self.after_bytes.clone(),
        };
        Ok(LinkFault::new(verb.get_name(), &options)
            .map_err(|reason| Failure::new(ExitCode::Usage, reason).hint("replctl link --help"))?)
    }
}

fn show(states: Vec<EdgeState>, context: &Context<'_>) {
    if context.printer.is_json() {
        return context.printer.object(&json!({ "links": states }));
    }
    let rows = states.iter().map(|state| {
        let fault = match &state.fault {
            LinkFault::Heal => "none".to_owned(),
            fault => format!("{}{fault}", fault.verb()),
        };
        vec![
            state.aim.from.clone(),
            state.aim.to.clone(),
            state.aim.port.to_string(),
            fault,
            state.connections.to_string(),
            state.up_bytes.to_string(),
            state.down_bytes.to_string(),
        ]
    });
    let head = ["node", "to", ">port", "fault", ">connections", ">bytes up", ">bytes down"];
    context.printer.data(table::plain(&head, rows));
}

/// `replctl carry-links`: the process that `up` starts for a group's links.
pub fn carry(context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let dir = context.group_dir()?;
    context.block_on(async { Ok(fault::serve(&dir).await?) })?;
    Ok(ExitCode::Done)
}
