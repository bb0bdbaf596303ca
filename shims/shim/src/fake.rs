//! A shim that runs nothing, for tests of whoever uses shims.
//!
//! Invariant: its time is tokio's (so a paused clock works), and its containers live in the [`FakeShim`] value, not
//! in whoever uses it: hand a clone to a second runtime and [`Shim::adopt`] finds them, if the script says that
//! they survive.
use crate::*;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Until it is killed.
    Forever,
    /// Ends by itself.
    Exit { code: i32, after: Duration },
    /// Copies its standard input to its standard output and ends with 0 when there is no more.
    Echo,
}

/// What `exec` does: arguments in, exit code and output out.
pub type Exec = Arc<dyn Fn(&[String]) -> (i32, String) + Send + Sync>;

/// The life of a container.
#[derive(Clone)]
pub struct Script {
    /// Creating it takes this long: a slow compile.
    pub create_takes: Duration,
    /// Creating it fails with this [`Error::InvalidImage`].
    pub create_error: Option<String>,
    /// Starting it fails with this [`Error::InvalidSpec`].
    pub start_error: Option<String>,
    pub run: Run,
    /// What it writes when it starts.
    pub output: Vec<(Stream, Vec<u8>)>,
    /// Ends on SIGTERM after this long; `None` ignores it.
    pub stop_takes: Option<Duration>,
    pub exec: Option<Exec>,
    pub stats: Stats,
    /// Runs on when the runtime's process ends, as a Linux container does.
    pub survives: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            create_takes: Duration::ZERO,
            create_error: None,
            start_error: None,
            run: Run::Forever,
            output: Vec::new(),
            stop_takes: Some(Duration::ZERO),
            exec: None,
            stats: Stats { cpu_nanoseconds: 1_000_000, memory_bytes: 1 << 20, ..Stats::default() },
            survives: false,
        }
    }
}

impl Script {
    /// Ends with `code` after a while.
    pub fn exits(code: i32, after: Duration) -> Self {
        Self { run: Run::Exit { code, after }, ..Self::default() }
    }
}

type Choose = Arc<dyn Fn(&ContainerSpec) -> Script + Send + Sync>;
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What a container was made of, for assertions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: String,
    pub display_name: String,
    pub image: ImageContent,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub user: String,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    pub pod_ip: IpAddr,
    pub hostname: String,
    pub ports: Vec<u16>,
    pub cgroup_parent: String,
    pub has_stdin: bool,
}

/// The fake. Clones share their containers.
#[derive(Clone)]
pub struct FakeShim {
    inner: Arc<Inner>,
}

struct Inner {
    handler: String,
    kind: ImageKind,
    choose: Choose,
    clock: Clock,
    missing: Mutex<Option<String>>,
    containers: Mutex<BTreeMap<String, Arc<FakeContainer>>>,
    seen: Mutex<Vec<Seen>>,
}

/// A poisoned lock means that a test has failed already: what is inside still serves.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl FakeShim {
    /// A shim whose containers do what `choose` says. Its clock starts in 2026 and goes with tokio's: call this
    /// inside a runtime.
    pub fn new(
        handler: &str,
        kind: ImageKind,
        choose: impl Fn(&ContainerSpec) -> Script + Send + Sync + 'static,
    ) -> Self {
        let started = tokio::time::Instant::now();
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        Self::with_clock(handler, kind, choose, move || epoch + started.elapsed())
    }

    pub fn with_clock(
        handler: &str,
        kind: ImageKind,
        choose: impl Fn(&ContainerSpec) -> Script + Send + Sync + 'static,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                handler: handler.to_string(),
                kind,
                choose: Arc::new(choose),
                clock: Arc::new(clock),
                missing: Mutex::new(None),
                containers: Mutex::default(),
                seen: Mutex::default(),
            }),
        }
    }

    /// From now on [`Shim::ready`] fails with this text, or no longer.
    pub fn set_missing(&self, what: Option<&str>) {
        *lock(&self.inner.missing) = what.map(str::to_string);
    }

    /// What was created so far, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.inner.seen).clone()
    }

    /// The ids of containers not deleted.
    pub fn present(&self) -> Vec<String> {
        lock(&self.inner.containers).keys().cloned().collect()
    }

    /// The runtime's process ends: containers that do not survive are gone.
    pub fn lose_process(&self) {
        lock(&self.inner.containers).retain(|_, container| container.script.survives);
    }

    /// Ends a container from outside, as the OOM killer would.
    pub fn end(&self, id: &str, code: i32, reason: &str, message: &str) {
        let container = lock(&self.inner.containers).get(id).cloned();
        if let Some(container) = container {
            container.finish(code, reason, message);
        }
    }
}

struct FakeContainer {
    id: String,
    script: Script,
    clock: Clock,
    input: Mutex<Option<Input>>,
    output: Mutex<Arc<dyn Output>>,
    started: Mutex<bool>,
    exit: watch::Sender<Option<Exit>>,
    tasks: Mutex<JoinSet<()>>,
    shim: std::sync::Weak<Inner>,
}

impl FakeContainer {
    fn finish(&self, code: i32, reason: &str, message: &str) {
        let finished_at = (self.clock)();
        self.exit.send_if_modified(|exit| {
            if exit.is_some() {
                return false;
            }
            *exit = Some(Exit { code, reason: reason.into(), message: message.into(), finished_at });
            true
        });
    }

    fn finish_with(&self, code: i32) {
        self.finish(code, if code == 0 { "Completed" } else { "Error" }, "");
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let output = lock(&self.output).clone();
        output.write(stream, bytes);
    }
}

#[async_trait]
impl Shim for FakeShim {
    fn handler(&self) -> &str {
        &self.inner.handler
    }

    fn image_kind(&self) -> ImageKind {
        self.inner.kind
    }

    fn ready(&self) -> Result<(), Error> {
        match lock(&self.inner.missing).clone() {
            Some(what) => Err(Error::Unavailable(what)),
            None => Ok(()),
        }
    }

    async fn create(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, Error> {
        let script = (self.inner.choose)(&spec);
        tokio::time::sleep(script.create_takes).await;
        if let Some(error) = script.create_error {
            return Err(Error::InvalidImage(error));
        }
        lock(&self.inner.seen).push(Seen {
            id: spec.id.clone(),
            display_name: spec.display_name.clone(),
            image: spec.image.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            cwd: spec.cwd.clone(),
            user: spec.user.clone(),
            mounts: spec.mounts.clone(),
            resources: spec.resources,
            pod_ip: spec.pod_ip,
            hostname: spec.hostname.clone(),
            ports: spec.ports.clone(),
            cgroup_parent: spec.cgroup_parent.clone(),
            has_stdin: spec.stdin.is_some(),
        });
        let container = Arc::new(FakeContainer {
            id: spec.id.clone(),
            script,
            clock: self.inner.clock.clone(),
            input: Mutex::new(spec.stdin),
            output: Mutex::new(spec.output),
            started: Mutex::new(false),
            exit: watch::Sender::new(None),
            tasks: Mutex::default(),
            shim: Arc::downgrade(&self.inner),
        });
        lock(&self.inner.containers).insert(spec.id, container.clone());
        Ok(Arc::new(Handle(container)))
    }

    async fn adopt(
        &self,
        id: &str,
        _state_dir: PathBuf,
        output: Arc<dyn Output>,
    ) -> Result<Option<Arc<dyn Container>>, Error> {
        let Some(container) = lock(&self.inner.containers).get(id).cloned() else { return Ok(None) };
        *lock(&container.output) = output;
        Ok(Some(Arc::new(Handle(container))))
    }
}

/// What the runtime holds; the container itself stays with the shim.
struct Handle(Arc<FakeContainer>);

#[async_trait]
impl Container for Handle {
    async fn start(&self) -> Result<(), Error> {
        let container = &self.0;
        if std::mem::replace(&mut *lock(&container.started), true) {
            return Err(Error::InvalidSpec(format!("container {} was started before", container.id)));
        }
        if let Some(error) = &container.script.start_error {
            container.finish(128, "ContainerCannotRun", error);
            return Err(Error::InvalidSpec(error.clone()));
        }
        for (stream, bytes) in &container.script.output {
            container.write(*stream, bytes);
        }
        let running = Arc::downgrade(container);
        let mut tasks = lock(&container.tasks);
        match container.script.run {
            Run::Forever => {}
            Run::Exit { code, after } => {
                tasks.spawn(async move {
                    tokio::time::sleep(after).await;
                    if let Some(container) = running.upgrade() {
                        container.finish_with(code);
                    }
                });
            }
            Run::Echo => {
                let input = lock(&container.input).take();
                tasks.spawn(async move {
                    if let Some(mut input) = input {
                        let mut buffer = [0; 4096];
                        while let Ok(n @ 1..) = input.read(&mut buffer).await {
                            let Some(container) = running.upgrade() else { return };
                            container.write(Stream::Stdout, &buffer[..n]);
                        }
                    }
                    if let Some(container) = running.upgrade() {
                        container.finish_with(0);
                    }
                });
            }
        }
        Ok(())
    }

    async fn kill(&self, signal: i32) -> Result<(), Error> {
        let container = &self.0;
        match (signal, container.script.stop_takes) {
            (9, _) => container.finish_with(137),
            (_, None) => {}
            (signal, Some(takes)) => {
                let running = Arc::downgrade(container);
                lock(&container.tasks).spawn(async move {
                    tokio::time::sleep(takes).await;
                    if let Some(container) = running.upgrade() {
                        container.finish_with(128 + signal);
                    }
                });
            }
        }
        Ok(())
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.0.exit.subscribe();
        loop {
            if let Some(exit) = exit.borrow_and_update().clone() {
                return exit;
            }
            // The sender lives in the container, which this handle holds.
            if exit.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn exit(&self) -> Option<Exit> {
        self.0.exit.borrow().clone()
    }

    fn stats(&self) -> Stats {
        self.0.script.stats
    }

    async fn exec(&self, args: &[String], _timeout: Duration, output: Arc<dyn Output>) -> Result<i32, Error> {
        if !*lock(&self.0.started) || self.exit().is_some() {
            return Err(Error::NotRunning(self.0.id.clone()));
        }
        let (code, text) = self.0.script.exec.as_ref().map(|exec| exec(args)).unwrap_or_default();
        output.write(Stream::Stdout, text.as_bytes());
        Ok(code)
    }

    /// What the script says, and then standard input as standard output.
    async fn exec_with(&self, args: &[String], streams: ExecStreams) -> Result<i32, Error> {
        let code = self.exec(args, Duration::MAX, streams.output.clone()).await?;
        let Some(mut input) = streams.stdin else { return Ok(code) };
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = input.read(&mut buffer).await {
            streams.output.write(Stream::Stdout, &buffer[..n]);
            if let Some(room) = streams.output.room() {
                room.await;
            }
        }
        Ok(code)
    }

    async fn delete(&self) -> Result<(), Error> {
        self.0.finish_with(137);
        if let Some(shim) = self.0.shim.upgrade() {
            lock(&shim.containers).remove(&self.0.id);
        }
        Ok(())
    }
}

/// Output kept in memory.
pub struct Captured {
    text: Mutex<[Vec<u8>; 2]>,
    written: watch::Sender<usize>,
}

impl Default for Captured {
    fn default() -> Self {
        Self { text: Mutex::default(), written: watch::Sender::new(0) }
    }
}

impl Captured {
    pub fn stdout(&self) -> String {
        self.of(Stream::Stdout)
    }

    pub fn stderr(&self) -> String {
        self.of(Stream::Stderr)
    }

    fn of(&self, stream: Stream) -> String {
        String::from_utf8_lossy(&lock(&self.text)[stream as usize]).into_owned()
    }

    /// Waits until standard output contains `text`; without end if it never does.
    pub async fn wait_for(&self, text: &str) {
        let mut written = self.written.subscribe();
        // The sender is this value's own: it cannot be gone.
        let _ = written.wait_for(|_| self.stdout().contains(text)).await;
    }
}

impl Output for Captured {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        lock(&self.text)[stream as usize].extend_from_slice(bytes);
        self.written.send_modify(|count| *count += bytes.len());
    }
}
