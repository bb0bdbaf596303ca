//! Where and when the figures were taken.
use crate::programs::Programs;
use std::process::Command;

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("unknown").trim().to_owned()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

pub(crate) fn facts(programs: &Programs) -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory: u64 =
        field("/proc/meminfo", "MemTotal").and_then(|m| m.split(' ').next()?.parse().ok()).unwrap_or(0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    vec![
        ("date", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()),
        ("machine", format!("{processor}, {cores} cores, {} GiB, Linux {}", memory >> 20, kernel.trim())),
        ("load average at the end", load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        (
            "yardsticks",
            [
                first_line(Command::new(&programs.etcd).arg("--version")),
                first_line(Command::new(&programs.wasmtime).arg("--version")),
            ]
            .join(", "),
        ),
    ]
}
