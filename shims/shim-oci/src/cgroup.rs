//! Control groups, version 1, version 2 and the mix of both: where a container's are, what they say.
use serde::{Deserialize, Serialize};
use shim::Stats;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The directories of one container's groups, as the kernel says them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroups {
    /// By controller: `memory`, `cpuacct`, …, `name=systemd`.
    v1: BTreeMap<String, PathBuf>,
    v2: Option<PathBuf>,
}

/// Finds a process' groups.
pub(crate) fn observe_cgroups(pid: i32) -> std::io::Result<Cgroups> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(compute_cgroups(&mounts, &membership))
}

/// Where the groups of that path are in every hierarchy, whether they exist or not.
pub(crate) fn cgroups_at(path: &str) -> std::io::Result<Cgroups> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let there: Vec<String> = membership
        .lines()
        .filter_map(|line| {
            let (hierarchy, _) = line.rsplit_once(':')?;
            Some(format!("{hierarchy}:{path}"))
        })
        .collect();
    Ok(compute_cgroups(&mounts, &there.join("\n")))
}

/// Matches `/proc/<pid>/cgroup` with the mounts below which those paths are seen.
fn compute_cgroups(mountinfo: &str, membership: &str) -> Cgroups {
    let mut groups = Cgroups::default();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if controllers.is_empty() {
            groups.v2 = directory_of(mountinfo, "cgroup2", None, path);
        }
        for controller in controllers.split(',').filter(|name| !name.is_empty()) {
            if let Some(directory) = directory_of(mountinfo, "cgroup", Some(controller), path) {
                groups.v1.insert(controller.to_owned(), directory);
            }
        }
    }
    groups
}

fn directory_of(mountinfo: &str, kind: &str, controller: Option<&str>, path: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let mut after = after.split(' ');
        let options = after.clone().nth(2).unwrap_or_default();
        if after.next()? != kind || !controller.is_none_or(|name| options.split(',').any(|o| o == name)) {
            return None;
        }
        let (root, mount_point) = (before.get(3)?, before.get(4)?);
        let inside = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(mount_point).join(inside))
    })
}

impl Cgroups {
    fn memory(&self) -> Option<(&Path, bool)> {
        match self.v1.get("memory") {
            Some(directory) => Some((directory, true)),
            None => self.v2.as_deref().map(|directory| (directory, false)),
        }
    }

    /// How many processes the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let Some((directory, v1)) = self.memory() else { return 0 };
        let file = if v1 { "memory.oom_control" } else { "memory.events" };
        keyed(&directory.join(file), "oom_kill").unwrap_or(0)
    }

    pub(crate) fn stats(&self) -> Stats {
        let cpu_nanoseconds = match (self.v1.get("cpuacct"), &self.v2) {
            (Some(directory), _) => number(&directory.join("cpuacct.usage")),
            (None, Some(directory)) => keyed(&directory.join("cpu.stat"), "usage_usec").map(|n| n * 1000),
            (None, None) => None,
        };
        let memory_bytes = self.memory().and_then(|(directory, v1)| {
            // As the kubelet counts it: without the file pages that the kernel can drop at once.
            let (used, droppable) = if v1 {
                ("memory.usage_in_bytes", "total_inactive_file")
            } else {
                ("memory.current", "inactive_file")
            };
            let used = number(&directory.join(used))?;
            Some(used.saturating_sub(keyed(&directory.join("memory.stat"), droppable).unwrap_or(0)))
        });
        let memory_peak_bytes = self.memory().and_then(|(directory, v1)| {
            // The second exists since Linux 5.19.
            number(&directory.join(if v1 { "memory.max_usage_in_bytes" } else { "memory.peak" }))
        });
        Stats {
            cpu_nanoseconds: cpu_nanoseconds.unwrap_or(0),
            memory_bytes: memory_bytes.unwrap_or(0),
            memory_peak_bytes: memory_peak_bytes.unwrap_or(0),
            sandbox: None,
        }
    }

    /// Removes the groups and their parents up to and without `above`, as far as they are empty.
    pub(crate) fn remove(&self, above: &str) {
        let parent = Path::new(above);
        for directory in self.v1.values().chain(&self.v2) {
            // Only a group that lies below the parent it was made in is ours.
            let ours =
                directory.parent().is_some_and(|of| of.ends_with(parent.strip_prefix("/").unwrap_or(parent)));
            if !ours || above.len() < 2 {
                continue;
            }
            // A group with processes or children refuses; so does one that is gone. Both are as they should be.
            let _ = fs::remove_dir(directory);
            let _ = directory.parent().map(fs::remove_dir);
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn keyed(path: &Path, key: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:1 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 20 0:2 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
32 20 0:3 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn a_hybrid_machine_has_both() {
        let groups = compute_cgroups(
            HYBRID,
            "9:name=systemd:/\n4:memory:/dhow/pod1/c1\n2:cpu,cpuacct:/dhow/pod1/c1\n0::/x",
        );
        assert_eq!(groups.memory(), Some((Path::new("/sys/fs/cgroup/memory/dhow/pod1/c1"), true)));
        assert_eq!(groups.v1["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct/dhow/pod1/c1"));
        assert_eq!(groups.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/x")));
        assert_eq!(groups.v1.len(), 3, "the named hierarchy is mounted nowhere");
    }

    #[test]
    fn a_pure_version_2_machine_has_one_directory_below_its_mounts_root() {
        let mounts = "25 20 0:3 /outer /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let groups = compute_cgroups(mounts, "0::/outer/dhow/pod1/c1\n");
        assert_eq!(groups.memory(), Some((Path::new("/sys/fs/cgroup/dhow/pod1/c1"), false)));
    }

    #[test]
    fn figures_are_read_from_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        write("memory.events", "low 0\noom 3\noom_kill 1\n");
        write("cpu.stat", "usage_usec 7\nuser_usec 1\n");
        write("cpuacct.usage", "123\n");
        write("memory.usage_in_bytes", "100\n");
        write("memory.current", "50\n");
        write("memory.max_usage_in_bytes", "200\n");
        write("memory.stat", "inactive_file 20\ntotal_inactive_file 30\n");
        let at = dir.path().to_owned();
        let v1 = Cgroups {
            v1: BTreeMap::from([("memory".into(), at.clone()), ("cpuacct".into(), at.clone())]),
            v2: None,
        };
        let v2 = Cgroups { v1: BTreeMap::new(), v2: Some(at) };
        assert_eq!((v1.oom_kills(), v2.oom_kills()), (2, 1));
        assert_eq!(
            v1.stats(),
            Stats { cpu_nanoseconds: 123, memory_bytes: 70, memory_peak_bytes: 200, sandbox: None }
        );
        assert_eq!(v2.stats(), Stats { cpu_nanoseconds: 7000, memory_bytes: 30, ..Stats::default() });
    }
}
