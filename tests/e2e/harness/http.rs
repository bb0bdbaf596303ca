//! The smallest HTTP/1.1 client that can be trusted: one request a connection, nothing hidden.
use super::command::run_with_input;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::Command;
use std::time::Duration;

/// A request takes milliseconds; a machine under load some seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Failed assertions show all of it.
#[derive(Debug)]
#[allow(dead_code, reason = "shown by Debug")]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn connect(address: &str) -> std::io::Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().expect("an address");
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// GET of `path` at `address`, with `host` as its Host.
pub fn get(address: &str, host: &str, path: &str) -> Result<Answer, String> {
    request(address, host, "GET", path, &[], b"")
}

pub fn request(
    address: &str,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer, String> {
    let failed = |e: std::io::Error| format!("{method} {path} at {address}: {e}");
    let mut stream = connect(address).map_err(failed)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if method != "GET" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).map_err(failed)?;
    // Whoever refuses a body answers and stops reading: what it says counts, not that writing failed.
    let written = stream.write_all(body);
    match read(stream) {
        Ok(answer) => Ok(answer),
        Err(e) => Err(match written {
            Err(w) => format!("{} ({e})", failed(w)),
            Ok(()) => format!("{method} {path} at {address}: {e}"),
        }),
    }
}

/// GET by TLS without a client certificate; the server's is not looked at.
pub fn get_with_tls(port: u16, path: &str, header: &str) -> Answer {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")]);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n");
    let ran = run_with_input(&mut client, request.as_bytes());
    read(ran.stdout.as_bytes()).unwrap_or_else(|e| panic!("{e}: {}", ran.told()))
}

fn read(stream: impl Read) -> Result<Answer, String> {
    let mut reader = BufReader::new(stream);
    let text = |e: std::io::Error| format!("reading the answer: {e}");
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).map_err(text)? == 0 {
            return Err(format!("the connection closed within the head {head:?}"));
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| format!("no status in {head:?}"))?;
    let mut body = Vec::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).map_err(text)?;
            let size =
                usize::from_str_radix(size.trim(), 16).map_err(|e| format!("chunk size {size:?}: {e}"))?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).map_err(text)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else {
        let length = head.lines().find_map(|l| {
            l.to_ascii_lowercase().strip_prefix("content-length:").and_then(|n| n.trim().parse().ok())
        });
        match length {
            Some(length) => {
                body.resize(length, 0);
                reader.read_exact(&mut body).map_err(text)?;
            }
            None => drop(reader.read_to_end(&mut body).map_err(text)?),
        }
    }
    Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}
