//! `replctl drill`: a failure is rehearsed with a group of its own, under load, and judged.

mod edn;
mod html;
mod junit;
mod text;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use replctl::drill::{self, DRILL_PRESETS, DrillPreset, DrillReport, Rehearsal, Verdict};
use replctl::event::Event;
use replctl::fault::{self, Disks};
use replctl::process::{Program, StateDir};
use replctl::topology::{Act, By, Drill, Engine, EngineFamily, FILE_NAME, Topology};
use serde_json::json;

use super::context::Context;
use super::{ExitCode, Failure};
use crate::ui::table;

/// `replctl drill [FILE] [NAME..]`
#[derive(Debug, clap::Args)]
pub struct DrillArgs {
    /// A topology file, and the names of its drills or of built-in ones [default: all of the file's]
    #[arg(value_name = "FILE|NAME")]
    what: Vec<String>,

    /// Decides what the writers choose to write
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Do each drill so often, with this seed and those after it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,

    /// Let this engine serve every node
    #[arg(long, value_parser = parse_engine, value_name = "repld|redis-server|valkey-server")]
    engine: Option<Engine>,

    /// Leave the group running
    #[arg(long, conflicts_with = "repeat")]
    keep: bool,

    /// Show which drills there are, and do none
    #[arg(long)]
    list: bool,

    /// Write the verdicts to this file as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Write what happened to this file as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write every operation of the writers to this file as EDN, for Jepsen's checkers
    #[arg(long, value_name = "FILE", conflicts_with = "repeat")]
    edn: Option<PathBuf>,
}

/// A drill and the group that it is done with.
struct Planned {
    topology: Topology,
    drill: Drill,
}

impl Planned {
    /// Whether one of its steps fills a disk.
    fn needs_disks(&self) -> bool {
        self.drill.steps.iter().any(|step| step.act.needs_disks())
    }

    /// Where Sentinels decide, each of its steps would be refused that promotes by hand.
    fn check_decider(&self) -> anyhow::Result<()> {
        let promotes = self.drill.steps.iter().any(|step| matches!(step.act, Act::Promote(_)));
        if !promotes || self.topology.by() != By::Sentinel {
            return Ok(());
        }
        let (drill, group) = (&self.drill.name, self.topology.name());
        let message = format!("{drill} promotes a node itself, and in {group} the sentinels do that");
        let hint =
            "sentinel-kill and sentinel-partition are for groups with sentinels; there `kill-master` waits for them";
        Err(Failure::new(ExitCode::Usage, message).hint(hint).into())
    }

    /// Its links can be broken if one of its steps does that, and its disks have something to lack.
    fn with_faults(mut self) -> anyhow::Result<Self> {
        if self.needs_disks() {
            self.topology = self.topology.with_append_only_files();
        }
        if !self.drill.steps.iter().any(|step| step.act.needs_link_faults()) {
            return Ok(self);
        }
        let topology = self.topology.with_link_faults();
        let topology =
            topology.map_err(|reason| Failure::new(ExitCode::Usage, reason).hint("name another topology"))?;
        Ok(Self { topology, ..self })
    }
}

impl DrillArgs {
    /// Does the drills one after the other; the worst verdict decides the exit code.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let (file, names) = self.file_and_names();
        let file = file.or_else(|| Path::new(FILE_NAME).symlink_metadata().is_ok().then(|| FILE_NAME.into()));
        let topology = file.as_deref().map(Topology::load).transpose()?;
        if self.list {
            return Ok(list(topology.as_ref(), context));
        }
        let planned = self.plan(topology.as_ref(), names, context)?;
        if self.keep && planned.len() > 1 {
            return Err(Failure::new(ExitCode::Usage, "--keep is for one drill").hint("name it").into());
        }
        if self.edn.is_some() && planned.len() > 1 {
            return Err(Failure::new(ExitCode::Usage, "--edn is for one drill").hint("name it").into());
        }
        if planned.iter().any(Planned::needs_disks) {
            self.make_disks_possible()?;
        }
        let (mut reports, mut parts) = (Vec::new(), Vec::new());
        for one in &planned {
            for round in 0..self.repeat {
                let rehearsal = self.rehearse(one, self.seed.wrapping_add(round.into()), context)?;
                if !context.printer.is_json() {
                    text::show(&rehearsal.report, &one.topology, context.printer);
                }
                if let Some(file) = &self.edn {
                    write(file, &edn::history(&rehearsal))?;
                }
                if let Some(file) = &self.html {
                    // Whole after every drill: those that come may be interrupted.
                    parts.push(html::part(&rehearsal, &one.topology));
                    write(file, &html::page(&parts))?;
                }
                reports.push(rehearsal.report);
            }
        }
        self.conclude(&reports, context)
    }

    /// A drill whose fault cannot be done is not done at all.
    fn make_disks_possible(&self) -> anyhow::Result<()> {
        if self.keep {
            let failure = Failure::new(ExitCode::Usage, "--keep: small disks that can be full go when the drill ends");
            return Err(failure.hint("leave out --keep").into());
        }
        fault::separate_mounts().map_err(|reason| {
            let message = format!("small disks that can be full cannot be mounted here: {reason}");
            Failure::new(ExitCode::Refused, message)
                .hint("run it as root, or where user namespaces are permitted")
                .into()
        })
    }

    /// The first word is a file if it looks like one or is one.
    fn file_and_names(&self) -> (Option<PathBuf>, &[String]) {
        match self.what.split_first() {
            Some((first, names)) if first.ends_with(".toml") || Path::new(first).is_file() => {
                (Some(first.into()), names)
            }
            _ => (None, &self.what),
        }
    }

    fn plan(
        &self,
        topology: Option<&Topology>,
        names: &[String],
        context: &Context<'_>,
    ) -> anyhow::Result<Vec<Planned>> {
        let own = topology.map(Topology::drills).unwrap_or_default();
        if names.is_empty() && own.is_empty() {
            let failure = Failure::new(ExitCode::Usage, "no drill is named, and there is no topology file with one");
            return Err(failure.hint("replctl drill kill-master; replctl drill --list shows all").into());
        }
        let mut planned = Vec::new();
        for drill in own.iter().filter(|_| names.is_empty()) {
            let topology = topology.expect("drills come from a topology");
            planned.push(Planned { topology: self.prepare(topology, context)?, drill: drill.clone() }.with_faults()?);
        }
        for name in names {
            let of_file = own.iter().find(|drill| drill.name == *name).zip(topology);
            planned.push(match (of_file, DrillPreset::named(name)) {
                (Some((drill, topology)), _) => {
                    Planned { topology: self.prepare(topology, context)?, drill: drill.clone() }.with_faults()?
                }
                (None, Some(preset)) => {
                    let topology = topology.cloned().unwrap_or_else(|| preset.default_topology());
                    if preset.topology == "guard" && topology.by() != By::Guard {
                        let message =
                            format!("{name} is for groups whose guard decides, and {} has none", topology.name());
                        let hint = "write `by = \"guard\"` into its `[failover]`, or name no file";
                        return Err(Failure::new(ExitCode::Usage, message).hint(hint).into());
                    }
                    if preset.topology == "sentinel" && topology.sentinels().is_none() {
                        let message = format!("{name} is for groups with sentinels, and {} has none", topology.name());
                        let hint = "write `[sentinel]` into it, or name no file";
                        return Err(Failure::new(ExitCode::Usage, message).hint(hint).into());
                    }
                    let topology = self.prepare(&topology, context)?;
                    Planned { drill: preset.drill(&topology), topology }.with_faults()?
                }
                (None, None) => {
                    let failure = Failure::new(ExitCode::Usage, format_args!("there is no drill {name}"));
                    return Err(failure.hint("replctl drill --list shows all").into());
                }
            });
        }
        planned.iter().try_for_each(Planned::check_decider)?;
        Ok(planned)
    }

    /// The group as a drill may break it.
    fn prepare(&self, topology: &Topology, context: &Context<'_>) -> anyhow::Result<Topology> {
        if let Some(node) = topology.nodes().iter().find(|node| node.managed().is_none()) {
            let message = format!("{} is not managed: a drill breaks only what replctl has started for it", node.name);
            let hint = "name a topology without `managed = false`";
            return Err(Failure::new(ExitCode::Refused, message).hint(hint).into());
        }
        let mut topology = topology.clone().for_drill(self.engine.as_ref());
        for name in topology.leave_out(|engine| Program::find(engine).is_err()) {
            context.printer.note(format_args!("{name} is left out: its engine is not installed"));
        }
        Ok(topology)
    }

    fn rehearse(&self, planned: &Planned, seed: u64, context: &Context<'_>) -> anyhow::Result<Rehearsal> {
        let Planned { topology, drill } = planned;
        context.printer.note(format_args!("{} on {}, seed {seed} …", drill.name, text::group(topology)));
        let home = tempfile::Builder::new().prefix("replctl-drill-").tempdir().context("no place for the group")?;
        let dir = StateDir::new(home.path()).group(topology.name())?;
        let dir = if self.keep { dir } else { dir.tied_to_this_thread() };
        let lock = dir.lock("drill")?;
        let names = topology.nodes().iter().map(|node| node.name.as_str());
        let disks = planned.needs_disks().then(|| Disks::mount(&dir, names)).transpose().context("no small disks")?;
        let rehearsal = context.record(
            &dir,
            |event| match event {
                Event::Rehearsed { at_us, step, what } => {
                    context.printer.note(format_args!("{:>10}  {step}: {what}", table::milliseconds(*at_us)));
                }
                event => context.narrate(event),
            },
            async |recorder| Ok(drill::run(topology, drill, seed, (&dir, &lock, self.keep), recorder).await?),
        )?;
        drop(disks);
        let has_failed = matches!(rehearsal.report.verdict, Verdict::Failed { .. });
        if self.keep || has_failed {
            let path = home.keep();
            let what = if self.keep { "the group runs on: replctl --state-dir" } else { "logs and data are kept in" };
            let status = if self.keep { " status" } else { "" };
            context.printer.note(format_args!("{what} {}{status}", path.display()));
        }
        Ok(rehearsal)
    }

    fn conclude(&self, reports: &[DrillReport], context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let tally = drill::tally(reports);
        match context.printer.is_json() {
            true => context.printer.object(&json!({ "drills": reports, "tally": tally })),
            false if reports.len() > 1 => {
                let words: Vec<String> = tally.iter().map(|(name, count)| format!("{count} {name}")).collect();
                context.printer.data(format_args!("{} drills: {}", reports.len(), words.join(", ")));
            }
            false => {}
        }
        if let Some(file) = &self.junit {
            write(file, &junit::xml(reports))?;
        }
        Ok(if tally.contains_key("failed") {
            ExitCode::VerdictFailed
        } else if tally.contains_key("inconclusive") {
            ExitCode::Inconclusive
        } else {
            ExitCode::Done
        })
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

fn parse_engine(name: &str) -> Result<Engine, &'static str> {
    let family = EngineFamily::ALL.into_iter().find(|family| family.program() == name);
    let family = family.ok_or("there are repld, redis-server and valkey-server")?;
    Ok(Engine { family, path: None })
}

fn list(topology: Option<&Topology>, context: &Context<'_>) -> ExitCode {
    let own = topology.map(Topology::drills).unwrap_or_default();
    let steps = |drill: &Drill| {
        let steps: Vec<String> = drill.steps.iter().map(|step| step.act.to_string()).collect();
        steps.join(", ")
    };
    let name_of_group = topology.map(Topology::name).unwrap_or_default();
    if context.printer.is_json() {
        let own = own.iter().map(|drill| json!({ "name": drill.name, "group": name_of_group, "steps": steps(drill) }));
        let presets = DRILL_PRESETS
            .iter()
            .map(|preset| json!({ "name": preset.name, "summary": preset.summary, "group": preset.topology }));
        let all: Vec<_> = own.chain(presets).collect();
        context.printer.object(&json!({ "drills": all }));
        return ExitCode::Done;
    }
    let own = own.iter().map(|drill| vec![drill.name.clone(), name_of_group.to_owned(), steps(drill)]);
    let presets = DRILL_PRESETS.iter().map(|preset| {
        let group = if topology.is_some() { name_of_group } else { preset.topology };
        vec![preset.name.to_owned(), group.to_owned(), preset.summary.to_owned()]
    });
    context.printer.data(table::plain(&["drill", "group", "what happens"], own.chain(presets)));
    ExitCode::Done
}
