//! Places on earth as numbers, and which numbers are near a place.
//!
//! Longitude and latitude are halved 26 times each, and the 52 bits that say which half it was are interleaved, those of
//! the longitude first. So a prefix is a cell, twice its length is half its width and height, and what lies in a cell is
//! a range of numbers. These are the scores of a geographic set, as in Redis, and doubles hold them exactly.
//!
//! ```text
//! 01 | 11
//! ---+---      the first pair of bits: longitude, latitude
//! 00 | 10
//! ```
//!
//! Sources: <https://en.wikipedia.org/wiki/Geohash>; the haversine formula (Sinnott, "Virtues of the Haversine", 1984).

use std::ops::Range;

/// So often a number halves the earth in either direction.
const STEPS: u32 = 26;
const LONGITUDES: (f64, f64) = (-180.0, 180.0);
/// As far as Web Mercator (EPSG:3857) goes: there is nothing at the poles.
const LATITUDES: (f64, f64) = (-85.05112878, 85.05112878);
/// Those of a geohash in letters.
const ALL_LATITUDES: (f64, f64) = (-90.0, 90.0);
const EARTH_RADIUS_M: f64 = 6_372_797.560856;
const DEGREE: f64 = std::f64::consts::PI / 180.0;
/// Half the earth's circumference in Web Mercator.
const MERCATOR_MAX_M: f64 = 20_037_726.37;

/// A place, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// East of Greenwich.
    pub longitude: f64,
    /// North of the equator.
    pub latitude: f64,
}

impl Point {
    /// A place that has a number; the poles have none.
    pub fn new(longitude: f64, latitude: f64) -> Option<Point> {
        let within = |value: f64, (least, greatest): (f64, f64)| (least..=greatest).contains(&value);
        (within(longitude, LONGITUDES) && within(latitude, LATITUDES)).then_some(Point { longitude, latitude })
    }

    /// The place of a score, more precisely the middle of its cell.
    pub fn of_score(score: f64) -> Point {
        let (west, south, east, north) = Cell { bits: score as i64 as u64, steps: STEPS }.edges();
        Point {
            longitude: ((west + east) / 2.0).clamp(LONGITUDES.0, LONGITUDES.1),
            latitude: ((south + north) / 2.0).clamp(LATITUDES.0, LATITUDES.1),
        }
    }

    /// The number of the place.
    pub fn score(self) -> u64 {
        Cell::around(self, STEPS, LATITUDES).bits
    }

    /// The geohash in letters, as <http://geohash.org> knows it. The eleventh letter would need three bits more than there
    /// are and is always `0`.
    pub fn letters(self) -> [u8; 11] {
        const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = Cell::around(self, STEPS, ALL_LATITUDES).bits;
        let mut letters = [ALPHABET[0]; 11];
        for (index, letter) in letters[..10].iter_mut().enumerate() {
            *letter = ALPHABET[(bits >> (47 - 5 * index) & 0x1f) as usize];
        }
        letters
    }

    /// How far it is to another place, in metres.
    pub fn distance_m(self, other: Point) -> f64 {
        let v = ((other.longitude * DEGREE - self.longitude * DEGREE) / 2.0).sin();
        if v == 0.0 {
            return self.north_south_m(other);
        }
        let (here, there) = (self.latitude * DEGREE, other.latitude * DEGREE);
        let u = ((there - here) / 2.0).sin();
        2.0 * EARTH_RADIUS_M * (u * u + here.cos() * there.cos() * v * v).sqrt().asin()
    }

    fn north_south_m(self, other: Point) -> f64 {
        EARTH_RADIUS_M * (other.latitude * DEGREE - self.latitude * DEGREE).abs()
    }
}

/// What is looked for around a place.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// All that is no farther away.
    Circle {
        /// In metres.
        radius_m: f64,
    },
    /// All that is in a rectangle with the place in its middle.
    Box {
        /// From west to east, in metres.
        width_m: f64,
        /// From south to north, in metres.
        height_m: f64,
    },
}

impl Shape {
    /// How far from its centre a place is that lies within, in metres.
    pub fn distance_m(self, centre: Point, place: Point) -> Option<f64> {
        match self {
            Shape::Circle { radius_m } => {
                let distance = centre.distance_m(place);
                // What lies opposite may have no distance: rounding has made the sine of the angle more than 1.
                (distance.is_nan() || distance <= radius_m).then_some(distance)
            }
            Shape::Box { width_m, height_m } => {
                if place.north_south_m(centre) > height_m / 2.0 {
                    return None;
                }
                let at_same_latitude = Point { longitude: centre.longitude, latitude: place.latitude };
                if place.distance_m(at_same_latitude) > width_m / 2.0 {
                    return None;
                }
                Some(centre.distance_m(place))
            }
        }
    }

    /// The ranges of scores that have everything within, in the order in which Redis looks at them.
    pub fn scores(self, centre: Point) -> Vec<Range<u64>> {
        let bounds = self.bounds(centre);
        let mut cell = Cell::around(centre, steps_for(self.reach_m(), centre.latitude), LATITUDES);
        if cell.steps > 1 && !cell.neighbours_reach(bounds) {
            cell = Cell::around(centre, cell.steps - 1, LATITUDES);
        }
        let (west, south, east, north) = cell.edges();
        let is_needed = |(x, y): (i64, i64)| {
            let (least_lon, least_lat, greatest_lon, greatest_lat) = bounds;
            let is_beyond = (x < 0 && west < least_lon)
                || (x > 0 && east > greatest_lon)
                || (y < 0 && south < least_lat)
                || (y > 0 && north > greatest_lat);
            cell.steps < 2 || !is_beyond
        };
        const AROUND: [(i64, i64); 8] = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
        let mut around: Vec<Cell> =
            AROUND.into_iter().filter(|place| is_needed(*place)).map(|(x, y)| cell.neighbour(x, y)).collect();
        // Where cells are large, a neighbour on one side is the same as on the other.
        around.dedup();
        std::iter::once(cell).chain(around).map(Cell::scores).collect()
    }

    /// How far the farthest place within is from the centre, in metres.
    fn reach_m(self) -> f64 {
        match self {
            Shape::Circle { radius_m } => radius_m,
            Shape::Box { width_m, height_m } => (width_m / 2.0).hypot(height_m / 2.0),
        }
    }

    /// The least longitude and latitude within, and the greatest. A degree of longitude is shorter near a pole.
    fn bounds(self, centre: Point) -> (f64, f64, f64, f64) {
        let (half_width_m, half_height_m) = match self {
            Shape::Circle { radius_m } => (radius_m, radius_m),
            Shape::Box { width_m, height_m } => (width_m / 2.0, height_m / 2.0),
        };
        let Point { longitude, latitude } = centre;
        let delta_lat = half_height_m / EARTH_RADIUS_M / DEGREE;
        let poleward = if latitude < 0.0 { latitude - delta_lat } else { latitude + delta_lat };
        let delta_lon = half_width_m / EARTH_RADIUS_M / (poleward * DEGREE).cos() / DEGREE;
        (longitude - delta_lon, latitude - delta_lat, longitude + delta_lon, latitude + delta_lat)
    }
}

/// How often to halve the earth so that a cell and its neighbours have all that is so near.
fn steps_for(mut reach_m: f64, latitude: f64) -> u32 {
    if reach_m == 0.0 {
        return STEPS;
    }
    let mut steps = -1;
    while reach_m < MERCATOR_MAX_M {
        reach_m *= 2.0;
        steps += 1;
    }
    steps -= match latitude.abs() {
        latitude if latitude > 80.0 => 2,
        latitude if latitude > 66.0 => 1,
        _ => 0,
    };
    steps.clamp(1, STEPS as i32) as u32
}

/// A rectangle of the map: what the halves have in common that its bits say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    bits: u64,
    /// How many pairs of bits.
    steps: u32,
}

impl Cell {
    fn around(point: Point, steps: u32, latitudes: (f64, f64)) -> Cell {
        let fixed = |value: f64, (least, greatest): (f64, f64)| {
            ((value - least) / (greatest - least) * (1_u64 << steps) as f64) as u32
        };
        let (x, y) = (fixed(point.longitude, LONGITUDES), fixed(point.latitude, latitudes));
        Cell { bits: spread(x) << 1 | spread(y), steps }
    }

    /// Its west, south, east and north.
    fn edges(self) -> (f64, f64, f64, f64) {
        let edge = |index: u32, (least, greatest): (f64, f64)| {
            least + f64::from(index) / (1_u64 << self.steps) as f64 * (greatest - least)
        };
        let (x, y) = (gather(self.bits >> 1), gather(self.bits));
        let (east, north) = (edge(x.wrapping_add(1), LONGITUDES), edge(y.wrapping_add(1), LATITUDES));
        (edge(x, LONGITUDES), edge(y, LATITUDES), east, north)
    }

    /// The cell so far to the east and to the north; beyond an edge of the map is the opposite one.
    fn neighbour(self, x: i64, y: i64) -> Cell {
        let mask = (1_u64 << self.steps) - 1;
        let moved = |index: u32, by: i64| match by {
            0 => index,
            by => (i64::from(index).wrapping_add(by) as u64 & mask) as u32,
        };
        let (east, north) = (moved(gather(self.bits >> 1), x), moved(gather(self.bits), y));
        Cell { bits: spread(east) << 1 | spread(north), ..self }
    }

    /// Whether it and its neighbours have everything within these bounds.
    fn neighbours_reach(self, (least_lon, least_lat, greatest_lon, greatest_lat): (f64, f64, f64, f64)) -> bool {
        let (west, south) = (self.neighbour(-1, 0).edges().0, self.neighbour(0, -1).edges().1);
        let (east, north) = (self.neighbour(1, 0).edges().2, self.neighbour(0, 1).edges().3);
        let is_short = north < greatest_lat || south > least_lat || east < greatest_lon || west > least_lon;
        !is_short
    }

    /// The scores of the places in it.
    fn scores(self) -> Range<u64> {
        let shift = 2 * (STEPS - self.steps);
        self.bits << shift..(self.bits + 1) << shift
    }
}

/// Moves each bit to twice its place.
fn spread(value: u32) -> u64 {
    const MASKS: [(u32, u64); 5] = [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ];
    MASKS.iter().fold(u64::from(value), |bits, (shift, mask)| (bits | bits << shift) & mask)
}

/// Undoes [`spread`], whatever lies between the bits.
fn gather(bits: u64) -> u32 {
    const MASKS: [(u32, u64); 5] = [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ];
    MASKS.iter().fold(bits & 0x5555_5555_5555_5555, |bits, (shift, mask)| (bits | bits >> shift) & mask) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point() -> impl Strategy<Value = Point> {
        (LONGITUDES.0..LONGITUDES.1, LATITUDES.0..LATITUDES.1)
            .prop_map(|(longitude, latitude)| Point { longitude, latitude })
    }

    #[test]
    fn palermo_has_its_known_number_and_letters() {
        let palermo = Point::new(13.361389, 38.115556).expect("it is not at a pole");
        assert_eq!(palermo.score(), 3_479_099_956_230_698);
        assert_eq!(&Point::of_score(3_479_099_956_230_698.0).letters(), b"sqc8b49rny0");
        assert!(Point::new(0.0, 86.0).is_none() && Point::new(180.1, 0.0).is_none());
    }

    proptest! {
        #[test]
        fn a_score_s_place_is_within_a_metre(point in point()) {
            let found = Point::of_score(point.score() as f64);
            prop_assert!(point.distance_m(found) < 1.0, "{point:?} {found:?}");
        }

        #[test]
        fn what_is_near_has_a_score_in_the_ranges(centre in point(), place in point(), reach_m in 1.0..5e6) {
            let shape = Shape::Circle { radius_m: reach_m };
            // Across the date line the ranges end, as in Redis.
            let (west, _, east, _) = shape.bounds(centre);
            let is_whole = west > LONGITUDES.0 && east < LONGITUDES.1 && centre.latitude.abs() < 40.0 && reach_m < 2e6;
            if is_whole && shape.distance_m(centre, place).is_some() {
                let score = place.score();
                prop_assert!(shape.scores(centre).iter().any(|range| range.contains(&score)), "{score}");
            }
        }

        #[test]
        fn bits_that_are_spread_are_gathered_again(value in any::<u32>(), between in any::<u32>()) {
            prop_assert_eq!(gather(spread(value) | spread(between) << 1), value);
        }
    }
}
