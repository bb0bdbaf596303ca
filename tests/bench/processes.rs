//! What processes cost, from /proc.
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// All processes of a tree: those whose command line names `folder`, and their descendants.
pub(crate) fn naming(folder: &Path) -> Result<BTreeSet<u32>> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let own = std::process::id();
    let mut parents = BTreeMap::new();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse::<u32>().ok()) else { continue };
        parents.insert(pid, parent);
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_cleaner = line.starts_with(b"sh\0");
        if pid != own && !is_cleaner && line.windows(needle.len()).any(|window| window == needle) {
            found.insert(pid);
        }
    }
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(*parent) && !found.contains(*pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return Ok(found);
        }
        found.extend(more);
    }
}

/// The fields of /proc/PID/stat from the state on (field 3 of proc(5)).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold blanks and parentheses.
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// The proportional memory of processes: a page shared by n of them counts 1/n for each.
pub(crate) fn proportional_bytes(pids: &BTreeSet<u32>) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        sum += line.trim().trim_end_matches("kB").trim().parse::<u64>().context("Pss")? * 1024;
    }
    Ok(sum)
}

/// The processor time that processes have used, to the nanosecond: an idle one uses less than a tick of /proc/PID/stat.
pub(crate) fn processor_time(pids: &BTreeSet<u32>) -> Duration {
    pids.iter()
        .filter_map(|pid| {
            let mut clock = 0;
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: both write into what is given to them and live here.
            let told = unsafe {
                libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) == 0
                    && libc::clock_gettime(clock, &raw mut time) == 0
            };
            told.then(|| Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0)))
        })
        .sum()
}
