//! The API server through its socket: certificates, tokens, both HTTP versions, kubelets behind it, bad clients.
use apiserver::{ApiServer, Config, StaticTokens, UserInfo};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use machinery::ambient::Ambient;
use pki::{Authority, KeyedCertificate, Subject};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Running {
    address: SocketAddr,
    ca: Authority,
    admin: KeyedCertificate,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "TLS looks at the wall clock, so these certificates are for the real now"
)]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn names() -> Vec<String> {
    vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
}

impl Running {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let ca = Authority::generate("kubernetes", now()).unwrap();
        let server = Subject { common_name: "kube-apiserver", organization: None };
        let serving = ca.issue_serving(server, &names(), now()).unwrap();
        let admin = Subject { common_name: "kubernetes-admin", organization: Some("system:masters") };
        let admin = ca.issue_client(admin, now()).unwrap();
        let count = AtomicU64::new(1);
        let ambient = Ambient::new(now, move || {
            count.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        let store = Arc::new(store::MemoryStore::new(Arc::new(|| 0), store::Retention::default()));
        let mut config = Config::new(store, ambient);
        config.kubelet_client = Some(pki::client_config(ca.certificate_pem(), Some(&admin)).unwrap());
        let jane = UserInfo::new("jane", ["developers"]);
        config.authenticators.push(Arc::new(StaticTokens::new([("good".to_owned(), jane)])));
        change(&mut config);
        let api = ApiServer::new(config);
        api.ensure_bootstrap().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = pki::server_config(ca.certificate_pem(), &serving).unwrap();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let served = tokio::spawn(async move { api.serve(listener, tls, token).await });
        Self { address, ca, admin, shutdown, served }
    }

    fn client(
        &self,
        own: Option<&KeyedCertificate>,
        h2: bool,
    ) -> Client<hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>, Full<Bytes>>
    {
        let tls = pki::client_config(self.ca.certificate_pem(), own).unwrap();
        let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        let connector = if h2 { builder.enable_http2().build() } else { builder.enable_http1().build() };
        Client::builder(TokioExecutor::new()).build(connector)
    }

    async fn ask(
        &self,
        own: Option<&KeyedCertificate>,
        h2: bool,
        request: http::request::Builder,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let uri = format!("https://{}{path}", self.address);
        let request = request.uri(uri).body(Full::new(body)).unwrap();
        let answer = self.client(own, h2).request(request).await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
    }
    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Some(&self.admin), true, Request::get("/"), path, Value::Null).await
    }
}

#[tokio::test]
async fn a_client_is_who_its_certificate_or_token_says() {
    let r = Running::new(|_| {}).await;
    let path = "/api/v1/namespaces";
    for h2 in [true, false] {
        assert_eq!(r.ask(Some(&r.admin), h2, Request::get("/"), path, Value::Null).await.0, 200);
        let token = |t: &str| Request::get("/").header("authorization", format!("Bearer {t}"));
        assert_eq!(r.ask(None, h2, token("good"), path, Value::Null).await.0, 403);
        assert_eq!(r.ask(None, h2, token("good"), "/api", Value::Null).await.0, 200);
        let (code, status) = r.ask(None, h2, token("bad"), "/healthz", Value::Null).await;
        assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")));
        assert_eq!(
            r.ask(None, h2, Request::get("/").header("authorization", "Basic eDp5"), "/healthz", Value::Null)
                .await
                .0,
            401
        );
        let (code, status) = r.ask(None, h2, Request::get("/"), path, Value::Null).await;
        assert_eq!(code, 403);
        assert!(status["message"].as_str().unwrap().contains("User \"system:anonymous\""));
        assert_eq!(r.ask(None, h2, Request::get("/"), "/healthz", Value::Null).await.0, 200);
    }
}

#[tokio::test]
async fn a_watch_streams_over_a_socket_and_ends_with_the_server() {
    let r = Running::new(|_| {}).await;
    let client = r.client(Some(&r.admin), true);
    let base = format!("https://{}/api/v1/namespaces/default/configmaps", r.address);
    let watch = Request::get(format!("{base}?watch=1")).body(Full::default()).unwrap();
    let mut events = client.request(watch).await.unwrap().into_body();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}).to_string();
    let create =
        Request::post(&base).header("content-type", "application/json").body(Full::from(object)).unwrap();
    assert_eq!(client.request(create).await.unwrap().status(), 201);
    let event = events.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&event).unwrap()["type"], "ADDED");
    r.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(Ok(_)) = events.frame().await {}
        r.served.await.unwrap().unwrap();
    })
    .await
    .unwrap();
}

/// A kubelet that answers as the real one does.
async fn kubelet(ca: &Authority) -> u16 {
    let subject = Subject { common_name: "system:node:n", organization: Some("system:nodes") };
    let serving = ca.issue_serving(subject, &names(), now()).unwrap();
    let tls = pki::server_config(ca.certificate_pem(), &serving).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let peer = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                let user = pki::peer_identity(&peer).unwrap().common_name;
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let user = user.clone();
                    async move {
                        let line = format!("{user} {} {}", request.method(), request.uri());
                        if request.uri().path().contains("/missing") {
                            let mut refused = Response::new(Full::<Bytes>::from("no such container"));
                            *refused.status_mut() = http::StatusCode::NOT_FOUND;
                            return Ok::<_, std::convert::Infallible>(refused);
                        }
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        Ok(Response::new(Full::from(format!("{line} {}", String::from_utf8_lossy(&body)))))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

#[tokio::test]
async fn logs_and_node_proxy_reach_the_kubelet() {
    let r = Running::new(|_| {}).await;
    let port = kubelet(&r.ca).await;
    let json_body = || Request::builder().header("content-type", "application/json");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    assert_eq!(r.ask(Some(&r.admin), true, json_body().method("POST"), "/api/v1/nodes", node).await.0, 201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let patch = Request::patch("/").header("content-type", "application/merge-patch+json");
    assert_eq!(r.ask(Some(&r.admin), true, patch, "/api/v1/nodes/n/status", status).await.0, 200);
    let pod = |name: &str, container: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "n", "containers": [{"name": container, "image": "i"}]},
        })
    };
    for (name, container) in [("p", "c"), ("q", "missing")] {
        let created = r
            .ask(
                Some(&r.admin),
                true,
                json_body().method("POST"),
                "/api/v1/namespaces/default/pods",
                pod(name, container),
            )
            .await;
        assert_eq!(created.0, 201, "{}", created.1);
    }
    let (code, text) = r.get("/api/v1/namespaces/default/pods/p/log?tailLines=5&follow=true&pretty=x").await;
    assert_eq!(
        (code, text),
        (200, json!("kubernetes-admin GET /containerLogs/default/p/c?follow=true&tailLines=5 "))
    );
    let (code, status) = r.get("/api/v1/namespaces/default/pods/q/log").await;
    assert_eq!((code, &status["message"]), (404, &json!("no such container")));

    let post = Request::post("/").header("content-type", "application/octet-stream");
    let (code, text) = r
        .ask(Some(&r.admin), true, post, "/api/v1/nodes/n/proxy/images/import?ref=a%2Fb", json!("body"))
        .await;
    assert_eq!((code, text), (200, json!("kubernetes-admin POST /images/import?ref=a%2Fb \"body\"")));
    assert_eq!(r.get("/api/v1/nodes/none/proxy/x").await.0, 404);
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_cut_off() {
    let r = Running::new(|c| {
        c.limits.header_timeout = Duration::from_millis(200);
        c.limits.handshake_timeout = Duration::from_millis(200);
    })
    .await;
    // One that does not even begin TLS.
    let mut silent = tokio::net::TcpStream::connect(r.address).await.unwrap();
    let mut byte = [0; 1];
    let read = tokio::time::timeout(Duration::from_secs(10), silent.read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    // Those that begin TLS and then send nothing, a part of a head, a part of HTTP/2's preface.
    let tls = Arc::new(pki::client_config(r.ca.certificate_pem(), None).unwrap());
    for part in ["", "GET /healthz HT", "PRI * HT"] {
        let stream = tokio::net::TcpStream::connect(r.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut slow = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await.unwrap();
        slow.write_all(part.as_bytes()).await.unwrap();
        slow.flush().await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut rest)).await;
        let read = read.unwrap_or_else(|_| panic!("{part:?} holds its connection"));
        assert!(read.is_err() || !String::from_utf8_lossy(&rest).contains(" 200 "));
    }
    assert_eq!(r.get("/healthz").await.0, 200, "others are served as before");
}

#[tokio::test]
async fn a_body_of_a_hundred_megabytes_gets_a_status_and_not_a_broken_connection() {
    let r = Running::new(|_| {}).await;
    for h2 in [true, false] {
        let post = Request::post("/").header("content-type", "application/json");
        let uri = format!("https://{}/api/v1/namespaces/default/configmaps", r.address);
        let body = Full::new(Bytes::from(vec![b' '; 100_000_000]));
        let answer = r.client(Some(&r.admin), h2).request(post.uri(uri).body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 413);
        let status = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&status).contains("RequestEntityTooLarge"));
    }
}

#[tokio::test]
async fn a_connection_that_asks_nothing_any_more_gives_its_place_back_and_a_watch_does_not() {
    let r = Running::new(|c| c.limits.idle_timeout = Duration::from_millis(300)).await;
    let watching = r.client(Some(&r.admin), true);
    let base = format!("https://{}/api/v1/namespaces/default/configmaps", r.address);
    let watch = Request::get(format!("{base}?watch=1")).body(Full::<Bytes>::default()).unwrap();
    let mut events = watching.request(watch).await.unwrap().into_body();
    // Nobody in particular, who answers every ping.
    let tls = Arc::new(pki::client_config(r.ca.certificate_pem(), None).unwrap());
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(r.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let (mut idle, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let health = Request::get(format!("https://{}/livez", r.address)).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(idle.send_request(health).await.unwrap().status(), 200);
    let ended = tokio::time::timeout(Duration::from_secs(20), connection).await;
    ended.expect("it is still open").unwrap().unwrap();
    // The watch was there before and is there still.
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let post = Request::post("/").header("content-type", "application/json");
    let path = "/api/v1/namespaces/default/configmaps";
    assert_eq!(r.ask(Some(&r.admin), true, post, path, object).await.0, 201);
    let event = events.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&event).unwrap()["type"], "ADDED");
}

#[tokio::test]
async fn a_body_whose_chunks_are_garbled_gets_a_status_and_others_are_served() {
    let r = Running::new(|_| {}).await;
    let mut tls = pki::client_config(r.ca.certificate_pem(), Some(&r.admin)).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = tokio_rustls::TlsConnector::from(Arc::new(tls));
    for chunks in ["zz\r\n{}\r\n0\r\n\r\n", "5\r\n{}", "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"] {
        let stream = tokio::net::TcpStream::connect(r.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut stream = tls.connect(name, stream).await.unwrap();
        let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: localhost\r\n\
                    content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(format!("{head}{chunks}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        read.unwrap_or_else(|_| panic!("{chunks:?} holds its connection")).ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{chunks:?}: {answer}");
        assert!(answer.contains("\"kind\":\"Status\""), "{chunks:?}: {answer}");
    }
    assert_eq!(r.get("/healthz").await.0, 200);
}
