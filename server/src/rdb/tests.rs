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
use crate::value::ValueRef;

/// (database, key) to (value, deadline).
type Keys = BTreeMap<(u32, Vec<u8>), (Vec<u8>, Option<i64>)>;

const OPTIONS: [Options; 4] = [
    Options { compress: true, checksum: true },
    Options { compress: true, checksum: false },
    Options { compress: false, checksum: true },
    Options { compress: false, checksum: false },
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
        extra: &[("repld-seed", b"\x00\xFF")],
    };
    let mut encoder = Encoder::new(&header, options);
    encoder.resize_db(0, 10, 0);
    let mut image = Vec::new();
    for ((db, key), (value, deadline_ms)) in keys {
        let written = encoder.entry(*db, key, ValueRef::Str(value), *deadline_ms, |slice| {
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
}

/// Feeds `image` in pieces that end where `pieces` says and collects what comes out.
fn decoded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Content, RdbError> {
    let mut decoder = Decoder::new();
    let mut content = Content::default();
    let mut db = 0;
    for piece in pieces {
        decoder.feed(piece);
        while let Some(item) = decoder.next_item()? {
            match item {
                Item::Aux(key, value) => drop(content.fields.insert(key.into(), value.into())),
                Item::SelectDb(selected) => db = selected,
                Item::ResizeDb(..) | Item::Eof => {}
                Item::Entry { key, value: Value::Str(value), deadline_ms } => {
                    content.keys.insert((db, key.into()), (value.into(), deadline_ms));
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

fn keys() -> impl Strategy<Value = Keys> {
    let entry = ((0..4u32, strings()), (strings(), option::of(any::<i64>())));
    vec(entry, 0..20).prop_map(|entries| entries.into_iter().collect())
}

/// Every kind of string in three databases.
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
        keys.insert((n % 3, format!("key:{n}").into_bytes()), (value.to_vec(), deadline_ms));
        keys.insert((n % 3, (u64::from(n) * 99_999_999).to_string().into_bytes()), (value.to_vec(), None));
    }
    keys.insert((0, b"a long key that is long enough ".repeat(9)), (b"v".to_vec(), Some(4_102_444_800_000)));
    keys
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
    let foo = ((0, b"foo".to_vec()), (b"bar".to_vec(), None));
    let n = ((0, b"n".to_vec()), (b"12".to_vec(), Some(1_733_000_000_000)));
    assert_eq!(content.keys, Keys::from([foo, n]));
}

/// What a decoder says about an image of `version` with this body.
fn of_version(version: &str, body: &[u8]) -> Result<Keys, RdbError> {
    decoded([b"REDIS", version.as_bytes(), body]).map(|content| content.keys)
}

#[test]
fn old_images_have_deadlines_in_seconds_and_no_checksum() {
    let body = b"\xFE\x02\xFD\x00\x57\x86\xF4\x00\x01k\x01v\x00\x01l\x01w\xFF";
    // The deadline is of the next entry alone, and 32 bits of it are signed.
    let k = ((2, b"k".to_vec()), (b"v".to_vec(), Some(-192_522_496_000)));
    let l = ((2, b"l".to_vec()), (b"w".to_vec(), None));
    assert_eq!(of_version("0003", body), Ok(Keys::from([k, l])));
}

#[test]
fn hints_and_functions_are_skipped() {
    let body =
        b"\xF4\x01\x02\x00\xF5\x03lib\xFC\x05\0\0\0\0\0\0\0\xF8\x41\x00\xF9\x07\x00\x01k\x01v\xFF\0\0\0\0\0\0\0\0";
    let k = ((0, b"k".to_vec()), (b"v".to_vec(), Some(5)));
    assert_eq!(of_version("0012", body), Ok(Keys::from([k])));
}

#[test]
fn what_cannot_be_read_is_named_with_its_place() {
    use RdbError::*;
    let stream_too_short = [&b"\x00\xC3\x03\x80"[..], &(300_u32 << 20).to_be_bytes(), b"abc"].concat();
    let bodies: [(&[u8], RdbError); 8] = [
        (b"\x01\x03key\x00", UnsupportedType { type_name: "list", key: b"key".to_vec(), offset: 9 }),
        (b"\xF7\x00", ModuleData { offset: 9 }),
        (b"\xF6\x00", UnknownType { byte: 0xF6, offset: 9 }),
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
    assert_eq!(decoded([&b"REDIT"[..]]), Err(Signature));
}

#[test]
fn an_error_stays_whatever_is_fed_after_it() {
    let mut decoder = Decoder::new();
    decoder.feed(b"REDIS0009\xFF\x01\0\0\0\0\0\0\0");
    let error = decoder.next_item().expect_err("a wrong checksum");
    assert!(matches!(error, RdbError::Checksum { stored: 1, .. }));
    decoder.feed(b"more");
    assert_eq!(decoder.next_item(), Err(error));
}

#[test]
fn what_follows_the_image_is_left_alone() {
    let image = [&encoded(&sample(), OPTIONS[0]), &b"*1\r\n"[..]].concat();
    let mut decoder = Decoder::new();
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
    assert_eq!(content.fields[&b"repld-seed"[..]], b"\x00\xFF");
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
            assert_eq!(self.call(&[b"SET", key, value]), b"OK");
            if let Some(deadline_ms) = deadline_ms {
                assert_eq!(self.call(&[b"PEXPIREAT", key, deadline_ms.to_string().as_bytes()]), b"1");
            }
        }
    }

    /// The values and deadlines it has for the keys of `keys`, and no others.
    fn content(&mut self, keys: &Keys) -> Keys {
        let mut sizes = BTreeMap::<u32, usize>::new();
        let mut content = Keys::new();
        for (db, key) in keys.keys() {
            *sizes.entry(*db).or_default() += 1;
            self.call(&[b"SELECT", db.to_string().as_bytes()]);
            let value = self.call(&[b"GET", key]);
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
        server.set(&sample());
        let library = b"#!lua name=lib\nredis.register_function('f', function() return 1 end)";
        assert_eq!(server.call(&[b"FUNCTION", b"LOAD", library]), b"lib");
        assert_eq!(server.call(&[b"SAVE"]), b"OK");
        let image = std::fs::read(directory.path().join("dump.rdb")).expect("a dump");
        let content = decoded(image.chunks(1000)).expect("a good dump");
        assert_eq!(content.keys, sample());
        assert!(content.fields.contains_key(&b"redis-ver"[..]));
    }
}

#[test]
fn a_type_we_lack_is_named_with_its_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut server) = RedisServer::start(directory.path(), &[]) else { return };
    server.call(&[b"RPUSH", b"queue", b"job"]);
    assert_eq!(server.call(&[b"SAVE"]), b"OK");
    let image = std::fs::read(directory.path().join("dump.rdb")).expect("a dump");
    let error = decoded([&image[..]]).expect_err("a list");
    assert!(
        matches!(&error, RdbError::UnsupportedType { type_name: "list (quicklist)", key, .. } if key == b"queue"),
        "{error}"
    );
}

#[test]
fn redis_check_rdb_and_redis_server_accept_our_files() {
    for options in OPTIONS {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("dump.rdb");
        std::fs::write(&file, encoded(&sample(), options)).expect("a file");
        match Command::new("redis-check-rdb").arg(&file).output() {
            Ok(check) => assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout)),
            Err(_) => eprintln!("skipped: redis-check-rdb is not installed"),
        }
        let Some(mut server) = RedisServer::start(directory.path(), &[]) else { return };
        assert_eq!(server.content(&sample()), sample());
    }
}
