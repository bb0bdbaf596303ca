//! Quantities: `100m`, `1.5Gi`, `2e3` (apimachinery `resource.Quantity`).
//!
//! ```text
//!   "1.5Gi" ──parse──► nano-units (exact), and how it was written ──canonical──► "1536Mi"
//! ```
use std::fmt;

/// Why a quantity could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// A quantity as a number of nano-units, exact within ±9.2e18 units of 1e-9; larger values are capped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Quantity(pub i128);

/// How a quantity was written, and so how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `1500m`, `3k`
    Decimal,
    /// `2e3`
    Exponent,
    /// `512Mi`
    Binary,
}

const NANO: i128 = 1_000_000_000;
/// The largest magnitude, in nano-units: Go caps at the largest int64.
const MAX: i128 = i64::MAX as i128 * NANO;

/// The decimal suffixes with their powers of ten.
const DECIMAL: [(&str, i64); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
/// The binary suffixes; the index is the power of 1024.
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// What a quantity's text consists of.
struct Parts<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let (integer, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if integer.is_empty() && fraction.is_empty() {
        return Err(ParseError::Form);
    }
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let exponent = suffix[letters..].strip_prefix(['-', '+']).unwrap_or(&suffix[letters..]);
    if digits(exponent) != exponent.len() {
        return Err(ParseError::Form);
    }
    Ok(Parts { negative, integer: integer.trim_start_matches('0'), fraction, suffix })
}

/// `digits` with the decimal point after the first `point` of them, in nano-units, rounded up.
fn decimal(digits: &str, point: i64) -> i128 {
    let significant = digits.trim_start_matches('0');
    let point = point - (digits.len() - significant.len()) as i64;
    if significant.is_empty() {
        return 0;
    }
    // 19 digits before the point are over 2^63 or near it; the exact comparison comes after.
    if point > 20 {
        return MAX;
    }
    // How many digits count: those down to the ninth after the point.
    let kept = point + 9;
    if kept <= 0 {
        return 1;
    }
    let kept = kept as usize;
    let mut n: i128 = 0;
    for i in 0..kept {
        n = n * 10 + significant.as_bytes().get(i).map_or(0, |b| i128::from(b - b'0'));
    }
    let rest = significant.as_bytes().get(kept..).unwrap_or(&[]);
    (n + i128::from(rest.iter().any(|b| *b != b'0'))).min(MAX)
}

/// The same for a binary suffix, 1024 to the power of `power`.
fn binary(integer: &str, fraction: &str, power: u32) -> i128 {
    let shift = 10 * power;
    let Some(whole) = integer
        .bytes()
        .try_fold(0_i128, |n, b| (n <= i128::from(i64::MAX)).then(|| n * 10 + i128::from(b - b'0')))
    else {
        return MAX;
    };
    if whole > i128::from(i64::MAX) >> shift {
        return MAX;
    }
    // 18 digits of the fraction: times 2^60 they still fit.
    let digits = &fraction[..fraction.len().min(18)];
    let scale = 10_i128.pow(digits.len() as u32);
    let scaled = digits.bytes().fold(0_i128, |n, b| n * 10 + i128::from(b - b'0')) << shift;
    let (units, rest) = (scaled / scale, scaled % scale);
    let nanos = rest * NANO;
    let inexact = nanos % scale != 0 || fraction[digits.len()..].bytes().any(|b| b != b'0');
    (((whole << shift) + units) * NANO + nanos / scale + i128::from(inexact)).min(MAX)
}

fn read(text: &str) -> Result<(Quantity, Format), ParseError> {
    let p = split(text)?;
    let digits = || format!("{}{}", p.integer, p.fraction);
    let (magnitude, format) = if let Some((_, e)) = DECIMAL.iter().find(|(s, _)| *s == p.suffix) {
        (decimal(&digits(), p.integer.len() as i64 + e), Format::Decimal)
    } else if let Some(power) = BINARY.iter().position(|s| *s == p.suffix) {
        (binary(p.integer, p.fraction, power as u32), Format::Binary)
    } else {
        let exponent = p.suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
        let e: i32 = exponent.parse().map_err(|_| ParseError::Suffix)?;
        (decimal(&digits(), p.integer.len() as i64 + i64::from(e)), Format::Exponent)
    };
    // Less than one of something binary is a decimal fraction.
    let format =
        if format == Format::Binary && magnitude > 0 && magnitude < NANO { Format::Decimal } else { format };
    Ok((Quantity(if p.negative { -magnitude } else { magnitude }), format))
}

impl Quantity {
    pub const ZERO: Self = Self(0);

    pub fn parse(text: &str) -> Result<Self, ParseError> {
        read(text).map(|(q, _)| q)
    }
    /// So many whole units.
    pub const fn from_units(units: i64) -> Self {
        Self(units as i128 * NANO)
    }
    /// So many thousandths.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis as i128 * (NANO / 1000))
    }
    /// In whole units, rounded up (`Quantity.Value()`): bytes of memory, cores.
    pub fn value(self) -> i64 {
        self.in_units_of(NANO)
    }
    /// In thousandths, rounded up (`Quantity.MilliValue()`): millicores.
    pub fn milli_value(self) -> i64 {
        self.in_units_of(NANO / 1000)
    }
    /// Rounded away from zero, and to what an i64 holds.
    fn in_units_of(self, unit: i128) -> i64 {
        let away = (self.0.abs() + unit - 1) / unit * self.0.signum();
        away.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }
    /// The canonical form of a quantity's text (`1000m` → `1`, `1024Mi` → `1Gi`): what Go's encoder prints.
    pub fn canonical(text: &str) -> Result<String, ParseError> {
        read(text).map(|(q, format)| q.print(format))
    }
    /// As bytes are printed: `1Gi`, `1536Mi`, `500`.
    pub fn to_binary_string(self) -> String {
        self.print(Format::Binary)
    }

    fn print(self, format: Format) -> String {
        if self.0 == 0 {
            return "0".to_owned();
        }
        // Small or fractional amounts have no exact binary form.
        if format == Format::Binary && self.0.abs() >= 1024 * NANO && self.0 % NANO == 0 {
            let (mut units, mut power) = (self.0 / NANO, 0);
            while units % 1024 == 0 && power + 1 < BINARY.len() {
                units /= 1024;
                power += 1;
            }
            return format!("{units}{}", BINARY[power]);
        }
        let (mut mantissa, mut exponent) = (self.0, -9_i64);
        while mantissa % 1000 == 0 && exponent < 18 {
            mantissa /= 1000;
            exponent += 3;
        }
        let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("", |(s, _)| s);
        match (format, exponent) {
            (Format::Exponent, 0) => mantissa.to_string(),
            (Format::Exponent, e) => format!("{mantissa}e{e}"),
            _ => format!("{mantissa}{suffix}"),
        }
    }
}

/// The decimal form: `1500m`, `3k`.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print(Format::Decimal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_printed_as_go_prints_them() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.1", "100m"),
            (".5", "500m"),
            ("1.", "1"),
            ("+2", "2"),
            ("-1.5", "-1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1.1Ki", "1126400m"),
            ("100Ki", "100Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("1E3", "1e3"),
            ("1e-3", "1e-3"),
            ("1500e0", "1500"),
            ("1E", "1E"),
            ("12345678901234567890", "9223372036854775807"),
            ("20Ei", "9223372036854775807"),
            ("1e99", "9223372036854775807"),
            ("0.0000000001", "1n"),
            ("1e-99", "1e-9"),
        ] {
            let got = Quantity::canonical(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(got, canonical, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for (text, error) in [
            ("", ParseError::Form),
            ("Ki", ParseError::Form),
            (".", ParseError::Form),
            ("1.2.3", ParseError::Form),
            ("1 Gi", ParseError::Form),
            ("1é", ParseError::Form),
            ("1gi", ParseError::Form),
            ("1mm", ParseError::Suffix),
            ("1K", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1Ki3", ParseError::Suffix),
            ("--1", ParseError::Form),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn values_are_rounded_away_from_zero() {
        let q = |s| Quantity::parse(s).unwrap();
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1u").milli_value(), 1);
        assert_eq!(q("2").milli_value(), 2000);
        assert_eq!(q("1Ei").milli_value(), i64::MAX);
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1500m").to_string(), "1500m");
        assert_eq!(q("1024").to_binary_string(), "1Ki");
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_canonical_and_means_the_same(
            text in "[+-]?[0-9]{1,22}(\\.[0-9]{0,12})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[+-]?[0-9]{1,2}|)"
        ) {
            let once = Quantity::canonical(&text).unwrap();
            prop_assert_eq!(Quantity::parse(&once).unwrap(), Quantity::parse(&text).unwrap());
            prop_assert_eq!(Quantity::canonical(&once).unwrap(), once);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = Quantity::canonical(&text);
        }
    }
}
