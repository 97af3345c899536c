//! `replctl restart`: nodes end and come back one at a time, on the engine that they had or on another one.

use std::time::{Duration, Instant};

use replctl::event::Recorder;
use replctl::group::{self, Group, LaunchPlan, Policy, Untouchable, Upgrade};
use replctl::process::{Build, EngineNameError, GroupDir, engine_named};
use serde_json::json;

use super::context::Context;
use super::start::launch;
use super::status::Status;
use super::{ExitCode, Failure};

/// How long a master may hold back its writes for a replica to catch up before it is restarted.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// `replctl restart NODE` and `replctl restart --all`
#[derive(Debug, clap::Args)]
pub struct RestartArgs {
    /// The nodes, replicas all
    #[arg(required_unless_present = "all", value_name = "NODE")]
    nodes: Vec<String>,

    /// Every node, one at a time: the replicas, then the master after it has handed over to one of them
    #[arg(long, conflicts_with = "nodes")]
    all: bool,

    /// Let them come back on this engine: repld, redis-server, valkey-server, or the path of one
    #[arg(long, value_name = "NAME|PATH")]
    engine: Option<String>,

    /// How long a server may take to save and end, and how long it may then take to be linked again
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Show in which order, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// The nodes to be restarted.
struct Order {
    replicas: Vec<String>,
    /// Comes last, after it has handed over; `None`: it stays as it is.
    master: Option<String>,
}

impl RestartArgs {
    /// Restarts one node after the other; at the end the group is shown.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let (mut group, _lock) = context.settled_group("restart")?;
        if !self.dry_run {
            context.end_strays(&group.dir, self.timeout)?;
            group = self.settle(context, group)?;
        }
        let mut order = self.order(&group)?;
        let upgrade = self.upgrade(context, &group, &order)?;
        if let Some(upgrade) = &upgrade {
            order.replicas.retain(|node| upgrade.nodes.contains(node));
            order.master = order.master.filter(|node| upgrade.nodes.contains(node));
            upgrade.doubts.iter().for_each(|doubt| context.printer.warning(doubt));
        }
        if self.dry_run {
            show_order(context, &order, upgrade.as_ref());
            return Ok(ExitCode::Done);
        }
        let dir = group.dir.clone();
        for node in &order.replicas {
            group = self.restart(context, &dir, group, node, upgrade.as_ref())?;
        }
        if let Some(master) = &order.master {
            if group.run.nodes.len() > 1 {
                group = self.hand_over(context, &dir, group)?;
            }
            group = self.restart(context, &dir, group, master, upgrade.as_ref())?;
        }
        for node in upgrade.iter().flat_map(|upgrade| &upgrade.done) {
            context.printer.note(format_args!("{node} has that engine already"));
            dir.drop_aside(node)?;
        }
        let (view, _) = context.block_on(async { Ok(group::observe(&group).await?) })?;
        Status::new(group, view).show(context)
    }

    fn settle(&self, context: &Context<'_>, mut group: Group) -> anyhow::Result<Group> {
        let dir = group.dir.clone();
        context.record(
            &dir,
            |event| context.narrate(event),
            async |recorder| Ok(group::settle(&mut group, self.timeout, recorder).await?),
        )?;
        Ok(group)
    }

    fn order(&self, group: &Group) -> anyhow::Result<Order> {
        let master = &group.run.master().name;
        let is_alone = group.run.nodes.len() == 1;
        let all: Vec<String> = group.run.nodes.iter().map(|node| node.name.clone()).collect();
        group::refuse_unmanaged(group, if self.all { &all } else { &self.nodes }, Untouchable::Restart)?;
        if self.nodes.contains(master) && !is_alone {
            let message = format!("{master} is the master: while it is away nobody would take writes");
            let hint = format!("replctl switchover, then restart {master}; --all does both");
            return Err(Failure::new(ExitCode::Refused, message).hint(hint).into());
        }
        let replicas = if self.all { group::restart_order(group) } else { self.nodes.clone() };
        Ok(Order { replicas, master: self.all.then(|| master.clone()) })
    }

    fn upgrade(&self, context: &Context<'_>, group: &Group, order: &Order) -> anyhow::Result<Option<Upgrade>> {
        let Some(name) = &self.engine else { return Ok(None) };
        context.block_on(async {
            let engine = engine_named(name).await.map_err(unknown_engine)?;
            let nodes: Vec<String> = order.replicas.iter().chain(&order.master).cloned().collect();
            Ok(Some(Upgrade::new(group, &nodes, &engine).await?))
        })
    }

    fn restart(
        &self,
        context: &Context<'_>,
        dir: &GroupDir,
        mut group: Group,
        node: &str,
        upgrade: Option<&Upgrade>,
    ) -> anyhow::Result<Group> {
        let nodes = [node.to_owned()];
        let before = group::build_of(&group.run, node);
        context.record(
            dir,
            |event| context.narrate(event),
            async |recorder: &mut Recorder| Ok(group::end_nodes(&mut group, &nodes, self.timeout, recorder).await?),
        )?;
        match (upgrade, before) {
            (Some(upgrade), Some(before)) => self.start_upgraded(context, dir, group, node, (upgrade, &before)),
            _ => self.start(context, dir, group, node),
        }
    }

    fn start(&self, context: &Context<'_>, dir: &GroupDir, group: Group, node: &str) -> anyhow::Result<Group> {
        let plan = context.block_on(async { Ok(LaunchPlan::start(group, &[node.to_owned()], false).await?) })?;
        Ok(launch(context, dir, plan, self.timeout)?.into_group())
    }

    /// Starts a node on its new engine; if that does not work, on the one that it had.
    fn start_upgraded(
        &self,
        context: &Context<'_>,
        dir: &GroupDir,
        mut group: Group,
        node: &str,
        (upgrade, before): (&Upgrade, &Build),
    ) -> anyhow::Result<Group> {
        let former = upgrade.equip(&mut group, node, before)?;
        let error = match self.start(context, dir, group, node) {
            Ok(group) => {
                dir.drop_aside(node)?;
                return Ok(group);
            }
            Err(error) => Failure::from(error),
        };
        let mut group = Group::open(dir.clone())?;
        if let Some(former) = former {
            former.bring_back(&mut group, node)?;
        }
        let message = format!("{node} does not come up on {} {}: {error}", upgrade.engine, upgrade.version);
        let failure = Failure::new(ExitCode::Failed, message);
        Err(match self.start(context, dir, group, node) {
            Ok(group) => failure.hint(format!(
                "{node} runs on {before} again; {}; the same command goes on from there",
                group::standing(&group, upgrade)
            )),
            Err(again) => failure.hint(format!(
                "nor on {before}, with its old files: {}; the others go on without it; replctl start {node}",
                Failure::from(again)
            )),
        }
        .into())
    }

    fn hand_over(&self, context: &Context<'_>, dir: &GroupDir, mut group: Group) -> anyhow::Result<Group> {
        let limits = (HAND_OVER_PATIENCE, self.timeout);
        let report = context.record(
            dir,
            |event| context.narrate(event),
            async |recorder| {
                Ok(group::switchover(&mut group, &Policy::default(), Instant::now(), limits, recorder).await?)
            },
        )?;
        let (from, to) = (&report.plan.old_master, &report.plan.candidate);
        context.printer.note(format_args!("{from} has handed over to {to}"));
        Ok(group)
    }
}

fn unknown_engine(error: EngineNameError) -> anyhow::Error {
    match error {
        EngineNameError::Engine(error) => {
            let failure = Failure::new(ExitCode::Failed, &error);
            match error.hint() {
                Some(_) => failure.hint("nothing was touched; check the path").into(),
                None => failure.into(),
            }
        }
        error => Failure::new(ExitCode::Usage, error)
            .hint("repld, redis-server, valkey-server, or the path of such a program: ./redis-server")
            .into(),
    }
}

fn show_order(context: &Context<'_>, order: &Order, upgrade: Option<&Upgrade>) {
    if context.printer.is_json() {
        let mut plan = json!({ "replicas": order.replicas, "master": order.master });
        if let Some(upgrade) = upgrade {
            plan["upgrade"] = json!(upgrade);
        }
        return context.printer.object(&json!({ "plan": plan }));
    }
    let on = upgrade.map(|upgrade| format!(" on {} {}", upgrade.engine, upgrade.version)).unwrap_or_default();
    order.replicas.iter().for_each(|node| context.printer.data(format_args!("would restart {node}{on}")));
    if let Some(master) = &order.master {
        context.printer.data(format_args!("would let {master} hand over, and restart it{on}"));
    }
}
