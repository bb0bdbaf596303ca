//! One wasm container, from created to ended.
//!
//! ```text
//!   Created ──start──► Running ──guest ends · signal · shutdown──► ended (Exit, for ever)
//!      └───────────────signal──────────────────────────────────────►┘
//! ```
use crate::Config;
use crate::account::Account;
use crate::code::{Prepared, Program};
use crate::command::run_command;
use crate::ending::Ending;
use crate::executor::Owned;
use crate::figures::Figures;
use crate::guest::Guest;
use crate::host::Host;
use crate::http_server::{Server, Settings, bind, compute_concurrency};
use crate::meter::Meter;
use crate::outbound::{Outbound, Policy};
use crate::preopen::apply_preopens;
use crate::stdio::GuestOutput;
use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use shim::{Container, ContainerSpec, DEFAULT_HTTP_PORT, Error, Exit, Input, Output, Stats, Stream};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
/// Signals whose default action is not to end a process: SIGCHLD, SIGCONT, the stops, SIGURG, SIGWINCH.
const HARMLESS: [i32; 9] = [0, 17, 18, 19, 20, 21, 22, 23, 28];

enum Stage {
    Created { stdin: Option<Input> },
    Started,
}

pub(crate) struct WasmContainer {
    me: Weak<Self>,
    id: String,
    name: String,
    host: Arc<Host>,
    config: Arc<Config>,
    prepared: Arc<Prepared>,
    guest: Arc<Guest>,
    settings: Settings,
    address: SocketAddr,
    network_namespace: Option<PathBuf>,
    views_dir: PathBuf,
    stage: tokio::sync::Mutex<Stage>,
    /// The signal that ended it, once one has.
    signal: AtomicI32,
    /// Ends everything at once.
    kill: CancellationToken,
    /// Lets an http server finish.
    stop: CancellationToken,
    exit: watch::Sender<Option<Exit>>,
    /// Held while it runs: how the first of several ends wins.
    ending: Mutex<()>,
    tasks: TaskTracker,
}

impl WasmContainer {
    pub(crate) async fn create(
        host: Arc<Host>,
        config: Arc<Config>,
        prepared: Arc<Prepared>,
        spec: ContainerSpec,
        shutdown: &CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        let settings = Settings::from_annotations(&spec.annotations)?;
        let views_dir = spec.state_dir.join("views");
        let (mounts, views) = (spec.mounts, views_dir.clone());
        let preopens = tokio::task::spawn_blocking(move || apply_preopens(&mounts, &views))
            .await
            .map_err(|e| Error::Unavailable(format!("mounting volumes failed: {e}")))??;
        let (kill, stop) = match prepared.program {
            Program::Http(_) => (CancellationToken::new(), shutdown.child_token()),
            Program::Module(_) | Program::Command(_) => (shutdown.child_token(), CancellationToken::new()),
        };
        let tasks = TaskTracker::new();
        let policy = Policy { pod_ip: spec.pod_ip, reachable_loopback: config.reachable_loopback.clone() };
        let figures = Arc::new(Figures::default());
        let output = |stream| GuestOutput { output: spec.output.clone(), stream };
        let guest = Arc::new(Guest {
            args: spec.args,
            env: spec.env,
            cwd: spec.cwd,
            preopens,
            stdout: output(Stream::Stdout),
            stderr: output(Stream::Stderr),
            outbound: Outbound::new(
                policy,
                Owned { tasks: tasks.clone(), kill: kill.clone() },
                figures.clone(),
            ),
            account: Account::new(spec.resources.memory_limit_bytes, &host.memory),
            meter: Meter::new(&spec.resources),
            figures,
        });
        let port = spec.ports.first().copied().unwrap_or(DEFAULT_HTTP_PORT);
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            id: spec.id,
            name: spec.display_name,
            host,
            config,
            prepared,
            guest,
            settings,
            address: SocketAddr::new(spec.pod_ip, port),
            network_namespace: spec.network_namespace,
            views_dir,
            stage: tokio::sync::Mutex::new(Stage::Created { stdin: spec.stdin }),
            signal: AtomicI32::new(SIGTERM),
            kill,
            stop,
            exit: watch::Sender::new(None),
            ending: Mutex::new(()),
            tasks,
        }))
    }

    fn end(&self, ending: Ending) {
        let _first = self.ending.lock();
        if self.exit.borrow().is_some() {
            return;
        }
        self.guest.figures.ended(&ending);
        if let Some(line) = ending.log_line() {
            self.guest.stderr.output.write(Stream::Stderr, line.as_bytes());
        }
        tracing::debug!(container = %self.name, id = %self.id, ?ending, "wasm container ended");
        self.exit.send_replace(Some(ending.into_exit((self.config.now)())));
        // Tasks that hyper still holds for idle outgoing connections.
        self.kill.cancel();
    }

    fn signalled(&self) -> Ending {
        Ending::Signalled(self.signal.load(Relaxed))
    }

    /// Runs `work` as this container's life.
    fn live(self: &Arc<Self>, work: impl Future<Output = Ending> + Send + 'static) {
        let me = self.clone();
        let life = async move {
            let work = me.kill.run_until_cancelled(AssertUnwindSafe(work).catch_unwind()).await;
            me.end(match work {
                Some(Ok(ending)) => ending,
                Some(Err(_)) => Ending::NoRoom("the runtime failed while running this container".to_owned()),
                None => me.signalled(),
            });
        };
        self.tasks.spawn_on(life, self.host.guests.handle());
    }
}

#[async_trait]
impl Container for WasmContainer {
    async fn start(&self) -> Result<(), Error> {
        let Some(me) = self.me.upgrade() else { return Err(Error::NotRunning(self.id.clone())) };
        let mut stage = self.stage.lock().await;
        let Stage::Created { stdin } = &mut *stage else { return Ok(()) };
        if self.exit().is_some() {
            return Err(Error::NotRunning(self.id.clone()));
        }
        match &self.prepared.program {
            Program::Http(pre) => {
                // On the threads that will wait for its connections.
                let (address, namespace) = (self.address, self.network_namespace.clone());
                let binding = async move { bind(address, namespace.as_deref()).await };
                let listener = self
                    .tasks
                    .spawn_on(binding, self.host.guests.handle())
                    .await
                    .map_err(|e| Error::Unavailable(format!("listening on {address} failed: {e}")))??;
                let concurrency =
                    compute_concurrency(self.guest.account.limit(), self.prepared.initial_bytes);
                let server = Server::new(
                    self.host.clone(),
                    pre.clone(),
                    self.guest.clone(),
                    self.settings,
                    concurrency,
                    self.stop.clone(),
                    self.kill.clone(),
                );
                me.live(async move {
                    server.serve(listener).await;
                    Ending::Exited(0)
                });
            }
            Program::Module(_) | Program::Command(_) => {
                let stdin = stdin.take();
                let (host, prepared, guest) = (self.host.clone(), self.prepared.clone(), self.guest.clone());
                me.live(async move { run_command(&host, &prepared.program, &guest, stdin).await });
            }
        }
        *stage = Stage::Started;
        Ok(())
    }

    async fn kill(&self, signal: i32) -> Result<(), Error> {
        if HARMLESS.contains(&signal) || self.exit().is_some() {
            return Ok(());
        }
        let created = matches!(*self.stage.lock().await, Stage::Created { .. });
        let serves = matches!(self.prepared.program, Program::Http(_));
        if !created && serves && signal != SIGKILL {
            self.stop.cancel();
            return Ok(());
        }
        if !self.kill.is_cancelled() {
            self.signal.store(signal, Relaxed);
            self.kill.cancel();
        }
        if created {
            self.end(self.signalled());
        }
        Ok(())
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        // The sender is a field of this very container: it cannot be gone.
        match exit.wait_for(Option::is_some).await.map(|exit| exit.clone()) {
            Ok(Some(exit)) => exit,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    fn stats(&self) -> Stats {
        Stats {
            cpu_nanoseconds: self.guest.meter.total_nanoseconds(),
            memory_bytes: self.guest.account.used(),
            memory_peak_bytes: self.guest.account.peak(),
            sandbox: Some(self.guest.figures.stats()),
        }
    }

    async fn exec(&self, args: &[String], _: Duration, _: Arc<dyn Output>) -> Result<i32, Error> {
        let command = args.first().map_or("a command", String::as_str);
        Err(Error::InvalidSpec(format!(
            "cannot run {command} in {}: a WebAssembly container holds one program and no shell; use logs, or an \
             httpGet or tcpSocket probe",
            self.name
        )))
    }

    async fn delete(&self) -> Result<(), Error> {
        self.kill(SIGKILL).await?;
        self.wait().await;
        self.tasks.close();
        self.tasks.wait().await;
        match tokio::fs::remove_dir_all(&self.views_dir).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Io { what: format!("removing {}", self.views_dir.display()), source })
            }
            _ => Ok(()),
        }
    }
}
