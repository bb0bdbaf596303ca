//! Debian's docker-registry (the distribution registry), plain or with TLS and a password.
use super::command::run;
use super::guard::Guard;
use super::wait;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub const USER: &str = "me";
pub const PASSWORD: &str = "right";

pub struct Registry {
    /// `127.0.0.1:PORT`
    pub address: String,
    /// The authority of its certificate, if it has one.
    pub authority: Option<PathBuf>,
    guard: Guard,
    _process: Child,
}

impl Registry {
    pub fn plain() -> Result<Self, String> {
        Self::start(Guard::new("registry"), "", None)
    }

    pub fn with_tls_and_password() -> Result<Self, String> {
        let guard = Guard::new("registry-tls");
        let folder = guard.folder().to_owned();
        let path = |name: &str| folder.join(name).to_str().expect("a path of ours").to_owned();
        // An authority and a certificate by it: rustls takes no certificate that is both.
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];
        let openssl = |words: &[&str]| drop(run(Command::new("openssl").args(words)).ok());
        let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-out", &path("ca.pem")];
        openssl(&[&ca[..], &key, &[&path("ca.key")]].concat());
        let ask = ["req", "-subj", "/CN=registry", "-out", &path("request.pem")];
        openssl(&[&ask[..], &key, &[&path("key.pem")]].concat());
        std::fs::write(path("san"), "subjectAltName=IP:127.0.0.1").map_err(|e| e.to_string())?;
        openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &path("request.pem"),
            "-CA",
            &path("ca.pem"),
            "-CAkey",
            &path("ca.key"),
            "-CAcreateserial",
            "-extfile",
            &path("san"),
            "-out",
            &path("cert.pem"),
        ]);
        let htpasswd = run(Command::new("htpasswd").args(["-nbB", USER, PASSWORD])).ok();
        std::fs::write(path("htpasswd"), htpasswd).map_err(|e| e.to_string())?;
        let more = format!(
            "  tls:\n    certificate: {}\n    key: {}\nauth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            path("cert.pem"),
            path("key.pem"),
            path("htpasswd")
        );
        Self::start(guard, &more, Some(path("ca.pem").into()))
    }

    fn start(guard: Guard, more: &str, authority: Option<PathBuf>) -> Result<Self, String> {
        let (config, log) = (guard.folder().join("registry.yml"), guard.folder().join("registry.log"));
        let text = format!(
            "version: 0.1\nlog:\n  formatter: text\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{more}",
            guard.folder().join("store").display()
        );
        std::fs::write(&config, text).map_err(|e| e.to_string())?;
        let output = std::fs::File::create(&log).map_err(|e| e.to_string())?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(|e| e.to_string())?)
            .stderr(output)
            .spawn()
            .map_err(|e| format!("docker-registry: {e} (`cargo xtask test` installs it)"))?;
        // It chooses its port and tells it.
        let address = wait::within(Duration::from_secs(30), "docker-registry listens", || {
            let text = std::fs::read_to_string(&log).map_err(|e| e.to_string())?;
            let (_, rest) = text.split_once("listening on ").ok_or_else(|| text.clone())?;
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && !".:".contains(c))
                .ok_or("no end of the address")?;
            Ok(rest[..end].to_owned())
        });
        Ok(Self { address, authority, guard, _process: process })
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The file in which the registry keeps a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.guard.folder().join(format!("store/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// A docker credential directory for this registry.
    pub fn credentials(&self, folder: &Path, password: &str) -> PathBuf {
        use std::io::Write;
        let dir = folder.join(format!("docker-{password}"));
        std::fs::create_dir_all(&dir).expect("a folder");
        let mut file = std::fs::File::create(dir.join("config.json")).expect("a file");
        let content =
            serde_json::json!({ "auths": { &self.address: { "username": USER, "password": password } } });
        file.write_all(content.to_string().as_bytes()).expect("writing");
        dir
    }
}
