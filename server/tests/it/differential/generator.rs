//! Random commands of all families, as lines of a script, from the grammar in `grammar.txt`.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::random::Random;

const GRAMMAR: &str = include_str!("grammar.txt");

/// Deeper, and an alternative without further names is taken where there is one.
const DEPTH_MAX: usize = 12;

/// What a word becomes that is to be wrong; none of them is a time to come.
const ODD_WORDS: [&str; 11] =
    ["x", "\"\"", "-1", "0", "nan", "9223372036854775807", "-9223372036854775808", "l:1", "h:1", "s:1", "\"\\xff\""];

/// Their odd forms stand in the grammar: a wrong timeout waits for ever, and a made-up cursor finds anything, and without
/// its count chance decides what a SPOP takes.
const NEVER_MUTATED: [&str; 14] = [
    "SPOP",
    "BLPOP",
    "BRPOP",
    "BLMOVE",
    "BRPOPLPUSH",
    "BLMPOP",
    "BZPOPMIN",
    "BZPOPMAX",
    "BZMPOP",
    "XREAD",
    "SCAN",
    "HSCAN",
    "SSCAN",
    "ZSCAN",
];

/// All of a server's data is seldom thrown away.
const FLUSHES: [&str; 6] =
    ["FLUSHDB", "FLUSHDB ASYNC", "FLUSHDB SYNC x", "FLUSHALL", "FLUSHALL ASYNC x", "FLUSHALL SYNC"];

type Rules = HashMap<&'static str, Vec<&'static str>>;

static RULES: LazyLock<Rules> = LazyLock::new(|| parse(GRAMMAR));

fn parse(text: &'static str) -> Rules {
    let mut rules: Rules = HashMap::new();
    let mut name = "";
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let alternatives = if line.starts_with(' ') {
            line.trim_start().trim_start_matches("| ")
        } else {
            let (rule, rest) = line.split_once(" =").expect("a rule is a name and its alternatives");
            name = rule;
            rest
        };
        rules.entry(name).or_default().extend(alternatives.split('|').map(str::trim));
    }
    rules
}

/// What a script is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The same on any two servers.
    Repeatable,
    /// For one master; whatever chance or the time make of it, its replicas must have the same.
    Lively,
}

/// The lines of a step: a command on either connection, or a transaction with another's write in its way.
pub fn step(random: &mut Random, kind: Kind) -> Vec<String> {
    match random.below(16) {
        0 => transaction(random, kind),
        1 | 2 => vec![format!("2> {}", command(random, kind))],
        _ => vec![command(random, kind)],
    }
}

fn transaction(random: &mut Random, kind: Kind) -> Vec<String> {
    // What is more than one command cannot be queued.
    let commands = |random: &mut Random, most: usize| -> Vec<String> {
        let all = (0..random.below(most + 1)).map(|_| command(random, kind));
        all.filter(|line| !super::steps::is_composite(line)).collect()
    };
    let mut lines = Vec::new();
    if random.below(2) == 0 {
        lines.push("WATCH watched:1 watched:2".into());
    }
    lines.extend(commands(random, 2));
    lines.push("MULTI".into());
    lines.extend(commands(random, 6));
    lines.extend(commands(random, 2).iter().map(|line| format!("2> {line}")));
    lines.push(random.pick(&["EXEC", "EXEC", "EXEC", "exec", "DISCARD"]).into());
    lines
}

/// One command, more often right than wrong.
pub fn command(random: &mut Random, kind: Kind) -> String {
    let start = if kind == Kind::Lively { "lively" } else { "command" };
    let mut line = String::new();
    expand(random, start, 0, &mut line);
    // Empty alternatives leave blanks.
    let line = squeezed(&line);
    match line.as_str() {
        "FLUSHDB-SELDOM" => {
            if random.below(4) == 0 {
                random.pick(&FLUSHES).into()
            } else {
                "PING".into()
            }
        }
        _ if super::steps::is_composite(&line) => line,
        _ => match random.below(50) {
            0 | 1 => mutated(random, &line),
            2 => format!("COMMAND GETKEYS {line}"),
            _ => line,
        },
    }
}

fn expand(random: &mut Random, name: &str, depth: usize, out: &mut String) {
    match name {
        "n" => out.push_str(&random.below(10).to_string()),
        "far" => out.push_str(&(100_000_000 + random.below(900_000_000)).to_string()),
        "long" => out.push_str(&random.pick(&["v", "w"]).repeat(1 + random.below(90))),
        "double" => out.push_str(&f64::from_bits(random.next()).to_string()),
        _ => {
            let all = RULES.get(name).unwrap_or_else(|| panic!("the grammar has no rule <{name}>"));
            let mut chosen = all[random.below(all.len())];
            if depth > DEPTH_MAX {
                chosen = all.iter().find(|alternative| !alternative.contains(&format!("<{name}>"))).unwrap_or(&chosen);
            }
            expand_text(random, chosen, depth, out);
        }
    }
}

fn expand_text(random: &mut Random, mut text: &str, depth: usize, out: &mut String) {
    while let Some(at) = text.find('<') {
        let end = text[at..].find('>').expect("a name ends") + at;
        out.push_str(&text[..at]);
        expand(random, &text[at + 1..end], depth + 1, out);
        text = &text[end + 1..];
    }
    out.push_str(text);
}

/// The words of a line; what stands in quotes is one.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut is_quoted, mut is_escaped) = (false, false);
    for letter in line.chars() {
        if letter == ' ' && !is_quoted {
            words.push(String::new());
            continue;
        }
        if letter == '"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = is_quoted && letter == '\\' && !is_escaped;
        words.last_mut().expect("there is always one").push(letter);
    }
    words.retain(|word| !word.is_empty());
    words
}

fn squeezed(line: &str) -> String {
    words(line).join(" ")
}

/// The same with one word too few, one too many, another one in its place, or in another case.
fn mutated(random: &mut Random, line: &str) -> String {
    let mut words = words(line);
    // Each server has its own clock: an entry that one of them numbers has the number of its time.
    let tells_time = |word: &String| word == "BLOCK" || word == "*" && words[0] == "XADD";
    if NEVER_MUTATED.contains(&words[0].as_str()) || words.iter().any(tells_time) {
        return line.into();
    }
    let at = random.below(words.len());
    match random.below(5) {
        0 if words.len() > 1 && at > 0 => {
            words.remove(at);
        }
        1 => words.insert(at + 1, random.pick(&ODD_WORDS).into()),
        2 => words.push(random.pick(&ODD_WORDS).into()),
        3 => words[at] = words[at].to_ascii_lowercase(),
        _ if at > 0 => words[at] = random.pick(&ODD_WORDS).into(),
        _ => {}
    }
    words.join(" ")
}
