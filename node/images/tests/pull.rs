//! Pulling, importing, pushing and removing, against the registry in memory.
use bytes::Bytes;
use images::fake::FakeRegistry;
use images::{
    Config, Content, Credential, Error, Form, Images, Kind, Limits, Prefer, PullOptions, PushOptions,
    RegistryConfig, push_wasm,
};
use serde_json::json;
use sha2::Digest;
use std::sync::{Arc, Mutex};

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Bench {
    registry: FakeRegistry,
    images: Images,
    directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self::with_limits(Limits::default()).await
    }

    async fn with_limits(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::open(Config { limits, ..Config::new(directory.path()) }).unwrap();
        Self { registry: FakeRegistry::start().await.unwrap(), images, directory }
    }

    /// Puts an image into the registry; gives the digests of its layers.
    fn add(&self, name: &str, config_type: &str, config: &str, layers: &[(&str, Vec<u8>)]) -> Vec<String> {
        let mut digests = Vec::new();
        let mut descriptors = Vec::new();
        for (media_type, bytes) in layers {
            let digest = self.registry.add_blob(bytes.clone());
            descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}));
            digests.push(digest);
        }
        let config_digest = self.registry.add_blob(config.as_bytes().to_vec());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": config_type, "digest": config_digest, "size": config.len()},
            "layers": descriptors,
        });
        self.registry.add_manifest(name, "v1", OCI_MANIFEST, manifest.to_string());
        digests
    }

    fn add_wasm(&self, name: &str, bytes: &[u8]) -> Vec<String> {
        self.add(name, "application/vnd.wasm.config.v0+json", "{}", &[("application/wasm", bytes.to_vec())])
    }

    async fn pull(&self, name: &str) -> Result<Arc<images::ImageRecord>, Error> {
        self.images.pull(&self.registry.reference(&format!("{name}:v1")), &PullOptions::default()).await
    }

    fn blob_count(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("blobs/sha256")).unwrap().count()
    }

    fn temporary_count(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("tmp")).unwrap().count()
    }

    fn gets(&self, what: &str) -> usize {
        let wanted = |request: &&String| request.starts_with("GET") && request.contains(what);
        self.registry.requests().iter().filter(wanted).count()
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

async fn wasm_of(images: &Images, record: &images::ImageRecord) -> Vec<u8> {
    match images.content(record).await.unwrap() {
        Content::Wasm { path, .. } => std::fs::read(path).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wasm_artifact_is_pulled_found_by_all_its_names_and_survives_reopening() {
    let bench = Bench::new().await;
    let layers = bench.add_wasm("team/hello", COMPONENT);
    let record = bench.pull("team/hello").await.unwrap();
    assert_eq!(record.kind, Kind::Wasm { digest: layers[0].clone() });
    assert_eq!(wasm_of(&bench.images, &record).await, COMPONENT);
    let by_digest = bench.registry.reference(&format!("team/hello@{}", record.id));
    for name in [&record.id, &by_digest, &bench.registry.reference("team/hello:v1")] {
        assert_eq!(bench.images.get(name).unwrap().id, record.id, "{name}");
    }
    let reopened = Images::open(Config::new(bench.directory.path())).unwrap();
    assert_eq!(*reopened.get(&record.id).unwrap(), *record);
}

#[tokio::test]
async fn a_second_pull_fetches_no_blob_again() {
    let bench = Bench::new().await;
    bench.add_wasm("hello", MODULE);
    bench.pull("hello").await.unwrap();
    let before = bench.gets("/blobs/");
    bench.pull("hello").await.unwrap();
    assert_eq!(bench.gets("/blobs/"), before);
}

#[tokio::test]
async fn pulls_at_the_same_time_fetch_each_blob_once() {
    let bench = Bench::new().await;
    let layers = bench.add_wasm("hello", MODULE);
    let gate = bench.registry.hold_blobs();
    let pulls = futures::future::join_all((0..8).map(|_| bench.pull("hello")));
    let open = async {
        // All eight must be past their manifests before a single blob may come.
        while bench.gets("/manifests/") < 8 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(100);
    };
    let (results, ()) = tokio::join!(pulls, open);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(bench.gets(&layers[0]), 1);
}

#[tokio::test]
async fn a_pull_that_is_given_up_leaves_nothing_and_does_not_hinder_the_next() {
    let bench = Bench::new().await;
    bench.add_wasm("hello", MODULE);
    let gate = bench.registry.hold_blobs();
    {
        let pull = bench.pull("hello");
        tokio::pin!(pull);
        while bench.gets("/blobs/") == 0 {
            tokio::select! { result = &mut pull => panic!("{result:?}"), _ = tokio::task::yield_now() => {} }
        }
    }
    assert_eq!(bench.temporary_count(), 0);
    gate.add_permits(100);
    bench.pull("hello").await.unwrap();
}

#[tokio::test]
async fn bytes_with_another_digest_are_thrown_away() {
    let bench = Bench::new().await;
    let layers = bench.add_wasm("hello", MODULE);
    bench.registry.corrupt(&layers[0], &b"\0asm\x01\0\0\x01"[..]);
    let error = bench.pull("hello").await.unwrap_err();
    assert!(matches!(&error, Error::DigestMismatch { expected, .. } if *expected == layers[0]), "{error}");
    bench.registry.corrupt(&layers[0], vec![0; 5000]);
    let error = bench.pull("hello").await.unwrap_err().to_string();
    assert!(error.contains("more than the 8 bytes announced"), "{error}");
    assert_eq!(bench.temporary_count(), 0);
    assert!(bench.images.list().is_empty());
    bench.registry.corrupt(&layers[0], MODULE);
    bench.pull("hello").await.unwrap();
}

#[tokio::test]
async fn what_goes_wrong_is_said_in_words() {
    let bench = Bench::new().await;
    let error = bench.pull("nothing").await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("is not in its registry"), "{error}");

    bench.add_wasm("text", b"hello");
    let error = bench.pull("text").await.unwrap_err().to_string();
    assert!(error.contains("is not WebAssembly"), "{error}");

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let error = bench.images.pull(&format!("{address}/x"), &PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");

    let error = bench.images.pull("Not A Name", &PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::InvalidReference { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_told_from_none_and_the_right_one_works_afterwards() {
    let bench = Bench::new().await;
    bench.add_wasm("hello", MODULE);
    bench.registry.require_login("me", "right");
    let reference = bench.registry.reference("hello:v1");
    let pull = async |credential: Credential| {
        bench.images.pull(&reference, &PullOptions { credential, ..PullOptions::default() }).await
    };
    let basic = |password: &str| Credential::Basic { username: "me".into(), password: password.into() };
    let error = pull(Credential::Anonymous).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { anonymous: true, .. }), "{error}");
    let error = pull(basic("wrong")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { anonymous: false, .. }), "{error}");
    assert!(error.to_string().contains("password is wrong"), "{error}");
    pull(basic("right")).await.unwrap();
    let error = pull(basic("wrong")).await.unwrap_err();
    assert!(
        matches!(error, Error::Unauthorized { .. }),
        "a right password must not help a wrong one: {error}"
    );
}

#[tokio::test]
async fn a_component_that_imports_what_is_not_offered_is_refused_before_it_is_fetched() {
    let bench = Bench::new().await;
    let config = |imports: &[&str]| {
        json!({"os": "wasip2", "component": {"imports": imports, "exports": []}}).to_string()
    };
    let add = |name: &str, imports: &[&str]| {
        let layer = [("application/wasm", COMPONENT.to_vec())];
        bench.add(name, "application/vnd.wasm.config.v0+json", &config(imports), &layer)
    };
    let offers: Arc<[String]> = vec!["wasi:io/poll@0.2".to_owned()].into();
    let pull = async |name: &str| {
        let options = PullOptions { offers: Some(offers.clone()), ..PullOptions::default() };
        bench.images.pull(&bench.registry.reference(&format!("{name}:v1")), &options).await
    };
    let layers = add("wants", &["wasi:io/poll@0.2.3", "foo:bar/baz@1.0.0"]);
    let error = pull("wants").await.unwrap_err();
    assert!(
        matches!(&error, Error::ImportNotOffered { import, .. } if import == "foo:bar/baz@1.0.0"),
        "{error}"
    );
    assert_eq!(bench.gets(&layers[0]), 0);
    bench.images.sweep().await.unwrap();
    assert_eq!(bench.blob_count(), 0, "nothing stays of what was refused");
    add("fits", &["wasi:io/poll@0.2.9"]);
    pull("fits").await.unwrap();
    // Whoever asks what it imports fetches no more than that.
    let component = async |name: &str| {
        let reference = bench.registry.reference(&format!("{name}:v1"));
        images::component_of(&RegistryConfig::default(), &reference, &Credential::Anonymous).await
    };
    let before = bench.gets(&layers[0]);
    let imports = component("wants").await.unwrap().expect("a component").imports;
    assert_eq!(imports, ["wasi:io/poll@0.2.3", "foo:bar/baz@1.0.0"]);
    assert_eq!(bench.gets(&layers[0]), before);
    bench.add_wasm("silent", MODULE);
    assert_eq!(component("silent").await.unwrap(), None);
    assert!(matches!(component("nothing").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn limits_hold_before_a_byte_is_fetched() {
    let bench = Bench::with_limits(Limits { wasm_bytes: 10, ..Limits::default() }).await;
    let layers = bench.add_wasm("large", &[MODULE, &[0; 100]].concat());
    let error = bench.pull("large").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { size: 108, limit: 10, .. }), "{error}");
    assert_eq!(bench.gets(&layers[0]), 0);
}

#[tokio::test]
async fn an_index_gives_the_variant_asked_for() {
    let bench = Bench::new().await;
    bench.add_wasm("wasm", MODULE);
    let wasm = bench.pull("wasm").await.unwrap();
    let manifest = std::fs::read(bench.directory.path().join("blobs/sha256").join(&wasm.id[7..])).unwrap();
    bench.registry.add_manifest("multi", "inner", OCI_MANIFEST, manifest);
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 1,
         "platform": {"os": "linux", "architecture": "mips"}},
        {"mediaType": OCI_MANIFEST, "digest": wasm.id, "size": 1, "platform": {"os": "wasi", "architecture": "wasm"}},
    ]});
    let digest = bench.registry.add_manifest(
        "multi",
        "v1",
        "application/vnd.oci.image.index.v1+json",
        index.to_string(),
    );
    let record = bench.pull("multi").await.unwrap();
    assert_eq!(record.id, wasm.id);
    let by_index = bench.registry.reference(&format!("multi@{digest}"));
    assert_eq!(bench.images.get(&by_index).unwrap().id, wasm.id, "the digest of the index is a name too");
}

#[tokio::test]
async fn a_wasm_file_in_an_ordinary_image_is_taken_out() {
    let bench = Bench::new().await;
    let config = json!({"architecture": "wasm", "os": "wasip1",
        "config": {"Entrypoint": ["/app.wasm"], "Env": ["A=b"]}});
    let layers = [
        (
            "application/vnd.oci.image.layer.v1.tar",
            tar_of(&[("app.wasm", b"\0asm\x01\0\0\0old"), ("x", b"")]),
        ),
        ("application/vnd.oci.image.layer.v1.tar", tar_of(&[("app.wasm", MODULE)])),
    ];
    bench.add("compat", "application/vnd.oci.image.config.v1+json", &config.to_string(), &layers);
    let record = bench.pull("compat").await.unwrap();
    assert_eq!(wasm_of(&bench.images, &record).await, MODULE);
    assert_eq!(record.config.env, ["A=b"]);
    bench.images.sweep().await.unwrap();
    assert_eq!(wasm_of(&bench.images, &record).await, MODULE);
}

#[tokio::test]
async fn a_linux_image_is_unpacked_layer_by_layer() {
    let bench = Bench::new().await;
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let (base, top) = (tar_of(&[("bin/sh", b"#!")]), tar_of(&[("etc/motd", b"hello")]));
    let config = json!({"architecture": architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [sha256(&base), sha256(&top)]},
        "config": {"Cmd": ["/bin/sh"], "WorkingDir": "/w", "User": "7"}});
    let tar = "application/vnd.oci.image.layer.v1.tar";
    bench.add(
        "linux",
        "application/vnd.oci.image.config.v1+json",
        &config.to_string(),
        &[(tar, base.clone()), (tar, top)],
    );
    let reference = bench.registry.reference("linux:v1");
    let options = PullOptions { prefer: Prefer::Linux, ..PullOptions::default() };
    let record = bench.images.pull(&reference, &options).await.unwrap();
    assert_eq!(record.config.working_dir, "/w");
    if !nix::unistd::geteuid().is_root() {
        // Owners in an archive need root: the image is here, and making a container of it says so.
        assert!(matches!(record.kind, Kind::Linux { .. }));
        return;
    }
    let Content::Linux { layers } = bench.images.content(&record).await.unwrap() else { panic!("no layers") };
    assert_eq!(std::fs::read(layers[0].join("bin/sh")).unwrap(), b"#!");
    assert_eq!(std::fs::read(layers[1].join("etc/motd")).unwrap(), b"hello");
    assert_eq!(layers[0].file_name().unwrap().to_str().unwrap(), &sha256(&base)[7..], "the first chain id");
    assert!(bench.images.remove(&reference).await.unwrap());
    assert!(layers.iter().all(|layer| !layer.exists()));
    assert_eq!((bench.blob_count(), bench.temporary_count()), (0, 0));
}

#[tokio::test]
async fn removing_an_image_keeps_what_others_share() {
    let bench = Bench::new().await;
    bench.add_wasm("a", MODULE);
    bench.add(
        "b",
        "application/vnd.wasm.config.v0+json",
        "{\"os\":\"wasip1\"}",
        &[("application/wasm", MODULE.to_vec())],
    );
    let (a, b) = (bench.pull("a").await.unwrap(), bench.pull("b").await.unwrap());
    assert_ne!(a.id, b.id);
    assert!(bench.images.remove(&a.id).await.unwrap());
    assert!(bench.images.get(&a.id).is_none());
    assert_eq!(wasm_of(&bench.images, &b).await, MODULE);
    assert!(bench.images.remove(&bench.registry.reference("b:v1")).await.unwrap());
    assert!(!bench.images.remove(&b.id).await.unwrap());
    assert_eq!(bench.blob_count(), 0);
}

#[tokio::test]
async fn a_sweep_leaves_a_pull_under_way_alone() {
    let bench = Bench::new().await;
    bench.add_wasm("hello", MODULE);
    let gate = bench.registry.hold_blobs();
    let pull = bench.pull("hello");
    let sweeps = async {
        while bench.gets("/blobs/") == 0 {
            tokio::task::yield_now().await;
        }
        bench.images.sweep().await.unwrap();
        gate.add_permits(1);
        bench.images.sweep().await.unwrap();
        gate.add_permits(100);
    };
    let (record, ()) = tokio::join!(pull, sweeps);
    let record = record.unwrap();
    for blob in &record.blobs {
        assert!(bench.directory.path().join("blobs/sha256").join(&blob[7..]).exists(), "{blob} was swept");
    }
}

#[tokio::test]
async fn progress_ends_at_the_total() {
    let bench = Bench::new().await;
    bench.add_wasm("hello", &[MODULE, &[0; 100_000]].concat());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let progress: images::ProgressFn = Arc::new(move |p| sink.lock().unwrap().push(p));
    let options = PullOptions { progress: Some(progress), ..PullOptions::default() };
    bench.images.pull(&bench.registry.reference("hello:v1"), &options).await.unwrap();
    let seen = seen.lock().unwrap();
    let last = seen.last().unwrap();
    assert_eq!((last.done_bytes, last.total_bytes), (100_010, 100_010));
    assert_eq!(seen[0].done_bytes, 0);
}

#[tokio::test]
async fn a_file_becomes_an_image_without_a_registry() {
    let bench = Bench::new().await;
    let stream =
        |pieces: Vec<&'static [u8]>| futures::stream::iter(pieces.into_iter().map(|p| Ok(Bytes::from(p))));
    let record = bench
        .images
        .import_wasm("localhost/hello:0123456789ab", stream(vec![b"\0asm", b"\x0d\0\x01\0"]))
        .await
        .unwrap();
    assert_eq!(wasm_of(&bench.images, &record).await, COMPONENT);
    assert_eq!(bench.images.get("localhost/hello:0123456789ab").unwrap().id, record.id);
    let again =
        bench.images.import_wasm("localhost/hello:0123456789ab", stream(vec![COMPONENT])).await.unwrap();
    assert_eq!(again.id, record.id);
    let unnamed = bench.images.import_wasm("", stream(vec![MODULE])).await.unwrap();
    assert!(unnamed.tags().next().unwrap().starts_with("localhost/imported:"));

    let blobs = bench.blob_count();
    let error =
        bench.images.import_wasm("localhost/x", stream(vec![b"#!/bin/sh"])).await.unwrap_err().to_string();
    assert!(error.contains("localhost/x") && error.contains("script"), "{error}");
    assert_eq!(bench.blob_count(), blobs, "a refused file leaves nothing");
    let broken = futures::stream::iter([Ok(Bytes::from(MODULE)), Err(Error::ShuttingDown)]);
    assert!(bench.images.import_wasm("localhost/x", broken).await.is_err());
    assert_eq!((bench.blob_count(), bench.temporary_count()), (blobs, 0));
}

#[tokio::test]
async fn what_is_pushed_can_be_pulled() {
    let bench = Bench::new().await;
    bench.registry.require_login("me", "pw");
    let credential = Credential::Basic { username: "me".into(), password: "pw".into() };
    let reference = bench.registry.reference("pushed:v2");
    let options = PushOptions { credential: credential.clone(), ..PushOptions::default() };
    let config = RegistryConfig::default();
    let pushed = push_wasm(&config, &reference, Bytes::from_static(COMPONENT), &options).await.unwrap();
    assert_eq!(pushed.form, Form::Component);
    let pull = PullOptions { credential, ..PullOptions::default() };
    let record = bench.images.pull(&reference, &pull).await.unwrap();
    assert_eq!(record.id, pushed.digest);
    let again = push_wasm(&config, &reference, Bytes::from_static(COMPONENT), &options).await.unwrap();
    assert_eq!(again, pushed);
    let uploads = bench.registry.requests().iter().filter(|r| r.starts_with("POST")).count();
    assert_eq!(uploads, 2, "blobs that are there are not sent again");
    let error = push_wasm(&config, &reference, Bytes::from_static(b"no"), &options).await.unwrap_err();
    assert!(matches!(error, Error::NotWasm { .. }), "{error}");
}

/// A registry that never ends what it sends. Counts the bytes it got rid of.
struct Endless {
    address: std::net::SocketAddr,
    sent: Arc<std::sync::atomic::AtomicU64>,
    _serving: tokio::task::JoinSet<()>,
}

impl Endless {
    /// More than all buffers between two sockets of this machine, and what a node must never hold of a manifest.
    const ALL: u64 = 256 << 20;

    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent = Arc::<std::sync::atomic::AtomicU64>::default();
        let mut serving = tokio::task::JoinSet::new();
        let counter = sent.clone();
        serving.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(Self::answer(socket, address, counter.clone()));
            }
        });
        Self { address, sent, _serving: serving }
    }

    async fn answer(
        mut socket: tokio::net::TcpStream,
        own: std::net::SocketAddr,
        sent: Arc<std::sync::atomic::AtomicU64>,
    ) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = socket.read_u8().await else { return };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap();
        let (line, endless) = match path {
            "/v2/" => ("200 OK", false),
            _ if path.starts_with("/v2/asks/") => ("401 Unauthorized", false),
            _ if path.starts_with("/v2/fails/") => ("500 Internal Server Error", true),
            _ => ("200 OK", true),
        };
        let answer = format!(
            "HTTP/1.1 {line}\r\nwww-authenticate: Bearer realm=\"http://{own}/token\"\r\nconnection: close\r\n\r\n"
        );
        let _ = socket.write_all(answer.as_bytes()).await;
        let piece = vec![b' '; 64 << 10];
        while endless && sent.load(std::sync::atomic::Ordering::Relaxed) < Self::ALL {
            // Whoever is asked less than this much closes the connection.
            if socket.write_all(&piece).await.is_err() {
                return;
            }
            sent.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn answers_that_never_end_are_left_after_as_much_as_a_document_may_have() {
    for (repository, told) in [
        ("manifest", "more than the limit of 65536"),
        ("asks", "sent more than a token"),
        ("fails", "it answered 500"),
    ] {
        let bench = Bench::with_limits(Limits { document_bytes: 64 << 10, ..Limits::default() }).await;
        let endless = Endless::start().await;
        let reference = format!("{}/{repository}:v1", endless.address);
        let error = bench.images.pull(&reference, &PullOptions::default()).await.unwrap_err().to_string();
        assert!(error.contains(told), "{repository}: {error}");
        let sent = endless.sent.load(std::sync::atomic::Ordering::Relaxed);
        assert!(sent < 32 << 20, "{repository}: {sent} bytes were taken");
    }
}

#[tokio::test]
async fn a_token_service_is_asked_with_the_credential_and_its_token_opens_the_registry() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = Bench::new().await;
    bench.add_wasm("hello", MODULE);
    // Before the registry stands one that wants a token, which it gives to whoever knows the password.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let behind = bench.registry.reference("").trim_end_matches('/').to_string();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap();
            let says = |what: &str| head.to_ascii_lowercase().contains(&what.to_ascii_lowercase());
            let answer = match path {
                "/v2/" => "HTTP/1.1 200 OK\r\n\r\n".to_string(),
                _ if path.starts_with("/token") => {
                    assert!(path.contains("scope=repository%3Ahello%3Apull"), "{path}");
                    assert!(path.contains("service=the+registry"), "{path}");
                    match says("authorization: Basic dXNlcjpzZWNyZXQ=") {
                        true => "HTTP/1.1 200 OK\r\n\r\n{\"token\":\"open sesame\"}".to_string(),
                        false => "HTTP/1.1 401 Unauthorized\r\n\r\n".to_string(),
                    }
                }
                _ if says("authorization: Bearer open sesame") => {
                    format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{behind}{path}\r\n\r\n")
                }
                _ => format!(
                    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\"http://{address}/token\",\
                     service=\"the registry\",scope=\"repository:hello:pull\"\r\n\r\n"
                ),
            };
            socket
                .write_all(answer.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1).as_bytes())
                .await
                .unwrap();
        }
    });
    let pull = |password: &str| {
        let credential = Credential::Basic { username: "user".into(), password: password.into() };
        let options = PullOptions { credential, ..PullOptions::default() };
        let (images, reference) = (bench.images.clone(), format!("{address}/hello:v1"));
        async move { images.pull(&reference, &options).await }
    };
    let error = pull("wrong").await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { anonymous: false, .. }), "{error}");
    let record = pull("secret").await.unwrap();
    assert!(matches!(record.kind, Kind::Wasm { .. }));
}
