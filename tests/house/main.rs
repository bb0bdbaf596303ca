//! The rules of the house, held by a test: who may depend on whom, what may stand where.
//!
//! ARCHITECTURE.md explains them. A rule that turns out wrong is changed here and there in one commit.
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn metadata() -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata")
}

/// Names of a package's ordinary dependencies; those of its tests are its own business.
fn dependencies(package: &Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|d| d.kind != DependencyKind::Development)
        .map(|d| d.name.as_str())
        .collect()
}

/// What each crate may use inside the workspace.
const ROOMS: &[(&str, &[&str])] = &[
    ("machinery", &[]),
    ("store", &[]),
    ("pki", &[]),
    ("apiserver", &["machinery", "store", "pki", "streaming"]),
    ("client", &["machinery"]),
    ("scheduler", &["client", "machinery"]),
    ("controllers", &["client", "machinery"]),
    ("cloud", &["client", "machinery"]),
    ("metrics-server", &["client", "machinery"]),
    ("cri", &[]),
    ("streaming", &[]),
    ("images", &["machinery"]),
    ("pod-network", &[]),
    ("network-policy", &["machinery"]),
    ("shim", &["network-policy"]),
    ("shim-wasmtime", &["shim", "network-policy", "telemetry"]),
    ("shim-oci", &["shim"]),
    ("runtime", &["cri", "streaming", "images", "pod-network", "network-policy", "shim"]),
    ("kubelet", &["cri", "client", "machinery", "network-policy", "pki", "streaming"]),
    ("kube-proxy", &["client", "machinery"]),
    ("telemetry", &[]),
    ("gateway", &["client", "machinery", "telemetry"]),
    ("setup", &["pki", "client", "machinery"]),
];

/// Crates that may use everything: the program, and what tests it.
const ABOVE: &[&str] = &["dhow", "tests", "xtask"];

/// Foreign crates that have one owner.
const OWNED: &[(&str, &[&str])] = &[
    ("wasmtime", &["shim-wasmtime"]),
    ("wasmtime-wasi", &["shim-wasmtime"]),
    ("wasmtime-wasi-http", &["shim-wasmtime"]),
    // The cluster's state, and what guests keep on their node: two kinds of data that never meet.
    ("redb", &["store", "shim-wasmtime"]),
    // Buckets of guests, and the streams that call functions.
    ("redis", &["shim-wasmtime", "controllers"]),
    ("rcgen", &["pki"]),
    ("kube", &["client"]),
    ("oci-client", &["images"]),
    ("axum", &["apiserver", "kubelet"]),
    // Spans are begun by telemetry's face alone; only the program exports them.
    ("opentelemetry", &["telemetry", "dhow"]),
    ("opentelemetry_sdk", &["dhow"]),
    ("opentelemetry-otlp", &["dhow"]),
];

/// Crates that decide and never do: no runtime, no network, no clock.
const PURE: &[(&str, &[&str])] = &[
    ("machinery", &["tokio", "futures", "hyper", "reqwest", "rand", "tracing", "async-trait"]),
    ("network-policy", &["tokio", "futures", "hyper", "reqwest", "rand", "tracing", "async-trait"]),
];

#[test]
fn every_crate_stays_in_its_room() {
    let metadata = metadata();
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let ours: BTreeSet<&str> = metadata.workspace_packages().iter().map(|p| p.name.as_str()).collect();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        if ABOVE.contains(&name) {
            continue;
        }
        let allowed = rooms.get(name).unwrap_or_else(|| panic!("{name} has no row in ROOMS"));
        for dependency in dependencies(package) {
            assert!(
                !ours.contains(dependency) || allowed.contains(&dependency),
                "{name} must not depend on {dependency}"
            );
        }
    }
    for (name, _) in ROOMS {
        assert!(ours.contains(name), "{name} is in ROOMS but not in the workspace");
    }
}

#[test]
fn tests_of_a_room_do_not_reach_into_the_apiserver() {
    for package in metadata().workspace_packages() {
        let name = package.name.as_str();
        if ABOVE.contains(&name) || name == "apiserver" {
            continue;
        }
        assert!(
            package.dependencies.iter().all(|d| d.name != "apiserver"),
            "{name} must not know the apiserver, not even in its tests"
        );
    }
}

#[test]
fn foreign_crates_with_one_owner_have_one_owner() {
    for package in metadata().workspace_packages() {
        for (foreign, owners) in OWNED {
            let name = package.name.as_str();
            let allowed = owners.contains(&name) || name == "tests";
            assert!(
                allowed || !dependencies(package).contains(foreign),
                "{name} must not depend on {foreign}: it belongs to {owners:?}"
            );
        }
    }
}

#[test]
fn crates_that_decide_never_do() {
    let metadata = metadata();
    for (pure, forbidden) in PURE {
        let package =
            metadata.packages.iter().find(|p| p.name.as_str() == *pure).expect("a crate of the workspace");
        for foreign in *forbidden {
            assert!(!dependencies(package).contains(foreign), "{pure} must not depend on {foreign}");
        }
    }
}

/// Rust sources of the workspace, with their text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut folders: Vec<_> =
        ["api", "scheduler", "controllers", "node", "shims", "cli"].map(|f| root.join(f)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let shown = path.strip_prefix(&root).expect("below the root").display().to_string();
                found.push((shown, std::fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(found.len() > 50, "the walk found {} files", found.len());
    found
}

#[test]
fn no_crate_names_a_library_that_it_does_not_use() {
    let sources = sources();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the root");
    for package in metadata().workspace_packages() {
        let folder = package.manifest_path.parent().expect("a folder").as_std_path();
        let folder = folder.strip_prefix(&root).expect("below the root").display().to_string();
        let own: Vec<_> =
            sources.iter().filter(|(path, _)| path.starts_with(&format!("{folder}/src/"))).collect();
        for dependency in dependencies(package) {
            let word = dependency.replace('-', "_");
            let used = own.iter().any(|(_, text)| {
                text.match_indices(&word).any(|(at, _)| {
                    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                    !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next())
                })
            });
            assert!(used || own.is_empty(), "{} names {dependency} and does not use it", package.name);
        }
    }
}

#[test]
fn decisions_touch_neither_time_nor_network() {
    let decides = |path: &str| {
        path.ends_with("/plan.rs")
            || path.ends_with("kube-proxy/src/rules.rs")
            || path.contains("scheduler/src/plugins/")
            || path.ends_with("gateway/src/routes.rs")
            || path.ends_with("apiserver/src/authorization.rs")
    };
    for (path, text) in sources() {
        if decides(&path) {
            for word in
                ["tokio::", "Timestamp::now", "SystemTime", "Instant", ".await", "rand::", "kube::Client"]
            {
                assert!(!text.contains(word), "{path} decides, and must not use {word}");
            }
        }
    }
}

#[test]
fn nothing_is_left_open_and_no_file_holds_two_rooms() {
    for (path, text) in sources() {
        for word in ["todo!(", "unimplemented!(", "#[ignore", "TODO", "FIXME"] {
            assert!(!text.contains(word), "{path} holds {word}");
        }
        let lines = text.lines().count();
        assert!(lines <= 1000, "{path} has {lines} lines; a file over 1,000 is a room that wants a wall");
    }
}

#[test]
fn no_folder_is_called_what_says_nothing() {
    for (path, _) in sources() {
        for word in ["utils", "common", "helpers", "misc"] {
            let named = path.split('/').any(|part| part == word || part == format!("{word}.rs"));
            assert!(!named, "{path}: {word} says nothing");
        }
    }
}
