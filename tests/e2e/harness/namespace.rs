//! A namespace for one test: what the test made goes with it, and when the test fails it is shown first.
use super::{Cluster, Kubectl, environment};
use std::ops::Deref;
use std::path::PathBuf;

pub struct Namespace {
    pub kubectl: Kubectl,
    pub name: String,
    cluster: &'static Cluster,
}

impl Namespace {
    #[track_caller]
    pub fn new(cluster: &'static Cluster, name: &str) -> Self {
        Self::with(cluster, name, environment::newest_kubectl())
    }

    #[track_caller]
    pub fn with(cluster: &'static Cluster, name: &str, program: PathBuf) -> Self {
        let kubectl = Kubectl::new(program, cluster.kubeconfig(), cluster.folder(), name);
        kubectl.ok(&["create", "namespace", name]);
        Self { kubectl, name: name.to_owned(), cluster }
    }

    /// `dhow WORDS` in this namespace.
    pub fn dhow(&self, words: &[&str]) -> super::Ran {
        self.cluster.run(&[&["--namespace", &self.name], words].concat())
    }
}

impl Deref for Namespace {
    type Target = Kubectl;
    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let show = |words: &[&str]| {
            let ran = self.kubectl.command(words).output();
            ran.map_or_else(
                |e| e.to_string(),
                |o| String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned(),
            )
        };
        if std::thread::panicking() {
            eprintln!("--- namespace {}", self.name);
            eprintln!("{}", show(&["get", "deploy,rs,job,pods,svc", "-o", "wide"]));
            eprintln!("{}", show(&["get", "events", "--sort-by=.metadata.creationTimestamp"]));
            eprintln!("{}", self.cluster.logs());
        }
        // Its pods end while the next test runs.
        show(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
