//! What the whole machine uses, from /proc. Parsing is apart from reading.
use crate::blocking::blocking;

/// The machine's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct NodeUsage {
    /// CPU time of all cores since the machine started.
    pub(crate) cpu_seconds: f64,
    pub(crate) memory_working_set_bytes: u64,
    pub(crate) memory_available_bytes: u64,
    /// When the machine started, seconds since 1970.
    pub(crate) started_at: u64,
}

/// What /proc counts CPU time in: USER_HZ is 100 on every architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

impl NodeUsage {
    /// Reads this machine; `None` where /proc cannot be read.
    pub(crate) async fn read() -> Option<Self> {
        let read = || {
            Some((
                std::fs::read_to_string("/proc/stat").ok()?,
                std::fs::read_to_string("/proc/meminfo").ok()?,
            ))
        };
        let (stat, meminfo) = blocking(read).await.ok()??;
        parse(&stat, &meminfo)
    }
}

fn parse(stat: &str, meminfo: &str) -> Option<NodeUsage> {
    // user nice system idle iowait irq softirq steal; guests are part of user.
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|t| t.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6].iter().map(|&i| ticks.get(i).copied().unwrap_or(0)).sum::<u64>();
    let started_at = stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    let kib = |name: &str| -> Option<u64> {
        let rest = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    // As cAdvisor has it of the root group: all that is used but file pages that the kernel can drop at once.
    let used = kib("MemTotal:")?.saturating_sub(kib("MemFree:")?);
    let working_set = used.saturating_sub(kib("Inactive(file):").unwrap_or(0));
    Some(NodeUsage {
        cpu_seconds: busy as f64 / TICKS_PER_SECOND,
        memory_working_set_bytes: working_set.saturating_mul(1024),
        memory_available_bytes: kib("MemAvailable:").unwrap_or(0).saturating_mul(1024),
        started_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_pages_that_can_be_dropped_do_not_count() {
        let stat = "cpu  100 20 30 9999 50 4 6 7 0 0\ncpu0 1 2 3\nbtime 1700000000\n";
        let meminfo = "MemTotal: 1000 kB\nMemFree: 200 kB\nMemAvailable: 600 kB\nInactive(file): 300 kB\n";
        let usage = parse(stat, meminfo).unwrap();
        assert_eq!(usage.cpu_seconds, 1.6);
        assert_eq!(usage.memory_working_set_bytes, 500 * 1024);
        assert_eq!(usage.memory_available_bytes, 600 * 1024);
        assert_eq!(usage.started_at, 1_700_000_000);
        assert_eq!(parse("", meminfo), None);
        assert_eq!(parse(stat, "nothing"), None);
    }

    #[tokio::test]
    async fn this_machine_has_used_some_of_each() {
        let usage = NodeUsage::read().await.unwrap();
        assert!(usage.cpu_seconds > 0.0 && usage.memory_working_set_bytes > 0 && usage.started_at > 0);
    }
}
