//! The real kubectl, one version of it, with nothing of the user's.
use super::command::{self, Background, Ran};
use super::wait;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
    home: PathBuf,
}

impl Kubectl {
    /// `home` takes its caches.
    pub fn new(program: PathBuf, kubeconfig: PathBuf, home: &Path, namespace: &str) -> Self {
        let version = program.file_name().expect("a program").to_string_lossy().into_owned();
        Self {
            home: home.join(format!("home-{version}")),
            program,
            kubeconfig,
            namespace: namespace.to_owned(),
        }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--namespace", &self.namespace])
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env_remove("KUBECTL_KUBERC");
        command
    }

    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        command::run(&mut self.command(words))
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        self.run(words).ok()
    }

    /// Standard error of a command that must fail.
    #[track_caller]
    pub fn fails(&self, words: &[&str]) -> String {
        self.run(words).fails()
    }

    /// With a manifest on standard input. kubectl takes what begins with a brace for JSON: a document mark tells it
    /// that YAML in flow style is YAML.
    #[track_caller]
    pub fn run_with(&self, words: &[&str], input: &str) -> Ran {
        let is_json = serde_json::from_str::<Value>(input).is_ok();
        let mark = if input.starts_with('{') && !is_json { "---\n" } else { "" };
        command::run_with_input(&mut self.command(words), format!("{mark}{input}").as_bytes())
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.run_with(&["apply", "-f", "-"], manifest).ok()
    }

    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let text = self.ok(&[words, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?} gave no JSON ({e}): {text}"))
    }

    /// One object; `None` when there is none.
    #[track_caller]
    pub fn find(&self, kind: &str, name: &str) -> Option<Value> {
        let text = self.ok(&["get", kind, name, "--ignore-not-found", "-o", "json"]);
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).expect("JSON"))
    }

    #[track_caller]
    pub fn items(&self, words: &[&str]) -> Vec<Value> {
        self.json(words)["items"].as_array().cloned().expect("a list")
    }

    #[track_caller]
    pub fn background(&self, words: &[&str]) -> Background {
        Background::spawn(&mut self.command(words))
    }

    /// Waits until `look` finds what it looks for in an object.
    #[track_caller]
    pub fn until<T>(&self, what: &str, kind: &str, name: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        wait::until(what, || {
            let object = self.find(kind, name).ok_or_else(|| format!("no {kind} {name}"))?;
            look(&object).ok_or_else(|| serde_json::to_string_pretty(&object["status"]).expect("JSON"))
        })
    }

    /// Waits until an event about an object says something that holds all `words`.
    #[track_caller]
    pub fn event(&self, name: &str, words: &[&str]) -> String {
        wait::until(&format!("an event about {name} with {words:?}"), || {
            let events =
                self.items(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")]);
            let text = |e: &Value| {
                format!("{}: {}", e["reason"].as_str().unwrap_or(""), e["message"].as_str().unwrap_or(""))
            };
            let said: Vec<String> = events.iter().map(text).collect();
            said.iter()
                .find(|s| words.iter().all(|w| s.to_lowercase().contains(&w.to_lowercase())))
                .cloned()
                .ok_or_else(|| said.join(" | "))
        })
    }

    /// The container state `waiting` or `terminated` of a pod's first container, once its reason is `reason`.
    #[track_caller]
    pub fn container_state(&self, pod: &str, state: &str, reason: &str) -> Value {
        self.until(&format!("pod {pod} is {state} with {reason}"), "pod", pod, |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            [&status["state"][state], &status["lastState"][state]]
                .into_iter()
                .find(|s| s["reason"] == reason)
                .cloned()
        })
    }

    /// `kubectl wait` for a condition.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: &str) -> String {
        self.ok(&[
            "wait",
            what,
            &format!("--for={condition}"),
            &format!("--timeout={}s", wait::LONG.as_secs()),
        ])
    }
}
