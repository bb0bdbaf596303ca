//! A cluster whose components are processes of their own, so that each can be killed alone.
//!
//! Whoever ends is started again at once, as a service manager would. That it ended by itself is a fault.
use crate::address::free_port;
use crate::faults::Faults;
use crate::guard::Guard;
use crate::usage::{self, Reading, Usage};
use anyhow::{Context, Result, bail};
use client::Client;
use client::kube::config::{KubeConfigOptions, Kubeconfig};
use pki::Subject;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

pub(crate) const NODE: &str = "soak";
/// Ranges of its own, in case another cluster runs here.
const PODS: &str = "127.112.0.0/16";
const SERVICES: &str = "127.113.0.0/16";
/// The first address of the services: the API server's own.
const KUBERNETES: &str = "127.113.0.1";
/// The longest a component may take until it answers.
const START: Duration = Duration::from_secs(60);
/// A service manager waits a moment before it starts again what ends at once.
const RESTART: Duration = Duration::from_secs(1);

pub(crate) struct Process {
    pub(crate) name: &'static str,
    words: Vec<String>,
    log: PathBuf,
    pid: Cell<Option<u32>>,
    /// It was killed by this program.
    killed: Cell<bool>,
}

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) gateway: SocketAddr,
    pub(crate) processes: Vec<Rc<Process>>,
    supervisors: Vec<AbortOnDropHandle<()>>,
    guard: Guard,
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: no memory is involved. A process that has ended is no error here.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

impl Process {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid.get()
    }

    /// SIGKILL. It is started again.
    pub(crate) fn kill(&self) {
        if let Some(pid) = self.pid.get() {
            self.killed.set(true);
            signal(pid, libc::SIGKILL);
        }
    }

    async fn run(&self, dhow: &Path, faults: &Faults) {
        loop {
            let begun = Instant::now();
            match self.once(dhow).await {
                Ok(_) if self.killed.take() => {}
                Ok(how) => faults.add(format!("the {} ended by itself: {how}", self.name)),
                Err(error) => faults.add(format!("the {} cannot be started: {error:#}", self.name)),
            }
            self.pid.set(None);
            if begun.elapsed() < RESTART {
                tokio::time::sleep(RESTART).await;
            }
        }
    }

    async fn once(&self, dhow: &Path) -> Result<String> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut child = Command::new(dhow)
            .args(&self.words)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.pid.set(child.id());
        Ok(child.wait().await?.to_string())
    }
}

/// Certificates and a kubeconfig, as `dhow up` makes them.
fn certificates(pki: &Path, kubeconfig: &Path, port: u16) -> Result<()> {
    let now = jiff::Timestamp::now();
    let authority = pki::ensure_authority(pki, "ca", "dhow", now)?;
    let subject = |common_name, organization| Subject { common_name, organization };
    let names = |more: &str| ["localhost", "127.0.0.1", more].map(str::to_owned);
    let masters = Some("system:masters");
    pki::ensure_serving(
        &authority,
        pki,
        "apiserver",
        subject("kube-apiserver", None),
        &names(KUBERNETES),
        now,
    )?;
    let own = subject("kube-apiserver-kubelet-client", masters);
    pki::ensure_client(&authority, pki, "apiserver-kubelet-client", own, now)?;
    let node = format!("system:node:{NODE}");
    pki::ensure_serving(&authority, pki, "kubelet", subject(&node, Some("system:nodes")), &names(NODE), now)?;
    let admin = pki::ensure_client(&authority, pki, "admin", subject("kubernetes-admin", masters), now)?;
    let url = format!("https://127.0.0.1:{port}");
    let text = pki::kubeconfig("dhow", &url, authority.certificate_pem(), "kubernetes-admin", &admin);
    Ok(pki::write_private(kubeconfig, &text)?)
}

async fn until_it_listens(address: SocketAddr) -> Result<()> {
    crate::address::listens(address, START).await
}

impl Cluster {
    /// Starts everything and waits until the node is Ready. `max_pods`: what the kubelet takes.
    pub(crate) async fn start(dhow: &Path, max_pods: usize, faults: Rc<Faults>) -> Result<Self> {
        let guard = Guard::new("soak");
        let folder = guard.folder().to_owned();
        let data = folder.join("data");
        std::fs::create_dir_all(data.join("runtime"))?;
        let [api, gateway, kubelet] = [free_port()?, free_port()?, free_port()?];
        let kubeconfig = folder.join("kubeconfig");
        certificates(&folder.join("pki"), &kubeconfig, api)?;
        let path = |part: &str| folder.join(part).display().to_string();
        let pki = |name: &str| path(&format!("pki/{name}"));
        let config = kubeconfig.display().to_string();
        let socket = path("runtime.sock");
        let (store, root) = (path("data/state.redb"), path("data/runtime"));
        let (api_port, gateway_port) = (api.to_string(), gateway.to_string());
        let (kubelet_port, pods) = (kubelet.to_string(), max_pods.to_string());
        let of_cluster = |component: &str, more: &[&str]| -> Vec<String> {
            [&[component, "--kubeconfig", &config], more].concat().iter().map(|w| (*w).to_owned()).collect()
        };
        let process = |name: &'static str, words: Vec<String>| {
            Rc::new(Process {
                name,
                words,
                log: folder.join(format!("{name}.log")),
                pid: Cell::new(None),
                killed: Cell::new(false),
            })
        };
        let processes = vec![
            process(
                "apiserver",
                [
                    ["apiserver", "--store-file", &store, "--secure-port", &api_port]
                        .map(str::to_owned)
                        .to_vec(),
                    ["--tls-cert-file", &pki("apiserver.crt")].map(str::to_owned).to_vec(),
                    ["--tls-private-key-file", &pki("apiserver.key")].map(str::to_owned).to_vec(),
                    ["--client-ca-file", &pki("ca.crt")].map(str::to_owned).to_vec(),
                    ["--kubelet-client-certificate", &pki("apiserver-kubelet-client.crt")]
                        .map(str::to_owned)
                        .to_vec(),
                    ["--kubelet-client-key", &pki("apiserver-kubelet-client.key")]
                        .map(str::to_owned)
                        .to_vec(),
                    ["--service-cluster-ip-range", SERVICES].map(str::to_owned).to_vec(),
                ]
                .concat(),
            ),
            process(
                "runtime",
                ["runtime", "--root-dir", &root, "--listen", &socket, "--pod-cidr", PODS]
                    .into_iter()
                    .chain(["--service-cluster-ip-range", SERVICES])
                    .map(str::to_owned)
                    .collect(),
            ),
            process("scheduler", of_cluster("scheduler", &[])),
            process(
                "controller-manager",
                of_cluster("controller-manager", &["--gateway-port", &gateway_port]),
            ),
            process("kube-proxy", of_cluster("kube-proxy", &["--hostname-override", NODE])),
            process("gateway", of_cluster("gateway", &["--port", &gateway_port])),
            process(
                "kubelet",
                of_cluster(
                    "kubelet",
                    &[
                        &["--hostname-override", NODE, "--port", &kubelet_port, "--max-pods", &pods][..],
                        &["--container-runtime-endpoint", &socket, "--root-dir", &path("data/kubelet")],
                        &["--tls-cert-file", &pki("kubelet.crt")],
                        &["--tls-private-key-file", &pki("kubelet.key")],
                        &["--client-ca-file", &pki("ca.crt")],
                    ]
                    .concat(),
                ),
            ),
        ];
        let mut supervisors = Vec::new();
        let start = |process: &Rc<Process>| {
            let (process, dhow, faults) = (process.clone(), dhow.to_owned(), faults.clone());
            AbortOnDropHandle::new(tokio::task::spawn_local(async move { process.run(&dhow, &faults).await }))
        };
        supervisors.push(start(&processes[0]));
        until_it_listens(([127, 0, 0, 1], api).into()).await?;
        supervisors.extend(processes[1..].iter().map(start));
        let gateway = ([127, 0, 0, 1], gateway).into();
        until_it_listens(gateway).await?;
        let options = KubeConfigOptions::default();
        let config =
            client::kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(&kubeconfig)?, &options)
                .await?;
        let client = Client::try_from(config)?;
        Ok(Self { client, gateway, processes, supervisors, guard })
    }

    pub(crate) fn process(&self, name: &str) -> Result<&Process> {
        self.processes
            .iter()
            .find(|p| p.name == name)
            .map(|p| &**p)
            .with_context(|| format!("no process {name}"))
    }

    /// What everything holds now.
    pub(crate) fn reading(&self) -> Reading {
        let of = |p: &Rc<Process>| Some((p.name, Usage::of(p.pid()?)?));
        Reading {
            processes: self.processes.iter().filter_map(of).collect(),
            entries: usage::entries(&self.guard.folder().join("data")),
        }
    }

    /// The last lines of every log, for whoever looks for a cause.
    pub(crate) fn logs(&self, lines: usize) -> String {
        let mut all = String::new();
        for process in &self.processes {
            let text = std::fs::read_to_string(&process.log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(lines).collect();
            all += &format!("--- {}\n", process.name);
            for line in last.iter().rev() {
                all += &format!("{line}\n");
            }
        }
        all
    }

    /// Copies the logs to a folder that stays.
    pub(crate) fn keep_logs(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for process in &self.processes {
            if process.log.exists() {
                std::fs::copy(&process.log, folder.join(format!("{}.log", process.name)))?;
            }
        }
        Ok(())
    }

    /// SIGTERM to all: each must end with success, and in time.
    pub(crate) async fn stop(mut self) -> Result<()> {
        for process in &self.processes {
            process.killed.set(true);
        }
        for process in self.processes.iter().rev() {
            let Some(pid) = process.pid() else { bail!("the {} does not run at the end", process.name) };
            // Nobody starts it again.
            signal(pid, libc::SIGTERM);
            let begun = Instant::now();
            while process.pid() == Some(pid) {
                if begun.elapsed() > START {
                    bail!("the {} does not end on SIGTERM", process.name);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.supervisors.pop();
        }
        Ok(())
    }
}
