//! Against the distribution registry itself (Debian's package `docker-registry`), plain and with TLS and a password.
//! Where it is not installed these tests say so and check nothing; the end-to-end suite sees to it that it is.
use bytes::Bytes;
use images::{
    Config, Content, Credential, Error, Images, Kind, PullOptions, PushOptions, RegistryConfig,
    RootCertificate, push_wasm,
};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

struct Registry {
    _process: Child,
    address: String,
}

fn installed() -> bool {
    let found =
        ["/usr/bin/docker-registry", "/usr/local/bin/docker-registry"].iter().any(|p| Path::new(p).exists());
    if !found {
        eprintln!("docker-registry is not installed: not tested against it");
    }
    found
}

impl Registry {
    /// Starts on a port the registry chooses and tells in its log.
    async fn start(directory: &Path, extra: &str) -> Self {
        let config = directory.join("registry.yml");
        let store = directory.join("registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  formatter: text\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{extra}",
                store.display()
            ),
        )
        .unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let find = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let address: String =
                        rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
                    return address;
                }
            }
            panic!("the registry ended before it listened");
        };
        let address =
            tokio::time::timeout(Duration::from_secs(30), find).await.expect("the registry listens");
        // It goes on writing: whoever does not read stops it in the end.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { _process: process, address }
    }
}

/// Runs a program of the system.
async fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test]
async fn a_wasm_artifact_goes_through_a_plain_registry_and_back() {
    if !installed() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path(), "").await;
    let reference = format!("{}/team/hello:v1", registry.address);
    let config = RegistryConfig::default();
    let large = Bytes::from([COMPONENT, &vec![7; 3 << 20]].concat());
    let pushed = push_wasm(&config, &reference, large.clone(), &PushOptions::default()).await.unwrap();

    let images = Images::open(Config::new(directory.path().join("images"))).unwrap();
    let error = images
        .pull(&format!("{}/team/none:v1", registry.address), &PullOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let record = images.pull(&reference, &PullOptions::default()).await.unwrap();
    assert_eq!(record.id, pushed.digest);
    let Content::Wasm { path, .. } = images.content(&record).await.unwrap() else { panic!("{record:?}") };
    assert_eq!(std::fs::read(path).unwrap(), large);
    let by_digest = format!("{}/team/hello@{}", registry.address, pushed.digest);
    assert!(images.remove(&record.id).await.unwrap());
    assert_eq!(images.pull(&by_digest, &PullOptions::default()).await.unwrap().kind, record.kind);
}

#[tokio::test]
async fn a_registry_with_tls_and_a_password_is_used_as_it_wants() {
    if !installed() || !Path::new("/usr/bin/openssl").exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_string();
    // An authority and a certificate by it: rustls takes no certificate that is both.
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let (ca_key, ca, request) = (path("ca.key"), path("ca.pem"), path("request.pem"));
    let make_ca = ["req", "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", &ca_key, "-out", &ca];
    run("openssl", &[&make_ca[..], &key].concat()).await;
    let ask = ["req", "-subj", "/CN=registry", "-keyout", &path("key.pem"), "-out", &request];
    run("openssl", &[&ask[..], &key].concat()).await;
    std::fs::write(path("san"), "subjectAltName=IP:127.0.0.1").unwrap();
    let (cert, san) = (path("cert.pem"), path("san"));
    let sign =
        ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    run("openssl", &[&sign[..], &["-out", &cert, "-extfile", &san]].concat()).await;
    // bcrypt of "right", made with htpasswd -nbB: the registry takes no other kind.
    std::fs::write(path("htpasswd"), HTPASSWD).unwrap();
    let extra = format!(
        "  tls:\n    certificate: {}\n    key: {}\nauth:\n  htpasswd:\n    realm: test\n    path: {}\n",
        path("cert.pem"),
        path("key.pem"),
        path("htpasswd")
    );
    let registry = Registry::start(directory.path(), &extra).await;
    let reference = format!("{}/hello:v1", registry.address);
    let basic = |password: &str| Credential::Basic { username: "me".into(), password: password.into() };
    let trusting = RegistryConfig {
        extra_roots: vec![RootCertificate(std::fs::read(&ca).unwrap())],
        ..RegistryConfig::default()
    };
    let push = async |config: &RegistryConfig, credential: Credential| {
        let options = PushOptions { credential, ..PushOptions::default() };
        push_wasm(config, &reference, Bytes::from_static(COMPONENT), &options).await
    };
    let error = push(&RegistryConfig::default(), basic("right")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "an unknown authority is not trusted: {error:?}");
    let error = push(&trusting, basic("wrong")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { anonymous: false, .. }), "{error:?}");
    let pushed = push(&trusting, basic("right")).await.unwrap();

    let mut config = Config::new(directory.path().join("images"));
    config.registries = trusting;
    let images = Images::open(config).unwrap();
    let pull = async |credential: Credential| {
        images.pull(&reference, &PullOptions { credential, ..PullOptions::default() }).await
    };
    let error = pull(Credential::Anonymous).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { anonymous: true, .. }), "{error:?}");
    let error = pull(basic("wrong")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { anonymous: false, .. }), "{error:?}");
    let record = pull(basic("right")).await.unwrap();
    assert_eq!(record.id, pushed.digest);
    assert!(matches!(record.kind, Kind::Wasm { .. }));
}

#[tokio::test]
async fn a_linux_image_of_other_peoples_tools_is_unpacked() {
    let tools = ["/usr/bin/umoci", "/usr/bin/skopeo", "/usr/bin/busybox"];
    if !installed() || !tools.iter().all(|tool| Path::new(tool).exists()) || !nix::unistd::geteuid().is_root()
    {
        eprintln!("not tested with a Linux image: that needs root, umoci, skopeo and busybox");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_string();
    let layout = path("layout");
    let image = format!("{layout}:v1");
    let bundle = |name: &str| std::path::PathBuf::from(path(name)).join("rootfs");
    run("umoci", &["init", "--layout", &layout]).await;
    run("umoci", &["new", "--image", &image]).await;
    // Two layers: the second removes a file of the first.
    run("umoci", &["unpack", "--image", &image, &path("one")]).await;
    std::fs::create_dir_all(bundle("one").join("bin")).unwrap();
    std::fs::copy("/usr/bin/busybox", bundle("one").join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", bundle("one").join("bin/sh")).unwrap();
    std::fs::write(bundle("one").join("gone"), "soon").unwrap();
    run("umoci", &["repack", "--image", &image, &path("one")]).await;
    run("umoci", &["unpack", "--image", &image, &path("two")]).await;
    std::fs::remove_file(bundle("two").join("gone")).unwrap();
    std::fs::write(bundle("two").join("bin/new"), "new").unwrap();
    run("umoci", &["repack", "--image", &image, &path("two")]).await;
    run("umoci", &["config", "--image", &image, "--config.entrypoint", "/bin/sh", "--config.env", "A=b"])
        .await;
    let registry = Registry::start(directory.path(), "").await;
    let reference = format!("{}/busybox:v1", registry.address);
    let (from, to) = (format!("oci:{image}"), format!("docker://{reference}"));
    run("skopeo", &["copy", "--insecure-policy", "--dest-tls-verify=false", &from, &to]).await;

    let images = Images::open(Config::new(directory.path().join("images"))).unwrap();
    let record = images.pull(&reference, &PullOptions::default()).await.unwrap();
    assert_eq!(record.config.entrypoint, ["/bin/sh"]);
    assert!(record.config.env.contains(&"A=b".to_string()));
    let Content::Linux { layers } = images.content(&record).await.unwrap() else { panic!("{record:?}") };
    let busybox = std::fs::read("/usr/bin/busybox").unwrap();
    assert!(layers.iter().any(|layer| std::fs::read(layer.join("bin/busybox")).is_ok_and(|f| f == busybox)));
    let top = layers.last().unwrap();
    assert_eq!(std::fs::read_to_string(top.join("bin/new")).unwrap(), "new");
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let gone = std::fs::symlink_metadata(top.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0, "a whiteout");
}

const HTPASSWD: &str = "me:$2y$04$abcdefghijklmnopqrstuuFmEfrkTQnczNzw475xE2VhDrK1uwJiC\n";
