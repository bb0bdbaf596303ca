//! `dhow invoke`.
use crate::client_commands::function::{self, condition};
use crate::connect::Cluster;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::dhow::v1alpha1::Function;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Send a request to a function and print what it answers
///
/// The answer's body goes to standard output as it comes. Exits with 1 if the answer's status is 400 or more.
///
/// Examples:
///   dhow invoke hello
///   dhow invoke hello -d '{"name": "Ada"}' -H 'content-type: application/json'
///   dhow invoke hello -X PUT --path '/items/3?dry=1' -d @item.json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The function's name
    name: String,
    /// The request's body; @FILE reads a file, - standard input
    #[arg(short, long, value_name = "BODY")]
    data: Option<String>,
    /// The request's method [default: GET, with a body POST]
    #[arg(short = 'X', long, value_name = "METHOD")]
    request: Option<String>,
    /// Path and query
    #[arg(long, default_value = "/")]
    path: String,
    /// A header of the request; may be given again
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Print the answer's status and headers first
    #[arg(short, long)]
    include: bool,
    /// Seconds to wait for the answer to begin
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<ExitCode> {
    let body = body(args.data.as_deref()).await?;
    let method = method(args.request.as_deref(), body.is_some())?;
    let headers = args.header.iter().map(|h| header(h)).collect::<Result<Vec<_>>>()?;
    if !args.path.starts_with('/') {
        bail!("--path {:?} must begin with a slash", args.path);
    }
    let connection = cluster.connect().await?;
    let f = function::get(&connection, &args.name).await?;
    let (host, port) = place(&f)?;
    // The host is *.localhost: this machine's gateway is meant (RFC 6761 section 6.3).
    let stream = TcpStream::connect(("127.0.0.1", port)).await.with_context(|| {
        format!("no gateway answers at 127.0.0.1:{port}: is `dhow up` running on this machine?")
    })?;
    let (mut sender, serving) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::builder().method(method).uri(&args.path).header(http::header::HOST, host);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .with_context(|| format!("--path {:?} is no path of a URL", args.path))?;
    let answer = async {
        tokio::pin!(serving);
        let asked = tokio::time::timeout(Duration::from_secs(args.timeout), sender.send_request(request));
        tokio::pin!(asked);
        let response = tokio::select! {
            response = &mut asked => response,
            ended = &mut serving => {
                ended.context("the gateway closed the connection")?;
                asked.await
            }
        };
        let response = response
            .with_context(|| format!("{} has not answered within {} s", args.name, args.timeout))?
            .with_context(|| format!("{} gave no answer", args.name))?;
        let printed = print(response, args.include);
        tokio::pin!(printed);
        tokio::select! {
            status = &mut printed => status,
            ended = &mut serving => {
                ended.context("the connection broke off")?;
                printed.await
            }
        }
    };
    let status = answer.await?;
    if status.is_client_error() || status.is_server_error() {
        eprintln!("error: {} answered {status}{}", args.name, next_step(&args.name, &f, status.as_u16()));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the answer as it comes; gives its status.
async fn print(response: hyper::Response<hyper::body::Incoming>, include: bool) -> Result<http::StatusCode> {
    let mut out = std::io::stdout();
    let status = response.status();
    if include {
        writeln!(out, "{:?} {status}", response.version())?;
        for (name, value) in response.headers() {
            writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        writeln!(out)?;
    }
    let mut body = response.into_body();
    let mut last = b'\n';
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the answer broke off")?.into_data() {
            last = data.last().copied().unwrap_or(last);
            out.write_all(&data)?;
            out.flush()?;
        }
    }
    // A shell's prompt belongs on a line of its own; what a program reads stays as it is.
    if last != b'\n' && out.is_terminal() {
        writeln!(out)?;
    }
    Ok(status)
}

fn next_step(name: &str, f: &Function, status: u16) -> String {
    let conditions = f.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    match (status, condition(conditions, "Ready")) {
        (502..=504, Some(("False", _, why))) => format!(": {why}; `dhow describe fn {name}` shows more"),
        (500.., _) => format!("; `dhow logs {name}` shows what it wrote"),
        _ => String::new(),
    }
}

/// Host and port of the function's URL.
fn place(f: &Function) -> Result<(String, u16)> {
    let name = f.metadata.name.as_deref().unwrap_or_default();
    let url = f.status.as_ref().and_then(|s| s.url.clone());
    let uri: Option<Uri> = url.and_then(|u| u.parse().ok());
    let authority = uri.as_ref().and_then(Uri::authority);
    match authority {
        Some(authority) => Ok((authority.to_string(), authority.port_u16().unwrap_or(80))),
        None => bail!("{name} has no URL yet; `dhow describe fn {name}` says why"),
    }
}

async fn body(word: Option<&str>) -> Result<Option<Vec<u8>>> {
    Ok(match word {
        None => None,
        Some("-") => {
            let mut all = Vec::new();
            tokio::io::stdin().read_to_end(&mut all).await.context("reading standard input")?;
            Some(all)
        }
        Some(word) => match word.strip_prefix('@') {
            Some(file) => Some(std::fs::read(file).with_context(|| format!("reading {file}"))?),
            None => Some(word.as_bytes().to_vec()),
        },
    })
}

fn method(word: Option<&str>, has_body: bool) -> Result<Method> {
    match word {
        Some(word) => {
            word.to_ascii_uppercase().parse().with_context(|| format!("{word:?} is no HTTP method"))
        }
        None if has_body => Ok(Method::POST),
        None => Ok(Method::GET),
    }
}

fn header(word: &str) -> Result<(HeaderName, HeaderValue)> {
    let refuse = || format!("{word:?} is not NAME: VALUE, such as 'accept: text/plain'");
    let (name, value) = word.split_once(':').with_context(refuse)?;
    Ok((name.trim().parse().with_context(refuse)?, value.trim().parse().with_context(refuse)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_makes_a_post_and_nonsense_is_refused() {
        assert_eq!(method(None, false).expect("a method"), Method::GET);
        assert_eq!(method(None, true).expect("a method"), Method::POST);
        assert_eq!(method(Some("put"), true).expect("a method"), Method::PUT);
        assert!(method(Some("P T"), false).is_err());
        assert_eq!(header("x-a:  b: c ").expect("a header").1, "b: c");
        for bad in ["", "x", "x y: 1", ": 1", "x: a\nb"] {
            assert!(header(bad).is_err(), "{bad}");
        }
        assert!(place(&Function::default()).is_err());
    }
}
