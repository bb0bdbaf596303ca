//! Which revision is sent what: the decision. Pure.
//!
//! Invariant: traffic moves only to revisions that are up. If not all that are wanted are, it stays where it is, as
//! far as that is still up.
use client::dhow::v1alpha1::{LATEST, TrafficStatus, TrafficTarget};
use std::collections::BTreeSet;

/// One revision that could be sent something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    /// N of its name.
    pub(super) number: u64,
    /// All its pods are ready and its Service leads to them: it may be given traffic.
    pub(super) may_enter: bool,
    /// A pod of it is there: it may keep what it has.
    pub(super) may_stay: bool,
}

/// Where traffic goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// What is served from now on.
    pub(super) traffic: Vec<TrafficStatus>,
    /// What is wanted, with `latest` in names.
    pub(super) wanted: Vec<TrafficStatus>,
    /// Wanted revisions that are not there.
    pub(super) missing: Vec<String>,
    /// Wanted revisions that cannot be sent anything yet.
    pub(super) waiting_for: Vec<String>,
    /// Whether the newest revision gets traffic as soon as it is ready.
    pub(super) follows_latest: bool,
}

impl Decision {
    /// Whether the revision has traffic now.
    pub(super) fn sends_to(&self, revision: &str) -> bool {
        self.traffic.iter().any(|t| t.revision == revision)
    }

    /// Whether the revision is to have traffic.
    pub(super) fn wants(&self, revision: &str) -> bool {
        self.wanted.iter().any(|t| t.revision == revision)
    }

    /// The revision with the largest share; of equal ones the first.
    pub(super) fn primary(&self) -> Option<&str> {
        let all = self.traffic.iter().filter(|t| t.headers.is_empty());
        let best = all.reduce(|best, t| if t.percent > best.percent { t } else { best })?;
        Some(&best.revision)
    }
}

/// Decides. `candidates` are in the order of their numbers, `latest_ready` the newest one that was ever ready, `now`
/// what is served so far.
pub(super) fn compute_traffic(
    targets: &[TrafficTarget],
    candidates: &[Candidate],
    latest_ready: Option<&str>,
    now: &[TrafficStatus],
) -> Decision {
    let find = |name: &str| candidates.iter().find(|c| c.name == name);
    let everything =
        [TrafficTarget { revision: LATEST.into(), percent: Some(100), ..TrafficTarget::default() }];
    let targets = if targets.is_empty() { &everything[..] } else { targets };
    let latest = latest(candidates, latest_ready);
    let follows_latest = targets.iter().any(|t| t.revision == LATEST);

    let mut wanted: Vec<TrafficStatus> = Vec::new();
    let mut missing = BTreeSet::new();
    for target in targets {
        let name = if target.revision == LATEST { latest } else { Some(target.revision.as_str()) };
        let Some(name) = name else { continue };
        if find(name).is_none() {
            missing.insert(name.to_owned());
        }
        let share = TrafficStatus {
            revision: name.to_owned(),
            percent: target.percent.unwrap_or(0),
            headers: target.headers.clone(),
            service: name.to_owned(),
        };
        // `latest` may mean a revision that is named as well: they share one entry.
        match wanted.iter_mut().find(|w| w.revision == share.revision && w.headers == share.headers) {
            Some(same) => same.percent += share.percent,
            None => wanted.push(share),
        }
    }
    // Somebody may want to send nothing to a revision: it needs no pods for that.
    wanted.retain(|w| w.percent > 0 || !w.headers.is_empty());

    let had = |name: &str| now.iter().any(|t| t.revision == name);
    let is_up = |name: &str| find(name).is_some_and(|c| c.may_enter || (had(name) && c.may_stay));
    let waiting_for: BTreeSet<String> = wanted
        .iter()
        .map(|w| &w.revision)
        .filter(|name| !missing.contains(*name) && !is_up(name))
        .cloned()
        .collect();
    let traffic = if missing.is_empty() && waiting_for.is_empty() {
        wanted.clone()
    } else {
        let up =
            |all: &[TrafficStatus]| shared_out(all.iter().filter(|t| is_up(&t.revision)).cloned().collect());
        let kept = up(now);
        if kept.is_empty() { up(&wanted) } else { kept }
    };
    Decision {
        traffic,
        wanted,
        missing: missing.into_iter().collect(),
        waiting_for: waiting_for.into_iter().collect(),
        follows_latest,
    }
}

/// What `latest` means: the newest revision if it is up, else the newest that ever was.
fn latest<'a>(candidates: &'a [Candidate], latest_ready: Option<&'a str>) -> Option<&'a str> {
    let newest = candidates.iter().max_by_key(|c| c.number)?;
    if newest.may_enter {
        return Some(&newest.name);
    }
    let known = latest_ready.filter(|name| candidates.iter().any(|c| c.name == **name));
    Some(known.unwrap_or(&newest.name))
}

/// The shares made to sum to a hundred again, in proportion; nothing if no share is left.
fn shared_out(mut all: Vec<TrafficStatus>) -> Vec<TrafficStatus> {
    let sum: i32 = all.iter().map(|t| t.percent.max(0)).sum();
    if sum == 100 {
        return all;
    }
    if sum <= 0 {
        return Vec::new();
    }
    let mut given = 0;
    for t in all.iter_mut() {
        t.percent = t.percent.max(0) * 100 / sum;
        given += t.percent;
    }
    // What rounding left goes to the largest.
    if let Some(largest) = all.iter_mut().filter(|t| t.headers.is_empty()).max_by_key(|t| t.percent) {
        largest.percent += 100 - given;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// `+`: up. `-`: not. `~`: some of its pods are.
    fn candidates(all: &[&str]) -> Vec<Candidate> {
        let one = |text: &&str| {
            let (number, state) = text.split_at(text.len() - 1);
            Candidate {
                name: format!("f-r{number}"),
                number: number.parse().unwrap(),
                may_enter: state == "+",
                may_stay: state != "-",
            }
        };
        all.iter().map(one).collect()
    }

    fn targets(all: &[(&str, i32)]) -> Vec<TrafficTarget> {
        all.iter()
            .map(|(r, percent)| TrafficTarget {
                revision: (*r).into(),
                percent: Some(*percent),
                ..TrafficTarget::default()
            })
            .collect()
    }

    fn served(all: &[(&str, i32)]) -> Vec<TrafficStatus> {
        all.iter()
            .map(|(r, percent)| TrafficStatus {
                revision: (*r).into(),
                percent: *percent,
                headers: BTreeMap::new(),
                service: (*r).into(),
            })
            .collect()
    }

    fn shown(d: &Decision) -> String {
        let one = |t: &TrafficStatus| {
            let headers: String = t.headers.keys().map(|k| format!("[{k}]")).collect();
            format!("{}{headers}={}", t.revision.trim_start_matches("f-"), t.percent)
        };
        d.traffic.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn traffic_follows_the_newest_revision_once_it_is_up() {
        for (there, latest_ready, now, want) in [
            (&["1-"][..], None, &[][..], ""),
            (&["1~"], None, &[], ""),
            (&["1+"], None, &[], "r1=100"),
            (&["1+", "2-"], Some("f-r1"), &[("f-r1", 100)], "r1=100"),
            (&["1+", "2~"], Some("f-r1"), &[("f-r1", 100)], "r1=100"),
            (&["1+", "2+"], Some("f-r1"), &[("f-r1", 100)], "r2=100"),
            // Its pods come and go: whoever has traffic keeps it while one of them is there.
            (&["1-", "2~"], Some("f-r2"), &[("f-r2", 100)], "r2=100"),
            (&["1-", "2-"], Some("f-r2"), &[("f-r2", 100)], ""),
            // The newest never came up and the one before is gone: the last that worked is wanted.
            (&["1+", "3-"], Some("f-r2"), &[("f-r1", 100)], "r1=100"),
        ] {
            let now = served(now);
            let d = compute_traffic(&[], &candidates(there), latest_ready, &now);
            assert_eq!(shown(&d), want, "{there:?}");
            assert!(d.follows_latest);
        }
        let d = compute_traffic(&[], &candidates(&["1+", "2-"]), Some("f-r1"), &served(&[("f-r1", 100)]));
        assert!(d.wants("f-r1") && !d.wants("f-r2"), "latest is the newest ready one");
        assert_eq!(
            compute_traffic(&[], &[], None, &[]),
            Decision { follows_latest: true, ..Decision::default() }
        );
    }

    #[test]
    fn a_split_moves_as_a_whole_and_only_when_all_are_up() {
        let split = targets(&[("f-r1", 90), ("f-r2", 10)]);
        let now = served(&[("f-r1", 100)]);
        let d = compute_traffic(&split, &candidates(&["1+", "2-"]), Some("f-r2"), &now);
        assert_eq!((shown(&d).as_str(), d.waiting_for.as_slice()), ("r1=100", &["f-r2".to_owned()][..]));
        assert!(!d.follows_latest);
        let d = compute_traffic(&split, &candidates(&["1+", "2+"]), Some("f-r2"), &now);
        assert_eq!(shown(&d), "r1=90 r2=10");
        assert_eq!(d.primary(), Some("f-r1"));
        // One of them fails later: the other takes all, and gives it back.
        let d = compute_traffic(&split, &candidates(&["1+", "2-"]), Some("f-r2"), &d.traffic);
        assert_eq!(shown(&d), "r1=100");
        let d = compute_traffic(&split, &candidates(&["1+", "2+"]), Some("f-r2"), &d.traffic);
        assert_eq!(shown(&d), "r1=90 r2=10");
    }

    #[test]
    fn going_back_waits_for_the_old_revision() {
        let back = targets(&[("f-r1", 100)]);
        let now = served(&[("f-r2", 100)]);
        let d = compute_traffic(&back, &candidates(&["1-", "2+"]), Some("f-r2"), &now);
        assert_eq!((shown(&d).as_str(), d.wants("f-r1")), ("r2=100", true));
        let d = compute_traffic(&back, &candidates(&["1+", "2+"]), Some("f-r2"), &now);
        assert_eq!(shown(&d), "r1=100");
    }

    #[test]
    fn a_revision_that_is_not_there_moves_nothing() {
        let d = compute_traffic(
            &targets(&[("f-r9", 100)]),
            &candidates(&["1+"]),
            Some("f-r1"),
            &served(&[("f-r1", 100)]),
        );
        assert_eq!((shown(&d).as_str(), d.missing.as_slice()), ("r1=100", &["f-r9".to_owned()][..]));
        // What was served and is gone is not served.
        let d = compute_traffic(
            &targets(&[("f-r9", 100)]),
            &candidates(&["1+"]),
            Some("f-r1"),
            &served(&[("f-r9", 100)]),
        );
        assert_eq!(shown(&d), "");
    }

    #[test]
    fn headers_stand_beside_the_shares_and_latest_joins_its_own_name() {
        let mut canary = targets(&[("f-r1", 100), ("f-r2", 0)]);
        canary[1].headers.insert("x-canary".into(), "1".into());
        canary[1].percent = None;
        let d = compute_traffic(&canary, &candidates(&["1+", "2+"]), Some("f-r2"), &[]);
        assert_eq!(shown(&d), "r1=100 r2[x-canary]=0");
        let d = compute_traffic(&canary, &candidates(&["1+", "2-"]), Some("f-r2"), &d.traffic);
        assert_eq!(shown(&d), "r1=100");
        let both = targets(&[("latest", 30), ("f-r2", 70)]);
        let d = compute_traffic(&both, &candidates(&["1+", "2+"]), Some("f-r2"), &[]);
        assert_eq!(shown(&d), "r2=100");
        let nothing = targets(&[("f-r1", 100), ("f-r2", 0)]);
        let d = compute_traffic(&nothing, &candidates(&["1+", "2-"]), Some("f-r2"), &[]);
        assert_eq!((shown(&d).as_str(), d.wants("f-r2")), ("r1=100", false));
    }

    #[test]
    fn what_is_left_is_shared_out_in_proportion() {
        let three = targets(&[("f-r1", 50), ("f-r2", 30), ("f-r3", 20)]);
        let now = served(&[("f-r1", 50), ("f-r2", 30), ("f-r3", 20)]);
        let d = compute_traffic(&three, &candidates(&["1-", "2+", "3+"]), Some("f-r3"), &now);
        assert_eq!(shown(&d), "r2=60 r3=40");
        let now = served(&[("f-r1", 1), ("f-r2", 33), ("f-r3", 66)]);
        let d = compute_traffic(&three, &candidates(&["1-", "2+", "3+"]), Some("f-r3"), &now);
        assert_eq!(shown(&d), "r2=33 r3=67");
    }
}
