//! Cron schedules: what they mean and when they come next, as Kubernetes' CronJob reads them (robfig/cron, standard
//! form).
//!
//! ```text
//!   minute hour day-of-month month day-of-week      * , - / and names; @hourly @daily @weekly @monthly @yearly
//! ```
//! Around changes of the clock it does as upstream: a time that the clock leaps over does not come, one that it
//! shows twice comes twice.
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Longest schedule that is read: every value of every field spelled out stays below it.
const MAX_LEN: usize = 1024;
/// How far ahead the next time is looked for: a 29th of February is at most eight years away (1896 to 1904).
const HORIZON: SignedDuration = SignedDuration::from_hours(24 * 366 * 8);

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One of the five fields: which values it takes.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    /// Words for the values from `min` on.
    words: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", min: 0, max: 59, words: &[] };
const HOUR: Field = Field { name: "hour", min: 0, max: 23, words: &[] };
const DAY_OF_MONTH: Field = Field { name: "day of the month", min: 1, max: 31, words: &[] };
const MONTH: Field = Field { name: "month", min: 1, max: 12, words: MONTHS };
/// 7 is Sunday as well, as crontab(5) has it.
const DAY_OF_WEEK: Field = Field { name: "day of the week", min: 0, max: 7, words: DAYS };

/// A schedule that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    // Bit N is set if value N matches.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the field said `*`: if neither day field did, a day matches that matches either.
    any_day: bool,
    any_weekday: bool,
}

impl Schedule {
    /// Reads a schedule. The error says in one sentence what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LEN {
            return Err(format!("must be no more than {MAX_LEN} bytes"));
        }
        if text.contains("TZ=") {
            return Err("must not name a time zone; use the field timeZone".to_owned());
        }
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text if text.starts_with('@') => {
                return Err(
                    "must be five fields, or one of @yearly, @monthly, @weekly, @daily, @hourly".to_owned()
                );
            }
            text => text,
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = words[..] else {
            return Err(format!(
                "must have five fields (minute, hour, day of the month, month, day of the week), has {}",
                words.len()
            ));
        };
        let mut weekdays = bits(&DAY_OF_WEEK, weekday)?;
        if weekdays & (1 << 7) != 0 {
            weekdays = (weekdays & !(1 << 7)) | 1;
        }
        let schedule = Self {
            minutes: bits(&MINUTE, minute)?,
            hours: bits(&HOUR, hour)?,
            days: bits(&DAY_OF_MONTH, day)?,
            months: bits(&MONTH, month)?,
            weekdays,
            any_day: is_any(day),
            any_weekday: is_any(weekday),
        };
        if !schedule.comes() {
            return Err("names a day that no month has".to_owned());
        }
        Ok(schedule)
    }

    /// Whether there is a day it matches.
    fn comes(&self) -> bool {
        const LENGTHS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let by_day = (1..=12u32)
            .zip(LENGTHS)
            .any(|(month, length)| has(self.months, month) && (1..=length).any(|day| has(self.days, day)));
        by_day || !self.any_weekday
    }

    /// The first time after `after` that it matches in the time zone. `None` if there is none within eight years.
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let end = after.checked_add(HORIZON).ok()?;
        let mut t = Timestamp::from_second(after.as_second().div_euclid(60) * 60 + 60).ok()?;
        // Every round goes on to the next month, day, hour or minute: a few hundred rounds at most.
        while t <= end {
            let local = zone.to_datetime(t);
            let next = if !has(self.months, number(local.month())) {
                zone.to_timestamp(beginning(local.date().first_of_month().checked_add(1.month()).ok()?))
                    .ok()?
            } else if !self.matches_day(local.date()) {
                zone.to_timestamp(beginning(local.date().tomorrow().ok()?)).ok()?
            } else if !has(self.hours, number(local.hour())) {
                t.checked_add(SignedDuration::from_mins(60 - i64::from(local.minute()))).ok()?
            } else if !has(self.minutes, number(local.minute())) {
                t.checked_add(SignedDuration::from_mins(1)).ok()?
            } else {
                return Some(t);
            };
            // A clock that was put back never sends the search back.
            t = next.max(t.checked_add(SignedDuration::from_mins(1)).ok()?);
        }
        None
    }

    fn matches_day(&self, date: Date) -> bool {
        let day = has(self.days, number(date.day()));
        let weekday = has(self.weekdays, number(date.weekday().to_sunday_zero_offset()));
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }
}

/// The time zone of a name in the database this program carries, without a look at the machine's. Empty is UTC.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    if name.eq_ignore_ascii_case("local") {
        return Err("must name a time zone, such as Europe/Berlin; the machine's own is no name".to_owned());
    }
    TimeZoneDatabase::bundled()
        .get(name)
        .map_err(|_| "is not in the time zone database; a name is, for example, Europe/Berlin".to_owned())
}

fn beginning(date: Date) -> DateTime {
    date.to_datetime(Time::midnight())
}

fn number(n: i8) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

fn has(bits: u64, n: u32) -> bool {
    bits & (1 << n) != 0
}

/// `*` or `?`, also with a step: upstream's rule for which of the day fields count.
fn is_any(field: &str) -> bool {
    field.split(',').any(|part| part.starts_with(['*', '?']))
}

/// The values a field's text matches.
fn bits(field: &Field, text: &str) -> Result<u64, String> {
    let mut all = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step: u32 = step
                    .parse()
                    .ok()
                    .filter(|n| (1..=field.max).contains(n))
                    .ok_or_else(|| fault(field, part, "the step must be a number above 0"))?;
                (range, Some(step))
            }
            None => (part, None),
        };
        let (first, last) = match range {
            "*" | "?" => (field.min, if field.max == 7 { 6 } else { field.max }),
            range => match range.split_once('-') {
                Some((first, last)) => (value(field, part, first)?, value(field, part, last)?),
                None => {
                    let first = value(field, part, range)?;
                    (first, if step.is_some() { field.max } else { first })
                }
            },
        };
        if first > last {
            return Err(fault(field, part, "the range ends before it begins"));
        }
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1);
        for n in (first..=last).step_by(step) {
            all |= 1 << n;
        }
    }
    Ok(all)
}

fn value(field: &Field, part: &str, text: &str) -> Result<u32, String> {
    let word = field.words.iter().position(|w| w.eq_ignore_ascii_case(text));
    let n = match word {
        Some(at) => u32::try_from(at).unwrap_or(0) + field.min,
        None if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().unwrap_or(u32::MAX)
        }
        None => return Err(fault(field, part, "this is no value")),
    };
    if n < field.min || n > field.max {
        return Err(fault(field, part, &format!("values go from {} to {}", field.min, field.max)));
    }
    Ok(n)
}

fn fault(field: &Field, part: &str, why: &str) -> String {
    format!("{} {part:?}: {why}", field.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, zone: &str, after: &str) -> String {
        let zone = time_zone(zone).unwrap();
        let after: Timestamp = after.parse().unwrap();
        let found = Schedule::parse(schedule).unwrap().next_after(after, &zone);
        found.map_or_else(|| "never".to_owned(), |t| t.to_string())
    }

    #[test]
    fn the_next_time_is_the_first_that_matches_every_field() {
        for (schedule, want) in [
            ("* * * * *", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z"),
            ("5/20 * * * *", "2026-01-01T00:05:00Z"),
            ("30 4 * * *", "2026-01-01T04:30:00Z"),
            ("0 0 1 * *", "2026-02-01T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("0 12 * jun-aug mon", "2026-06-01T12:00:00Z"),
            ("0 12 * * 7", "2026-01-04T12:00:00Z"),
            ("0 0 13 * fri", "2026-01-02T00:00:00Z"),
            ("0 0 */2 * fri", "2026-01-09T00:00:00Z"),
            ("1,2,58-59 23 31 12 ?", "2026-12-31T23:01:00Z"),
            ("@hourly", "2026-01-01T01:00:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z"),
        ] {
            assert_eq!(next(schedule, "", "2026-01-01T00:00:30Z"), want, "{schedule}");
        }
        assert_eq!(next("0 0 1 1 *", "", "2026-01-01T00:00:00Z"), "2027-01-01T00:00:00Z", "after, not at");
    }

    #[test]
    fn a_time_zone_moves_the_times_and_its_clock_changes_do_as_upstream() {
        let (berlin, new_york) = ("Europe/Berlin", "America/New_York");
        assert_eq!(next("0 9 * * *", berlin, "2026-01-01T00:00:00Z"), "2026-01-01T08:00:00Z");
        assert_eq!(next("0 9 * * *", berlin, "2026-07-01T00:00:00Z"), "2026-07-01T07:00:00Z");
        // The clock leaps from 2 to 3: that day has no 2:30.
        assert_eq!(next("30 2 * * *", berlin, "2026-03-28T12:00:00Z"), "2026-03-30T00:30:00Z");
        // And shows 1:30 twice.
        let first = next("30 1 * * *", new_york, "2026-11-01T04:00:00Z");
        assert_eq!(first, "2026-11-01T05:30:00Z");
        assert_eq!(next("30 1 * * *", new_york, &first), "2026-11-01T06:30:00Z");
        // Half an hour beside the others.
        assert_eq!(next("0 6 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z"), "2026-01-01T00:30:00Z");
        // Midnight does not exist on this day.
        assert_eq!(next("0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z"), "2026-09-07T03:00:00Z");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_reason() {
        for (schedule, part) in [
            ("", "has 0"),
            ("* * * *", "has 4"),
            ("* * * * * *", "has 6"),
            ("60 * * * *", "minute \"60\": values go from 0 to 59"),
            ("* 5-3 * * *", "the range ends before it begins"),
            ("*/0 * * * *", "the step"),
            ("* * * foo *", "month \"foo\": this is no value"),
            ("* * 0 * *", "day of the month"),
            ("-1 * * * *", "minute"),
            ("99999999999999999999 * * * *", "minute"),
            ("0 0 30 2 *", "no month has"),
            ("@every 1h", "five fields"),
            ("@reboot", "five fields"),
            ("TZ=UTC 0 0 * * *", "timeZone"),
            (",,, * * * *", "this is no value"),
        ] {
            let error = Schedule::parse(schedule).unwrap_err();
            assert!(error.contains(part), "{schedule}: {error}");
        }
        assert!(Schedule::parse(&"*".repeat(5000)).is_err());
        assert!(time_zone("Mars/Olympus").is_err());
        assert!(time_zone("../../etc/passwd").is_err());
        assert!(time_zone("Local").is_err());
    }
}
