//! The compiler, boxed: a process of its own with limits, since a program can be written to make compiling it
//! take for ever, and wasmtime does not count that as a fault. It also takes its memory with it.
//!
//! ```text
//!   shim ─► internal-wasm-compile FILE DIGEST OUT SECONDS ─► OUT (then sealed by the shim)
//!                └ exit 3: standard output says what is wrong with the image
//! ```
use crate::form::{Form, to_binary};
use crate::host::build_engine;
use crate::limits::{
    COMPILE_BURST, COMPILE_CPU_SECONDS, COMPILE_MEMORY_BYTES, COMPILE_NICENESS, COMPILE_WALL_TIME,
    MAX_BINARY_BYTES, MAX_COMPILED_BYTES,
};
use crate::sealed::Sealed;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use shim::Error;
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use wasmtime::Engine;

/// The image is at fault.
const INVALID: u8 = 3;
/// The node is.
const FAILED: u8 = 1;

/// The whole of the process.
pub fn compile_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let [file, digest, out, seconds] = args.as_slice() else {
        eprintln!("usage: internal-wasm-compile FILE DIGEST OUT SECONDS");
        return ExitCode::from(2);
    };
    let seconds = seconds.to_str().and_then(|seconds| seconds.parse().ok());
    limit_self(seconds.unwrap_or(COMPILE_CPU_SECONDS));
    match compile_file(Path::new(file), &digest.to_string_lossy(), Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print!("{error}");
            ExitCode::from(if matches!(error, Error::InvalidImage(_)) { INVALID } else { FAILED })
        }
    }
}

fn limit_self(cpu_seconds: u64) {
    let limit = |resource, value| {
        // The signal that says which limit it was comes at the lower of the two, the end at the higher.
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value.saturating_add(1) };
        // SAFETY: the structure lives during the call. Failure means that a lower limit is in force already.
        unsafe { libc::setrlimit(resource, &limit) };
    };
    limit(libc::RLIMIT_CPU, cpu_seconds);
    // Not the address space, of which wasmtime reserves terabytes, but what is written to.
    limit(libc::RLIMIT_DATA, COMPILE_MEMORY_BYTES);
    limit(libc::RLIMIT_FSIZE, MAX_COMPILED_BYTES);
    limit(libc::RLIMIT_CORE, 0);
    give_way_later();
    // SAFETY: no pointers are passed. The compiler has nobody to work for once the shim is gone.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Guests that run come before programs that do not run yet, but for those that are compiled in a moment.
fn give_way_later() {
    let watch = || {
        while cpu_time() < COMPILE_BURST {
            std::thread::sleep(COMPILE_BURST / 10);
        }
        give_way();
    };
    if std::thread::Builder::new().name("give-way".into()).spawn(watch).is_err() {
        give_way();
    }
}

/// What all threads of this process have used.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives during the call, which cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn give_way() {
    // Niceness is a thread's on Linux. One that is made meanwhile has its maker's: the second round finds it.
    for _ in 0..2 {
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            if let Some(thread) = task.file_name().to_str().and_then(|id| id.parse().ok()) {
                // SAFETY: no pointers are passed.
                unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, COMPILE_NICENESS) };
            }
        }
    }
}

fn compile_file(file: &Path, digest: &str, out: &Path) -> Result<(), Error> {
    let bytes = read_binary(file, digest)?;
    // The settings are those of the shim's engine; the size of its pool is of no matter here.
    let engine = build_engine(crate::limits::MIN_INSTANCES)?;
    let (_, compiled) = compile_binary(&engine, &bytes)?;
    std::fs::write(out, compiled)
        .map_err(|source| Error::Io { what: format!("writing {}", out.display()), source })
}

/// Turns text or binary into machine code.
pub(crate) fn compile_binary(engine: &Engine, bytes: &[u8]) -> Result<(Form, Vec<u8>), Error> {
    let (form, binary) = to_binary(bytes)?;
    let compiled = match form {
        Form::Module => engine.precompile_module(&binary),
        Form::Component => engine.precompile_component(&binary),
    };
    compiled
        .map(|compiled| (form, compiled))
        .map_err(|e| Error::InvalidImage(format!("the WebAssembly binary is not valid: {e:#}")))
}

/// A file of the compiler's, gone when nobody wants it any more.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The same in a process of its own, which may take `cpu_seconds`. Dropping the future ends that process.
pub(crate) async fn compile_apart(
    command: &[OsString],
    cpu_seconds: u64,
    path: &Path,
    digest: &str,
    sealed: &Sealed,
) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { what: format!("compiling {digest}"), source };
    let [program, args @ ..] = command else {
        return Err(Error::Unavailable("no compiler is configured".to_owned()));
    };
    let out = Scratch(sealed.new_temporary().map_err(io)?);
    let child = Command::new(program)
        .args(args)
        .arg(path)
        .arg(digest)
        .arg(&out.0)
        .arg(cpu_seconds.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(io)?;
    let output = match tokio::time::timeout(COMPILE_WALL_TIME, child.wait_with_output()).await {
        Ok(output) => output.map_err(io)?,
        Err(_) => {
            return Err(Error::Unavailable(format!(
                "compiling {digest} took more than {} s on this busy node; it is tried again",
                COMPILE_WALL_TIME.as_secs()
            )));
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => tokio::fs::read(&out.0).await.map_err(io),
        Some(code) if code == i32::from(INVALID) => Err(Error::InvalidImage(said)),
        Some(_) => Err(Error::Unavailable(format!("compiling {digest} failed: {said}"))),
        None => Err(Error::InvalidImage(match output.status.signal() {
            Some(libc::SIGXCPU) => {
                format!("compiling the WebAssembly binary took more than {cpu_seconds} s of CPU time")
            }
            Some(libc::SIGXFSZ) => {
                format!("the compiled WebAssembly binary is larger than {MAX_COMPILED_BYTES} bytes")
            }
            _ => format!(
                "compiling the WebAssembly binary took more than {COMPILE_MEMORY_BYTES} bytes of memory or \
                 {cpu_seconds} s of CPU time"
            ),
        })),
    }
}

/// Who compiles now: turns for the whole node, of which one tenant (a namespace) gets at most half.
pub(crate) struct Compilers {
    turns: Semaphore,
    each: usize,
    /// Those of tenants that compile or wait now.
    tenants: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// The right to compile.
pub(crate) struct CompileTurn<'a> {
    _of_node: SemaphorePermit<'a>,
    _of_tenant: OwnedSemaphorePermit,
}

impl Compilers {
    /// As many as there are cores, and two at least, so that nobody has them all.
    pub(crate) fn new(cores: usize) -> Self {
        let turns = cores.max(2);
        Self { turns: Semaphore::new(turns), each: turns / 2, tenants: Mutex::default() }
    }

    pub(crate) async fn turn(&self, tenant: &str) -> Result<CompileTurn<'_>, Error> {
        let own = {
            let mut tenants = self.tenants.lock();
            tenants.retain(|_, own| own.strong_count() > 0);
            let known = tenants.get(tenant).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let own = Arc::new(Semaphore::new(self.each));
                tenants.insert(tenant.to_owned(), Arc::downgrade(&own));
                own
            })
        };
        // The tenant's own first: who waits for that keeps nobody else from compiling.
        let closed = |_| Error::Unavailable("the compiler is shutting down".to_owned());
        let of_tenant = own.acquire_owned().await.map_err(closed)?;
        let of_node = self.turns.acquire().await.map_err(closed)?;
        Ok(CompileTurn { _of_node: of_node, _of_tenant: of_tenant })
    }
}

/// Reads an image's file and makes sure that it is the one that was meant.
pub(crate) fn read_binary(path: &Path, digest: &str) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { what: format!("reading {}", path.display()), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_BINARY_BYTES {
        return Err(Error::InvalidImage(format!(
            "the WebAssembly binary is {length} bytes long, this node takes at most {MAX_BINARY_BYTES}"
        )));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    if let Some(expected) = digest.strip_prefix("sha256:") {
        let actual = hex::encode(Sha256::digest(&bytes));
        if actual != expected {
            return Err(Error::InvalidImage(format!(
                "the image's file has digest sha256:{actual} instead of {digest}; pull it again"
            )));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn one_tenant_never_has_all_compilers() {
        let compilers = Compilers::new(4);
        let first = compilers.turn("greedy").await.unwrap();
        let _second = compilers.turn("greedy").await.unwrap();
        assert!(compilers.turn("greedy").now_or_never().is_none(), "a third would be more than half");
        let _other = compilers.turn("modest").now_or_never().unwrap().unwrap();
        drop(first);
        assert!(compilers.turn("greedy").now_or_never().is_some());
    }
}
