//! One wasm container, from created to ended.
//!
//! ```text
//!   Created ──start──► Running ──guest ends · signal · shutdown──► ended (Exit, for ever)
//!      └───────────────signal──────────────────────────────────────►┘
//! ```
use crate::Config;
use crate::account::Account;
use crate::capability::{Wanted, grant_all, names};
use crate::code::{Prepared, Program};
use crate::command::run_command;
use crate::descriptors::Descriptors;
use crate::ending::Ending;
use crate::executor::Owned;
use crate::exports::call_export;
use crate::figures::Figures;
use crate::guest::Guest;
use crate::host::Host;
use crate::http_server::Server;
use crate::limits::{MAX_EXEC_TIME, MAX_EXECS};
use crate::listener::bind;
use crate::log_rate::LogRate;
use crate::meter::Meter;
use crate::outbound::Outbound;
use crate::preopen::apply_preopens;
use crate::reach::{Ranges, Reach};
use crate::room::Room;
use crate::settings::Settings;
use crate::stdio::GuestOutput;
use crate::terminal::{INTERRUPTED, RawTerminal, interrupt};
use crate::traces::Traces;
use async_trait::async_trait;
use futures::FutureExt;
use network_policy::{EGRESS_ANNOTATION, HostList};
use parking_lot::Mutex;
use shim::{
    Container, ContainerSpec, DEFAULT_HTTP_PORT, Error, ExecStreams, Exit, Input, Output, Stats, Stream,
};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

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
    /// The same, once those who ask it have heard that it goes.
    retire: CancellationToken,
    exit: watch::Sender<Option<Exit>>,
    /// Held while it runs: how the first of several ends wins.
    ending: Mutex<()>,
    /// Places for calls of its functions.
    execs: Semaphore,
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
        let rate = LogRate::from_annotations(&spec.annotations)?;
        let hosts = host_list(&spec)?;
        let traces = Traces::new(config.tracer.as_ref(), &spec.annotations, &spec.display_name)?;
        let views_dir = spec.state_dir.join("views");
        let (mounts, views) = (spec.mounts.clone(), views_dir.clone());
        let preopens = tokio::task::spawn_blocking(move || apply_preopens(&mounts, &views))
            .await
            .map_err(|e| Error::Unavailable(format!("mounting volumes failed: {e}")))??;
        let (kill, stop) = match prepared.program {
            Program::Http(_) => (CancellationToken::new(), shutdown.child_token()),
            Program::Module(_) | Program::Command(_) | Program::CommandP3(_) => {
                (shutdown.child_token(), CancellationToken::new())
            }
        };
        let tasks = TaskTracker::new();
        let figures = Arc::new(Figures::default());
        let ranges = Ranges {
            reachable_loopback: config.reachable_loopback.clone(),
            services: config.service_ranges.clone(),
        };
        let reach = Reach::new(spec.pod_ip, ranges, spec.network.clone(), hosts, figures.clone());
        let output = |stream| GuestOutput::new(spec.output.clone(), stream, rate.clone());
        let executor = Owned { tasks: tasks.clone(), kill: kill.clone() };
        let outbound = Outbound::new(Arc::new(reach), executor.clone());
        let (namespace, container) = names(&spec.display_name);
        let wanted = Wanted {
            namespace,
            container,
            display_name: &spec.display_name,
            annotations: &spec.annotations,
            mounts: &spec.mounts,
            outbound: &outbound,
            executor: &executor,
        };
        let granted = Arc::new(grant_all(&host.capabilities, &prepared.imports, &wanted)?);
        let opens =
            !preopens.is_empty() || prepared.imports.iter().any(|import| import.starts_with("wasi:sockets/"));
        let guest = Arc::new(Guest {
            descriptors: opens.then(|| Descriptors::of_container(&host.descriptors)),
            args: spec.args,
            env: spec.env,
            cwd: spec.cwd,
            preopens,
            stdout: output(Stream::Stdout),
            stderr: output(Stream::Stderr),
            outbound,
            traces,
            granted,
            account: Account::new(spec.resources.memory_limit_bytes, &host.memory),
            meter: Arc::new(Meter::new(&spec.resources, host.lanes.clone(), tasks.clone())),
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
            retire: CancellationToken::new(),
            exit: watch::Sender::new(None),
            ending: Mutex::new(()),
            execs: Semaphore::new(MAX_EXECS),
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
            self.guest.stderr.note(&line);
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

/// The hosts the pod may call; `None` without the annotation.
fn host_list(spec: &ContainerSpec) -> Result<Option<HostList>, Error> {
    let Some(text) = spec.annotations.get(EGRESS_ANNOTATION) else { return Ok(None) };
    text.parse().map(Some).map_err(|e| Error::InvalidSpec(format!("annotation {EGRESS_ANNOTATION}: {e}")))
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
                let room = Room::new(
                    self.guest.account.limit(),
                    self.prepared.initial_bytes,
                    self.settings.concurrency,
                );
                let server = Server::new(
                    self.host.clone(),
                    pre.clone(),
                    self.guest.clone(),
                    self.settings,
                    room,
                    self.retire.clone(),
                    self.stop.clone(),
                    self.kill.clone(),
                );
                me.live(server.serve(listener));
            }
            Program::Module(_) | Program::Command(_) | Program::CommandP3(_) => {
                let stdin = stdin.take();
                let (host, prepared, guest) = (self.host.clone(), self.prepared.clone(), self.guest.clone());
                me.live(async move { run_command(host, prepared, guest, stdin).await });
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
            self.retire.cancel();
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

    async fn exec(&self, args: &[String], timeout: Duration, output: Arc<dyn Output>) -> Result<i32, Error> {
        self.call(args, timeout, None, output).await
    }

    async fn exec_with(&self, args: &[String], streams: ExecStreams) -> Result<i32, Error> {
        match streams.terminal {
            None => self.call(args, MAX_EXEC_TIME, streams.stdin, streams.output).await,
            Some(_) => {
                let output = Arc::new(RawTerminal(streams.output));
                tokio::select! {
                    called = self.call(args, MAX_EXEC_TIME, None, output) => called,
                    () = interrupt(streams.stdin) => Ok(INTERRUPTED),
                }
            }
        }
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

impl WasmContainer {
    /// Calls an exported function.
    async fn call(
        &self,
        args: &[String],
        timeout: Duration,
        stdin: Option<Input>,
        output: Arc<dyn Output>,
    ) -> Result<i32, Error> {
        let Ok(_turn) = self.execs.try_acquire() else {
            return Err(Error::Unavailable(format!(
                "{}: {MAX_EXECS} calls of its functions are at work already; try again later",
                self.name
            )));
        };
        let (host, prepared, guest) = (self.host.clone(), self.prepared.clone(), self.guest.clone());
        let (args, timeout) = (args.to_vec(), timeout.min(MAX_EXEC_TIME));
        let kill = self.kill.clone();
        let call = async move {
            let calling = call_export(&host, &prepared.program, &guest, &args, timeout, stdin, output);
            kill.run_until_cancelled(calling).await
        };
        // On the threads that run guests; who stops asking ends the call.
        let call = AbortOnDropHandle::new(self.tasks.spawn_on(call, self.host.guests.handle()));
        match call.await {
            Ok(Some(called)) => called.map_err(|e| match e {
                Error::InvalidSpec(text) => Error::InvalidSpec(format!("{}: {text}", self.name)),
                other => other,
            }),
            Ok(None) => Err(Error::NotRunning(self.id.clone())),
            Err(e) => Err(Error::Unavailable(format!("{}: the call failed: {e}", self.name))),
        }
    }
}
