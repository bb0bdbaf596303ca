//! The compiler, boxed: a process of its own with limits, since a program can be written to make compiling it
//! take for ever, and wasmtime does not count that as a fault. It also takes its memory with it.
//!
//! ```text
//!   shim ─► internal-wasm-compile FILE DIGEST OUT ─► OUT (then sealed by the shim)
//!                └ exit 3: standard output says what is wrong with the image
//! ```
use crate::form::{Form, to_binary};
use crate::host::build_engine;
use crate::limits::{COMPILE_CPU_SECONDS, COMPILE_MEMORY_BYTES, MAX_BINARY_BYTES};
use crate::sealed::Sealed;
use sha2::{Digest, Sha256};
use shim::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use wasmtime::Engine;

/// The image is at fault.
const INVALID: u8 = 3;
/// The node is.
const FAILED: u8 = 1;

/// The whole of the process.
pub fn compile_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let [file, digest, out] = args.as_slice() else {
        eprintln!("usage: internal-wasm-compile FILE DIGEST OUT");
        return ExitCode::from(2);
    };
    limit_self();
    match compile_file(Path::new(file), &digest.to_string_lossy(), Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print!("{error}");
            ExitCode::from(if matches!(error, Error::InvalidImage(_)) { INVALID } else { FAILED })
        }
    }
}

fn limit_self() {
    let limit = |resource, value| {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: the structure lives during the call. Failure means that a lower limit is in force already.
        unsafe { libc::setrlimit(resource, &limit) };
    };
    limit(libc::RLIMIT_CPU, COMPILE_CPU_SECONDS);
    // Not the address space, of which wasmtime reserves terabytes, but what is written to.
    limit(libc::RLIMIT_DATA, COMPILE_MEMORY_BYTES);
    limit(libc::RLIMIT_CORE, 0);
    // SAFETY: no pointers are passed. The compiler has nobody to work for once the shim is gone.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
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

/// The same in a process of its own.
pub(crate) fn compile_apart(
    command: &[OsString],
    path: &Path,
    digest: &str,
    sealed: &Sealed,
) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { what: format!("compiling {digest}"), source };
    let [program, args @ ..] = command else {
        return Err(Error::Unavailable("no compiler is configured".to_owned()));
    };
    let out = sealed.new_temporary().map_err(io)?;
    let output = Command::new(program)
        .args(args)
        .arg(path)
        .arg(digest)
        .arg(&out)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .output();
    let compiled = output.and_then(|output| Ok((output, std::fs::read(&out)?)));
    let _ = std::fs::remove_file(&out);
    let (output, compiled) = compiled.map_err(io)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(compiled),
        Some(code) if code == i32::from(INVALID) => Err(Error::InvalidImage(said)),
        Some(_) => Err(Error::Unavailable(format!("compiling {digest} failed: {said}"))),
        None => Err(Error::InvalidImage(format!(
            "compiling the WebAssembly binary took more than {COMPILE_CPU_SECONDS} s or {COMPILE_MEMORY_BYTES} bytes"
        ))),
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
