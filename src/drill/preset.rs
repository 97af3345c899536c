//! The drills that are built in. Their steps name roles and no nodes, so that each fits every group.

use std::path::Path;

use crate::topology::{By, Drill, EngineFamily, NodeServer, Preset, Topology};

/// A drill that is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrillPreset {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
    /// The shipped topology that it runs on unless another one is named.
    pub topology: &'static str,
    /// Whether nothing may be lost on any engine. A killed process takes along what it had not sent, unless it is a repld: its
    /// backlog outlives it.
    keeps_all: bool,
    steps: &'static str,
}

/// All of them.
pub const DRILL_PRESETS: [DrillPreset; 16] = [
    DrillPreset {
        name: "kill-master",
        summary: "the master dies, the best replica takes over, the old master comes back",
        topology: "trio",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "kill-master" }, { do = "promote" }, { after = "300ms", do = "start old-master" }]"#,
    },
    DrillPreset {
        name: "switchover",
        summary: "the master hands over to a replica, and takes over again",
        topology: "trio",
        keeps_all: true,
        steps: r#"[{ after = "500ms", do = "switchover" }, { after = "500ms", do = "switchover old-master" }]"#,
    },
    DrillPreset {
        name: "zombie-master",
        summary: "the master hangs and is replaced; when it comes back it must not take a write",
        topology: "trio",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "pause master" }, { after = "300ms", do = "promote" }, { after = "300ms", do = "start old-master" }]"#,
    },
    DrillPreset {
        name: "rolling-restart",
        summary: "every node is restarted, one after the other",
        topology: "trio",
        keeps_all: true,
        steps: r#"[{ after = "300ms", do = "restart --all" }]"#,
    },
    DrillPreset {
        name: "chain-head-dies",
        summary: "the head of a chain dies, and the next in the row takes over with all below it",
        topology: "chain",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "kill-master" }, { do = "promote" }]"#,
    },
    DrillPreset {
        name: "empty-restart",
        summary: "the master dies and loses its disk; it comes back empty, and nobody else becomes so",
        topology: "trio",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "kill-master" }, { do = "promote" }, { do = "wipe old-master" }, { after = "200ms", do = "start old-master" }]"#,
    },
    DrillPreset {
        name: "kill-under-partition",
        summary: "the replicas lose their links, and the master dies half a second later with all it alone has",
        topology: "trio",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "link cut replicas" }, { after = "500ms", do = "kill-master" }, { do = "promote" }, { after = "300ms", do = "start old-master" }]"#,
    },
    DrillPreset {
        name: "split-brain",
        summary: "the master is cut off with its writers and hangs; another one takes over, and the old one takes no write",
        topology: "trio",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "link cut replicas" }, { after = "300ms", do = "pause master" }, { after = "300ms", do = "promote" }, { after = "300ms", do = "start old-master" }]"#,
    },
    DrillPreset {
        name: "slow-replica",
        summary: "one replica gets 20 kB a second and falls behind; the master dies, and the other one takes over",
        topology: "trio",
        keeps_all: false,
        steps: r#"[{ after = "300ms", do = "link slow replica --bandwidth 20KB" }, { after = "700ms", do = "kill-master" }, { do = "promote" }, { after = "300ms", do = "start old-master" }]"#,
    },
    DrillPreset {
        name: "unfinished-first-sync",
        summary: "the master dies while a new replica gets its first copy over a slow link; it must not take over",
        topology: "trio",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "kill replica" }, { do = "wipe replica" }, { do = "link slow replica --bandwidth 20KB" }, { do = "start replica --no-wait" }, { after = "500ms", do = "kill-master" }, { do = "promote" }, { after = "300ms", do = "start old-master" }]"#,
    },
    DrillPreset {
        name: "disk-full",
        summary: "the master's disk is full for half a second: it refuses writes, and goes on afterwards",
        topology: "trio",
        keeps_all: true,
        steps: r#"[{ after = "500ms", do = "fill-disk master" }, { after = "500ms", do = "free-disk old-master" }]"#,
    },
    DrillPreset {
        name: "full-sync-storm",
        summary: "all replicas lose their disks at once, and get everything anew under load",
        topology: "trio",
        keeps_all: true,
        steps: r#"[{ after = "500ms", do = "kill replicas" }, { do = "wipe replicas" }, { do = "start replicas" }]"#,
    },
    DrillPreset {
        name: "guard-kill",
        summary: "the master dies, the guard puts another one in its place, and starts the old one again",
        topology: "guard",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "kill-master" }]"#,
    },
    DrillPreset {
        name: "flapping",
        summary: "one master after the other dies, until the guard holds back and a person promotes",
        topology: "guard",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "kill-master" }, { after = "500ms", do = "kill-master" }, { after = "500ms", do = "kill-master" }, { after = "500ms", do = "kill-master" }, { do = "promote" }]"#,
    },
    DrillPreset {
        name: "sentinel-kill",
        summary: "the master dies, the sentinels put another one in its place, the old master comes back",
        topology: "sentinel",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "kill-master" }, { after = "300ms", do = "start old-master" }]"#,
    },
    DrillPreset {
        name: "sentinel-partition",
        summary: "the master is cut off from all but its clients, and the sentinels replace it; what it took meanwhile is lost",
        topology: "sentinel",
        keeps_all: false,
        steps: r#"[{ after = "500ms", do = "link cut master" }, { after = "4s", do = "link heal old-master" }, { after = "3s", do = "start old-master" }]"#,
    },
];

impl DrillPreset {
    /// The preset of this name.
    pub fn named(name: &str) -> Option<&'static DrillPreset> {
        DRILL_PRESETS.iter().find(|preset| preset.name == name)
    }

    /// The topology that it runs on by default.
    pub fn default_topology(&self) -> Topology {
        let preset = Preset::named(self.topology).expect("a test finds every preset's topology");
        Topology::parse(preset.text, Path::new("drill.toml")).expect("a test parses every shipped topology")
    }

    /// The drill, as a file would have it, for a group of this topology.
    pub fn drill(&self, topology: &Topology) -> Drill {
        let is_repld = topology.nodes().iter().all(|node| match &node.server {
            NodeServer::Managed(managed) => managed.engine.family == EngineFamily::Repld,
            NodeServer::Unmanaged(_) => false,
        });
        // Nobody salvages anything where the Sentinels decide.
        let keeps_all = self.keeps_all || is_repld && topology.by() != By::Sentinel;
        let promises = if keeps_all { "lost = 0" } else { "" };
        let (name, steps) = (self.name, self.steps);
        let text = format!(
            "[[node]]\nname = \"any\"\n[[drill]]\nname = \"{name}\"\nsteps = {steps}\nexpect = {{ {promises} }}\n"
        );
        let parsed = Topology::parse(&text, Path::new("preset.toml")).expect("a test parses every preset");
        parsed.drills()[0].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_drill_that_disturbs_and_promises_no_loss_on_repld() {
        for preset in &DRILL_PRESETS {
            let topology = preset.default_topology();
            let drill = preset.drill(&topology);
            assert!(drill.steps.iter().any(|step| step.act.is_disturbance()), "{}", preset.name);
            let lost = (topology.by() != By::Sentinel).then_some(0);
            assert_eq!((drill.name.as_str(), drill.expect.lost), (preset.name, lost));
        }
    }
}
