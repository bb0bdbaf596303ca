//! `cargo xtask test`: everything that must hold, with its set-up.
//!
//! The end-to-end tests use the real programs: kubectl, a registry, runc, etcd, nft. What is missing is installed
//! (Debian, as root) or ends the run with what to type; nothing is passed over in silence.
use crate::cargo::cargo;
use crate::{debian, guests, soak};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Run all tests, setting up what they need
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the tests that need nothing but Rust
    #[arg(long)]
    quick: bool,
    /// Build the guests made with Spin's SDK, componentize-js and componentize-py first, and try them too
    ///
    /// Their tools come from crates.io, npm and PyPI. Once built they are tried by every run until their sources change.
    #[arg(long, conflicts_with = "quick")]
    others: bool,
}

const PACKAGES: &[&str] = &[
    "docker-registry",
    "runc",
    "etcd-server",
    "nftables",
    "umoci",
    "skopeo",
    "busybox-static",
    "apache2-utils",
    "iproute2",
    "openssl",
    "redis-server",
];

/// The real programs, and how each says which version it is.
const COMPONENTS: &[(&str, &[&str])] = &[
    ("docker-registry", &["--version"]),
    ("runc", &["--version"]),
    ("etcd", &["--version"]),
    ("nft", &["--version"]),
    ("umoci", &["--version"]),
    ("skopeo", &["--version"]),
    ("redis-server", &["--version"]),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = crate::workspace_root();
    let mut environment: Vec<(&str, PathBuf)> = Vec::new();
    if !args.quick {
        debian::ensure_packages(
            PACKAGES,
            "for the end-to-end tests (`--quick` runs those that need only Rust)",
        )?;
        let kubectls = kubectls(&root)?;
        println!("real components of this run:");
        for (program, version) in COMPONENTS {
            println!("  {program}: {}", version_of(program, version)?);
        }
        for kubectl in &kubectls {
            println!("  kubectl: {} ({})", kubectl_version(kubectl)?, kubectl.display());
        }
        for name in ["hello-http", "hello-cli", "hello-wat", "fetch", "orders"] {
            let wasm = guests::build(&root, name)?;
            println!("  guest: {}", wasm.display());
        }
        // Of other languages: built where their toolchain is at hand, and said aloud where it is not.
        let mut others = Vec::new();
        for name in ["counter", "fib"] {
            match guests::build(&root, name) {
                Ok(wasm) => {
                    println!("  guest: {}", wasm.display());
                    others.push(name);
                }
                Err(error) => println!("  guest {name} is left out, and its test with it: {error:#}"),
            }
        }
        if args.others {
            guests::build_others(&root)?;
        }
        for (name, built) in guests::others(&root)? {
            match built {
                Some(wasm) => {
                    println!("  guest: {}", wasm.display());
                    others.push(name);
                }
                None => println!(
                    "  guest {name} is left out, and its test with it: `cargo xtask test --others` builds and tries it"
                ),
            }
        }
        environment.push(("DHOW_TEST_OTHER_GUESTS", others.join(",").into()));
        let joined = std::env::join_paths(&kubectls).context("paths of kubectl")?;
        environment.push(("DHOW_TEST_KUBECTL", joined.into()));
        environment.push(("DHOW_TEST_GUESTS", root.join("target/guests")));
        let redis = debian::find("redis-server")
            .context("redis-server is missing although its package is installed")?;
        environment.push(("DHOW_TEST_REDIS", redis));
    }
    cargo(&root, &["fmt", "--all", "--check"], &[])?;
    cargo(&root, &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], &[])?;
    if args.quick {
        return cargo(&root, &["test", "--workspace", "--exclude", "tests"], &[]);
    }
    cargo(&root, &["build", "--package", "dhow"], &[])?;
    environment.push(("DHOW_TEST_BINARY", crate::demo::target_dir(&root).join("debug/dhow")));
    // What needs the machine to itself comes last, one test at a time.
    cargo(&root, &["test", "--workspace", "--exclude", "tests"], &environment)?;
    cargo(&root, &["test", "--package", "tests"], &environment)?;
    cargo(&root, &["build", "--package", "tests", "--bin", "dhow-soak"], &[])?;
    soak::short(&root)
}

fn version_of(program: &str, arguments: &[&str]) -> Result<String> {
    let path = debian::find(program)
        .with_context(|| format!("{program} is missing although its package is installed"))?;
    let output = Command::new(&path)
        .args(arguments)
        .output()
        .with_context(|| format!("asking {program} for its version"))?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}

fn kubectl_version(path: &Path) -> Result<String> {
    let output = Command::new(path).args(["version", "--client", "--output=json"]).output()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).context("kubectl version")?;
    Ok(version["clientVersion"]["gitVersion"].as_str().unwrap_or("unknown").to_owned())
}

/// The oldest supported and the newest kubectl at hand: several may lie beside the one on PATH, which then only
/// chooses among them. None at all: built from its Go module.
fn kubectls(root: &Path) -> Result<Vec<PathBuf>> {
    if let Some(kubectl) = debian::find("kubectl") {
        let real = kubectl.canonicalize()?;
        let folder = real.parent().unwrap_or(Path::new("/"));
        let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(folder)?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .filter_map(|path| {
                let minor = path.file_name()?.to_str()?.strip_prefix("kubectl.1.")?.parse().ok()?;
                Some((minor, path))
            })
            .collect();
        versions.sort();
        return Ok(match &versions[..] {
            [] => vec![real],
            [(_, only)] => vec![only.clone()],
            [(_, oldest), .., (_, newest)] => vec![oldest.clone(), newest.clone()],
        });
    }
    let folder = root.join("target/kubectl");
    let built = folder.join("kubectl");
    if !built.is_file() {
        if !debian::present("go") {
            bail!(
                "kubectl is needed for the end-to-end tests; install it (https://kubernetes.io/docs/tasks/tools/), or Go to build it"
            );
        }
        println!("building kubectl from its Go module …");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("go.mod"), "module kubectl\n\ngo 1.24\n")?;
        std::fs::write(
            folder.join("main.go"),
            "package main\n\nimport (\n\t\"os\"\n\n\t\"k8s.io/component-base/cli\"\n\t\"k8s.io/kubectl/pkg/cmd\"\n)\n\n\
             func main() {\n\tos.Exit(cli.Run(cmd.NewDefaultKubectlCommand()))\n}\n",
        )?;
        for arguments in [
            &["get", "k8s.io/kubectl@v0.33.0", "k8s.io/component-base@v0.33.0"][..],
            &["build", "-o", "kubectl", "."],
        ] {
            debian::must(Command::new("go").args(arguments).current_dir(&folder))?;
        }
    }
    Ok(vec![built])
}
