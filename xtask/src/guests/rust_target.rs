//! Rust guests: a core module for `wasm32-wasip1`, and a component made of it with the WASI p1 adapter.
//!
//! A compiler that has the target is used as it is; with rustup the target is fetched. Where it cannot be (no network but
//! Debian's, say), the standard library is built from Debian's `rust-web-src` with Debian's compiler and linked with the
//! linker that every Rust toolchain carries.
use crate::debian::{ensure_packages, must, present};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-wasip1";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "wasi-libc"];
/// Debian's sources of the standard library, its dependencies vendored.
const DEBIAN_LIBRARY: &str = "/usr/lib/rustlib/src/rust/library";

/// Builds the crate at `source` and returns its core module.
pub(super) fn core_module(root: &Path, source: &Path, name: &str) -> Result<Vec<u8>> {
    let target_directory = root.join("target/guests/build");
    let this = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(if present("cargo") { "cargo".into() } else { this });
    cargo
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target_directory)
        .current_dir(source);
    of_people(&mut cargo);
    if !has_target() {
        let sysroot = debian_sysroot(root)?;
        cargo
            .env("RUSTC", "/usr/bin/rustc")
            .env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker()?)
            .env("RUSTFLAGS", format!("--sysroot={} -Clink-self-contained=yes", sysroot.display()));
    }
    must(&mut cargo)?;
    let release = target_directory.join(TARGET).join("release");
    // Cargo names a library's file after its crate, a program's after its package.
    let wasm = [format!("{name}.wasm"), format!("{}.wasm", name.replace('-', "_"))]
        .iter()
        .map(|file| release.join(file))
        .find(|path| path.is_file())
        .with_context(|| format!("{} holds no {name}.wasm", release.display()))?;
    Ok(std::fs::read(wasm)?)
}

/// Makes a component of a core module that was built against WASI p1 and carries its world in a custom section.
/// The adapter for reactors: that for proxies would leave the program without its environment.
pub(super) fn componentize(core: &[u8]) -> Result<Vec<u8>> {
    use wasi_preview1_component_adapter_provider::{
        WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
    };
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(core)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
        .encode()
}

/// Whether the compiler that cargo will use has the target, or rustup could fetch it for that one now.
fn has_target() -> bool {
    let asked =
        of_people(&mut Command::new("rustc")).args(["--print", "target-libdir", "--target", TARGET]).output();
    let is_here = |o: std::process::Output| {
        o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir()
    };
    if asked.is_ok_and(is_here) {
        return true;
    }
    if !present("rustup") {
        return false;
    }
    println!("fetching {TARGET} with rustup …");
    let fetched = of_people(&mut Command::new("rustup")).args(["target", "add", TARGET]).output();
    fetched.is_ok_and(|o| o.status.success())
}

/// The toolchain that people get when they type `cargo` in the folder of a guest, not that which runs this xtask.
fn of_people(command: &mut Command) -> &mut Command {
    command.env_remove("RUSTC").env_remove("RUSTFLAGS").env_remove("RUSTUP_TOOLCHAIN")
}

/// A linker for WebAssembly: the one in the Rust toolchain, or LLVM's own.
fn linker() -> Result<PathBuf> {
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("asking rustc for its sysroot")?;
    let lld = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim())
        .join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    if lld.is_file() {
        return Ok(lld);
    }
    if present("wasm-ld") {
        return Ok("wasm-ld".into());
    }
    bail!("there is no linker for WebAssembly here; install one with: apt-get install lld")
}

/// A sysroot with the standard library for the target, built once.
fn debian_sysroot(root: &Path) -> Result<PathBuf> {
    let sysroot = root.join("target/guests/sysroot");
    let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let stamp = library.join("complete");
    if stamp.is_file() {
        return Ok(sysroot);
    }
    ensure_packages(
        &DEBIAN_PACKAGES,
        &format!("to build Rust guests (or the target: `rustup target add {TARGET}`)"),
    )?;
    println!("building the standard library for {TARGET} from Debian's sources …");
    let build = root.join("target/guests/std");
    std::fs::create_dir_all(build.join("src"))?;
    std::fs::create_dir_all(build.join(".cargo"))?;
    std::fs::create_dir_all(library.join("self-contained"))?;
    std::fs::write(
        build.join("Cargo.toml"),
        "[package]\nname = \"sysroot\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n",
    )?;
    std::fs::write(build.join("src/lib.rs"), "")?;
    std::fs::write(
        build.join(".cargo/config.toml"),
        format!(
            "[source.crates-io]\nreplace-with = \"vendored\"\n[source.vendored]\ndirectory = \"{DEBIAN_LIBRARY}/vendor\"\n"
        ),
    )?;
    // Build scripts and proc macros of the standard library's build run on this machine.
    let host = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu");
    if !host.exists() {
        std::os::unix::fs::symlink("/usr/lib/rustlib/x86_64-unknown-linux-gnu", &host)?;
    }
    must(
        debian(&mut Command::new("/usr/bin/cargo"))
            .args([
                "build",
                "--quiet",
                "--release",
                "--offline",
                "-Zbuild-std=std,panic_abort",
                "--target",
                TARGET,
            ])
            .args(["--target-dir", "target"])
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("RUSTFLAGS", "-Cembed-bitcode=yes")
            .current_dir(&build),
    )?;
    for entry in std::fs::read_dir(build.join("target").join(TARGET).join("release/deps"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "rlib")
            && let Some(name) = path.file_name()
        {
            std::fs::copy(&path, library.join(name))?;
        }
    }
    for file in ["libc.a", "crt1-reactor.o"] {
        std::fs::copy(
            Path::new("/usr/lib/wasm32-wasi").join(file),
            library.join("self-contained").join(file),
        )?;
    }
    // Debian's start file (2022) leaves constructors to the linker's export wrappers, which run them again inside
    // cabi_realloc, where a component may not call out.
    let start = build.join("start.rs");
    std::fs::write(
        &start,
        "#![no_std]\n\
         extern \"C\" { fn __wasm_call_ctors(); fn __main_void() -> i32; fn __wasm_call_dtors(); }\n\
         #[link(wasm_import_module = \"wasi_snapshot_preview1\")] extern \"C\" { fn proc_exit(code: i32) -> !; }\n\
         #[no_mangle] pub unsafe extern \"C\" fn _start() {\n\
             __wasm_call_ctors(); let code = __main_void(); __wasm_call_dtors(); if code != 0 { proc_exit(code) }\n\
         }\n",
    )?;
    must(
        debian(&mut Command::new("/usr/bin/rustc"))
            .arg(format!("--sysroot={}", sysroot.display()))
            .args([
                "--target",
                TARGET,
                "--crate-type=lib",
                "--crate-name=start",
                "--emit=obj",
                "-Copt-level=s",
            ])
            .arg("-Cpanic=abort")
            .arg(&start)
            .arg("-o")
            .arg(library.join("self-contained/crt1-command.o")),
    )?;
    std::fs::write(&stamp, "")?;
    Ok(sysroot)
}

/// Debian's compiler, free of what the cargo that runs this xtask set for its own.
fn debian(command: &mut Command) -> &mut Command {
    command
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTC_WRAPPER")
}
