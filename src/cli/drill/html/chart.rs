//! The course of a drill as pictures with one axis of time: throughput, latency, offsets, and the steps above them.
//!
//! Lines are SVG that is stretched to the page's width; all words are HTML beside it, so that they are as big on a phone.

use std::time::Duration;

use replctl::drill::history::Outcome;
use replctl::drill::timing::micros;
use replctl::drill::{Findings, Rehearsal};

use super::escaped;
use crate::ui::table::milliseconds;

/// The coordinates of a picture, before it is stretched.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 100.0;
/// How many points a line of the writers has at most.
const BINS_MAX: u64 = 160;
/// How many answers such a point is made of, on average, at least.
const ANSWERS_MIN: u64 = 10;
/// Two numbers of steps that are nearer than this part of the width stand in two rows.
const NEAR: f64 = 0.05;
const ROWS: usize = 3;

/// The writers' answers in equal parts of the time.
struct Bins {
    width_us: u64,
    /// For each part how long its acknowledged requests took, in order, in microseconds.
    took_us: Vec<Vec<u64>>,
}

impl Bins {
    fn of(rehearsal: &Rehearsal) -> Self {
        let length_us = micros(rehearsal.course.length).max(1);
        let operations = u64::try_from(rehearsal.history.operations.len()).unwrap_or(u64::MAX).max(1);
        // Of a slow load a part of the time has enough answers that their number means something.
        let least_us = length_us.div_ceil(BINS_MAX).max(length_us.saturating_mul(ANSWERS_MIN) / operations);
        let width_us = nice(least_us.min(length_us));
        let mut took_us = vec![Vec::new(); usize::try_from(length_us.div_ceil(width_us)).unwrap_or(1)];
        for operation in &rehearsal.history.operations {
            let Outcome::Acknowledged { at, .. } = operation.outcome else { continue };
            let bin = usize::try_from(micros(at) / width_us).unwrap_or(usize::MAX);
            if let Some(bin) = took_us.get_mut(bin) {
                bin.push(micros(at.saturating_sub(operation.invoked)));
            }
        }
        took_us.iter_mut().for_each(|bin| bin.sort_unstable());
        Self { width_us, took_us }
    }
}

/// The next number above `least` that begins with 1, 2 or 5 and has only zeros after it.
fn nice(least: u64) -> u64 {
    let powers = (0..18).map(|power| 10_u64.pow(power));
    powers.flat_map(|power| [power, 2 * power, 5 * power]).find(|step| *step >= least).unwrap_or(least)
}

/// All pictures.
pub fn all(rehearsal: &Rehearsal) -> String {
    let bins = Bins::of(rehearsal);
    let width = milliseconds(bins.width_us);
    let steps = numbers(rehearsal);
    let throughput = throughput(&bins, rehearsal);
    let latency = latency(&bins, rehearsal);
    let offsets = offsets(rehearsal);
    format!(
        "<section class=\"charts\">\n<h2>Acknowledged writes a second \
         <small>grey: a step goes on; red: no write was acknowledged for longest</small></h2>\n{steps}{throughput}\
         <h2>How long answers took <small>each {width}: the longest and half of them</small></h2>\n{latency}\
         <h2>Offsets <small>bytes of each node's history</small></h2>\n{offsets}</section>\n"
    )
}

/// Where a moment is on the axis, from 0 to 1.
fn part(at_us: u64, rehearsal: &Rehearsal) -> f64 {
    (at_us as f64 / micros(rehearsal.course.length).max(1) as f64).clamp(0.0, 1.0)
}

/// The steps' numbers above the first picture, where their lines are.
fn numbers(rehearsal: &Rehearsal) -> String {
    let mut last = [f64::NEG_INFINITY; ROWS];
    let (mut numbers, mut rows) = (String::new(), 1);
    for (step, number) in rehearsal.report.findings.steps.iter().zip(1..) {
        let at = part(step.began_us, rehearsal);
        let row = last.iter().position(|last| at - last >= NEAR).unwrap_or(0);
        last[row] = at;
        rows = rows.max(row + 1);
        let (left, title) = (at * 100.0, format!("{} at {}", step.step, milliseconds(step.began_us)));
        numbers +=
            &format!("<i class=\"row{row}\" style=\"left:{left:.2}%\" title=\"{}\">{number}</i>", escaped(&title));
    }
    format!("<div class=\"numbers rows{rows}\">{numbers}</div>\n")
}

/// What lies behind the lines of every picture: the time without an acknowledged write, and the steps.
fn background(rehearsal: &Rehearsal) -> String {
    let Findings { outage, steps, .. } = &rehearsal.report.findings;
    let band = |class: &str, from_us: u64, took_us: u64| {
        let (from, to) = (part(from_us, rehearsal) * WIDTH, part(from_us + took_us, rehearsal) * WIDTH);
        format!("<rect class=\"{class}\" x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\"/>", to - from)
    };
    let mut shapes = band("outage", outage.from_us, outage.overall_us);
    for step in steps {
        shapes += &band("step", step.began_us, step.took_us);
        let at = part(step.began_us, rehearsal) * WIDTH;
        shapes += &format!("<line class=\"step\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{HEIGHT}\"/>");
    }
    shapes
}

/// A picture: `ticks` are heights from 0 (below) to 1 with their words.
fn figure(name: &str, shapes: &str, ticks: &[(f64, String)], rehearsal: &Rehearsal) -> String {
    let background = background(rehearsal);
    let lines: String = ticks
        .iter()
        .map(|(height, _)| {
            let y = HEIGHT * (1.0 - height);
            format!("<line class=\"grid\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>")
        })
        .collect();
    let words: String = ticks
        .iter()
        .map(|(height, word)| {
            format!("<span class=\"y\" style=\"bottom:{:.1}%\">{}</span>", height * 100.0, escaped(word))
        })
        .collect();
    let length_us = micros(rehearsal.course.length).max(1);
    let step_us = nice(length_us.div_ceil(6));
    let times: String = (0..=length_us / step_us)
        .map(|step| {
            let (left, word) = (part(step * step_us, rehearsal) * 100.0, time(step * step_us));
            format!("<span class=\"x\" style=\"left:{left:.2}%\">{word}</span>")
        })
        .collect();
    format!(
        "<div class=\"figure\"><svg role=\"img\" aria-label=\"{name}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         preserveAspectRatio=\"none\">{lines}{background}{shapes}</svg>{words}{times}</div>\n"
    )
}

fn time(at_us: u64) -> String {
    match at_us {
        0 => "0".to_owned(),
        _ if at_us.is_multiple_of(1_000_000) => format!("{} s", at_us / 1_000_000),
        _ => format!("{:.1} s", at_us as f64 / 1e6),
    }
}

/// A line through points from 0 to 1, both ways.
fn line(class: &str, points: impl Iterator<Item = (f64, f64)>) -> String {
    let points: Vec<String> =
        points.map(|(x, y)| format!("{:.1},{:.1}", x * WIDTH, HEIGHT * (1.0 - y.clamp(0.0, 1.0)))).collect();
    format!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "))
}

fn throughput(bins: &Bins, rehearsal: &Rehearsal) -> String {
    let a_second = |bin: &Vec<u64>| bin.len() as f64 * 1e6 / bins.width_us as f64;
    let most = bins.took_us.iter().map(a_second).fold(1.0, f64::max);
    let step = nice((most / 4.0).ceil() as u64);
    let top = (most / step as f64).ceil() * step as f64;
    let middle = |index: usize| part(bins.width_us * (index as u64 * 2 + 1) / 2, rehearsal);
    let points = bins.took_us.iter().enumerate().map(|(index, bin)| (middle(index), a_second(bin) / top));
    let ticks: Vec<(f64, String)> =
        (0..=(top as u64 / step)).map(|tick| ((tick * step) as f64 / top, short((tick * step) as f64))).collect();
    figure("acknowledged writes a second", &line("s1", points), &ticks, rehearsal)
}

/// On a logarithmic axis: what is slow is a hundred times as slow.
fn latency(bins: &Bins, rehearsal: &Rehearsal) -> String {
    let longest = bins.took_us.iter().filter_map(|bin| bin.last()).max().copied().unwrap_or(1_000);
    let shortest = bins.took_us.iter().filter_map(|bin| bin.get(bin.len() / 2)).min().copied().unwrap_or(1_000);
    let low = (shortest.max(1) as f64).log10().floor();
    let high = (longest as f64).log10().ceil().max(low + 1.0);
    let height = |took_us: u64| ((took_us.max(1) as f64).log10() - low) / (high - low);
    let middle = |index: usize| part(bins.width_us * (index as u64 * 2 + 1) / 2, rehearsal);
    // Where nothing was answered there is no line.
    let parts = |of: fn(&Vec<u64>) -> Option<u64>, class: &str| {
        let runs = bins.took_us.iter().enumerate().collect::<Vec<_>>();
        let runs = runs.chunk_by(|a, b| a.1.is_empty() == b.1.is_empty());
        runs.map(|run| line(class, run.iter().filter_map(|(at, bin)| Some((middle(*at), height(of(bin)?)))))).collect()
    };
    let longest: String = parts(|bin| bin.last().copied(), "s2");
    let half: String = parts(|bin| bin.get(bin.len() / 2).copied(), "s1");
    let ticks: Vec<(f64, String)> = (low as u32..=high as u32)
        .map(|power| (height(10_u64.pow(power)), format!("{} ms", 10_f64.powi(power.cast_signed() - 3))))
        .collect();
    let legend = "<ul class=\"legend\"><li class=\"s2\">the longest</li><li class=\"s1\">half of them</li></ul>\n";
    figure("how long answers took", &(longest + &half), &ticks, rehearsal) + legend
}

fn offsets(rehearsal: &Rehearsal) -> String {
    let all = &rehearsal.course.offsets;
    let most = all.iter().flat_map(|node| &node.samples).map(|(_, offset)| *offset).max().unwrap_or(0).max(1);
    let step = nice(most.div_ceil(4));
    let top = (most.div_ceil(step) * step) as f64;
    let (mut shapes, mut legend) = (String::new(), String::new());
    for (index, node) in all.iter().enumerate() {
        // Lines that lie on each other: the later ones are thinner. More than six nodes share colours.
        let class = format!("s{} w{}", index % 6 + 1, index.min(2));
        for run in node.samples.chunk_by(|a, b| b.0.saturating_sub(a.0) < GAP) {
            let points = run.iter().map(|(at, offset)| (part(micros(*at), rehearsal), *offset as f64 / top));
            shapes += &line(&class, points);
        }
        legend += &format!("<li class=\"s{}\">{}</li>", index % 6 + 1, escaped(&node.node));
    }
    let ticks: Vec<(f64, String)> =
        (0..=(top as u64 / step)).map(|tick| ((tick * step) as f64 / top, short((tick * step) as f64))).collect();
    figure("offsets", &shapes, &ticks, rehearsal) + &format!("<ul class=\"legend\">{legend}</ul>\n")
}

/// A node that was not seen for so long has a gap in its line.
const GAP: Duration = Duration::from_millis(150);

/// A big number in few letters.
fn short(number: f64) -> String {
    match number {
        _ if number >= 1e9 => format!("{} G", number / 1e9),
        _ if number >= 1e6 => format!("{} M", number / 1e6),
        _ if number >= 1e3 => format!("{} k", number / 1e3),
        _ => format!("{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_an_axis_are_round() {
        assert_eq!([1, 3, 12, 50, 51, 700].map(nice), [1, 5, 20, 50, 100, 1000]);
        assert_eq!([0.0, 500.0, 2_500.0, 5e6].map(short), ["0", "500", "2.5 k", "5 M"]);
    }
}
