//! The encoder, the decoder and the servers elsewhere, against each other.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::value::{Hash, List, Set, SmallForm, SmallForms, SortedSet, Value};

/// (database, key) to (value, deadline).
type Keys = BTreeMap<(u32, Vec<u8>), (Value, Option<i64>)>;

const SMALL: SmallForm = SmallForm { len_max: 100, string_bytes_max: 64 };
const FORMS: SmallForms = SmallForms { hash: SMALL, sorted_set: SMALL, integers_max: 100 };

fn string(bytes: &[u8]) -> Value {
    Value::Str(bytes.to_vec())
}

fn list<T: AsRef<[u8]>>(elements: impl IntoIterator<Item = T>) -> Value {
    let mut list = List::new();
    elements.into_iter().for_each(|element| list.push_back(element.as_ref()));
    Value::List(list)
}

fn set<T: AsRef<[u8]>>(members: impl IntoIterator<Item = T>) -> Value {
    let mut set = Set::new();
    members.into_iter().for_each(|member| _ = set.insert(member.as_ref(), 100));
    Value::Set(set)
}

fn hash<T: AsRef<[u8]>>(fields: impl IntoIterator<Item = (T, T)>) -> Value {
    let mut hash = Hash::new();
    fields.into_iter().for_each(|(field, value)| _ = hash.insert(field.as_ref(), value.as_ref(), SMALL));
    Value::Hash(hash)
}

fn sorted_set<T: AsRef<[u8]>>(members: impl IntoIterator<Item = (T, f64)>) -> Value {
    let mut set = SortedSet::new();
    members.into_iter().for_each(|(member, score)| _ = set.insert(member.as_ref(), score, SMALL));
    Value::SortedSet(set)
}

const OPTIONS: [Options; 4] = [
    Options { compress: true, checksum: true, format: Format::PLAIN },
    Options { compress: true, checksum: false, format: Format::PLAIN },
    Options { compress: false, checksum: true, format: Format::PLAIN },
    Options { compress: false, checksum: false, format: Format::PLAIN },
];

fn encoded(keys: &Keys, options: Options) -> Vec<u8> {
    let header = Header {
        server_version: "7.0.0",
        created_unix_s: 1_790_000_000,
        used_memory_bytes: 1 << 20,
        replication: Some(ReplicationPoint {
            stream_db: 3,
            replid: "0123456789abcdef0123456789abcdef01234567",
            offset: 1 << 40,
        }),
        aof_base: false,
        extra: &[("repld-note", b"\x00\xFF")],
    };
    let mut encoder = Encoder::new(&header, options);
    encoder.resize_db(0, 10, 0);
    let mut image = Vec::new();
    for ((db, key), (value, deadline_ms)) in keys {
        let written = encoder.entry(*db, key, value.borrow(), *deadline_ms, |slice| {
            image.extend(slice);
            Ok(())
        });
        written.expect("memory takes it");
    }
    image.extend(encoder.finish());
    image
}

/// What an image contains: its fields and its keys.
#[derive(Debug, Default, PartialEq)]
struct Content {
    fields: BTreeMap<Vec<u8>, Vec<u8>>,
    keys: Keys,
    libraries: Vec<Vec<u8>>,
}

/// Feeds `image` in pieces that end where `pieces` says and collects what comes out.
fn decoded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Content, RdbError> {
    let mut decoder = Decoder::new(FORMS);
    let mut content = Content::default();
    let mut db = 0;
    for piece in pieces {
        decoder.feed(piece);
        while let Some(item) = decoder.next_item()? {
            match item {
                Item::Aux(key, value) => drop(content.fields.insert(key.into(), value.into())),
                Item::SelectDb(selected) => db = selected,
                Item::ResizeDb(..) | Item::Eof => {}
                Item::Library(code) => content.libraries.push(code.into()),
                Item::Entry { key, value, deadline_ms, .. } => {
                    let value = match value {
                        super::Value::Str(bytes) => string(bytes),
                        super::Value::Aggregate(value) => value,
                    };
                    content.keys.insert((db, key.into()), (value, deadline_ms));
                }
            }
        }
    }
    decoder.finish()?;
    Ok(content)
}

fn strings() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..100),
        vec(0..2u8, 0..2000),
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        any::<i16>().prop_map(|number| number.to_string().into_bytes()),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let score = any::<f64>().prop_filter("a score is a number", |score| !score.is_nan());
    prop_oneof![
        strings().prop_map(Value::Str),
        vec(strings(), 1..20).prop_map(list),
        vec(strings(), 1..20).prop_map(set),
        vec((strings(), strings()), 1..20).prop_map(hash),
        vec((strings(), score), 1..20).prop_map(sorted_set),
    ]
}

fn keys() -> impl Strategy<Value = Keys> {
    let entry = ((0..4u32, strings()), (values(), option::of(any::<i64>())));
    vec(entry, 0..20).prop_map(|entries| entries.into_iter().collect())
}

/// Every kind of string in three databases, and a small one of every other type.
fn sample() -> Keys {
    let values: [&[u8]; 12] = [
        b"",
        b"plain",
        b"0",
        b"-77",
        b"12345",
        b"-1234567890",
        b"12345678901",
        b"007",
        b"\x00\xFF\r\n",
        &[b'z'; 63],
        &b"abcabcabd".repeat(40),
        &[b'r'; 20_000],
    ];
    let mut keys = Keys::new();
    for (n, value) in (0..).zip(values) {
        let deadline_ms = (n % 3 == 1).then_some(4_102_444_800_123 + i64::from(n));
        keys.insert((n % 3, format!("key:{n}").into_bytes()), (string(value), deadline_ms));
        keys.insert((n % 3, (u64::from(n) * 99_999_999).to_string().into_bytes()), (string(value), None));
    }
    keys.insert((0, b"a long key that is long enough ".repeat(9)), (string(b"v"), Some(4_102_444_800_000)));
    let aggregates = [
        list(["one", "", "3", "-300"]),
        set(["1", "2", "-70000"]),
        set(["one", "2"]),
        hash([("field", "value"), ("7", "-8")]),
        sorted_set([("one", 1.0), ("half", 0.5), ("least", f64::NEG_INFINITY), ("17", f64::INFINITY)]),
    ];
    for (n, value) in (0..).zip(aggregates) {
        let deadline_ms = (n % 2 == 1).then_some(4_102_444_900_000);
        keys.insert((n % 3, format!("aggregate:{n}").into_bytes()), (value, deadline_ms));
    }
    keys
}

/// What a pack may hold: integers and strings whose lengths and sizes are at every edge there is.
fn edges() -> Vec<Vec<u8>> {
    let near = |edge: i64| [edge.saturating_sub(1), edge, edge.saturating_add(1)];
    let powers = (0..63).flat_map(|bits| near(1 << bits).into_iter().chain(near(-1 << bits)));
    let integers = powers.chain(near(0)).chain([i64::MIN, i64::MAX]).map(|integer| integer.to_string().into_bytes());
    let lengths =
        [0, 1, 62, 63, 64, 65, 120, 127, 128, 250, 253, 254, 255, 256, 4094, 4095, 4096, 16_380, 16_390, 70_000];
    let strings = lengths.into_iter().map(|length| vec![b's'; length]);
    let all: std::collections::BTreeSet<_> = integers.chain(strings).collect();
    all.into_iter().collect()
}

/// Values of every size, and with elements of every size.
fn big_sample() -> Keys {
    let numbers = |range: std::ops::Range<i64>| range.map(|number| number.to_string().into_bytes());
    let short = || edges().into_iter().filter(|edge| edge.len() <= 64);
    let scores = || (0..).map(|n| f64::from(n) * 0.1 - 100.0);
    let scored = |score: f64| (format!("m{score}").into_bytes(), score);
    let values = [
        list(edges()),
        list(short()),
        list(numbers(0..20_000)),
        list(std::iter::repeat_n(vec![b'x'; 9000], 5)),
        set(edges()),
        set(short()),
        set(numbers(-100..100)),
        set(numbers(40_000..40_100)),
        set(numbers(1 << 40..(1 << 40) + 512)),
        set(numbers(0..20_000)),
        hash(edges().into_iter().zip(edges().into_iter().rev())),
        hash(short().zip(short().skip(1))),
        hash(numbers(0..20_000).zip(numbers(1..20_001))),
        sorted_set(edges().into_iter().zip(scores())),
        sorted_set(short().take(100).zip(scores())),
        sorted_set(numbers(0..20_000).zip((0..).map(f64::from))),
        sorted_set([0.0, 1.0, -1.0, 1e300, 5e-324, 0.1, 1e17, 4_294_967_296.5, f64::MAX, f64::MIN].map(scored)),
        sorted_set([f64::INFINITY, f64::NEG_INFINITY].map(scored)),
    ];
    let named = (0..).zip(values).map(|(n, value)| ((0, format!("big:{n}").into_bytes()), (value, None)));
    sample().into_iter().chain(named).collect()
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back_in_pieces_of_any_size(keys in keys(), options in 0..4usize, sizes in vec(1..300usize, 1..50)) {
        let image = encoded(&keys, OPTIONS[options]);
        let mut rest = &image[..];
        let pieces = sizes.iter().cycle().map_while(|size| {
            let piece = rest.split_off(..(*size).min(rest.len()))?;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(decoded(pieces).map(|content| content.keys), Ok(keys));
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_harm(bytes in vec(any::<u8>(), 0..300)) {
        let image = [b"REDIS0009".as_slice(), &bytes].concat();
        // Right by chance are only a few bytes followed by EOF and zeros, or an image that goes on behind its end.
        let content = decoded([&image[..]]);
        prop_assert!(content.is_err() || image.contains(&opcode::EOF));
        prop_assert_eq!(decoded(image.chunks(1)), content);
    }
}

#[test]
fn the_image_in_the_module_documentation_is_read() {
    let body = b"REDIS0009\xFA\x09redis-ver\x057.0.0\xFE\x00\xFB\x02\x01\x00\x03foo\x03bar\xFC\x00\x72\xD9\x7E\x93\x01\x00\x00\x00\x01n\xC0\x0C\xFF";
    let checksum = b"\x19\xFB\x08\xA6\xC4\x5B\x6E\x29";
    let content = decoded([&body[..], checksum]).expect("a good image");
    assert_eq!(content.fields[&b"redis-ver"[..]], b"7.0.0");
    let foo = ((0, b"foo".to_vec()), (string(b"bar"), None));
    let n = ((0, b"n".to_vec()), (string(b"12"), Some(1_733_000_000_000)));
    assert_eq!(content.keys, Keys::from([foo, n]));
}

/// Says which key differs, and not how: that could fill the screen.
fn assert_same(keys: &Keys, expected: &Keys) {
    for (name, value) in expected {
        assert!(keys.get(name) == Some(value), "{} of database {}", name.1.escape_ascii(), name.0);
    }
    assert_eq!(keys.len(), expected.len());
}

/// What a decoder says about an image of `version` with this body.
fn of_version(version: &str, body: &[u8]) -> Result<Keys, RdbError> {
    decoded([b"REDIS", version.as_bytes(), body]).map(|content| content.keys)
}

#[test]
fn old_images_have_deadlines_in_seconds_and_no_checksum() {
    let body = b"\xFE\x02\xFD\x00\x57\x86\xF4\x00\x01k\x01v\x00\x01l\x01w\xFF";
    // The deadline is of the next entry alone, and 32 bits of it are signed.
    let k = ((2, b"k".to_vec()), (string(b"v"), Some(-192_522_496_000)));
    let l = ((2, b"l".to_vec()), (string(b"w"), None));
    assert_eq!(of_version("0003", body), Ok(Keys::from([k, l])));
}

#[test]
fn libraries_of_functions_are_handed_on_and_those_of_the_release_candidates_get_their_first_line() {
    let image = b"REDIS0010\xF5\x0D#!lua name=a\n\xF6\x03lib\x03LUA\x01\x04what\x06code()\xF6\x01b\x03LUA\x00\x01c\xFF\0\0\0\0\0\0\0\0";
    let expected: [&[u8]; 3] = [b"#!lua name=a\n", b"#!LUA name=lib\ncode()", b"#!LUA name=b\nc"];
    for size in 1..image.len() {
        assert_eq!(decoded(image.chunks(size)).expect("an image").libraries, expected);
    }
    let dump = dump_functions(expected.into_iter());
    assert_eq!(restore_functions(&dump), Ok(expected.map(<[u8]>::to_vec).to_vec()));
    assert_eq!(restore_functions(&dump[1..]), Err(DumpError::Envelope));
    assert!(matches!(
        restore_functions(&super::dump(crate::value::ValueRef::Str(b"v"), true)),
        Err(DumpError::Content(_))
    ));
}

/// A listpack of strings of less than 64 bytes and, where they are numbers, of integers of 64 bits.
fn listpack(elements: &[&str]) -> Vec<u8> {
    let mut entries = Vec::new();
    for element in elements {
        match element.parse::<i64>() {
            Ok(number) => {
                entries.push(0xF4);
                entries.extend(number.to_le_bytes());
                entries.push(9);
            }
            Err(_) => {
                entries.push(0x80 | element.len() as u8);
                entries.extend(element.as_bytes());
                entries.push(1 + element.len() as u8);
            }
        }
    }
    let (bytes, count) = (7 + entries.len() as u32, elements.len() as u16);
    [&bytes.to_le_bytes()[..], &count.to_le_bytes(), &entries, b"\xFF"].concat()
}

#[test]
fn hash_fields_have_deadlines_in_every_layout() {
    let at_ms = 2_000_000_000_123_i64;
    let mut expected = Hash::new();
    for (field, value) in [("a", "x"), ("b", "y"), ("c", "z")] {
        expected.insert(field.as_bytes(), value.as_bytes(), SMALL);
    }
    expected.set_deadline(b"a", Some(at_ms));
    expected.set_deadline(b"c", Some(at_ms + 5));
    let keys = Keys::from([((0, b"k".to_vec()), (Value::Hash(expected), None))]);
    let long = |length: i64| [&[0x81][..], &length.to_be_bytes()].concat();
    let pack = listpack(&["a", "x", &at_ms.to_string(), "c", "z", &(at_ms + 5).to_string(), "b", "y", "0"]);
    let packed = [&[pack.len() as u8][..], &pack].concat();
    let (earliest, no_deadline) = (at_ms.to_le_bytes(), (-1_i64).to_le_bytes());
    let redis = [
        [b"\x16\x01k\x03", &long(at_ms)[..], b"\x01a\x01x\x00\x01b\x01y", &long(at_ms + 5), b"\x01c\x01z"].concat(),
        [b"\x17\x01k", &packed[..]].concat(),
        [b"\x18\x01k", &earliest[..], b"\x03\x01\x01a\x01x\x00\x01b\x01y\x06\x01c\x01z"].concat(),
        [b"\x19\x01k", &earliest[..], &packed].concat(),
    ];
    let end = b"\xFF\0\0\0\0\0\0\0\0".as_slice();
    let mut images: Vec<Vec<u8>> = redis.iter().map(|body| [b"REDIS0012", &body[..], end].concat()).collect();
    let last = (at_ms + 5).to_le_bytes();
    let fields =
        [b"\x16\x01k\x03\x01a\x01x", &earliest[..], b"\x01b\x01y", &no_deadline, b"\x01c\x01z", &last].concat();
    images.push([b"VALKEY080", &fields[..], end].concat());
    for format in [Reader::OWN, Reader::Valkey].map(|reader| reader.format(Contents::ALL)) {
        images.push(encoded(&keys, Options { compress: true, checksum: true, format }));
    }
    for image in &images {
        for size in [1, 2, 7, image.len()] {
            assert_eq!(decoded(image.chunks(size)).map(|content| content.keys).as_ref(), Ok(&keys), "{image:?}");
        }
    }
    // Who has no place for them gets the rest.
    let plain = decoded([&encoded(&keys, OPTIONS[0])[..]]).expect("an image").keys;
    let fields = [("a", "x"), ("b", "y"), ("c", "z")];
    assert_eq!(plain, Keys::from([((0, b"k".to_vec()), (hash(fields), None))]));
    // Each of the two has kinds that the other has not.
    let error = decoded([&[b"VALKEY080", &redis[2][..], end].concat()[..]]).expect_err("only Redis has it");
    assert!(matches!(error, RdbError::UnsupportedType { .. }), "{error}");
    let half =
        [b"REDIS0012\x17\x01k".as_slice(), &[listpack(&["a", "x"]).len() as u8], &listpack(&["a", "x"]), end].concat();
    assert!(matches!(decoded([&half[..]]), Err(RdbError::Packed { .. })));
}

#[test]
fn hints_and_data_of_modules_are_skipped() {
    let module =
        b"\xF7\x81\x01\x02\x03\x04\x05\x06\x07\x08\x02\x02\x05\x03abc\x01\x07\x03\0\0\x80\x3F\x04\0\0\0\0\0\0\0\0\0";
    let body =
        b"\xF4\x01\x02\x00\xF5\x03lib\xFC\x05\0\0\0\0\0\0\0\xF8\x41\x00\xF9\x07\x00\x01k\x01v\xFF\0\0\0\0\0\0\0\0";
    let k = ((0, b"k".to_vec()), (string(b"v"), Some(5)));
    assert_eq!(of_version("0012", &[&module[..], body].concat()), Ok(Keys::from([k])));
}

#[test]
fn what_cannot_be_read_is_named_with_its_place() {
    use RdbError::*;
    let stream_too_short = [&b"\x00\xC3\x03\x80"[..], &(300_u32 << 20).to_be_bytes(), b"abc"].concat();
    let bodies: [(&[u8], RdbError); 16] = [
        (b"\x07\x03key\x00", UnsupportedType { type_name: "module", key: b"key".to_vec(), offset: 9 }),
        (b"\x06\x03key\x00", UnsupportedType { type_name: "module", key: b"key".to_vec(), offset: 9 }),
        (b"\xF7\x00\x06", ModuleData { kind: 6, offset: 11 }),
        (b"\x02\x01k\x02\x01a\x01a", Duplicate { type_name: "set", offset: 15 }),
        (b"\x04\x01k\x02\x01a\x01b\x01a\x01b", Duplicate { type_name: "hash", offset: 17 }),
        (b"\x03\x01k\x01\x01a\xFD", Score { offset: 15 }),
        (b"\x03\x01k\x01\x01a\x03one", Score { offset: 15 }),
        (b"\x05\x01k\x01\x01a\0\0\0\0\0\0\xF8\x7F", Score { offset: 15 }),
        (b"\x12\x01k\x01\x03", ListNode { kind: 3, offset: 13 }),
        (
            b"\x0B\x01k\x08\x03\0\0\0\0\0\0\0",
            Packed { form: "intset", problem: "the size of its integers is none of 2, 4 and 8", at: 8, offset: 12 },
        ),
        (b"\xF3\x00", UnknownType { byte: 0xF3, offset: 9 }),
        (b"\x00\x82", LengthEncoding { byte: 0x82, offset: 10 }),
        (b"\x00\xC4", LengthEncoding { byte: 0xC4, offset: 10 }),
        (b"\x00\x80\x20\x00\x00\x01", StringLength { bytes: STRING_BYTES_MAX + 1, offset: 10 }),
        (&stream_too_short, StringLength { bytes: 300 << 20, offset: 12 }),
        (b"\x00\xC3\x02\x05\x00a\x01v", Lzf { offset: 13 }),
    ];
    for (body, error) in bodies {
        assert_eq!(of_version("0009", &[body, &[0; 9]].concat()), Err(error));
    }
    let database = Database { db: 1 << 32, offset: 10 };
    assert_eq!(of_version("0009", b"\xFE\x81\0\0\0\x01\0\0\0\0"), Err(database));
    assert_eq!(of_version("0013", b""), Err(Version(13)));
    assert_eq!(of_version("0000", b""), Err(Version(0)));
    assert_eq!(of_version("9.10", b""), Err(Signature));
    assert_eq!(decoded([&b"REDIT0009"[..]]), Err(Signature));
}

#[test]
fn an_error_stays_whatever_is_fed_after_it() {
    let mut decoder = Decoder::new(FORMS);
    decoder.feed(b"REDIS0009\xFF\x01\0\0\0\0\0\0\0");
    let error = decoder.next_item().expect_err("a wrong checksum");
    assert!(matches!(error, RdbError::Checksum { stored: 1, .. }));
    decoder.feed(b"more");
    assert_eq!(decoder.next_item(), Err(error));
}

#[test]
fn what_follows_the_image_is_left_alone() {
    let image = [&encoded(&sample(), OPTIONS[0]), &b"*1\r\n"[..]].concat();
    let mut decoder = Decoder::new(FORMS);
    decoder.feed(&image);
    while decoder.next_item().expect("a good image") != Some(Item::Eof) {}
    decoder.feed(b"$4\r\n");
    assert_eq!(decoder.next_item(), Ok(None));
    assert_eq!(decoder.unread(), b"*1\r\n$4\r\n");
}

#[test]
fn every_piece_size_gives_the_same_content() {
    let image = encoded(&sample(), OPTIONS[0]);
    let content = decoded([&image[..]]).expect("own image");
    assert_eq!(content.keys, sample());
    assert_eq!(content.fields[&b"repl-offset"[..]], b"1099511627776");
    assert_eq!(content.fields[&b"repld-note"[..]], b"\x00\xFF");
    for size in 1..200 {
        assert_eq!(decoded(image.chunks(size)).as_ref(), Ok(&content), "pieces of {size} bytes");
    }
    for middle in 0..image.len() {
        let (left, right) = image.split_at(middle);
        assert_eq!(decoded([left, right]).as_ref(), Ok(&content), "cut at {middle}");
    }
}

#[test]
fn an_image_cut_anywhere_is_truncated_there() {
    let image = encoded(&sample(), OPTIONS[0]);
    for length in 0..image.len() {
        let cut = decoded(image[..length].chunks(4096));
        assert_eq!(cut, Err(RdbError::Truncated { offset: length as u64 }));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let image = encoded(&sample(), OPTIONS[0]);
    let last_version_digit = 8;
    for at in 0..image.len() {
        for bit in 0..8 {
            let mut flipped = image.clone();
            flipped[at] ^= 1 << bit;
            // A version before 5, which the last digit may turn into, has no checksum to notice anything.
            let unchecked = at == last_version_digit && (b'1'..b'5').contains(&flipped[at]);
            assert_eq!(decoded([&flipped[..]]).is_ok(), unchecked, "bit {bit} of byte {at}");
        }
    }
}

/// A redis-server without a port, on a socket in its directory; killed when dropped.
struct RedisServer {
    process: Child,
    connection: BufReader<UnixStream>,
}

impl RedisServer {
    /// `None`, and a word about it, where there is no redis-server.
    fn start(directory: &Path, arguments: &[&str]) -> Option<Self> {
        let socket = directory.join("socket");
        let command = Command::new("redis-server")
            .current_dir(directory)
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--daemonize", "no"])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn();
        let Ok(mut process) = command else {
            eprintln!("skipped: redis-server is not installed");
            return None;
        };
        let connection = loop {
            match UnixStream::connect(&socket) {
                Ok(connection) => break BufReader::new(connection),
                Err(_) => assert_eq!(process.try_wait().expect("its status"), None, "redis-server ended"),
            }
            thread::sleep(Duration::from_millis(1));
        };
        let mut server = Self { process, connection };
        while server.call(&[b"PING"]) != b"PONG" {}
        Some(server)
    }

    /// Sends a command and gives the text of its reply, which must not be nested.
    fn call(&mut self, arguments: &[&[u8]]) -> Vec<u8> {
        let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            request.extend(format!("${}\r\n", argument.len()).into_bytes());
            request.extend_from_slice(argument);
            request.extend(b"\r\n");
        }
        self.connection.get_mut().write_all(&request).expect("a request");
        let mut line = String::new();
        self.connection.read_line(&mut line).expect("a reply");
        let line = line.trim_end();
        let Some(length) = line.strip_prefix('$') else { return line.as_bytes()[1..].to_vec() };
        let length: i64 = length.parse().expect("a length");
        let mut bulk = vec![0; usize::try_from(length).expect("a value") + 2];
        self.connection.read_exact(&mut bulk).expect("a bulk reply");
        bulk.truncate(bulk.len() - 2);
        bulk
    }

    fn set(&mut self, keys: &Keys) {
        for ((db, key), (value, deadline_ms)) in keys {
            self.call(&[b"SELECT", db.to_string().as_bytes()]);
            self.create(key, value);
            if let Some(deadline_ms) = deadline_ms {
                assert_eq!(self.call(&[b"PEXPIREAT", key, deadline_ms.to_string().as_bytes()]), b"1");
            }
        }
    }

    fn create(&mut self, key: &[u8], value: &Value) {
        let texts = |score: f64| score.to_string().into_bytes();
        let (command, arguments): (&[u8], Vec<Vec<u8>>) = match value {
            Value::Str(bytes) => (b"SET", vec![bytes.clone()]),
            Value::List(list) => (b"RPUSH", list.iter().map(|element| element.to_vec()).collect()),
            Value::Set(set) => (b"SADD", set.iter().map(|member| member.to_vec()).collect()),
            Value::Hash(hash) => {
                (b"HSET", hash.iter().flat_map(|(field, value)| [field.to_vec(), value.to_vec()]).collect())
            }
            Value::Stream(_) => unreachable!("none is made here"),
            Value::SortedSet(set) => {
                (b"ZADD", set.iter().flat_map(|entry| [texts(entry.score), entry.member.to_vec()]).collect())
            }
        };
        // So many at a time that Redis does not choose the encoding by the first request alone.
        for arguments in arguments.chunks(100) {
            let request: Vec<&[u8]> = [command, key].into_iter().chain(arguments.iter().map(Vec::as_slice)).collect();
            let reply = self.call(&request);
            assert!(reply == b"OK" || reply[0].is_ascii_digit(), "{}", reply.escape_ascii());
        }
    }

    /// The values and deadlines it has for the keys of `keys`, and no others.
    fn content(&mut self, keys: &Keys) -> Keys {
        let mut sizes = BTreeMap::<u32, usize>::new();
        let mut content = Keys::new();
        for (db, key) in keys.keys() {
            *sizes.entry(*db).or_default() += 1;
            self.call(&[b"SELECT", db.to_string().as_bytes()]);
            let value = restored(&self.call(&[b"DUMP", key])).expect("a good payload");
            let deadline_ms = String::from_utf8(self.call(&[b"PEXPIRETIME", key])).expect("digits");
            let deadline_ms = deadline_ms.parse().ok().filter(|deadline_ms| *deadline_ms >= 0);
            content.insert((*db, key.clone()), (value, deadline_ms));
        }
        for (db, size) in sizes {
            self.call(&[b"SELECT", db.to_string().as_bytes()]);
            assert_eq!(self.call(&[b"DBSIZE"]), size.to_string().as_bytes());
        }
        content
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is killed");
    }
}

#[test]
fn files_of_redis_server_are_read() {
    let configurations: [&[&str]; 4] = [
        &["--rdbcompression", "yes"],
        &["--rdbcompression", "no"],
        &["--rdbchecksum", "no", "--maxmemory-policy", "allkeys-lfu"],
        &["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"],
    ];
    for arguments in configurations {
        let directory = tempfile::tempdir().expect("a directory");
        let Some(mut server) = RedisServer::start(directory.path(), arguments) else { return };
        server.set(&big_sample());
        let library = b"#!lua name=lib\nredis.register_function('f', function() return 1 end)";
        assert_eq!(server.call(&[b"FUNCTION", b"LOAD", library]), b"lib");
        assert_eq!(server.call(&[b"SAVE"]), b"OK");
        let image = std::fs::read(directory.path().join("dump.rdb")).expect("a dump");
        let content = decoded(image.chunks(1000)).expect("a good dump");
        assert_same(&content.keys, &big_sample());
        assert!(content.fields.contains_key(&b"redis-ver"[..]));
    }
}

#[test]
fn a_stream_with_a_group_is_read_from_redis_and_comes_back_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut server) = RedisServer::start(directory.path(), &[]) else { return };
    for number in 1..250 {
        server.call(&[b"XADD", b"queue", b"*", b"job", number.to_string().as_bytes()]);
    }
    server.call(&[b"XGROUP", b"CREATE", b"queue", b"group", b"0"]);
    let image_of = |server: &mut RedisServer| {
        assert_eq!(server.call(&[b"SAVE"]), b"OK");
        let image = std::fs::read(directory.path().join("dump.rdb")).expect("a dump");
        decoded(image.chunks(100)).expect("a good dump").keys
    };
    let keys = image_of(&mut server);
    let (value, _) = &keys[&(0, b"queue".to_vec())];
    assert!(matches!(value, Value::Stream(stream) if stream.len() == 249 && stream.groups().len() == 1));
    let payload = crate::rdb::dump(value.borrow(), true);
    assert_eq!(server.call(&[b"RESTORE", b"queue", b"0", &payload, b"REPLACE"]), b"OK");
    assert_same(&image_of(&mut server), &keys);
}

#[test]
fn redis_check_rdb_and_redis_server_accept_our_files() {
    for options in OPTIONS {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("dump.rdb");
        std::fs::write(&file, encoded(&big_sample(), options)).expect("a file");
        match Command::new("redis-check-rdb").arg(&file).output() {
            Ok(check) => assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout)),
            Err(_) => eprintln!("skipped: redis-check-rdb is not installed"),
        }
        let Some(mut server) = RedisServer::start(directory.path(), &[]) else { return };
        assert_same(&server.content(&big_sample()), &big_sample());
    }
}

#[test]
fn values_are_dumped_for_redis_and_restored_from_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut server) = RedisServer::start(directory.path(), &["--sanitize-dump-payload", "yes"]) else { return };
    for ((_, key), (value, _)) in big_sample() {
        let payload = dump(value.borrow(), key.len() % 2 == 0);
        assert_eq!(server.call(&[b"RESTORE", &key, b"0", &payload]), b"OK", "{}", key.escape_ascii());
        let back = restored(&server.call(&[b"DUMP", &key])).expect("a good payload");
        assert!(back == value, "{}", key.escape_ascii());
    }
}

#[test]
fn keys_that_hold_nothing_are_left_out() {
    let empty = b"\xFC\x05\0\0\0\0\0\0\0\x01\x01l\x00\x10\x01h\x07\x07\0\0\0\0\0\xFF\x12\x01q\x01\x02\x07\x07\0\0\0\0\0\xFF\x00\x01k\x01v\xFF\0\0\0\0\0\0\0\0";
    let k = ((0, b"k".to_vec()), (string(b"v"), None));
    assert_eq!(of_version("0010", empty), Ok(Keys::from([k])));
}

#[test]
fn images_of_valkey_are_read() {
    let body = b"VALKEY080\x14\x01s\x0D\x0D\0\0\0\x02\0\x81a\x02\x81b\x02\xFF\xFF\0\0\0\0\0\0\0\0";
    let s = ((0, b"s".to_vec()), (set(["a", "b"]), None));
    assert_eq!(decoded([&body[..]]).map(|content| content.keys), Ok(Keys::from([s])));
    assert_eq!(decoded([&b"VALKEY079"[..]]), Err(RdbError::Version(79)));
}

#[test]
fn a_big_value_is_handed_on_while_it_is_encoded() {
    let value = set((0..100_000).map(|number: u32| number.to_string()));
    let (mut slices, mut longest) = (0, 0);
    let mut encoder = Encoder::new(&Header::default(), OPTIONS[0]);
    let written = encoder.entry(0, b"k", value.borrow(), None, |slice| {
        slices += 1;
        longest = longest.max(slice.len());
        Ok(())
    });
    written.expect("nobody says no");
    assert!(slices > 5 && longest < SLICE_BYTES + 100, "{slices} slices of up to {longest} bytes");
}

/// One payload of each encoding that packs.
fn packed_payloads() -> Vec<(Vec<u8>, Value)> {
    let ziplist = b"\x15\0\0\0\x12\0\0\0\x04\0\0\x01a\x03\xF2\x02\x01b\x03\xF3\xFF";
    let listpack = b"\x11\0\0\0\x04\0\x81a\x02\x01\x01\x81b\x02\x02\x01\xFF";
    let zipmap = b"\x02\x01a\x01\x001\x01b\x01\x022xx\xFF";
    let intset = b"\x02\0\0\0\x03\0\0\0\xFF\xFF\x01\0\x02\0";
    let elements = || list(["a", "1", "b", "2"]);
    let fields = || hash([("a", "1"), ("b", "2")]);
    let scores = || sorted_set([("a", 1.0), ("b", 2.0)]);
    let cases: [(u8, &[u8], &[u8], Value); 11] = [
        (kind::HASH_ZIPMAP, b"", zipmap, fields()),
        (kind::LIST_ZIPLIST, b"", ziplist, elements()),
        (kind::SET_INTSET, b"", intset, set(["-1", "1", "2"])),
        (kind::SORTED_SET_ZIPLIST, b"", ziplist, scores()),
        (kind::HASH_ZIPLIST, b"", ziplist, fields()),
        (kind::LIST_QUICKLIST, b"\x01", ziplist, elements()),
        (kind::HASH_LISTPACK, b"", listpack, fields()),
        (kind::SORTED_SET_LISTPACK, b"", listpack, scores()),
        (kind::LIST_QUICKLIST_2, b"\x01\x02", listpack, elements()),
        (kind::LIST_QUICKLIST_2, b"\x02\x01\x03big\x02", listpack, list(["big", "a", "1", "b", "2"])),
        (kind::SET_LISTPACK, b"", listpack, set(["a", "1", "b", "2"])),
    ];
    let payload = |(kind, before, pack, value): (u8, &[u8], &[u8], Value)| {
        (sealed(&[&[kind], before, &[pack.len() as u8], pack].concat()), value)
    };
    cases.into_iter().map(payload).collect()
}

fn restored(payload: &[u8]) -> Result<Value, DumpError> {
    restore(payload, FORMS, Checksum::Verified)
}

/// Puts version and checksum behind a value.
fn sealed(content: &[u8]) -> Vec<u8> {
    let mut payload = [content, &10_u16.to_le_bytes()].concat();
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Redis);
    crc.update(&payload);
    payload.extend(crc.finalize().to_le_bytes());
    payload
}

#[test]
fn every_packed_encoding_is_read() {
    for (payload, value) in packed_payloads() {
        assert_eq!(restored(&payload), Ok(value), "kind {}", payload[0]);
    }
}

#[test]
fn a_payload_that_is_not_whole_or_goes_on_is_refused() {
    for (payload, _) in packed_payloads() {
        let content = &payload[..payload.len() - 10];
        for length in 0..content.len() {
            assert!(restored(&sealed(&content[..length])).is_err(), "{length} bytes of kind {}", payload[0]);
        }
        let longer = [content, b"\0"].concat();
        assert_eq!(restored(&sealed(&longer)), Err(DumpError::Content(None)));
        assert_eq!(restored(content), Err(DumpError::Envelope));
    }
    assert_eq!(restored(b""), Err(DumpError::Envelope));
    let empty_list = restored(&sealed(b"\x01\x00"));
    assert_eq!(empty_list, Err(DumpError::Content(None)));
}

proptest! {
    #[test]
    fn a_damaged_payload_is_refused_or_read_as_something_else(
        which in 0..11usize,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (payload, _) = packed_payloads().swap_remove(which);
        let mut content = payload[..payload.len() - 10].to_vec();
        for (at, byte) in damage {
            let at = at.index(content.len());
            content[at] = byte;
        }
        // What is read is whole: it can be written, and read again.
        if let Ok(value) = restored(&sealed(&content)) {
            prop_assert_eq!(restored(&dump(value.borrow(), true)), Ok(value));
        }
    }

    #[test]
    fn any_payload_is_survived(content in vec(any::<u8>(), 0..200)) {
        let _ = restored(&sealed(&content));
    }

    #[test]
    fn what_is_dumped_comes_back(value in values(), compress in any::<bool>()) {
        prop_assert_eq!(restored(&dump(value.borrow(), compress)), Ok(value));
    }
}
