//! What `cargo xtask test` prepared.
use std::path::PathBuf;

fn variable(name: &str) -> std::ffi::OsString {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| panic!("{name} is not set: run the end-to-end tests with `cargo xtask test`"))
}

fn existing(name: &str, path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} ({name}) does not exist: run `cargo xtask test`", path.display());
    std::path::absolute(path).expect("a path")
}

/// The program under test.
pub fn dhow() -> PathBuf {
    existing("DHOW_TEST_BINARY", variable("DHOW_TEST_BINARY").into())
}

/// Where the guests were built.
pub fn guests() -> PathBuf {
    existing("DHOW_TEST_GUESTS", variable("DHOW_TEST_GUESTS").into())
}

/// A guest of `sample-workloads/`.
pub fn guest(name: &str) -> PathBuf {
    existing("DHOW_TEST_GUESTS", guests().join(format!("{name}.wasm")))
}

/// Whether a guest that needs another language's toolchain was built for this run.
pub fn was_built(guest: &str) -> bool {
    std::env::var("DHOW_TEST_OTHER_GUESTS")
        .expect("DHOW_TEST_OTHER_GUESTS is set by `cargo xtask test`")
        .split(',')
        .any(|name| name == guest)
}

/// A real Redis.
pub fn redis() -> PathBuf {
    existing("DHOW_TEST_REDIS", variable("DHOW_TEST_REDIS").into())
}

fn kubectls() -> Vec<PathBuf> {
    let list = variable("DHOW_TEST_KUBECTL");
    let all: Vec<_> = std::env::split_paths(&list).map(|p| existing("DHOW_TEST_KUBECTL", p)).collect();
    assert!(!all.is_empty(), "DHOW_TEST_KUBECTL names no kubectl: run `cargo xtask test`");
    all
}

pub fn oldest_kubectl() -> PathBuf {
    kubectls().remove(0)
}

pub fn newest_kubectl() -> PathBuf {
    kubectls().pop().expect("at least one")
}

/// Linux containers, a file system of a certain size: things only root has.
pub fn root_is_needed(what: &str) {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    assert!(root, "{what} needs root: run `cargo xtask test` as root (CI does)");
}
