//! A runtime that runs nothing, for tests of whoever talks CRI.
//!
//! Invariant: it behaves as the suite says a runtime behaves, its time is tokio's (so a paused clock works), and it
//! outlives whoever uses it: hand the same value to a restarted kubelet and its pods are still there.
//!
//! What containers do is scripted: by image ([`FakeRuntime::script`]), by a closure over the container's
//! configuration ([`FakeRuntime::script_with`]), else by the image's name ([`Script::by_name`]).
mod images;
mod runtime;
mod script;
mod state;

pub use script::{Exec, Run, Script};

use crate::{ContainerConfig, ContainerEventType, Error, PodSandboxConfig};
use parking_lot::Mutex;
use state::State;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

/// Gives a container's script, or leaves it to the image.
type ScriptFn = Arc<dyn Fn(&PodSandboxConfig, &ContainerConfig) -> Option<Script> + Send + Sync>;
/// Nanoseconds since 1970.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Events a subscriber may be behind before it is told to list again.
const EVENTS: usize = 1024;

/// The fake. Clones are the same runtime.
#[derive(Clone)]
pub struct FakeRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    state: Mutex<State>,
    scripts: Mutex<BTreeMap<String, Script>>,
    script_fn: Mutex<Option<ScriptFn>>,
    faults: Mutex<BTreeMap<String, VecDeque<Error>>>,
    down: Mutex<Option<Error>>,
    calls: Mutex<Vec<String>>,
    events: broadcast::Sender<(ContainerEventType, String, String)>,
    /// One task for each container that will end by itself; they end with the fake.
    tasks: Mutex<JoinSet<()>>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeRuntime {
    /// Where the script says that a running container's streams are.
    fn streams_url(&self, container: &str) -> Result<String, crate::Error> {
        let state = self.inner.state.lock();
        let held = state.container(container)?;
        match held.status.state() {
            crate::ContainerState::Running => Ok(held.script.streams_url.clone()),
            _ => Err(crate::Error::FailedPrecondition(format!("container {container} does not run"))),
        }
    }

    /// A fake whose clock starts at 2026-01-01 and goes with tokio's. Call it inside a runtime.
    pub fn new() -> Self {
        const START: i64 = 1_767_225_600_000_000_000;
        let started = tokio::time::Instant::now();
        Self::with_clock(move || START + started.elapsed().as_nanos() as i64)
    }

    /// A fake with a clock of the caller's: nanoseconds since 1970.
    pub fn with_clock(clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                clock: Arc::new(clock),
                state: Mutex::default(),
                scripts: Mutex::default(),
                script_fn: Mutex::default(),
                faults: Mutex::default(),
                down: Mutex::default(),
                calls: Mutex::default(),
                events: broadcast::channel(EVENTS).0,
                tasks: Mutex::default(),
            }),
        }
    }

    /// Ids and addresses are numbered from `first` on: fakes that stand for different nodes must not share any.
    pub fn numbered_from(self, first: u64) -> Self {
        self.inner.state.lock().number_from(first);
        self
    }

    /// Containers of `image` follow `script` from now on.
    pub fn script(&self, image: &str, script: Script) {
        self.inner.scripts.lock().insert(image.to_string(), script);
    }

    /// Asked first for every container created.
    pub fn script_with(
        &self,
        choose: impl Fn(&PodSandboxConfig, &ContainerConfig) -> Option<Script> + Send + Sync + 'static,
    ) {
        *self.inner.script_fn.lock() = Some(Arc::new(choose));
    }

    /// The next call of an RPC (`RunPodSandbox`, `PullImage`, …) fails with `error`; may be queued.
    pub fn fail_next(&self, rpc: &str, error: Error) {
        self.inner.faults.lock().entry(rpc.to_string()).or_default().push_back(error);
    }

    /// Every call fails with `error` until this is called with `None`: a runtime that is away.
    pub fn set_down(&self, error: Option<Error>) {
        *self.inner.down.lock() = error;
    }

    /// The RPCs called so far, oldest first, each with the sandbox, container or image it named:
    /// `StartContainer 1f…`.
    pub fn calls(&self) -> Vec<String> {
        self.inner.calls.lock().clone()
    }

    pub fn clear_calls(&self) {
        self.inner.calls.lock().clear();
    }

    /// Ends a running container from outside, as a crash or the OOM killer would. Says whether it ran.
    pub fn end_container(&self, id: &str, code: i32, reason: &str, message: &str) -> bool {
        self.inner.end(id, code, reason, message)
    }

    /// The machine restarts: every container has ended with 255, every sandbox has lost its network.
    pub fn reboot(&self) {
        let running: Vec<String> = self.inner.state.lock().running();
        for id in running {
            self.inner.end(&id, 255, "Unknown", "the node restarted");
        }
        self.inner.state.lock().stop_all_sandboxes();
    }

    /// Puts an image here without a pull.
    pub fn add_image(&self, image: &str) {
        self.inner.state.lock().add_image(image);
    }

    /// The ids of sandboxes with this label.
    pub fn sandboxes_labelled(&self, key: &str, value: &str) -> Vec<String> {
        let state = self.inner.state.lock();
        let labelled = |sandbox: &state::Sandbox| sandbox.config.labels.get(key).is_some_and(|v| v == value);
        state.sandboxes.iter().filter(|(_, sandbox)| labelled(sandbox)).map(|(id, _)| id.clone()).collect()
    }

    /// What a sandbox was last told of its network.
    pub fn network_policy(&self, sandbox: &str) -> Option<Vec<u8>> {
        self.inner.state.lock().rules.get(sandbox).cloned()
    }

    /// Has a namespace keep something here beyond its pods.
    pub fn keep_namespace(&self, namespace: &str) {
        self.inner.state.lock().kept_namespaces.insert(namespace.to_owned());
    }

    /// Namespaces that keep something here beyond their pods.
    pub fn kept_namespaces(&self) -> Vec<String> {
        self.inner.state.lock().kept_namespaces.iter().cloned().collect()
    }

    /// The ids of containers that run.
    pub fn running(&self) -> Vec<String> {
        self.inner.state.lock().running()
    }
}

impl Inner {
    fn now(&self) -> i64 {
        (self.clock)()
    }

    /// Notes a call and fails it if it shall fail.
    fn called(&self, rpc: &str, about: &str) -> Result<(), Error> {
        self.calls.lock().push(if about.is_empty() { rpc.to_string() } else { format!("{rpc} {about}") });
        if let Some(error) = self.down.lock().clone() {
            return Err(error);
        }
        match self.faults.lock().get_mut(rpc).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn script_of_image(&self, image: &str) -> Script {
        self.scripts.lock().get(image).cloned().unwrap_or_else(|| Script::by_name(image))
    }

    fn emit(&self, event: ContainerEventType, container: &str, sandbox: &str) {
        // Nobody listening is no error.
        let _ = self.events.send((event, container.to_string(), sandbox.to_string()));
    }

    fn end(&self, id: &str, code: i32, reason: &str, message: &str) -> bool {
        let now = self.now();
        let Some(sandbox) = self.state.lock().end(id, code, reason, message, now) else { return false };
        self.emit(ContainerEventType::Stopped, id, &sandbox);
        true
    }
}
