//! Places, in sorted sets whose scores say where they are: <https://redis.io/docs/latest/commands/?group=geo>.

use super::sorted_set::{AddOptions, add, small_form, store};
use super::{Args, Effect, ErrorReply, ReadContext, Result, WriteContext, parse_integer};
use crate::geohash::{Point, Shape};
use crate::number::parse_f64;
use crate::resp::{Reply, append_request};
use crate::value::SortedSet;
use crate::value::sorted_set::Entry;

fn parse_point(longitude: &[u8], latitude: &[u8]) -> Result<Point> {
    let parse = |text| parse_f64(text).ok_or(ErrorReply::NOT_A_FLOAT);
    let (longitude, latitude) = (parse(longitude)?, parse(latitude)?);
    Point::new(longitude, latitude)
        .ok_or_else(|| ErrorReply::owned(format!("ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}")))
}

/// How many metres a unit has.
fn parse_unit(text: &[u8]) -> Result<f64> {
    match text.to_ascii_lowercase().as_slice() {
        b"m" => Ok(1.0),
        b"km" => Ok(1000.0),
        b"ft" => Ok(0.3048),
        b"mi" => Ok(1609.34),
        _ => Err(ErrorReply::new("ERR unsupported unit provided. please use M, KM, FT, MI")),
    }
}

fn place_of(set: &SortedSet, member: &[u8]) -> Option<Point> {
    set.score(member).map(Point::of_score)
}

pub(super) fn geoadd(context: &mut WriteContext, args: Args) -> Result<Effect> {
    let mut options = AddOptions::default();
    let mut first = 2;
    while let Some(option) = args.maybe(first) {
        match option.to_ascii_lowercase().as_slice() {
            b"nx" => options.only_new = true,
            b"xx" => options.only_present = true,
            b"ch" => options.changed = true,
            _ => break,
        }
        first += 1;
    }
    if first == args.len() || !(args.len() - first).is_multiple_of(3) || options.only_new && options.only_present {
        return Err(ErrorReply::SYNTAX);
    }
    let entry = |index| {
        let place = parse_point(args.get(index), args.get(index + 1))?;
        Ok(Entry { score: place.score() as f64, member: args.get(index + 2) })
    };
    let entries: Vec<Entry> = (first..args.len()).step_by(3).map(entry).collect::<Result<_>>()?;
    let effect = add(context, args.first_key(), options, &entries)?;
    if effect == Effect::None {
        return Ok(effect);
    }
    // What a place's number is need not be the same everywhere.
    let scores: Vec<String> = entries.iter().map(|entry| (entry.score as u64).to_string()).collect();
    let mut request: Vec<&[u8]> = vec![b"ZADD"];
    request.extend((1..first).map(|index| args.get(index)));
    request.extend(entries.iter().zip(&scores).flat_map(|(entry, score)| [score.as_bytes(), entry.member]));
    append_request(context.effect, &request);
    Ok(Effect::Rewritten)
}

pub(super) fn geohash(context: &mut ReadContext, args: Args) -> Result<()> {
    let set = context.value::<SortedSet>(args.first_key())?;
    context.reply.array(args.len() - 2);
    for member in args.from(2) {
        let letters = set.and_then(|set| place_of(set, member)).map(Point::letters);
        context.reply.bulk_or_null(letters.as_ref().map(|letters| letters.as_slice()));
    }
    Ok(())
}

pub(super) fn geopos(context: &mut ReadContext, args: Args) -> Result<()> {
    let set = context.value::<SortedSet>(args.first_key())?;
    context.reply.array(args.len() - 2);
    for member in args.from(2) {
        match set.and_then(|set| place_of(set, member)) {
            Some(place) => reply_place(&mut context.reply, place),
            None => context.reply.null_array(),
        }
    }
    Ok(())
}

fn reply_place(reply: &mut Reply, place: Point) {
    reply.array(2);
    for degrees in [place.longitude, place.latitude] {
        // Seventeen decimals, and no zeros behind the last other one.
        let text = format!("{degrees:.17}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        reply.double_text(if text == "-0" { b"0" } else { text.as_bytes() });
    }
}

/// A distance with four decimals.
fn reply_distance(reply: &mut Reply, distance: f64) {
    let scaled = (distance * 10_000.0).round_ties_even() as u64;
    reply.bulk(format!("{}.{:04}", scaled / 10_000, scaled % 10_000).as_bytes());
}

pub(super) fn geodist(context: &mut ReadContext, args: Args) -> Result<()> {
    let unit_m = match args.len() {
        4 => 1.0,
        5 => parse_unit(args.get(4))?,
        _ => return Err(ErrorReply::SYNTAX),
    };
    let set = context.value::<SortedSet>(args.first_key())?;
    let places = set.and_then(|set| Some((place_of(set, args.get(2))?, place_of(set, args.get(3))?)));
    match places {
        Some((from, to)) => reply_distance(&mut context.reply, from.distance_m(to) / unit_m),
        None => context.reply.null(),
    }
    Ok(())
}

/// Which command a search is from, and with that what its arguments are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `GEORADIUS key longitude latitude radius unit …`.
    Radius { may_store: bool },
    /// `GEORADIUSBYMEMBER key member radius unit …`.
    RadiusByMember { may_store: bool },
    /// `GEOSEARCH key …`, or `GEOSEARCHSTORE destination key …`.
    Search { stores: bool },
}

#[derive(Clone, Copy)]
enum Order {
    Nearest,
    Farthest,
}

/// What a search is around.
#[derive(Clone, Copy)]
enum Centre {
    Unknown,
    Place(Point),
    /// None if there is no set.
    Member(Option<Point>),
}

/// What is searched for.
struct Search<'a> {
    centre: Centre,
    shape: Option<Shape>,
    /// What distances are told in, in metres.
    unit_m: f64,
    with_distance: bool,
    with_hash: bool,
    with_place: bool,
    order: Option<Order>,
    count: Option<usize>,
    /// The first ones found will do.
    any: bool,
    store: Option<&'a [u8]>,
    stores_distance: bool,
}

/// Something that was searched for.
struct Found {
    member: Vec<u8>,
    score: f64,
    place: Point,
    distance_m: f64,
}

fn parse_length(text: &[u8], error: &'static str) -> Result<f64> {
    parse_f64(text).ok_or(ErrorReply::new(error))
}

impl<'a> Search<'a> {
    /// What the arguments say of a search in `set`.
    fn parse(args: Args<'a>, form: Form, set: Option<&SortedSet>) -> Result<Self> {
        let mut search = Search {
            centre: Centre::Unknown,
            shape: None,
            unit_m: 1.0,
            with_distance: false,
            with_hash: false,
            with_place: false,
            order: None,
            count: None,
            any: false,
            store: None,
            stores_distance: false,
        };
        let mut index = match form {
            Form::Radius { .. } => {
                search.centre = Centre::Place(parse_point(args.get(2), args.get(3))?);
                search.parse_circle(args, 4)?;
                6
            }
            Form::RadiusByMember { .. } => {
                search.parse_member(args, 2, set)?;
                if set.is_some() {
                    search.parse_circle(args, 3)?;
                }
                5
            }
            Form::Search { stores } => {
                search.store = stores.then(|| args.get(1));
                2 + usize::from(stores)
            }
        };
        while index < args.len() {
            index += match search.parse_common_option(args, index)? {
                0 if matches!(form, Form::Search { .. }) => search.parse_search_option(args, index, set)?,
                0 => search.parse_store(args, index, form)?,
                read => read,
            };
        }
        search.check(args, form)?;
        Ok(search)
    }

    fn parse_member(&mut self, args: Args, index: usize, set: Option<&SortedSet>) -> Result<()> {
        let undecodable = ErrorReply::new("ERR could not decode requested zset member");
        let place = set.map(|set| place_of(set, args.get(index)).ok_or(undecodable)).transpose()?;
        self.centre = Centre::Member(place);
        Ok(())
    }

    /// A radius and its unit.
    fn parse_circle(&mut self, args: Args, index: usize) -> Result<()> {
        let radius = parse_length(args.get(index), "ERR need numeric radius")?;
        if radius < 0.0 {
            return Err(ErrorReply::new("ERR radius cannot be negative"));
        }
        self.unit_m = parse_unit(args.get(index + 1))?;
        self.shape = Some(Shape::Circle { radius_m: radius * self.unit_m });
        Ok(())
    }

    /// A width, a height and their unit.
    fn parse_box(&mut self, args: Args, index: usize) -> Result<()> {
        let width = parse_length(args.get(index), "ERR need numeric width")?;
        let height = parse_length(args.get(index + 1), "ERR need numeric height")?;
        if width < 0.0 || height < 0.0 {
            return Err(ErrorReply::new("ERR height or width cannot be negative"));
        }
        self.unit_m = parse_unit(args.get(index + 2))?;
        self.shape = Some(Shape::Box { width_m: width * self.unit_m, height_m: height * self.unit_m });
        Ok(())
    }

    /// Returns how many arguments it has read: none if they are of another kind.
    fn parse_common_option(&mut self, args: Args, index: usize) -> Result<usize> {
        match args.get(index).to_ascii_lowercase().as_slice() {
            b"withdist" => self.with_distance = true,
            b"withhash" => self.with_hash = true,
            b"withcoord" => self.with_place = true,
            b"any" => self.any = true,
            b"asc" => self.order = Some(Order::Nearest),
            b"desc" => self.order = Some(Order::Farthest),
            b"count" if index + 1 < args.len() => {
                let count = usize::try_from(parse_integer(args.get(index + 1))?).ok().filter(|count| *count > 0);
                self.count = Some(count.ok_or(ErrorReply::new("ERR COUNT must be > 0"))?);
                return Ok(2);
            }
            _ => return Ok(0),
        }
        Ok(1)
    }

    fn parse_store(&mut self, args: Args<'a>, index: usize, form: Form) -> Result<usize> {
        let may_store = matches!(form, Form::Radius { may_store: true } | Form::RadiusByMember { may_store: true });
        self.stores_distance = match args.get(index).to_ascii_lowercase().as_slice() {
            b"store" if may_store => false,
            b"storedist" if may_store => true,
            _ => return Err(ErrorReply::SYNTAX),
        };
        self.store = Some(args.maybe(index + 1).ok_or(ErrorReply::SYNTAX)?);
        Ok(2)
    }

    fn parse_search_option(&mut self, args: Args, index: usize, set: Option<&SortedSet>) -> Result<usize> {
        let following = args.len() - index - 1;
        match (args.get(index).to_ascii_lowercase().as_slice(), self.centre, self.shape) {
            (b"storedist", ..) if self.store.is_some() => {
                self.stores_distance = true;
                Ok(1)
            }
            (b"frommember", Centre::Unknown | Centre::Member(_), _) if following >= 1 => {
                self.parse_member(args, index + 1, set)?;
                Ok(2)
            }
            (b"fromlonlat", Centre::Unknown | Centre::Place(_), _) if following >= 2 => {
                self.centre = Centre::Place(parse_point(args.get(index + 1), args.get(index + 2))?);
                Ok(3)
            }
            (b"byradius", _, None | Some(Shape::Circle { .. })) if following >= 2 => {
                self.parse_circle(args, index + 1)?;
                Ok(3)
            }
            (b"bybox", _, None | Some(Shape::Box { .. })) if following >= 3 => {
                self.parse_box(args, index + 1)?;
                Ok(4)
            }
            _ => Err(ErrorReply::SYNTAX),
        }
    }

    fn check(&self, args: Args, form: Form) -> Result<()> {
        let is_search = matches!(form, Form::Search { .. });
        if self.store.is_some() && (self.with_distance || self.with_hash || self.with_place) {
            let what = if is_search { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
            let text = format!("ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options");
            return Err(ErrorReply::owned(text));
        }
        if is_search && matches!(self.centre, Centre::Unknown) {
            let text = "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for ";
            return Err(ErrorReply::quoting(text, args.get(0), ""));
        }
        if is_search && self.shape.is_none() {
            let text = "ERR exactly one of BYRADIUS and BYBOX can be specified for ";
            return Err(ErrorReply::quoting(text, args.get(0), ""));
        }
        if self.any && self.count.is_none() {
            return Err(ErrorReply::new("ERR the ANY argument requires COUNT argument"));
        }
        Ok(())
    }

    /// What there is of it.
    fn run(&self, set: &SortedSet) -> Vec<Found> {
        let (Centre::Place(centre) | Centre::Member(Some(centre)), Some(shape)) = (self.centre, self.shape) else {
            return Vec::new();
        };
        let enough = if self.any { self.count.unwrap_or(usize::MAX) } else { usize::MAX };
        let ranges = shape.scores(centre).into_iter();
        let entries = ranges.flat_map(|scores| {
            let rank = |score: u64| set.rank_where(|entry| entry.score < score as f64);
            set.range(rank(scores.start)..rank(scores.end))
        });
        let within = |entry: Entry| {
            let place = Point::of_score(entry.score);
            let distance_m = shape.distance_m(centre, place)?;
            Some(Found { member: entry.member.to_vec(), score: entry.score, place, distance_m })
        };
        let mut found: Vec<Found> = entries.filter_map(within).take(enough).collect();
        // The nearest ones, if only some are wanted.
        let order = self.order.or_else(|| (self.count.is_some() && !self.any).then_some(Order::Nearest));
        match order {
            Some(Order::Nearest) => found.sort_by(|a, b| a.distance_m.total_cmp(&b.distance_m)),
            Some(Order::Farthest) => found.sort_by(|a, b| b.distance_m.total_cmp(&a.distance_m)),
            None => {}
        }
        found.truncate(self.count.unwrap_or(usize::MAX));
        found
    }

    fn reply(&self, reply: &mut Reply, found: &[Found]) {
        let options = [self.with_distance, self.with_hash, self.with_place].iter().filter(|is_on| **is_on).count();
        reply.array(found.len());
        for found in found {
            if options > 0 {
                reply.array(1 + options);
            }
            reply.bulk(&found.member);
            if self.with_distance {
                reply_distance(reply, found.distance_m / self.unit_m);
            }
            if self.with_hash {
                reply.integer(found.score as i64);
            }
            if self.with_place {
                reply_place(reply, found.place);
            }
        }
    }
}

fn search(context: &mut ReadContext, args: Args, form: Form) -> Result<()> {
    let set = context.value::<SortedSet>(args.first_key())?;
    let search = Search::parse(args, form, set)?;
    let found = set.map(|set| search.run(set)).unwrap_or_default();
    search.reply(&mut context.reply, &found);
    Ok(())
}

fn search_and_store(context: &mut WriteContext, args: Args, form: Form) -> Result<Effect> {
    let source = if form == (Form::Search { stores: true }) { args.get(2) } else { args.get(1) };
    let source = context.keyspace.key(source);
    context.looked_up(source);
    let set = context.value::<SortedSet>(source)?;
    let search = Search::parse(args, form, set)?;
    let found = set.map(|set| search.run(set)).unwrap_or_default();
    let Some(target) = search.store else {
        search.reply(&mut context.reply, &found);
        return Ok(Effect::None);
    };
    let small = small_form(context.config);
    let mut result = SortedSet::new();
    for found in &found {
        let score = if search.stores_distance { found.distance_m / search.unit_m } else { found.score };
        result.insert(&found.member, score, small);
    }
    let key = context.keyspace.key(target);
    let event = if matches!(form, Form::Search { .. }) { "geosearchstore" } else { "georadiusstore" };
    Ok(store(context, key, result, event))
}

pub(super) fn georadius(context: &mut WriteContext, args: Args) -> Result<Effect> {
    search_and_store(context, args, Form::Radius { may_store: true })
}

pub(super) fn georadius_ro(context: &mut ReadContext, args: Args) -> Result<()> {
    search(context, args, Form::Radius { may_store: false })
}

pub(super) fn georadiusbymember(context: &mut WriteContext, args: Args) -> Result<Effect> {
    search_and_store(context, args, Form::RadiusByMember { may_store: true })
}

pub(super) fn georadiusbymember_ro(context: &mut ReadContext, args: Args) -> Result<()> {
    search(context, args, Form::RadiusByMember { may_store: false })
}

pub(super) fn geosearch(context: &mut ReadContext, args: Args) -> Result<()> {
    search(context, args, Form::Search { stores: false })
}

pub(super) fn geosearchstore(context: &mut WriteContext, args: Args) -> Result<Effect> {
    search_and_store(context, args, Form::Search { stores: true })
}
