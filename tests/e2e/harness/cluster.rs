//! A cluster of this machine: `dhow up` and the runtime it starts, with ports, addresses and a folder of their own.
use super::command::{self, Ran};
use super::guard::Guard;
use super::{environment, wait};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A port nobody listens on now, and none this process was given before.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("lock");
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        if given.insert(port) {
            return port;
        }
    }
}

/// How a cluster differs from the usual.
#[derive(Default)]
pub struct Options {
    /// More words for `dhow up`.
    pub words: Vec<String>,
    /// Where its data lies, if not in the guard's folder.
    pub data_dir: Option<PathBuf>,
    /// A program and its arguments that starts `dhow`: another user, other limits.
    pub through: Vec<String>,
}

pub struct Cluster {
    pub program: PathBuf,
    pub data_dir: PathBuf,
    pub port: u16,
    pub gateway_port: u16,
    log: PathBuf,
    /// Ranges of its own: several clusters share the loopback.
    octets: (u8, u8),
    options: Options,
    up: Mutex<Option<Child>>,
    guard: Guard,
}

impl Cluster {
    /// A cluster that is ready, or what it said instead.
    pub fn start(name: &str, options: Options) -> Result<Self, String> {
        let cluster = Self::prepare(name, options);
        cluster.up()?;
        Ok(cluster)
    }

    /// Everything chosen, nothing started.
    pub fn prepare(name: &str, options: Options) -> Self {
        /// Above the ranges dhow takes by itself (127.42, 127.96), in case one runs here already.
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(n < 50, "more clusters than ranges");
        let guard = Guard::new(name);
        let data_dir = options.data_dir.clone().unwrap_or_else(|| guard.folder().join("data"));
        Self {
            program: environment::dhow(),
            data_dir,
            port: free_port(),
            gateway_port: free_port(),
            log: guard.folder().join("up.log"),
            octets: (120 + n, 180 + n),
            options,
            up: Mutex::new(None),
            guard,
        }
    }

    /// A folder that goes with the cluster.
    pub fn folder(&self) -> &Path {
        self.guard.folder()
    }

    /// `dhow up` as it is started here.
    pub fn up_command(&self) -> Command {
        let mut words = self.options.through.iter();
        let mut command = match words.next() {
            Some(program) => {
                let mut command = Command::new(program);
                command.args(words).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .args(["up", "--port", &self.port.to_string(), "--gateway-port", &self.gateway_port.to_string()])
            .args(["--pod-cidr", &format!("127.{}.0.0/16", self.octets.0)])
            .args(["--service-cluster-ip-range", &format!("127.{}.0.0/16", self.octets.1)])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(&self.options.words)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Starts it and waits until it says that it is ready.
    pub fn up(&self) -> Result<(), String> {
        let log = std::fs::File::create(&self.log).map_err(|e| e.to_string())?;
        let mut up = self
            .up_command()
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("dhow up: {e}"))?;
        let start = std::time::Instant::now();
        loop {
            if self.log().lines().any(|l| l.starts_with("dhow is ready")) {
                *self.up.lock().expect("lock") = Some(up);
                return Ok(());
            }
            if let Some(status) = up.try_wait().map_err(|e| e.to_string())? {
                return Err(format!("dhow up ended before it was ready ({status}):\n{}", self.logs()));
            }
            if start.elapsed() > wait::LONG {
                // The guard ends what is left.
                return Err(format!("dhow up is not ready after {:?}:\n{}", start.elapsed(), self.logs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What `dhow up` said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last of all logs, for whoever looks for the cause of a failure.
    pub fn logs(&self) -> String {
        let tail = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(60)..].join("\n")
        };
        let runtime = std::fs::read_to_string(self.data_dir.join("runtime.log")).unwrap_or_default();
        format!("--- dhow up\n{}\n--- dhow runtime\n{}\n", tail(self.log()), tail(runtime))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    pub fn pid(&self) -> u32 {
        self.up.lock().expect("lock").as_ref().expect("a running cluster").id()
    }

    /// The process that runs the containers.
    pub fn runtime_pid(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.data_dir.join("runtime/runtime.lock")).ok()?;
        text.trim().parse().ok()
    }

    /// Ctrl-C; how it ended.
    #[track_caller]
    pub fn stop(&self) -> ExitStatus {
        let mut up = self.up.lock().expect("lock").take().expect("a running cluster");
        signal(up.id() as i32, libc::SIGINT);
        command::wait(&mut up, Duration::from_secs(60))
            .unwrap_or_else(|| panic!("dhow up does not end on SIGINT:\n{}", self.logs()))
    }

    /// SIGKILL to `dhow up` and what shares its group; the runtime goes on.
    pub fn kill_up(&self) {
        let mut up = self.up.lock().expect("lock").take().expect("a running cluster");
        signal(-(up.id() as i32), libc::SIGKILL);
        up.wait().expect("waiting for dhow up");
    }

    /// SIGKILL to everything of the cluster, in no order anyone could rely on.
    pub fn kill_all(&self) {
        let runtime = self.runtime_pid();
        if let Some(pid) = runtime {
            signal(-pid, libc::SIGKILL);
        }
        self.kill_up();
        if let Some(pid) = runtime {
            wait::until("the killed runtime is gone", || wait::holds(!runs(pid), format!("process {pid}")));
        }
    }

    /// `dhow WORDS` against this cluster.
    pub fn dhow(&self, words: &[&str]) -> Command {
        let mut command = Command::new(environment::dhow());
        command.args(words).env("KUBECONFIG", self.kubeconfig()).env_remove("DOCKER_CONFIG");
        command
    }

    /// Runs `dhow WORDS` against this cluster.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        command::run(&mut self.dhow(words))
    }

    /// `host:port` of the gateway.
    pub fn gateway(&self) -> String {
        format!("127.0.0.1:{}", self.gateway_port)
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: no memory is involved. A process that has ended is no error here.
    unsafe { libc::kill(pid, signal) };
}

/// Whether a process runs; one that has ended and waits for its parent does not.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}
