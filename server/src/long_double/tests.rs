use super::*;
use proptest::prelude::*;

fn sum(one: &str, other: &str) -> Option<String> {
    LongDouble::parse(one.as_bytes())?.checked_add(LongDouble::parse(other.as_bytes())?).map(|sum| sum.to_string())
}

/// A number is printed as it is held.
fn shown(text: &str) -> Option<String> {
    LongDouble::parse(text.as_bytes()).map(|number| number.to_string())
}

#[test]
fn decimals_that_people_write_come_back_as_they_were() {
    for text in
        ["0", "1", "-1", "0.1", "10.1", "-3.14159", "1e3", "5000000000", "0.00000000000000001", "18446744073709551615"]
    {
        let wanted = if text == "1e3" { "1000" } else { text };
        assert_eq!(shown(text).as_deref(), Some(wanted));
    }
    assert_eq!(sum("10.50", "0.1").as_deref(), Some("10.6"));
    assert_eq!(sum("5.0e3", "2.0e2").as_deref(), Some("5200"));
    assert_eq!(sum("0.1", "0.2").as_deref(), Some("0.3"));
    assert_eq!(sum("3", "-3").as_deref(), Some("0"));
    assert_eq!(sum("-0", "-0").as_deref(), Some("0"));
    assert_eq!(shown("-0.000000000000000001").as_deref(), Some("0"));
}

#[test]
fn results_are_rounded_to_64_bits_and_ties_to_even() {
    // 2^64 + 1 lies between two representable numbers; so does 2^64 + 3.
    assert_eq!(shown("18446744073709551617").as_deref(), Some("18446744073709551616"));
    assert_eq!(shown("18446744073709551619").as_deref(), Some("18446744073709551620"));
    assert_eq!(sum("18446744073709551616", "1").as_deref(), Some("18446744073709551616"));
    assert_eq!(sum("18446744073709551616", "1.00000000000000000001").as_deref(), Some("18446744073709551616"));
    assert_eq!(sum("18446744073709551616", "1.0000001").as_deref(), Some("18446744073709551618"));
    assert_eq!(sum("18446744073709551616", "3").as_deref(), Some("18446744073709551620"));
    assert_eq!(sum("18446744073709551616", "-0.5").as_deref(), Some("18446744073709551616"));
    assert_eq!(sum("18446744073709551616", "-0.50001").as_deref(), Some("18446744073709551615"));
    // Far below the last bit, but on the other side of a tie.
    assert_eq!(sum("36893488147419103234", "-1e-4000").as_deref(), Some("36893488147419103232"));
    assert_eq!(LongDouble::from(i64::MIN).to_string(), i64::MIN.to_string());
    assert_eq!(LongDouble::from(0), LongDouble::parse(b"0").expect("zero"));
}

#[test]
fn the_format_ends_where_the_x87_ends() {
    let largest = "1.18973149535723176502e4932";
    assert!(shown(largest).is_some_and(|digits| digits.len() == 4933 && digits.starts_with("11897314953572317650212")));
    assert_eq!(sum(largest, largest), None);
    assert_eq!(shown("1.18973149535723176509e4932"), None);
    // The least number is about 3.6e-4951; half of it and less becomes zero, which is an error like the overflow.
    assert_eq!(shown("3.65e-4951").as_deref(), Some("0"));
    assert_eq!(LongDouble::parse(b"1.9e-4951"), LongDouble::parse(b"3.6451995318824746025e-4951"));
    assert_eq!(shown("1.8e-4951"), None);
    assert_eq!(shown("0e-99999999999999999999").as_deref(), Some("0"));
    assert_eq!(sum("inf", "1"), None);
    assert_eq!(sum("-Infinity", "inf"), None);
}

#[test]
fn texts_are_read_as_strtold_reads_them() {
    for (text, wanted) in [
        ("+.5", "0.5"),
        ("5.", "5"),
        ("0x1F", "31"),
        ("-0X1.8p+1", "-3"),
        ("0x.1P4", "1"),
        ("1E2", "100"),
        ("00012", "12"),
        ("0x1000000000000000100000000000000000000001", "91343852333181432397633822359050730927688777728"),
    ] {
        assert_eq!(shown(text).as_deref(), Some(wanted), "{text}");
    }
    for text in [
        "", "-", ".", "1e", "1e+", "0x", "0xg", " 1", "1 ", "1.2.3", "nan", "infin", "--1", "1e5x", "٣", "1\0", "e5",
        "0x1p",
    ] {
        assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text}");
    }
    assert!(LongDouble::parse(&[b'9'; 4_900]).is_some());
    assert!(LongDouble::parse(&[b'0'; 5_119]).is_some());
    assert!(LongDouble::parse(&[b'0'; 5_120]).is_none());
}

proptest! {
    #[test]
    fn integers_of_up_to_62_bits_are_added_exactly(one in -(1_i64 << 62)..1 << 62, other in -(1_i64 << 62)..1 << 62) {
        let sum = LongDouble::from(one).checked_add(LongDouble::from(other)).expect("finite");
        prop_assert_eq!(sum, LongDouble::from(one + other));
        prop_assert_eq!(sum.to_string(), (one + other).to_string());
    }

    #[test]
    fn a_number_and_its_printed_form_are_equal_when_17_decimals_suffice(mantissa: i64, decimals in 0_usize..4) {
        let digits = format!("{:05}", mantissa / 100_000);
        let text = format!("{}.{}", &digits[..digits.len() - decimals], &digits[digits.len() - decimals..]);
        let number = LongDouble::parse(text.as_bytes()).expect("a number");
        prop_assert_eq!(LongDouble::parse(number.to_string().as_bytes()), Some(number));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[-+0-9a-fA-FxXpPeE.]{0,40}") {
        if let Some(number) = LongDouble::parse(text.as_bytes()) {
            prop_assert_eq!(number.checked_add(number).is_some(), number.to_string() != "inf" && shown(&text).is_some());
        }
    }
}
