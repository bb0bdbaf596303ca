//! One Linux container as the runtime sees it.
//!
//! ```text
//!   create ─► monitor ─'c'─► Created ──start──► running ──'e'──► drained ─► ended (Exit, for ever)
//!   adopt ──► created.json ─────────────────────────┘ ended.json ────────────────┘
//! ```
use crate::cgroup::cgroups_at;
use crate::config_json::{cgroups_path, compute_config};
use crate::exec::{Executor, Ran};
use crate::host::observe_abilities;
use crate::monitor::{CREATED, ENDED, start_time};
use crate::oci_runtime::OciRuntime;
use crate::pins::{mount_pins, unmount_pins};
use crate::record::{Created, Ended, Plan, Process, StateDir, read_json, write_json, written_at};
use crate::rootfs::{ensure_rootfs, remove_rootfs};
use crate::streams::{copy_input, copy_output, ensure_fifo, open_reader, open_writer};
use crate::user::observe_user;
use async_trait::async_trait;
use shim::{Container, ContainerSpec, Error, ExecStreams, Exit, ImageContent, Input, Output, Stats, Stream};
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Making a container takes 40 ms; a machine under full load may need a hundred times that and more.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a killed container may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a container is looked at whose monitor was killed.
const ORPHAN_INTERVAL: Duration = Duration::from_secs(1);

const SIGKILL: i32 = 9;

pub(crate) struct OciContainer {
    plan: Plan,
    state: StateDir,
    runtime: OciRuntime,
    process: Process,
    started: Mutex<bool>,
    stdin: Mutex<Option<(Input, pipe::Sender)>>,
    deleted: AtomicBool,
    exit: watch::Sender<Option<Exit>>,
    tasks: TaskTracker,
    /// Ends what this process does for the container, not the container.
    release: CancellationToken,
}

/// Makes a container and its monitor.
pub(crate) async fn create(
    mut spec: ContainerSpec,
    runtime: OciRuntime,
    monitor: &[OsString],
    shutdown: &CancellationToken,
) -> Result<Arc<OciContainer>, Error> {
    let state = StateDir(spec.state_dir.clone());
    let stdin = spec.stdin.take();
    let output = spec.output.clone();
    let plan = Plan {
        id: spec.id.clone(),
        display_name: spec.display_name.clone(),
        runtime: runtime.program.clone(),
        runtime_root: runtime.root.clone(),
        cgroup_parent: spec.cgroup_parent.clone(),
        memory_limit_bytes: spec.resources.memory_limit_bytes,
        has_stdin: stdin.is_some(),
    };
    let (prepared_state, prepared_plan) = (state.clone(), plan.clone());
    let prepared = tokio::task::spawn_blocking(move || prepare(spec, &prepared_state, &prepared_plan)).await;
    let prepared = prepared.map_err(|e| Error::Unavailable(format!("preparing {} failed: {e}", plan.id)));
    let made = match prepared.and_then(|prepared| prepared) {
        Ok(()) => spawn(&state, &plan, monitor, stdin).await,
        Err(e) => Err(e),
    };
    // The container has its own mounts of them by now, or is not to be.
    let made = unmount_pins(&plan).and(made);
    match made {
        Ok((child, process, stdin, status)) => {
            let container = OciContainer::new(plan, state, process, stdin, shutdown);
            container.watch(Some(child), status, output)?;
            Ok(container)
        }
        Err(e) => {
            let _ = runtime.delete(&plan.id).await;
            let _ = remove_rootfs(&state);
            if let Ok(cgroups) = cgroups_at(&cgroups_path(&plan.cgroup_parent, &plan.id)) {
                cgroups.remove(&plan.cgroup_parent);
            }
            Err(e)
        }
    }
}

fn prepare(mut spec: ContainerSpec, state: &StateDir, plan: &Plan) -> Result<(), Error> {
    let ImageContent::Linux { layers } = &spec.image else {
        return Err(Error::InvalidSpec(format!("{}: not a Linux image", spec.display_name)));
    };
    let io = |source| Error::Io { what: format!("writing the plan of {}", spec.display_name), source };
    // First: whoever comes after a crash finds by the plan what is mounted.
    std::fs::create_dir_all(&plan.runtime_root).map_err(io)?;
    write_json(&state.plan(), plan).map_err(io)?;
    ensure_rootfs(state, layers)?;
    let user = observe_user(&state.rootfs(), &spec.user)?;
    mount_pins(&mut spec.mounts, plan)?;
    let config = compute_config(&spec, &user, &observe_abilities())?;
    let io = |source| Error::Io { what: format!("writing the plan of {}", spec.display_name), source };
    write_json(&state.config(), &config).map_err(io)?;
    for fifo in [state.stdout(), state.stderr(), state.status()] {
        ensure_fifo(&fifo)?;
    }
    if plan.has_stdin {
        ensure_fifo(&state.stdin())?;
    }
    Ok(())
}

type Spawned = (Child, Process, Option<(Input, pipe::Sender)>, pipe::Receiver);

/// Starts the monitor and waits for what it says of `create`.
async fn spawn(
    state: &StateDir,
    plan: &Plan,
    monitor: &[OsString],
    stdin: Option<Input>,
) -> Result<Spawned, Error> {
    let io = |source| Error::Io { what: format!("starting the monitor of {}", plan.display_name), source };
    let [program, args @ ..] = monitor else {
        return Err(Error::Unavailable("no monitor command is configured".to_owned()));
    };
    // Held open, so that the monitor finds a writer there.
    let typed = match stdin {
        Some(input) => Some((input, open_writer(&state.stdin())?)),
        None => None,
    };
    let mut first = open_reader(&state.status())?;
    let log = File::create(state.monitor_log()).map_err(io)?;
    let mut child = Command::new(program)
        .args(args)
        .arg(&state.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(io)?;
    let mut word = [0];
    let said = tokio::select! {
        biased;
        said = first.read_exact(&mut word) => said.is_ok() && word[0] == CREATED,
        _ = child.wait() => false,
        () = tokio::time::sleep(CREATE_TIMEOUT) => false,
    };
    let failed = |message: &str| {
        Error::Unavailable(format!(
            "{}: {} create failed: {message}",
            plan.display_name,
            plan.runtime.display()
        ))
    };
    // A monitor may have spoken and gone before both were looked at: the file is what counts.
    match read_json(&state.created())? {
        Some(Created::Ok(process)) if said => {
            // Unlike the first, this one ends when the monitor does, its only other holder.
            let status = pipe::OpenOptions::new().open_receiver(state.status()).map_err(io)?;
            Ok((child, process, typed, status))
        }
        Some(Created::Failed { message }) => {
            Err(Error::InvalidSpec(format!("{}: {message}", plan.display_name)))
        }
        _ => {
            let _ = child.kill().await;
            let log = std::fs::read_to_string(state.monitor_log()).unwrap_or_default();
            let last = log.lines().last().unwrap_or("the monitor did not answer");
            Err(failed(last))
        }
    }
}

/// Takes up a container that an earlier process made.
pub(crate) async fn adopt(
    id: &str,
    state_dir: PathBuf,
    output: Arc<dyn Output>,
    shutdown: &CancellationToken,
) -> Result<Option<Arc<OciContainer>>, Error> {
    let state = StateDir(state_dir);
    let Some(plan) = read_json::<Plan>(&state.plan())? else { return Ok(None) };
    // Where the earlier process died while it made the container.
    unmount_pins(&plan)?;
    let Some(Created::Ok(process)) = read_json::<Created>(&state.created())? else {
        // The earlier process died between the plan and its fulfilment: nothing of it may be left behind.
        OciRuntime::new(&plan.runtime, &plan.runtime_root).delete(&plan.id).await?;
        remove_rootfs(&state)?;
        return Ok(None);
    };
    if plan.id != id {
        return Err(Error::InvalidSpec(format!(
            "{} holds container {}, not {id}",
            state.0.display(),
            plan.id
        )));
    }
    let status = pipe::OpenOptions::new()
        .open_receiver(state.status())
        .map_err(|source| Error::Io { what: format!("opening {}", state.status().display()), source })?;
    let container = OciContainer::new(plan, state, process, None, shutdown);
    container.watch(None, status, output)?;
    Ok(Some(container))
}

impl OciContainer {
    fn new(
        plan: Plan,
        state: StateDir,
        process: Process,
        stdin: Option<(Input, pipe::Sender)>,
        shutdown: &CancellationToken,
    ) -> Arc<Self> {
        let runtime = OciRuntime::new(&plan.runtime, &plan.runtime_root);
        Arc::new(Self {
            plan,
            state,
            runtime,
            process,
            started: Mutex::new(false),
            stdin: Mutex::new(stdin),
            deleted: AtomicBool::new(false),
            exit: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            release: shutdown.child_token(),
        })
    }

    /// Copies output and waits for the end, as long as this process lives.
    fn watch(
        self: &Arc<Self>,
        child: Option<Child>,
        status: pipe::Receiver,
        output: Arc<dyn Output>,
    ) -> Result<(), Error> {
        let ended = CancellationToken::new();
        let stdout =
            copy_output(open_reader(&self.state.stdout())?, Stream::Stdout, output.clone(), ended.clone());
        let stderr = copy_output(open_reader(&self.state.stderr())?, Stream::Stderr, output, ended.clone());
        let me = self.clone();
        self.tasks.spawn(async move {
            let life = async {
                let wait = async {
                    let exit = me.ending(status).await;
                    ended.cancel();
                    exit
                };
                // Whoever hears of the end finds the whole output in the log.
                let (exit, (), ()) = tokio::join!(wait, stdout, stderr);
                me.exit.send_replace(Some(exit));
                if let Some(mut child) = child {
                    let _ = child.wait().await;
                }
            };
            me.release.run_until_cancelled(life).await;
        });
        Ok(())
    }

    async fn ending(&self, mut status: pipe::Receiver) -> Exit {
        let mut word = [0];
        loop {
            match read_json::<Ended>(&self.state.ended()) {
                Ok(Some(ended)) => return self.exit_of(&ended),
                Ok(None) => {}
                Err(e) => return self.lost(&e.to_string()),
            }
            match status.read(&mut word).await {
                Ok(1) if word[0] == ENDED || word[0] == CREATED => {}
                // The monitor is gone. It wrote the file before, or it was killed.
                _ if self.state.ended().exists() => {}
                _ => break,
            }
        }
        while start_time(self.process.pid).is_ok_and(|time| time == self.process.start_time) {
            tokio::time::sleep(ORPHAN_INTERVAL).await;
        }
        self.lost("its supervisor was killed or the machine was restarted")
    }

    fn exit_of(&self, ended: &Ended) -> Exit {
        let (reason, message) = match (ended.code, ended.oom_killed) {
            (0, _) => ("Completed", String::new()),
            (_, false) => ("Error", String::new()),
            (_, true) => (
                "OOMKilled",
                match self.plan.memory_limit_bytes {
                    Some(limit) => format!("memory limit exceeded: the limit is {limit} bytes"),
                    None => "the node ran out of memory".to_owned(),
                },
            ),
        };
        Exit {
            code: ended.code,
            reason: reason.to_owned(),
            message,
            finished_at: written_at(&self.state.ended()),
        }
    }

    /// An end nobody saw. 255 is what container engines say then.
    fn lost(&self, why: &str) -> Exit {
        Exit {
            code: 255,
            reason: "Error".to_owned(),
            message: format!("the exit code is unknown: {why}"),
            finished_at: written_at(&self.state.created()).max(SystemTime::UNIX_EPOCH),
        }
    }
}

impl OciContainer {
    async fn execute(
        &self,
        args: &[String],
        streams: ExecStreams,
        timeout: Option<Duration>,
    ) -> Result<Ran, Error> {
        if self.exit().is_some() {
            return Err(Error::NotRunning(self.plan.id.clone()));
        }
        let executor = Executor {
            runtime: self.runtime.clone(),
            state: self.state.clone(),
            id: self.plan.id.clone(),
            release: self.release.clone(),
        };
        executor.exec(&self.tasks, args.to_vec(), streams, timeout).await
    }
}

#[async_trait]
impl Container for OciContainer {
    async fn start(&self) -> Result<(), Error> {
        let mut started = self.started.lock().await;
        if *started {
            return Ok(());
        }
        if self.exit().is_some() {
            return Err(Error::NotRunning(self.plan.id.clone()));
        }
        // After a restart of this process the container may run already.
        self.runtime.ensure_started(&self.plan.id).await?;
        *started = true;
        if let Some((input, to)) = self.stdin.lock().await.take() {
            let release = self.release.clone();
            self.tasks.spawn(async move {
                release.run_until_cancelled(copy_input(input, to)).await;
            });
        }
        Ok(())
    }

    async fn kill(&self, signal: i32) -> Result<(), Error> {
        if self.exit().is_some() {
            return Ok(());
        }
        self.runtime.kill(&self.plan.id, signal).await
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
        self.process.cgroups.stats()
    }

    async fn exec(&self, args: &[String], timeout: Duration, output: Arc<dyn Output>) -> Result<i32, Error> {
        let streams = ExecStreams { stdin: None, output: output.clone(), terminal: None };
        let ran = self.execute(args, streams, Some(timeout)).await?;
        if let Some(refused) = ran.refused {
            output.write(Stream::Stderr, format!("{refused}\n").as_bytes());
        }
        Ok(ran.code)
    }

    async fn exec_with(&self, args: &[String], streams: ExecStreams) -> Result<i32, Error> {
        let ran = self.execute(args, streams, None).await?;
        match ran.refused {
            Some(refused) => Err(Error::InvalidSpec(format!("{}: {refused}", self.plan.display_name))),
            None => Ok(ran.code),
        }
    }

    async fn delete(&self) -> Result<(), Error> {
        if self.deleted.load(SeqCst) {
            return Ok(());
        }
        if self.exit().is_none() {
            self.runtime.kill(&self.plan.id, SIGKILL).await?;
            if tokio::time::timeout(KILL_TIMEOUT, self.wait()).await.is_err() {
                return Err(Error::Unavailable(format!("{} does not end", self.plan.display_name)));
            }
        }
        self.runtime.delete(&self.plan.id).await?;
        self.release.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        remove_rootfs(&self.state)?;
        self.process.cgroups.remove(&self.plan.cgroup_parent);
        self.deleted.store(true, SeqCst);
        Ok(())
    }
}
