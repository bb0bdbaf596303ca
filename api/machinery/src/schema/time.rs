//! Times in objects: the form that Go's `time.RFC3339` layout takes, and its words when it does not.
use jiff::Timestamp;

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";

/// Reads an RFC 3339 time. The error is Go's, for example
/// `parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"`.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    let refuse = |at: usize, element: &str| {
        let rest = text.get(at..).unwrap_or_default();
        Err(format!("parsing time {text:?} as {LAYOUT:?}: cannot parse {rest:?} as {element:?}"))
    };
    // The layout's elements: digits (how many, name, largest value) and the separators between them.
    const PARTS: [(usize, &str, &str, u32); 6] = [
        (4, "2006", "year", 9999),
        (2, "01", "month", 12),
        (2, "02", "day", 31),
        (2, "15", "hour", 23),
        (2, "04", "minute", 59),
        (2, "05", "second", 59),
    ];
    const SEPARATORS: [&str; 5] = ["-", "-", "T", ":", ":"];
    let bytes = text.as_bytes();
    let mut at = 0;
    for (i, (digits, element, name, most)) in PARTS.into_iter().enumerate() {
        let Some(part) = bytes.get(at..at + digits).filter(|p| p.iter().all(u8::is_ascii_digit)) else {
            return refuse(at, element);
        };
        let number = part.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0'));
        if number > most || (matches!(name, "month" | "day") && number == 0) {
            return Err(format!("parsing time {text:?}: {name} out of range"));
        }
        at += digits;
        if let Some(separator) = SEPARATORS.get(i) {
            if bytes.get(at) != separator.as_bytes().first() {
                return refuse(at, separator);
            }
            at += 1;
        }
    }
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return refuse(at, "Z07:00");
        }
        at += 1 + digits;
    }
    let zone = &bytes[at..];
    let zone_is_valid = zone == b"Z"
        || matches!(zone, [b'+' | b'-', h1, h2, b':', m1, m2]
            if [h1, h2, m1, m2].iter().all(|d| d.is_ascii_digit()));
    if !zone_is_valid {
        return refuse(at, "Z07:00");
    }
    // Go takes any number of digits after the point and keeps nine.
    const NANOSECONDS_END: usize = "2006-01-02T15:04:05.000000000".len();
    let zone_start = text.len() - zone.len();
    let kept = if zone_start > NANOSECONDS_END {
        format!("{}{}", &text[..NANOSECONDS_END], &text[zone_start..])
    } else {
        text.to_owned()
    };
    // What is left to go wrong is the calendar (30 February) and the zone's size.
    kept.parse().map_err(|_| format!("parsing time {text:?}: day out of range"))
}
