//! What the machine is: read once, from /proc and its kin. Parsing is apart from reading.
use std::path::Path;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cores: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub kernel_version: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
    pub system_uuid: String,
    pub architecture: String,
    pub hostname: String,
}

/// `MemTotal` of /proc/meminfo, in bytes.
pub fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// `PRETTY_NAME` of /etc/os-release.
pub fn parse_os_release(text: &str) -> Option<String> {
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches(['"', '\'']).to_owned())
}

/// The architecture as Go names it.
pub fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "riscv64" => "riscv64",
        other => other,
    }
}

impl Machine {
    /// Reads this machine; what cannot be read stays empty. `root` is where pods' files go.
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let line = |path: &str| text(path).trim().to_owned();
        let machine_id = line("/etc/machine-id");
        Self {
            cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: parse_meminfo(&text("/proc/meminfo")).unwrap_or(0),
            disk_bytes: disk_bytes(root).unwrap_or(0),
            kernel_version: line("/proc/sys/kernel/osrelease"),
            os_image: parse_os_release(&text("/etc/os-release")).unwrap_or_else(|| "Linux".into()),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            system_uuid: machine_id.clone(),
            machine_id,
            architecture: go_arch(std::env::consts::ARCH).to_owned(),
            hostname: line("/proc/sys/kernel/hostname"),
        }
    }
}

/// The size of the file system a path lies on.
fn disk_bytes(path: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(path.to_str()?).ok()?;
    let mut out = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` is a C string that lives through the call, and `out` is written by it when it returns 0.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), out.as_mut_ptr()) != 0 {
            return None;
        }
        out.assume_init()
    };
    Some(stat.f_blocks.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read_as_they_are_written() {
        assert_eq!(parse_meminfo("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(parse_meminfo("nothing"), None);
        assert_eq!(
            parse_os_release("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").unwrap(),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(go_arch("x86_64"), "amd64");
    }

    #[test]
    fn this_machine_has_memory_and_a_disk() {
        let m = Machine::read(Path::new("/"));
        assert!(m.cores > 0 && m.memory_bytes > 0 && m.disk_bytes > 0 && !m.kernel_version.is_empty());
    }
}
