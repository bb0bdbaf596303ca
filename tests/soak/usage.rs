//! What the processes hold: memory, threads, files, sockets; and what lies in the state directory.
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Proportional memory: a page shared by n processes counts 1/n for each.
    pub(crate) bytes: u64,
    pub(crate) threads: usize,
    /// Open files of all kinds, sockets among them.
    pub(crate) files: usize,
    pub(crate) sockets: usize,
}

impl Usage {
    /// `None` if the process is not there (any more).
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let pss = memory.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        let bytes = pss.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let targets: Vec<_> =
            links.flatten().filter_map(|link| std::fs::read_link(link.path()).ok()).collect();
        Some(Self {
            bytes,
            threads: std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.count(),
            files: targets.len(),
            sockets: targets.iter().filter(|t| t.to_string_lossy().starts_with("socket:")).count(),
        })
    }
}

/// Of everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// By the name of the process.
    pub(crate) processes: BTreeMap<&'static str, Usage>,
    /// Files and directories in the state directories, by the first two parts of their paths.
    pub(crate) entries: BTreeMap<String, usize>,
}

impl Reading {
    pub(crate) fn bytes(&self) -> u64 {
        self.processes.values().map(|usage| usage.bytes).sum()
    }
}

/// Counts files and directories below `folder`.
pub(crate) fn entries(folder: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // What goes while it is looked at is not there.
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let own = path.strip_prefix(folder).unwrap_or(&path);
            let key: Vec<_> = own.iter().take(2).map(|part| part.to_string_lossy()).collect();
            *counts.entry(key.join("/")).or_default() += 1;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            }
        }
    }
    counts
}

/// How far above the baseline a reading may lie.
///
/// The baseline is read when as many functions as now have been there, were asked, and were deleted: caches have
/// their size and the allocator holds what it holds on to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// The allocator gives pages back from the tops of its arenas alone, so that the same work leaves now more, now less.
    pub(crate) bytes: u64,
    /// The same in hundredths of the baseline.
    pub(crate) percent: u64,
    /// What the API server keeps by its own limits and has not filled in the lap for the baseline: the newest 2 MiB of
    /// the events of each of some 17 resources, and 8 MiB of the store's pages.
    pub(crate) apiserver: u64,
    /// tokio keeps a blocking thread 10 s.
    pub(crate) threads: usize,
    /// Connections that wait in pools.
    pub(crate) files: usize,
    /// A log that was rotated, a temporary file that is being written.
    pub(crate) entries: usize,
}

pub(crate) const ALLOWANCE: Allowance =
    Allowance { bytes: 16 << 20, percent: 15, apiserver: 42 << 20, threads: 4, files: 16, entries: 8 };

/// What lies above the baseline; empty if all is as it was.
pub(crate) fn excess(baseline: &Reading, now: &Reading, allowed: &Allowance) -> Vec<String> {
    let mut found = Vec::new();
    for (name, usage) in &now.processes {
        let base = baseline.processes.get(name).copied().unwrap_or_default();
        let mut above = |what: &str, before: u64, after: u64, more: u64| {
            if after > before + more {
                found.push(format!("{name}: {what} {before} before, {after} after (may be {more} more)"));
            }
        };
        let kept = if *name == "apiserver" { allowed.apiserver } else { 0 };
        above("memory", base.bytes, usage.bytes, allowed.bytes + kept + base.bytes * allowed.percent / 100);
        above("threads", base.threads as u64, usage.threads as u64, allowed.threads as u64);
        above("open files", base.files as u64, usage.files as u64, allowed.files as u64);
        above("sockets", base.sockets as u64, usage.sockets as u64, allowed.files as u64);
    }
    for (path, count) in &now.entries {
        let base = baseline.entries.get(path).copied().unwrap_or(0);
        if *count > base + allowed.entries {
            found.push(format!(
                "{path}: {base} files before, {count} after (may be {} more)",
                allowed.entries
            ));
        }
    }
    found
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, usage) in &self.processes {
            writeln!(
                f,
                "  {name:20} {:8.1} MiB  {:3} threads  {:5} files, {:5} of them sockets",
                usage.bytes as f64 / f64::from(1 << 20),
                usage.threads,
                usage.files,
                usage.sockets
            )?;
        }
        let entries: usize = self.entries.values().sum();
        writeln!(
            f,
            "  {:20} {:8.1} MiB; {entries} files",
            "together",
            self.bytes() as f64 / f64::from(1 << 20)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_above_the_baseline_is_told() {
        let usage = |bytes, threads, files| Usage { bytes, threads, files, sockets: 1 };
        let reading = |usage, files| Reading {
            processes: [("runtime", usage)].into(),
            entries: [("runtime/logs".to_owned(), files)].into(),
        };
        let base = reading(usage(100 << 20, 10, 50), 3);
        assert_eq!(excess(&base, &reading(usage(130 << 20, 14, 66), 11), &ALLOWANCE), [""; 0]);
        let told = excess(&base, &reading(usage(140 << 20, 15, 67), 12), &ALLOWANCE);
        assert_eq!(told.len(), 4, "{told:?}");
    }

    #[test]
    fn a_process_is_read_and_files_are_counted() {
        let own = Usage::of(std::process::id()).expect("this process");
        assert!(own.bytes > 0 && own.threads > 0 && own.files > 0, "{own:?}");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("a/b/c")).expect("folders");
        std::fs::write(folder.path().join("a/b/f"), "").expect("a file");
        assert_eq!(entries(folder.path()), [("a".to_owned(), 1), ("a/b".to_owned(), 3)].into());
    }
}
