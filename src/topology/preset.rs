//! The topologies that ship with replctl, built in.

/// A shipped topology. Its text's first line is a comment that says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The stem of its file in `topologies/`.
    pub name: &'static str,
    /// The whole file.
    pub text: &'static str,
}

macro_rules! shipped {
    ($name:literal) => {
        Preset { name: $name, text: include_str!(concat!("../../topologies/", $name, ".toml")) }
    };
}

/// All shipped topologies, the default first.
pub const PRESETS: [Preset; 9] = [
    shipped!("trio"),
    shipped!("chain"),
    shipped!("star-of-chains"),
    shipped!("mixed"),
    shipped!("redis"),
    shipped!("by-hand"),
    shipped!("hundred"),
    shipped!("guard"),
    shipped!("sentinel"),
];

impl Preset {
    /// The preset of this name.
    pub fn named(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// What it is, in one line: its first comment.
    pub fn summary(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }
}
