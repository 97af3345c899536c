//! Numbers on their way to replicas. Redis reads hexadecimal scores, as C's `strtod` does; Valkey since 9.0 does not, and
//! as a replica would leave out the whole command: so they travel in decimal.

use std::borrow::Cow;

use crate::command::{Args, Effect, WriteContext};
use crate::number::{DoubleText, parse_f64};
use crate::resp::append_request;

/// The effect of a request whose arguments may be numbers, or `(` and a number, where `is_number` says so.
#[inline]
pub(super) fn in_decimal(
    context: &mut WriteContext,
    args: Args,
    effect: Effect,
    is_number: impl Fn(usize) -> bool,
) -> Effect {
    let is_odd = |index| is_number(index) && is_hexadecimal(args.get(index));
    if effect != Effect::Verbatim || !(1..args.len()).any(is_odd) {
        return effect;
    }
    let spelled = |index| if is_number(index) { decimal(args.get(index)) } else { args.get(index).into() };
    let arguments: Vec<Cow<[u8]>> = (0..args.len()).map(spelled).collect();
    append_request(context.effect, &arguments.iter().map(Cow::as_ref).collect::<Vec<_>>());
    Effect::Rewritten
}

fn is_hexadecimal(text: &[u8]) -> bool {
    let number = text.strip_prefix(b"(").unwrap_or(text);
    let unsigned = number.strip_prefix(b"-").or(number.strip_prefix(b"+")).unwrap_or(number);
    matches!(unsigned, [b'0', b'x' | b'X', ..])
}

/// The text itself, unless it is a hexadecimal number.
fn decimal(text: &[u8]) -> Cow<'_, [u8]> {
    let (open, number) = text.split_at(usize::from(text.starts_with(b"(")));
    match parse_f64(number).filter(|_| is_hexadecimal(text)) {
        Some(value) => [open, DoubleText::new(value).as_bytes()].concat().into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hexadecimal_numbers_are_spelled_anew() {
        let spelled = |text: &'static str| String::from_utf8(decimal(text.as_bytes()).into_owned()).expect("digits");
        for (text, expected) in [("0x10", "16"), ("-0X1p-1", "-0.5"), ("(0x1.8", "(1.5"), ("+0xff", "255")] {
            assert_eq!(spelled(text), expected);
        }
        for text in ["16", "0", "(5", "-inf", "+inf", "1e3", "0x", "0xg", "x", "(", ""] {
            assert_eq!(spelled(text), text);
        }
    }
}
