//! What is told at the end.
use crate::load::Seen;
use crate::outage::{Failure, Outage, Verdict, judge};
use crate::storm::Done;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Failures that no outage explains, and how many each outage explains.
pub(crate) struct Judged<'a> {
    pub(crate) unexplained: Vec<&'a Failure>,
    in_flight: usize,
    away: usize,
    /// By what clients saw.
    causes: BTreeMap<String, usize>,
}

/// Numbers in a cause differ from request to request; what it is does not.
fn kind(cause: &str) -> String {
    let text: String = cause.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(100).collect();
    // The status is worth telling.
    match cause.split_once(':') {
        Some((status, _)) if status.len() == 3 && status.parse::<u16>().is_ok() => {
            format!("{status}{}", text.trim_start_matches('#'))
        }
        _ => text,
    }
}

pub(crate) fn judge_all<'a>(failures: &'a [Failure], outages: &[Outage], heard: Duration) -> Judged<'a> {
    let mut judged = Judged { unexplained: Vec::new(), in_flight: 0, away: 0, causes: BTreeMap::new() };
    for failure in failures {
        match judge(failure, outages, heard) {
            Verdict::InFlight(_) => judged.in_flight += 1,
            Verdict::Away(_) => judged.away += 1,
            Verdict::Unexplained => judged.unexplained.push(failure),
        }
        *judged.causes.entry(format!("{}: {}", failure.via, kind(&failure.cause))).or_default() += 1;
    }
    judged
}

/// A failure with its moment and what was near it.
pub(crate) fn tell(failure: &Failure, outages: &[Outage], begun: Instant) -> String {
    let at = |moment: Instant| moment.saturating_duration_since(begun).as_secs_f64();
    let near: String = [true, false]
        .iter()
        .filter_map(|runtime| {
            outages.iter().rfind(|o| o.killed.runtime() == *runtime && o.began <= failure.ended)
        })
        .map(|o| {
            let ended = o.ended.map_or_else(|| "lasts".to_owned(), |e| format!("over at {:.3} s", at(e)));
            format!("; {:?} killed at {:.3} s, {ended}", o.killed, at(o.began))
        })
        .collect();
    format!(
        "request to {} by {} from {:.3} s to {:.3} s: {}{near}",
        failure.function,
        failure.via,
        at(failure.began),
        at(failure.ended),
        failure.cause
    )
}

fn seconds(durations: impl Iterator<Item = Duration>) -> String {
    let mut all: Vec<f64> = durations.map(|d| d.as_secs_f64()).collect();
    all.sort_by(f64::total_cmp);
    match (all.first(), all.get(all.len() / 2), all.last()) {
        (Some(least), Some(middle), Some(most)) => format!("{least:.2} / {middle:.2} / {most:.2} s"),
        _ => "-".to_owned(),
    }
}

pub(crate) fn print(done: &Done, seen: &Seen, judged: &Judged<'_>, curve: &[(Duration, u64)]) {
    println!("\nrequests");
    for (way, latencies) in &*seen.latencies.borrow() {
        let [p50, p99, p999, max] = latencies.percentiles_ms([50.0, 99.0, 99.9, 100.0]);
        println!(
            "  {:>9} answered by {way:8} p50 {p50:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms, longest {max:.0} ms",
            latencies.len()
        );
    }
    println!("  {:>9} failed", seen.failed.get());
    println!("  {:>9}   in flight when the runtime was killed", judged.in_flight);
    println!("  {:>9}   while its pods were away", judged.away);
    println!("  {:>9}   without an explanation", judged.unexplained.len());
    for (cause, count) in &judged.causes {
        println!("  {count:>9}     {cause}");
    }
    let hostile: Vec<String> =
        seen.hostile.borrow().iter().map(|(status, n)| format!("{n} × {status}")).collect();
    println!("  hostile functions answered: {} (0: the connection ended)", hostile.join(", "));
    println!("changes");
    println!(
        "  {} deploys, {} rollbacks, {} splits, {} scalings, {} replaced, {} hostile guests replaced",
        done.deploys.get(),
        done.rollbacks.get(),
        done.splits.get(),
        done.scalings.get(),
        done.replacements.get(),
        done.hostile_replacements.get()
    );
    println!("kills");
    let recoveries = done.recoveries.borrow();
    println!(
        "  {} of the runtime; up to {} pods Ready again after (least / median / most) {}",
        recoveries.len(),
        recoveries.iter().map(|r| r.0).max().unwrap_or(0),
        seconds(recoveries.iter().map(|r| r.1))
    );
    println!(
        "  and in their Services' endpoints after {}",
        seconds(done.endpoints_back.borrow().iter().copied())
    );
    let kubelet = done.kubelet_back.borrow();
    println!(
        "  {} of the kubelet; it answered again after {}",
        kubelet.len(),
        seconds(kubelet.iter().copied())
    );
    println!("memory of all processes");
    let points: Vec<String> = curve
        .iter()
        .map(|(at, bytes)| format!("{}s {:.0}", at.as_secs(), *bytes as f64 / f64::from(1 << 20)))
        .collect();
    println!("  MiB: {}", points.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_counted_by_what_they_are() {
        assert_eq!(kind("503: pod 127.0.0.1:80 is away"), "503: pod ###.#.#.#:## is away");
        assert_eq!(kind("connecting: os error 111"), "connecting: os error ###");
    }
}
