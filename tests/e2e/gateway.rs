//! The gateway as users meet it: Ingresses by kubectl, TLS by curl and openssl, updates under load.
use crate::harness::cluster::{Options, free_port};
use crate::harness::{Cluster, Namespace, command, environment, http, wait};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// A cluster whose gateway serves TLS and tells of every request.
fn cluster() -> &'static (Cluster, u16) {
    static CLUSTER: OnceLock<Result<(Cluster, u16), String>> = OnceLock::new();
    let made = CLUSTER.get_or_init(|| {
        let port = free_port();
        let words = ["--gateway-tls-port", &port.to_string(), "--gateway-access-log"].map(str::to_owned);
        Cluster::start("gateway", Options { words: words.to_vec(), ..Options::default() })
            .map(|cluster| (cluster, port))
    });
    made.as_ref().unwrap_or_else(|why| panic!("the cluster could not be made: {why}"))
}

fn namespace(name: &str) -> Namespace {
    Namespace::new(&cluster().0, name)
}

/// Answers every request with `name` and the request's head; takes any upgrade and sends back what comes.
fn serve(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(name, stream));
        }
    });
    address
}

fn answer(name: &str, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        if head.to_lowercase().contains("upgrade: ") {
            let _ = stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
            );
            let _ = std::io::copy(&mut reader, &mut stream);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            return;
        }
        let body = format!("{name}\n{head}");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A Service without a selector whose only endpoint is `address`.
fn service(t: &Namespace, name: &str, address: SocketAddr) {
    t.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: ['{}']}}]\n",
        address.port(),
        address.ip()
    ));
}

/// The first line of the answer to a GET, once it is not 404 or 503.
#[track_caller]
fn reached(host: &str, path: &str) -> String {
    wait::until(&format!("an answer from {host}{path}"), || {
        let answer = http::get(&cluster().0.gateway(), host, path)?;
        wait::holds(answer.status == 200, format!("{answer:?}"))?;
        Ok(answer.body.lines().next().unwrap_or_default().to_owned())
    })
}

#[test]
fn an_ingress_made_by_kubectl_routes_by_host_and_path_and_shows_its_address() {
    let t = namespace("ingress");
    for name in ["one", "two", "three"] {
        service(&t, name, serve(name));
    }
    t.ok(&[
        "create",
        "ingress",
        "shop",
        "--rule=shop.example/=one:80",
        "--rule=shop.example/cart*=two:http",
        "--rule=*.shop.example/*=three:80",
    ]);
    for (host, path, who) in [
        ("shop.example", "/", "one"),
        ("SHOP.example:8080", "/cart", "two"),
        ("shop.example", "/cart/7?x=1", "two"),
        ("eu.shop.example", "/anything", "three"),
    ] {
        assert_eq!(reached(host, path), who, "{host}{path}");
    }
    for (host, path) in [("shop.example", "/cartoon"), ("shop.example", "/other"), ("a.eu.shop.example", "/")]
    {
        let answer = http::get(&cluster().0.gateway(), host, path).expect("an answer");
        assert_eq!(answer.status, 404, "{host}{path}: {answer:?}");
    }
    let shown = wait::until("its address is shown", || {
        let table = t.ok(&["get", "ingress"]);
        wait::holds(table.contains("127.0.0.1"), table.clone()).map(|()| table)
    });
    let cells: Vec<&str> = shown.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(cells[..5], ["shop", "dhow", "shop.example,*.shop.example", "127.0.0.1", "80"]);
    let classes = t.ok(&["get", "ingressclass"]);
    assert!(classes.contains("dhow") && classes.contains("dhow.dev/gateway"), "{classes}");
    assert!(t.ok(&["describe", "ingress", "shop"]).contains("shop.example"));

    // Another controller's Ingress is left alone.
    t.ok(&["create", "ingress", "foreign", "--class=nginx", "--rule=foreign.example/*=one:80"]);
    t.ok(&["create", "ingress", "last", "--default-backend=three:80", "--rule=last.example/x=one:80"]);
    assert_eq!(reached("last.example", "/else"), "three");
    assert_eq!(
        reached("foreign.example", "/"),
        "three",
        "the default backend, not the foreign Ingress' rule"
    );
    assert!(t.json(&["get", "ingress", "foreign"])["status"]["loadBalancer"]["ingress"].is_null());
    t.ok(&["delete", "ingress", "last", "shop"]);
    wait::until("the routes are gone", || {
        let answer = http::get(&cluster().0.gateway(), "shop.example", "/")?;
        wait::holds(answer.status == 404, format!("{answer:?}"))
    });
    let error = t.run_with(
        &["create", "-f", "-"],
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: bad}\nspec: {rules: [{host: 1.2.3.4, \
         http: {paths: [{path: x, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}]}}]}",
    );
    let error = error.fails();
    assert!(error.contains("must be a DNS name") && error.contains("must be an absolute path"), "{error}");
}

/// A certificate and key for `name`, as files.
fn certificate(folder: &Path, file: &str, name: &str) -> (String, String) {
    let path = |end: &str| folder.join(format!("{file}.{end}")).to_str().expect("a path of ours").to_owned();
    let (certificate, key) = (path("crt"), path("key"));
    let words = ["req", "-x509", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let more = ["-nodes", "-subj", &format!("/CN={file}"), "-addext", &format!("subjectAltName=DNS:{name}")];
    let out = ["-out", &certificate, "-keyout", &key];
    command::run(Command::new("openssl").args(words).args(more).args(out)).ok();
    (certificate, key)
}

/// The subject of the certificate that is shown for `host`.
fn subject(host: &str) -> String {
    let mut client = Command::new("openssl");
    let address = format!("127.0.0.1:{}", cluster().1);
    client.args(["s_client", "-connect", &address, "-servername", host]);
    let said = command::run_with_input(&mut client, b"").stdout;
    said.lines().find(|line| line.starts_with("subject=")).unwrap_or_default().to_owned()
}

fn curl(host: &str, authority: &str, words: &[&str]) -> command::Ran {
    let port = cluster().1;
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--max-time",
        "20",
        "--cacert",
        authority,
        "--resolve",
        &format!("{host}:{port}:127.0.0.1"),
    ]);
    command::run(curl.args(words).arg(format!("https://{host}:{port}/secure")))
}

#[test]
fn tls_shows_the_certificate_of_the_name_and_takes_up_a_new_one_without_a_restart() {
    let t = namespace("tls");
    let folder = tempfile::tempdir().expect("a folder");
    service(&t, "web", serve("web"));
    let (first, first_key) = certificate(folder.path(), "first", "tls.example");
    let (second, second_key) = certificate(folder.path(), "second", "tls.example");
    t.ok(&["create", "secret", "tls", "cert", "--cert", &first, "--key", &first_key]);
    t.ok(&["create", "ingress", "web", "--rule=tls.example/*=web:80,tls=cert"]);
    assert_eq!(reached("tls.example", "/"), "web");
    assert!(t.ok(&["get", "ingress", "web"]).contains("80, 443"));
    wait::until("the first certificate is shown", || {
        let subject = subject("tls.example");
        wait::holds(subject.contains("first"), subject)
    });
    let body = curl("tls.example", &first, &["--http1.1"]).ok();
    assert!(body.starts_with("web\nGET /secure HTTP/1.1"), "{body}");
    assert!(
        body.contains("x-forwarded-proto: https") && body.contains("x-forwarded-for: 127.0.0.1"),
        "{body}"
    );
    let version = curl("tls.example", &first, &["-o", "/dev/null", "-w", "%{http_version}"]).ok();
    assert_eq!(version, "2", "HTTP/2 by ALPN");

    let replace = |certificate: &str, key: &str| {
        let manifest = t.ok(&[
            "create",
            "secret",
            "tls",
            "cert",
            "--cert",
            certificate,
            "--key",
            key,
            "--dry-run=client",
            "-o",
            "json",
        ]);
        serde_json::from_str::<serde_json::Value>(&manifest).expect("JSON")
    };
    let new = replace(&second, &second_key);
    t.run_with(&["replace", "-f", "-"], &new.to_string()).ok();
    wait::until("the second certificate is shown", || {
        let subject = subject("tls.example");
        wait::holds(subject.contains("second"), subject)
    });
    // A certificate with another's key: told, and the one before stays.
    let mut wrong = new.clone();
    wrong["data"]["tls.key"] = replace(&first, &first_key)["data"]["tls.key"].clone();
    t.run_with(&["replace", "-f", "-"], &wrong.to_string()).ok();
    let event = t.event("web", &["BadCertificate", "not the key of its tls.crt"]);
    assert!(event.contains("the one before stays in use"), "{event}");
    assert!(subject("tls.example").contains("second"));
}

#[test]
fn names_below_localhost_have_certificates_of_the_clusters_authority() {
    let t = namespace("own-tls");
    let guest = environment::guest("hello-http");
    t.dhow(&["deploy", guest.to_str().expect("a path of ours"), "--name", "greeter"]).ok();
    let authority = cluster().0.data_dir.join("pki/ca.crt");
    let authority = authority.to_str().expect("a path of ours");
    let body = curl("greeter.own-tls.localhost", authority, &[]).ok();
    assert_eq!(body, "Hello from WebAssembly: you asked for /secure\n");
    // A name that nobody serves is shown the default certificate, which is not its own.
    let refused = curl("nobody.own-tls.localhost", authority, &[]).fails();
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn a_port_for_tls_that_is_taken_is_told_and_off_is_off() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let start = |name: &str, word: &str| {
        let words = vec!["--gateway-tls-port".to_owned(), word.to_owned()];
        Cluster::start(name, Options { words, ..Options::default() })
    };
    let Err(error) = start("tls-taken", &port) else { panic!("it started") };
    assert!(error.contains(&port) && error.contains("--gateway-tls-port"), "{error}");
    let cluster = start("tls-off", "off").expect("a cluster");
    assert!(!cluster.log().contains("https://NAME"), "{}", cluster.log());
    cluster.stop();
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let t = namespace("upgrade");
    service(&t, "chat", serve("chat"));
    let host = "chat.upgrade.svc.localhost";
    assert_eq!(reached(host, "/"), "chat");
    let mut stream = http::connect(&cluster().0.gateway()).expect("a connection");
    let request =
        format!("GET /chat HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).expect("a head"), 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("upgrade: echo"), "{head}");
    for _ in 0..3 {
        stream.write_all(b"there and back").expect("bytes");
        let mut back = [0; 14];
        reader.read_exact(&mut back).expect("bytes");
        assert_eq!(&back, b"there and back");
    }
    stream.shutdown(std::net::Shutdown::Write).expect("an end");
    assert_eq!(reader.read_to_end(&mut Vec::new()).expect("the other end"), 0);
}

#[test]
fn every_request_leaves_a_line_in_the_access_log() {
    let t = namespace("log");
    service(&t, "web", serve("web"));
    assert_eq!(reached("web.log.svc.localhost", "/"), "web");
    let path = "/in/the/log";
    http::get(&cluster().0.gateway(), "web.log.svc.localhost", &format!("{path}?token=secret"))
        .expect("an answer");
    let line = wait::until("the line", || {
        let log = cluster().0.log();
        log.lines().find(|l| l.contains(path)).map(str::to_owned).ok_or(log)
    });
    for part in
        ["access", "GET", "web.log.svc.localhost", "status=200", "127.0.0.1", "service log/web", "trace="]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("secret"), "queries may hold secrets: {line}");
}

/// The body after a head, of a known length or in chunks.
fn body(head: &str, reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let head = head.to_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
    let (mut body, chunked) = (Vec::new(), length.is_none());
    loop {
        let mut size = String::new();
        let piece = match length {
            Some(length) => length,
            None => {
                reader.read_line(&mut size)?;
                usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?
            }
        };
        let begin = body.len();
        body.resize(begin + piece, 0);
        reader.read_exact(&mut body[begin..])?;
        if chunked {
            reader.read_exact(&mut [0; 2])?;
        }
        if !chunked || piece == 0 {
            return Ok(body);
        }
    }
}

/// Requests over one connection until told to stop; counts answers, and says what went wrong.
fn load(method: &str, host: &str, stop: &AtomicBool, done: &AtomicUsize) -> Result<(), String> {
    let content = if method == "POST" { "Content-Length: 5\r\n\r\nonce!" } else { "\r\n" };
    let gateway = cluster().0.gateway();
    while !stop.load(Relaxed) {
        let stream = http::connect(&gateway).map_err(|e| e.to_string())?;
        let mut writer = stream.try_clone().map_err(|e| e.to_string())?;
        let mut reader = BufReader::new(stream);
        // A connection now and then, requests most of the time.
        for _ in 0..50 {
            let request = format!("{method} /load HTTP/1.1\r\nHost: {host}\r\n{content}");
            writer.write_all(request.as_bytes()).map_err(|e| format!("writing: {e}"))?;
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).map_err(|e| format!("reading: {e}"))? == 0 {
                    return Err(format!("the connection ended within {head:?}"));
                }
            }
            let body = body(&head, &mut reader).map_err(|e| format!("reading a body: {e} after {head}"))?;
            if !head.starts_with("HTTP/1.1 200") {
                return Err(format!("{head}{}", String::from_utf8_lossy(&body)));
            }
            done.fetch_add(1, Relaxed);
            if stop.load(Relaxed) {
                break;
            }
        }
    }
    Ok(())
}

/// Deploys a function again and again while others ask it.
fn update_under_load(namespace_name: &str, method: &str) {
    let t = namespace(namespace_name);
    let guest = environment::guest("hello-http");
    let guest = guest.to_str().expect("a path of ours");
    let deploy = |greeting: &str| {
        let environment = format!("GREETING={greeting}");
        t.dhow(&["deploy", guest, "--name", "greeter", "--replicas", "2", "--env", &environment]).ok();
    };
    deploy("v0");
    let host = &format!("greeter.{namespace_name}.localhost");
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| load(method, host, &stop, &done))).collect();
        let updating = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 1..=3 {
                deploy(&format!("v{round}"));
                wait::until("the new revision answers", || {
                    let answer = http::get(&cluster().0.gateway(), host, "/")?;
                    wait::holds(answer.body.starts_with(&format!("v{round} ")), answer.body)
                });
            }
            // The old pods' end is part of it.
            wait::until("only the new pods are left", || {
                let pods = t.items(&["get", "pods"]).len();
                wait::holds(pods == 2, format!("{pods} pods"))
            });
        }));
        stop.store(true, Relaxed);
        let failures: Vec<String> =
            loads.into_iter().filter_map(|l| l.join().expect("a client").err()).collect();
        if let Err(panic) = updating {
            std::panic::resume_unwind(panic);
        }
        assert_eq!(failures, [""; 0], "after {} requests", done.load(Relaxed));
    });
    assert!(done.load(Relaxed) > 100, "only {} requests were made", done.load(Relaxed));
}

#[test]
fn a_rolling_update_under_load_loses_no_request() {
    update_under_load("rolling", "GET");
}

#[test]
fn a_rolling_update_under_load_loses_no_post_which_nobody_may_send_twice() {
    update_under_load("rolling-posts", "POST");
}
