//! Opening a runtime: taking the directory, and taking up what an earlier process left.
use crate::config::Config;
use crate::container::{Entry, nanoseconds};
use crate::error::OpenError;
use crate::log::{Log, OpenLogs};
use crate::networks::Networks;
use crate::output::ContainerOutput;
use crate::plan::Candidate;
use crate::record::{ContainerRecord, ExitRecord, Records, SandboxRecord, Survive};
use crate::state::State;
use cri::{ContainerEventType, ContainerState, Error};
use parking_lot::Mutex;
use shim::{Container, ImageKind};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events a subscriber may be behind before it must list again: a node of 10,000 pods that starts all at once sends
/// a few for each.
const EVENTS: usize = 16_384;

/// The runtime. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) images: images::Images,
    pub(crate) sandboxes: Records,
    pub(crate) containers: Records,
    pub(crate) state: Mutex<State>,
    pub(crate) networks: Networks,
    pub(crate) logs: Arc<OpenLogs>,
    /// Made when the first client wants streams.
    pub(crate) streaming: tokio::sync::OnceCell<streaming::Server>,
    pub(crate) events: broadcast::Sender<(ContainerEventType, String, String)>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    /// Holds the directory; given back when the process ends, however it ends.
    _lock: File,
}

impl Runtime {
    /// Opens the runtime below `config.root_dir`. Containers that ended with an earlier process are reported ended
    /// with 255, so that the kubelet starts new ones; those that still run are taken up.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let root = &config.root_dir;
        std::fs::create_dir_all(root).map_err(OpenError::io(format!("making {}", root.display())))?;
        let lock = take(root)?;
        let opening = |what: &str| OpenError::io(format!("opening {what} in {}", root.display()));
        let sandboxes = Records::open(root.join("sandboxes")).map_err(opening("sandboxes"))?;
        let containers = Records::open(root.join("containers")).map_err(opening("containers"))?;
        let images = images::Images::open(images::Config {
            root_dir: root.join("images"),
            registries: config.registries.clone(),
            limits: config.image_limits,
        })?;
        let inner = Inner {
            images,
            sandboxes,
            containers,
            state: Mutex::default(),
            networks: Networks::default(),
            logs: Arc::default(),
            streaming: tokio::sync::OnceCell::new(),
            events: broadcast::channel(EVENTS).0,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            config,
            _lock: lock,
        };
        let runtime = Self { inner: Arc::new(inner) };
        runtime.take_up().await?;
        Ok(runtime)
    }

    /// Ends what this process does. Containers inside it end with it; others run on for the next process.
    pub async fn close(&self) {
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        for entry in self.inner.state.lock().containers() {
            entry.log.flush();
        }
    }

    async fn take_up(&self) -> Result<(), OpenError> {
        let inner = &self.inner;
        let reading = |what: &str| OpenError::io(format!("reading the records of {what}"));
        let (sandboxes, broken) = inner.sandboxes.load::<SandboxRecord>().map_err(reading("sandboxes"))?;
        for id in broken {
            inner.sandboxes.remove(&id).map_err(reading("sandboxes"))?;
        }
        for mut sandbox in sandboxes {
            if let Some(attachment) = sandbox.attachment.as_ref().filter(|_| !sandbox.host_network)
                && let Err(error) = inner.config.network.adopt(&sandbox.id, attachment).await
            {
                tracing::warn!(sandbox = sandbox.id, %error, "a sandbox lost its network");
                (sandbox.ready, sandbox.attachment) = (false, None);
                inner
                    .sandboxes
                    .save(&sandbox.id, &sandbox, Survive::Process)
                    .map_err(reading("sandboxes"))?;
            }
            inner.state.lock().sandboxes.insert(sandbox.id.clone(), sandbox);
        }
        let (containers, broken) =
            inner.containers.load::<ContainerRecord>().map_err(reading("containers"))?;
        for id in broken {
            inner.containers.remove(&id).map_err(reading("containers"))?;
        }
        for record in containers {
            self.take_up_container(record).await?;
        }
        Ok(())
    }

    async fn take_up_container(&self, record: ContainerRecord) -> Result<(), OpenError> {
        let inner = &self.inner;
        let id = record.id.clone();
        let ended = record.exit.is_some();
        // The log's directory may be gone with its pod: a container without a log is better than no runtime.
        let path = if ended { "" } else { record.log_path.as_str() };
        let clock = inner.config.clock.clone();
        let log = Log::open(path, clock.clone(), inner.config.log, inner.logs.clone()).or_else(|error| {
            tracing::warn!(container = id, %error, "a container's log cannot be opened");
            Log::open("", clock, inner.config.log, inner.logs.clone())
        });
        let log = Arc::new(ContainerOutput::new(log.map_err(OpenError::io("opening a log"))?));
        let handle = if ended { None } else { self.adopt(&record, log.clone()).await };
        let running = record.state() == ContainerState::Running;
        let entry = Arc::new(Entry::new(record, handle.clone(), log, None, false));
        inner.state.lock().insert_container(entry.clone());
        match handle {
            Some(handle) if running => self.watch(entry, handle),
            Some(_) => {}
            None if ended => {}
            None => {
                let message = "the runtime was restarted, and the container had lived inside it".to_string();
                let finished_at = self.now();
                let exit = ExitRecord { code: 255, reason: "Unknown".into(), message, finished_at };
                // A power cut that forgets it leaves the record as it was, and the next start finds the same. Waiting
                // for the disk, twice for each of a thousand containers, would keep all pods away for 20 s.
                self.finish_saved(&entry, exit, Survive::Process).await;
            }
        }
        Ok(())
    }

    /// Asks a container's shim whether it still has it.
    pub(crate) async fn adopt(
        &self,
        record: &ContainerRecord,
        log: Arc<ContainerOutput>,
    ) -> Option<Arc<dyn Container>> {
        let shim = self.inner.config.shims.iter().find(|shim| shim.handler() == record.shim)?;
        let state_dir = self.inner.state_dir(&record.id);
        match shim.adopt(&record.id, state_dir, log).await {
            Ok(handle) => handle,
            Err(error) => {
                tracing::warn!(container = record.id, %error, "a container could not be taken up");
                None
            }
        }
    }

    /// Waits for a container's end and notes it.
    pub(crate) fn watch(&self, entry: Arc<Entry>, handle: Arc<dyn Container>) {
        let runtime = self.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                exit = handle.wait() => runtime.finish(&entry, exit.into()).await,
                _ = runtime.inner.shutdown.cancelled() => {}
            }
        });
    }

    /// Notes a container's end: on disk, then for whoever waits, then as an event.
    pub(crate) async fn finish(&self, entry: &Entry, exit: ExitRecord) {
        self.finish_saved(entry, exit, Survive::PowerCut).await;
    }

    async fn finish_saved(&self, entry: &Entry, exit: ExitRecord, survive: Survive) {
        let Some(record) = entry.set_exit(exit) else { return };
        entry.log.flush();
        let containers = self.inner.containers.clone();
        let saved = tokio::task::spawn_blocking(move || containers.save(&record.id, &record, survive)).await;
        if let Ok(Err(error)) = saved {
            // It has ended all the same, and everybody may know; only a power cut would forget it.
            tracing::error!(container = entry.id, %error, "how a container ended could not be saved");
        }
        entry.announce_end();
        self.emit(ContainerEventType::Stopped, &entry.id, &entry.sandbox);
        // After the announcement, at which whoever feeds it lets go.
        *entry.input.lock().await = None;
    }

    pub(crate) fn emit(&self, event: ContainerEventType, container: &str, sandbox: &str) {
        // Nobody listening is no error.
        let _ = self.inner.events.send((event, container.to_string(), sandbox.to_string()));
    }

    pub(crate) fn now(&self) -> i64 {
        nanoseconds((self.inner.config.clock)())
    }

    /// 64 hex digits.
    pub(crate) fn new_id(&self) -> String {
        (0..4).map(|_| format!("{:016x}", (self.inner.config.random)())).collect()
    }

    pub(crate) fn entry(&self, id: &str) -> Option<Arc<Entry>> {
        self.inner.state.lock().container(id).cloned()
    }

    /// The shims as the choice among them sees them.
    pub(crate) fn candidates(&self) -> Vec<Candidate<'_>> {
        let shims = self.inner.config.shims.iter();
        shims
            .map(|shim| Candidate {
                handler: shim.handler(),
                kind: shim.image_kind(),
                missing: shim.ready().err().map(|e| e.to_string()),
            })
            .collect()
    }

    /// Goes on with `work` even if its caller goes away: half a container is worse than one nobody asks after.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, wait) = oneshot::channel();
        self.inner.tasks.spawn(async move {
            // The caller may be gone: then nobody needs the answer.
            let _ = answer.send(work.await);
        });
        wait.await.unwrap_or_else(|_| Err(Error::Unavailable("the runtime is shutting down".into())))
    }
}

impl Inner {
    pub(crate) fn state_dir(&self, container: &str) -> PathBuf {
        self.containers.directory(container).join("state")
    }

    pub(crate) fn shim_kind(kind: &images::Kind) -> ImageKind {
        match kind {
            images::Kind::Wasm { .. } => ImageKind::Wasm,
            images::Kind::Linux { .. } => ImageKind::Linux,
        }
    }
}

/// The file that the runtime that works below `root` holds locked, with its process id in it.
pub fn lock_path(root: &Path) -> PathBuf {
    root.join("runtime.lock")
}

/// Takes the directory for this process, or says who has it.
fn take(root: &Path) -> Result<File, OpenError> {
    let path = lock_path(root);
    let locking = || OpenError::io(format!("locking {}", path.display()));
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(locking())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Whoever cannot be named is still there.
            let _ = file.read_to_string(&mut holder);
            return Err(OpenError::InUse { path: root.to_path_buf(), pid: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(e)) => return Err(locking()(e)),
    }
    let write = |file: &mut File| -> std::io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(locking())?;
    Ok(file)
}
