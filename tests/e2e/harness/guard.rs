//! A folder whose processes, mounts and files end with the test, whatever becomes of the test.
//!
//! A small shell program waits on a pipe that only this process holds open: the pipe closes when the guard is
//! dropped and when the test binary is killed, and either way the same clean-up runs.
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Ends every process whose command line names the folder, with all its descendants (a container does not name it,
/// its monitor does) with their control groups, then takes off what is mounted below, then removes the folder.
const CLEAN_UP: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
folder=$1
for round in 1 2 3 4 5; do
    named=$(grep -alsF -- "$folder" /proc/[0-9]*/cmdline | cut -d/ -f3 | grep -vx $$)
    doomed=$(grep -Hs '^PPid:' /proc/[0-9]*/status | awk -v named="$named" -v self=$$ '
        BEGIN { n = split(named, start, "\n"); for (i = 1; i <= n; i++) doomed[start[i]] = 1 }
        { split($1, path, "/"); parent[path[3]] = $2 }
        END {
            do {
                more = 0
                for (p in parent) if (!(p in doomed) && (parent[p] in doomed)) { doomed[p] = 1; more = 1 }
            } while (more)
            for (p in doomed) if (p in parent && p != self && parent[p] != self) print p
        }')
    [ -z "$doomed" ] && break
    kill -9 $doomed 2>/dev/null
done
for round in 1 2 3 4 5 6 7 8 9 10; do
    left=
    for dir in /sys/fs/cgroup/dhow/pod*/* /sys/fs/cgroup/*/dhow/pod*/*; do
        [ -d "$dir" ] && [ -d "$folder/data/runtime/containers/${dir##*/}" ] || continue
        rmdir "$dir" 2>/dev/null || left=1
        rmdir "${dir%/*}" 2>/dev/null
    done
    [ -z "$left" ] && break
    sleep 0.1
done
cut -d' ' -f2 /proc/self/mounts | grep -F -- "$folder/" | sort -r | while read -r mount; do
    umount -l "$mount" 2>/dev/null
done
rm -rf --one-file-system -- "$folder"
"#;

pub struct Guard {
    folder: PathBuf,
    cleaner: Child,
}

impl Guard {
    /// Makes a folder of its own and watches over it.
    pub fn new(name: &str) -> Self {
        let folder =
            tempfile::Builder::new().prefix(&format!("dhow-{name}-")).tempdir().expect("a folder").keep();
        let cleaner = Command::new("sh")
            .args(["-c", CLEAN_UP, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Whoever ends the whole group of the tests does not end this.
            .process_group(0)
            .spawn()
            .expect("sh");
        Self { folder, cleaner }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        let _ = self.cleaner.wait();
    }
}
