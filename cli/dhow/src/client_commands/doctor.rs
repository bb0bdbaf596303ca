//! `dhow doctor`.
use crate::connect::Cluster;
use crate::output;
use crate::project::{LANGUAGES, find, needs};
use anyhow::{Result, bail};
use client::dhow::v1alpha1::Function;
use client::kube::api::{Api, ListParams};
use http::Request;
use serde_json::Value;

/// Say what is here and what is missing on this machine, and how to get it
///
/// Examples:
///   dhow doctor
///   dhow doctor --language rust      # fails if something for Rust is missing
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Look only at what programs of this language are built with; may be given again
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(LANGUAGES.iter().copied()))]
    language: Vec<String>,
}

/// One thing that was looked at.
struct Finding {
    what: String,
    is_here: bool,
    /// How to get it, or what it is good for.
    how: String,
}

/// Descriptors that ten thousand pods need: a listener and a log each.
const DESCRIPTORS: u64 = 65_536;

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let mut findings = Vec::new();
    if args.language.is_empty() {
        machine(&mut findings);
        findings.push(reachable(cluster).await);
    }
    let all = LANGUAGES.iter().map(|l| (*l).to_owned());
    let languages: Vec<String> = if args.language.is_empty() { all.collect() } else { args.language.clone() };
    for language in &languages {
        for need in needs(language)? {
            let how = if need.is_here { String::new() } else { need.how.to_owned() };
            findings.push(Finding { what: format!("{language}: {}", need.what), is_here: need.is_here, how });
        }
    }
    let mut rows = vec![["", "WHAT", "HOW TO GET IT"].map(str::to_owned).to_vec()];
    rows.extend(
        findings.iter().map(|f| {
            vec![if f.is_here { "ok" } else { "missing" }.to_owned(), f.what.clone(), f.how.clone()]
        }),
    );
    print!("{}", output::columns(&rows));
    let missing = findings.iter().filter(|f| !f.is_here).count();
    if !args.language.is_empty() && missing > 0 {
        bail!("{missing} of {} things are missing; the table says how to get them", findings.len());
    }
    Ok(())
}

fn machine(findings: &mut Vec<Finding>) {
    let mut add = |what: &str, is_here: bool, how: &str| {
        let how = if is_here { String::new() } else { how.to_owned() };
        findings.push(Finding { what: what.to_owned(), is_here, how });
    };
    add("Linux", cfg!(target_os = "linux"), "dhow's node needs it; the commands work elsewhere too");
    let hard = crate::descriptors::limit();
    add(
        &format!("{DESCRIPTORS} open files (the limit is {hard})"),
        hard >= DESCRIPTORS,
        "for thousands of pods: `ulimit -Hn 1048576` as root, or LimitNOFILE in systemd",
    );
    let low_ports = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u32 = low_ports.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(1024);
    let root = nix::unistd::geteuid().is_root();
    add(
        "ports below 1024",
        root || first <= 80,
        "for Services on port 80: `sysctl net.ipv4.ip_unprivileged_port_start=80` as root",
    );
    let runtime = ["runc", "crun", "youki", "runsc"].into_iter().find(|p| find(p).is_some());
    add(
        &format!("a runtime for Linux containers ({})", runtime.unwrap_or("none")),
        runtime.is_some() && root,
        "for images that are not wasm: Debian's package runc, and `dhow up` as root",
    );
    add(
        "kubectl",
        find("kubectl").is_some(),
        "optional, dhow has the everyday commands: https://kubernetes.io/docs/tasks/tools/",
    );
}

/// Whether a cluster answers, and knows functions.
async fn reachable(cluster: &Cluster) -> Finding {
    let mut finding = Finding { what: "a cluster that answers".into(), is_here: false, how: String::new() };
    let asked = async {
        let connection = cluster.connect().await?;
        let version: Value = connection.client.request(Request::get("/version").body(Vec::new())?).await?;
        let functions: Api<Function> = Api::namespaced(connection.client.clone(), &connection.namespace);
        functions.list(&ListParams::default().limit(1)).await?;
        anyhow::Ok(version["gitVersion"].as_str().unwrap_or("unknown").to_owned())
    };
    match tokio::time::timeout(std::time::Duration::from_secs(5), asked).await {
        Ok(Ok(version)) => {
            (finding.is_here, finding.what) = (true, format!("a cluster that answers ({version})"))
        }
        Ok(Err(error)) => finding.how = format!("`dhow up` starts one ({error})"),
        Err(_) => finding.how = "`dhow up` starts one (the one of the kubeconfig does not answer)".into(),
    }
    finding
}
