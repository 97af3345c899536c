//! When, or how often, a key is used: 24 bits in its entry, of which eviction and `OBJECT IDLETIME` and `FREQ` know.
//!
//! ```text
//! recency    seconds since the epoch, modulo 2^24 (194 days)
//! frequency  minutes since the epoch, modulo 2^16 | counter u8
//! ```
//!
//! They are Redis's, so that what a policy decides is what an operator knows from there:
//! <https://redis.io/docs/latest/develop/reference/eviction/>. The counter grows the more slowly the larger it is (a
//! Morris counter, 1978), and shrinks with time. Which of the two the bits are is said by the policy of the moment; after a
//! change of it they are wrong until the key is used again.

use std::cell::{Cell, RefCell};

use crate::value::Dice;

/// The bits of an entry.
pub(super) const ACCESS_BITS: u32 = 24;
const ACCESS_MASK: u32 = (1 << ACCESS_BITS) - 1;
const COUNTER_BITS: u32 = 8;
const MINUTES_MASK: u32 = 0xffff;
/// The counter of a new key: one that starts from nothing would go before it could be used again.
const COUNTER_NEW: u8 = 5;
/// A command that uses one of the last so many keys again counts as one use of it.
const REMEMBERED: usize = 4;

/// What is noted of uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tracking {
    /// When the last one was.
    #[default]
    Recency,
    /// How many there were.
    Frequency {
        /// How slowly the counter grows (`lfu-log-factor`).
        log_factor: u32,
        /// Minutes after which it loses one; 0: never (`lfu-decay-time`).
        decay_minutes: u32,
    },
}

/// What is known of a key's use, as images and `RESTORE` carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It was used so many seconds ago.
    IdleSeconds(u64),
    /// Its counter.
    Frequency(u8),
}

/// Makes and reads the bits.
#[derive(Debug, Clone)]
pub struct AccessClock {
    tracking: Tracking,
    seconds: Cell<i64>,
    /// Uses do not count.
    is_held: Cell<bool>,
    /// Hashes of the keys that the command has used, the newest ones, and how many it has used. Looking a key up, and
    /// then writing to it, is one use.
    counted: Cell<([u64; REMEMBERED], usize)>,
    dice: RefCell<Dice>,
}

impl AccessClock {
    pub(super) fn new(seed: u64) -> AccessClock {
        let dice = RefCell::new(Dice::new(seed));
        AccessClock {
            tracking: Tracking::default(),
            seconds: Cell::new(0),
            is_held: Cell::new(false),
            counted: Cell::default(),
            dice,
        }
    }

    /// What is noted.
    pub fn tracking(&self) -> Tracking {
        self.tracking
    }

    pub(super) fn set_tracking(&mut self, tracking: Tracking) {
        self.tracking = tracking;
    }

    pub(super) fn set_now(&self, now_ms: i64) {
        self.seconds.set(now_ms.div_euclid(1000));
    }

    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.set(is_held);
    }

    /// From here on it is another command that uses keys.
    #[inline]
    pub(super) fn begin_command(&self) {
        if self.tracking != Tracking::Recency {
            self.counted.set(Default::default());
        }
    }

    /// Whether this command has used the key before; by now it has.
    fn is_counted(&self, hash: u64) -> bool {
        let (mut hashes, count) = self.counted.get();
        if hashes[..count.min(REMEMBERED)].contains(&hash) {
            return true;
        }
        hashes[count % REMEMBERED] = hash;
        self.counted.set((hashes, count + 1));
        false
    }

    fn minutes(&self) -> u32 {
        (self.seconds.get().div_euclid(60) as u32) & MINUTES_MASK
    }

    fn counted(&self, counter: u8) -> u32 {
        self.minutes() << COUNTER_BITS | u32::from(counter)
    }

    /// The bits of a new key.
    #[inline]
    pub(super) fn fresh(&self) -> u32 {
        match self.tracking {
            Tracking::Recency => self.seconds.get() as u32 & ACCESS_MASK,
            Tracking::Frequency { .. } => self.counted(COUNTER_NEW),
        }
    }

    /// The bits after a use of the key of this hash that had these.
    #[inline]
    pub(super) fn used(&self, old: u32, hash: u64) -> u32 {
        match self.tracking {
            _ if self.is_held.get() => old,
            Tracking::Recency => self.seconds.get() as u32 & ACCESS_MASK,
            Tracking::Frequency { .. } if self.is_counted(hash) => old,
            Tracking::Frequency { log_factor, .. } => self.counted(self.grown(self.frequency(old), log_factor)),
        }
    }

    fn grown(&self, counter: u8, log_factor: u32) -> u8 {
        let above = f64::from(counter.saturating_sub(COUNTER_NEW));
        let chance = 1.0 / (above * f64::from(log_factor) + 1.0);
        let drawn = self.dice.borrow_mut().roll() as f64 / u64::MAX as f64;
        counter.saturating_add(u8::from(drawn < chance))
    }

    /// How long ago the use was that is noted in these bits, in seconds.
    pub(super) fn idle_seconds(&self, bits: u32) -> u64 {
        u64::from((self.seconds.get() as u32).wrapping_sub(bits) & ACCESS_MASK)
    }

    /// The counter in these bits, less what it has lost since.
    pub(super) fn frequency(&self, bits: u32) -> u8 {
        let decay_minutes = match self.tracking {
            Tracking::Frequency { decay_minutes, .. } => decay_minutes,
            Tracking::Recency => 0,
        };
        let elapsed = self.minutes().wrapping_sub(bits >> COUNTER_BITS) & MINUTES_MASK;
        let lost = elapsed.checked_div(decay_minutes).unwrap_or(0);
        (bits as u8).saturating_sub(u8::try_from(lost).unwrap_or(u8::MAX))
    }

    /// The bits of a key of which this is known; `None` if it is not what is noted now.
    pub(super) fn bits_of(&self, known: Use) -> Option<u32> {
        match (known, self.tracking) {
            (Use::IdleSeconds(idle), Tracking::Recency) => {
                // What cannot be told is the most that can.
                let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(ACCESS_MASK);
                Some((self.seconds.get() as u32).wrapping_sub(idle) & ACCESS_MASK)
            }
            (Use::Frequency(counter), Tracking::Frequency { .. }) => Some(self.counted(counter)),
            _ => None,
        }
    }

    /// What these bits say.
    pub fn use_of(&self, bits: u32) -> Use {
        match self.tracking {
            Tracking::Recency => Use::IdleSeconds(self.idle_seconds(bits)),
            Tracking::Frequency { .. } => Use::Frequency(self.frequency(bits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_survives_the_wrap_of_the_clock() {
        let clock = AccessClock::new(1);
        clock.set_now(((1 << ACCESS_BITS) - 5) * 1000);
        let bits = clock.fresh();
        clock.set_now(((1 << ACCESS_BITS) + 5) * 1000);
        assert_eq!(clock.idle_seconds(bits), 10);
        assert_eq!(clock.bits_of(Use::IdleSeconds(10)), Some(bits));
    }

    #[test]
    fn a_counter_grows_ever_more_slowly_and_shrinks_with_time() {
        let mut clock = AccessClock::new(1);
        clock.set_tracking(Tracking::Frequency { log_factor: 10, decay_minutes: 1 });
        let mut bits = clock.fresh();
        let mut after = |uses: usize| {
            for _ in 0..uses {
                clock.begin_command();
                bits = clock.used(bits, 1);
            }
            clock.frequency(bits)
        };
        let (hundred, thousand) = (after(100), after(900));
        assert!((8..14).contains(&hundred), "{hundred}");
        assert!((14..26).contains(&thousand), "{thousand}");
        clock.set_now(3 * 60_000);
        assert_eq!(clock.frequency(bits), thousand - 3);
    }
}
