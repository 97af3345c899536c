//! Chance: numbers that nobody can foresee who does not know the seed. With the same seed they are always the same.

use siphasher::sip::SipHasher13;

use crate::replication::ReplicationId;

/// A generator: SipHash, keyed with the seed, of 1, 2, 3, …
#[derive(Debug)]
pub struct Random {
    keyed: SipHasher13,
    count: u64,
}

impl Random {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: [u64; 2]) -> Random {
        Random { keyed: SipHasher13::new_with_keys(seed[0], seed[1]), count: 0 }
    }

    /// A sequence that nobody has seen before.
    pub fn from_system() -> Random {
        let number = || loop {
            let mut bytes = [0; 8];
            // So few bytes come at once, or not at all for a signal.
            if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) == Ok(bytes.len()) {
                return u64::from_ne_bytes(bytes);
            }
        };
        Random::new([number(), number()])
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.count += 1;
        self.keyed.hash(&self.count.to_le_bytes())
    }

    /// A name that nobody else will choose.
    pub fn id(&mut self) -> ReplicationId {
        let digits: String = (0..3).map(|_| format!("{:016x}", self.next_u64())).collect();
        ReplicationId::parse(&digits.as_bytes()[..40]).expect("40 hexadecimal digits")
    }
}
