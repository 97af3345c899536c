//! Sums of `INCRBYFLOAT`, digit for digit.

use repld::long_double::LongDouble;

use crate::client::encode;
use crate::random::Random;
use crate::server::Kind;

const PAIRS: usize = 20_000;
const PIPELINE: usize = 500;

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "a redis-server for another machine has another long double")]
fn sums_are_those_of_a_real_redis_server() {
    let Some(redis) = Kind::Redis.server() else { return };
    let redis = redis.start();
    let mut client = redis.connect();
    let mut random = Random::new(1);
    for _ in 0..PAIRS / PIPELINE {
        let pairs: Vec<(String, String)> = (0..PIPELINE).map(|_| (number(&mut random), number(&mut random))).collect();
        let requests = pairs
            .iter()
            .flat_map(|(one, other)| [encode(&["SET", "key", one]), encode(&["INCRBYFLOAT", "key", other])].concat());
        client.send(&requests.collect::<Vec<u8>>()).expect("a live server");
        for (one, other) in &pairs {
            assert_eq!(client.reply().expect("a reply"), b"+OK\r\n");
            let wanted = String::from_utf8(client.reply().expect("a reply")).expect("text");
            assert_eq!(sum(one, other), wanted, "{one} + {other}");
        }
    }
}

/// The reply to `INCRBYFLOAT`.
fn sum(one: &str, other: &str) -> String {
    let parsed = LongDouble::parse(one.as_bytes()).zip(LongDouble::parse(other.as_bytes()));
    match parsed.map(|(one, other)| one.checked_add(other)) {
        None => "-ERR value is not a valid float\r\n".into(),
        Some(None) => "-ERR increment would produce NaN or Infinity\r\n".into(),
        Some(Some(sum)) => {
            let digits = sum.to_string();
            format!("${}\r\n{digits}\r\n", digits.len())
        }
    }
}

fn number(random: &mut Random) -> String {
    let digits = |random: &mut Random, most: usize| -> String {
        (0..random.below(most) + 1).map(|_| char::from(b'0' + random.below(10) as u8)).collect()
    };
    let sign = random.pick(&["", "", "-", "+"]);
    let (whole, fraction) = (digits(random, 22), digits(random, 25));
    match random.below(12) {
        0..4 => format!("{sign}{}.{}", &whole[..whole.len().min(3)], &fraction[..fraction.len().min(4)]),
        4 => format!("{sign}{whole}"),
        5 => format!("{sign}{whole}.{fraction}"),
        6 => format!("{sign}{whole}.{fraction}e{}{}", random.pick(&["", "-"]), random.below(40)),
        7 => format!("{sign}{whole}.{fraction}e{}{}", random.pick(&["", "-"]), random.below(5_100)),
        8 => {
            format!("{sign}0x{:x}.{:x}p{}{}", random.next(), random.next(), random.pick(&["", "-"]), random.below(200))
        }
        // The neighbourhood of ties at the 64th bit.
        9 => format!("{sign}{}", (1_u128 << (63 + random.below(40))) + random.below(4) as u128),
        10 => format!("{sign}{}.5", random.next()),
        _ => random
            .pick(&[
                "inf", "-inf", "nan", "", ".", "1e", "0x", " 1", "1 ", "-0", "0", "1e4932", "3e-4951", "Infinity",
                "infinit",
            ])
            .into(),
    }
}
