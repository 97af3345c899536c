//! A group as a tree: who follows whom.

use replctl::drill::course::Place;
use replctl::drill::{NodeState, Rehearsal};

use super::{escaped, state};

const NODE_WIDTH: usize = 92;
const NODE_HEIGHT: usize = 44;
const GAP_X: usize = 16;
const GAP_Y: usize = 36;

/// The group before the first step.
pub fn before(rehearsal: &Rehearsal) -> String {
    picture("Before", &rehearsal.course.before)
}

/// The group at the end.
pub fn after(rehearsal: &Rehearsal) -> String {
    picture("Afterwards", &rehearsal.course.after)
}

/// A node in the picture: its column, in half widths, and its row.
struct Placed<'a> {
    place: &'a Place,
    column: usize,
    row: usize,
}

fn picture(title: &str, places: &[Place]) -> String {
    let mut placed = Vec::new();
    let mut leaves = 0;
    let is_top = |place: &&Place| {
        let upstream = place.upstream.as_ref();
        upstream.is_none_or(|upstream| places.iter().all(|other| other.node != *upstream))
    };
    for top in places.iter().filter(is_top) {
        put(top, 0, places, &mut leaves, &mut placed);
    }
    // Nodes that follow each other in a circle hang on nobody.
    for place in places {
        if placed.iter().all(|one: &Placed<'_>| one.place.node != place.node) {
            placed.push(Placed { place, column: leaves * 2, row: 0 });
            leaves += 1;
        }
    }
    let rows = placed.iter().map(|one| one.row + 1).max().unwrap_or(1);
    let (width, height) = (leaves.max(1) * (NODE_WIDTH + GAP_X), rows * (NODE_HEIGHT + GAP_Y) - GAP_Y + 2);
    let lines: String = placed.iter().filter_map(|one| edge(one, &placed)).collect();
    let nodes: String = placed.iter().map(node).collect();
    format!(
        "<section><h2>{title}</h2>\n<div class=\"scroll\"><svg class=\"group\" role=\"img\" aria-label=\"{title}\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">{lines}{nodes}</svg></div></section>\n"
    )
}

/// Puts a node above the middle of those that follow it; returns its column.
fn put<'a>(
    place: &'a Place,
    row: usize,
    places: &'a [Place],
    leaves: &mut usize,
    placed: &mut Vec<Placed<'a>>,
) -> usize {
    let below = places.iter().filter(|other| other.upstream.as_ref() == Some(&place.node));
    let columns: Vec<usize> = below.map(|other| put(other, row + 1, places, leaves, placed)).collect();
    let column = match (columns.first(), columns.last()) {
        (Some(first), Some(last)) => (first + last) / 2,
        _ => {
            *leaves += 1;
            (*leaves - 1) * 2
        }
    };
    placed.push(Placed { place, column, row });
    column
}

fn corner(one: &Placed<'_>) -> (usize, usize) {
    (one.column * (NODE_WIDTH + GAP_X) / 2 + GAP_X / 2, one.row * (NODE_HEIGHT + GAP_Y) + 1)
}

fn edge(one: &Placed<'_>, all: &[Placed<'_>]) -> Option<String> {
    let upstream = one.place.upstream.as_ref()?;
    let above = all.iter().find(|other| other.place.node == *upstream)?;
    let ((x1, y1), (x2, y2)) = (corner(above), corner(one));
    let class = if one.place.state == NodeState::Replica { "edge" } else { "edge away" };
    let (x1, x2, y1) = (x1 + NODE_WIDTH / 2, x2 + NODE_WIDTH / 2, y1 + NODE_HEIGHT);
    Some(format!("<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"))
}

fn node(one: &Placed<'_>) -> String {
    let ((x, y), word) = (corner(one), state(one.place.state));
    let middle = x + NODE_WIDTH / 2;
    format!(
        "<rect class=\"node {word}\" x=\"{x}\" y=\"{y}\" width=\"{NODE_WIDTH}\" height=\"{NODE_HEIGHT}\" rx=\"6\"/>\
         <text class=\"name\" x=\"{middle}\" y=\"{}\">{}</text><text x=\"{middle}\" y=\"{}\">{word}</text>",
        y + 19,
        escaped(&one.place.node),
        y + 35,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(node: &str, upstream: Option<&str>) -> Place {
        let state = if upstream.is_none() { NodeState::Master } else { NodeState::Replica };
        Place { node: node.to_owned(), upstream: upstream.map(str::to_owned), state }
    }

    #[test]
    fn every_node_is_in_the_picture_also_one_that_hangs_on_nobody() {
        let places = [
            place("n1", None),
            place("n2", Some("n1")),
            place("n3", Some("gone")),
            place("a", Some("b")),
            place("b", Some("a")),
        ];
        let picture = picture("x", &places);
        for one in &places {
            assert_eq!(picture.matches(&format!(">{}</text>", one.node)).count(), 1, "{picture}");
        }
        assert_eq!(picture.matches("<line").count(), 3, "{picture}");
    }
}
