//! `cargo xtask demo`: the main job, from nothing: a cluster, a function in it, its answer on the screen.
use crate::cargo::cargo;
use crate::guests;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Bring a cluster up, deploy the sample function hello-http, show its answer, stay up until Ctrl-C
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Port of the API server
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// Port of the gateway, where functions answer
    #[arg(long, default_value_t = 8080)]
    gateway_port: u16,
    /// End once the answer is on the screen
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = crate::workspace_root();
    println!("building dhow (the first time takes some minutes) …");
    cargo(&root, &["build", "--release", "--package", "dhow"], &[])?;
    let dhow = target_dir(&root).join("release/dhow");
    // The text guest needs no toolchain at all: the demo does not fail for want of one.
    let guest = guests::build(&root, "hello-http").or_else(|error| {
        println!("hello-http cannot be built here ({error:#}); taking hello-wat");
        guests::build(&root, "hello-wat")
    })?;
    let data = root.join("target/demo");
    let mut up = start(&dhow, &data, args)?;
    let deployed = deploy(&dhow, &data, &guest);
    let result = deployed.and_then(|url| {
        let answer = get(&url, args.gateway_port)?;
        println!("\n$ curl {url}\n{}\n", answer.trim_end());
        Ok(url)
    });
    match result {
        Ok(url) if !args.once => {
            println!("It stays up until Ctrl-C. Try, in another terminal:\n");
            println!("  curl {url}/anything");
            println!("  export KUBECONFIG={}", data.join("kubeconfig").display());
            println!("  kubectl get pods -o wide        # or: {} get pods -o wide\n", dhow.display());
            // Ctrl-C reaches the whole group of processes: the cluster ends by itself.
            up.wait().context("waiting for the cluster")?;
            Ok(())
        }
        other => {
            stop(&mut up);
            other.map(|_| ())
        }
    }
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir(root: &Path) -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into)
}

fn start(dhow: &Path, data: &Path, args: &Args) -> Result<Child> {
    let mut up = Command::new(dhow)
        .args(["up", "--data-dir"])
        .arg(data)
        .args(["--port", &args.port.to_string(), "--gateway-port", &args.gateway_port.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", dhow.display()))?;
    let stdout = up.stdout.take().context("the cluster's output")?;
    let mut lines = BufReader::new(stdout).lines();
    for line in lines.by_ref() {
        let line = line?;
        println!("{line}");
        if line.starts_with("dhow is ready") {
            // Whatever it says from now on is shown as it comes.
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| println!("{line}")));
            return Ok(up);
        }
    }
    let status = up.wait()?;
    bail!("the cluster ended before it was ready ({status})")
}

/// Asks the cluster to end, and waits for it.
fn stop(up: &mut Child) {
    let _ = Command::new("kill").args(["-INT", &up.id().to_string()]).status();
    let _ = up.wait();
}

fn deploy(dhow: &Path, data: &Path, guest: &Path) -> Result<String> {
    println!("\n$ dhow deploy {}", guest.display());
    let output = Command::new(dhow)
        .arg("deploy")
        .arg(guest)
        .arg("--kubeconfig")
        .arg(data.join("kubeconfig"))
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the function could not be deployed");
    }
    let url = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    println!("{url}");
    Ok(url)
}

/// The body of `url`, asked of the gateway on this machine.
fn get(url: &str, port: u16) -> Result<String> {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the function answered {head}");
    }
    // A chunked body without its lengths.
    let is_length = |line: &&str| !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit());
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let lines = body.lines().filter(|line| !chunked || !is_length(line));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}
