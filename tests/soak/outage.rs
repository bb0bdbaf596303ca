//! Which failed request is explained, and by what. Pure.
//!
//! The rule: a request to an innocent function may fail only if some of it lay between the death of the runtime and
//! the moment at which the pods that died with it were Ready again and the proxies could know. The death of the kubelet explains nothing.
use std::time::{Duration, Instant};

/// What was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Killed {
    Runtime,
    Kubelet,
    Both,
}

impl Killed {
    pub(crate) fn runtime(self) -> bool {
        self != Self::Kubelet
    }
}

/// From a kill until everything was as before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) killed: Killed,
    pub(crate) began: Instant,
    /// `None`: it lasts.
    pub(crate) ended: Option<Instant>,
}

/// A request that was not answered as it should.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) function: String,
    /// Which way it went.
    pub(crate) via: &'static str,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) cause: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was under way when this outage began.
    InFlight(usize),
    /// It came while the pods were away.
    Away(usize),
    Unexplained,
}

/// Looks for the outage that explains a failure. `heard`: from what endpoints say
/// until every proxy knows of it.
pub(crate) fn judge(failure: &Failure, outages: &[Outage], heard: Duration) -> Verdict {
    for (number, outage) in outages.iter().enumerate().filter(|(_, o)| o.killed.runtime()) {
        let over = outage.ended.is_some_and(|ended| failure.began > ended + heard);
        if failure.ended >= outage.began && !over {
            let in_flight = failure.began <= outage.began;
            return if in_flight { Verdict::InFlight(number) } else { Verdict::Away(number) };
        }
    }
    Verdict::Unexplained
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lay_in_an_outage_of_the_runtime_is_explained() {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let outage =
            |killed, began, ended: Option<u64>| Outage { killed, began: at(began), ended: ended.map(at) };
        let failure = |began, ended| Failure {
            function: "f".into(),
            via: "gateway",
            began: at(began),
            ended: at(ended),
            cause: "refused".into(),
        };
        let outages = [
            outage(Killed::Kubelet, 1000, Some(9000)),
            outage(Killed::Runtime, 10_000, Some(12_000)),
            outage(Killed::Both, 20_000, None),
        ];
        let judge = |began, ended| judge(&failure(began, ended), &outages, Duration::from_millis(500));
        assert_eq!(judge(2000, 3000), Verdict::Unexplained, "the kubelet carries no request");
        assert_eq!(judge(9000, 9999), Verdict::Unexplained, "it had failed before");
        assert_eq!(judge(9990, 10_001), Verdict::InFlight(1));
        assert_eq!(judge(11_000, 11_001), Verdict::Away(1));
        assert_eq!(judge(12_400, 12_600), Verdict::Away(1), "not everybody has heard of it");
        assert_eq!(judge(12_501, 12_600), Verdict::Unexplained);
        assert_eq!(judge(21_000, 30_000), Verdict::Away(2));
    }
}
