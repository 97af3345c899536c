//! Redis's glob patterns, as in `KEYS`, `SCAN … MATCH`, `PSUBSCRIBE` and `CONFIG GET`
//! (<https://redis.io/docs/latest/commands/keys/>):
//!
//! ```text
//! h?llo     one byte            h[ae]llo  one of a set      h[a-e]llo  one of a range
//! h*llo     any bytes           h[^e]llo  none of a set     \*         the byte itself
//! ```
//!
//! Patterns and texts are bytes. Like Redis: a set that is never closed ends with the pattern, a reversed range
//! is turned round, a backslash that ends the pattern stands for itself.
//!
//! Matching takes at most `pattern.len() × text.len()` steps and no stack: when a byte fails, only the last `*`
//! before it needs to take one more (a match through an earlier star would also be one through the last).

/// Whether ASCII letters match regardless of their case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Bytes match only themselves.
    Sensitive,
    /// `A` and `a` are the same.
    Ignored,
}

/// Whether the whole of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8], case: Case) -> bool {
    let (mut at, mut position) = (0, 0);
    // After the last star seen: where the pattern goes on, and up to where the star has eaten the text.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, position));
            continue;
        }
        let Some(&byte) = text.get(position) else {
            // More text only gets eaten by stars, and those have been skipped.
            return at == pattern.len();
        };
        match one(&pattern[at..], byte, case) {
            Some(length) => {
                at += length;
                position += 1;
            }
            None => {
                let Some((resume, eaten)) = star else { return false };
                star = Some((resume, eaten + 1));
                (at, position) = (resume, eaten + 1);
            }
        }
    }
}

/// The length of the pattern's first element if it matches `byte`.
fn one(pattern: &[u8], byte: u8, case: Case) -> Option<usize> {
    let same = |wanted: u8| wanted == byte || case == Case::Ignored && wanted.eq_ignore_ascii_case(&byte);
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ..] => set(pattern, byte, case),
        [b'\\', literal, ..] => same(*literal).then_some(2),
        [literal, ..] => same(*literal).then_some(1),
    }
}

/// [`one`] for a pattern that begins with `[`.
fn set(pattern: &[u8], byte: u8, case: Case) -> Option<usize> {
    let fold = |byte: u8| if case == Case::Ignored { byte.to_ascii_lowercase() } else { byte };
    let negated = pattern.get(1) == Some(&b'^');
    let mut rest = &pattern[if negated { 2 } else { 1 }..];
    let mut found = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            // An escaped byte of a set means itself in its own case, whatever `case` says: so does Redis.
            [b'\\', literal, after @ ..] => {
                found |= *literal == byte;
                after
            }
            [first, b'-', last, after @ ..] => {
                let (low, high) = (fold(*first.min(last)), fold(*first.max(last)));
                found |= (low..=high).contains(&fold(byte));
                after
            }
            [literal, after @ ..] => {
                found |= fold(*literal) == fold(byte);
                after
            }
        };
    }
    (found != negated).then_some(pattern.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sensitive(pattern: &str, text: &str) -> bool {
        matches(pattern.as_bytes(), text.as_bytes(), Case::Sensitive)
    }

    #[test]
    fn the_documented_patterns_match_what_is_documented() {
        for (pattern, yes, no) in [
            ("h?llo", &["hello", "hallo", "hxllo"][..], &["hllo", "heello"][..]),
            ("h*llo", &["hllo", "heeeello"], &["hell", "ahllo"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo", "hllo"]),
            ("h[^e]llo", &["hallo", "hbllo"], &["hello", "hllo"]),
            ("h[a-b]llo", &["hallo", "hbllo"], &["hcllo"]),
            ("h[b-a]llo", &["hallo", "hbllo"], &["hcllo"]),
            ("\\*[\\]-]\\", &["*]\\", "*-\\"], &["a]\\", "*]"]),
            ("a[bc", &["ab", "ac"], &["a", "ad", "abc"]),
            ("*", &["", "x"], &[]),
            ("", &[""], &["x"]),
            ("**a**", &["a", "bab"], &["", "b"]),
            ("[]a]", &[], &["]a]", "a"]),
            ("[^]*", &["a", "ab"], &[""]),
        ] {
            assert!(yes.iter().all(|text| sensitive(pattern, text)), "{pattern} matches all of {yes:?}");
            assert!(!no.iter().any(|text| sensitive(pattern, text)), "{pattern} matches none of {no:?}");
        }
    }

    #[test]
    fn case_is_ignored_only_when_asked() {
        for (pattern, text) in [("ABc", "abC"), ("[A]", "a"), ("[a-c]", "B"), ("\\A", "a")] {
            assert!(!sensitive(pattern, text));
            assert!(matches(pattern.as_bytes(), text.as_bytes(), Case::Ignored), "{pattern}");
        }
        assert!(!matches(b"[\\A]", b"a", Case::Ignored));
    }

    #[test]
    fn many_stars_take_no_more_than_the_product_of_the_lengths() {
        let pattern = "a*".repeat(1_000) + "b";
        let started = std::time::Instant::now();
        assert!(!sensitive(&pattern, &"a".repeat(4_000)));
        assert!(started.elapsed().as_secs() < 10);
    }

    /// The definition, one case per line: exponential, and obviously right.
    fn reference(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|eaten| reference(rest, &text[eaten..])),
            ([b'?', rest @ ..], [_, text @ ..]) => reference(rest, text),
            ([b'[', b'^', one, b']', rest @ ..], [byte, text @ ..]) => one != byte && reference(rest, text),
            ([b'[', low, b'-', high, b']', rest @ ..], [byte, text @ ..]) => {
                (low.min(high)..=low.max(high)).contains(&byte) && reference(rest, text)
            }
            ([b'\\', one, rest @ ..] | [one, rest @ ..], [byte, text @ ..]) => one == byte && reference(rest, text),
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(
            pattern in prop::collection::vec(prop::sample::select(vec!["*", "*", "?", "a", "b", "[^a]", "[a-b]", "[c-b]", "\\*", "\\a"]), 0..9),
            text in "[abc*]{0,10}",
        ) {
            let pattern = pattern.concat();
            prop_assert_eq!(sensitive(&pattern, &text), reference(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_bytes_are_a_pattern(pattern in prop::collection::vec(any::<u8>(), 0..20), text in prop::collection::vec(any::<u8>(), 0..20)) {
            matches(&pattern, &text, Case::Ignored);
            let escaped: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
            prop_assert!(matches(&escaped, &text, Case::Sensitive));
        }
    }
}
