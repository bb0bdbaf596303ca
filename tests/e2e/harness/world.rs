//! What most tests share: one cluster, two registries, the sample guests pushed.
use super::cluster::{Cluster, Options};
use super::registry::{PASSWORD, Registry};
use super::{command, environment};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

pub struct World {
    pub cluster: Cluster,
    pub registry: Registry,
    /// The one with TLS and a password.
    pub secure: Registry,
    busybox: Mutex<Option<String>>,
    /// Samples that only some tests need.
    pushed: Mutex<BTreeSet<String>>,
}

/// The shared world, made by the first who asks. It is not dropped: the guards end it with this process.
#[track_caller]
pub fn world() -> &'static World {
    static WORLD: OnceLock<Result<World, String>> = OnceLock::new();
    match WORLD.get_or_init(World::make) {
        Ok(world) => world,
        Err(why) => panic!("the shared cluster could not be made: {why}"),
    }
}

impl World {
    fn make() -> Result<Self, String> {
        let registry = Registry::plain()?;
        let secure = Registry::with_tls_and_password()?;
        let authority = secure.authority.as_ref().expect("it has one").display().to_string();
        let words =
            vec!["--registry-ca".to_owned(), authority.clone(), "--max-pods".to_owned(), "500".to_owned()];
        let cluster = Cluster::start("cluster", Options { words, ..Options::default() })?;
        for name in ["hello-http", "hello-cli", "hello-wat"] {
            push(&cluster, name, &registry, &[])?;
        }
        let login = secure.credentials(cluster.folder(), PASSWORD);
        push(&cluster, "hello-cli", &secure, &[("DOCKER_CONFIG", login)])?;
        Ok(Self { cluster, registry, secure, busybox: Mutex::new(None), pushed: Mutex::default() })
    }

    /// The reference of a sample in the plain registry.
    pub fn image(&self, name: &str) -> String {
        self.registry.reference(&format!("samples/{name}:v1"))
    }

    /// The reference of a sample that is pushed when the first test asks for it.
    pub fn pushed(&self, name: &str) -> String {
        let mut pushed = self.pushed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !pushed.contains(name) {
            push(&self.cluster, name, &self.registry, &[]).expect("the sample is pushed");
            pushed.insert(name.to_owned());
        }
        self.image(name)
    }

    /// A Linux image: busybox with its applets, made by umoci and pushed by skopeo.
    pub fn busybox(&self) -> String {
        environment::root_is_needed("a Linux container");
        let mut made = self.busybox.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.get_or_insert_with(|| self.make_busybox()).clone()
    }

    fn make_busybox(&self) -> String {
        let folder = self.cluster.folder().join("busybox");
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = |name: &str| folder.join(name).to_str().expect("a path of ours").to_owned();
        let (layout, bundle) = (path("image"), path("bundle"));
        let image = format!("{layout}:v1");
        let umoci = |words: &[&str]| drop(command::run(Command::new("umoci").args(words)).ok());
        umoci(&["init", "--layout", &layout]);
        umoci(&["new", "--image", &image]);
        umoci(&["unpack", "--image", &image, &bundle]);
        let root = PathBuf::from(&bundle).join("rootfs");
        for dir in ["bin", "etc", "tmp", "home/user"] {
            std::fs::create_dir_all(root.join(dir)).expect("a folder");
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .expect("a file");
        std::fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").expect("a file");
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| PathBuf::from(p).exists());
        std::fs::copy(
            busybox.expect("busybox-static (`cargo xtask test` installs it)"),
            root.join("bin/busybox"),
        )
        .expect("busybox");
        for applet in [
            "sh", "echo", "cat", "sleep", "id", "env", "pwd", "wget", "httpd", "dd", "ls", "mkdir", "grep",
            "tail", "true", "false", "test", "[", "kill", "touch", "tar",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        umoci(&["repack", "--image", &image, &bundle]);
        umoci(&[
            "config",
            "--image",
            &image,
            "--config.env",
            "PATH=/bin",
            "--config.env",
            "FROM_IMAGE=yes",
            "--config.workingdir",
            "/home/user",
        ]);
        umoci(&[
            "config",
            "--image",
            &image,
            "--config.cmd",
            "echo",
            "--config.cmd",
            "the image's own command",
        ]);
        let reference = self.registry.reference("samples/busybox:v1");
        let copy =
            ["copy", "--dest-tls-verify=false", &format!("oci:{image}"), &format!("docker://{reference}")];
        command::run(Command::new("skopeo").arg("--insecure-policy").args(copy)).ok();
        reference
    }
}

/// `dhow push` of a sample.
fn push(cluster: &Cluster, name: &str, to: &Registry, environment: &[(&str, PathBuf)]) -> Result<(), String> {
    let mut command = cluster.dhow(&["push"]);
    command.arg(environment::guest(name)).arg(to.reference(&format!("samples/{name}:v1")));
    if let Some(authority) = &to.authority {
        command.arg("--registry-ca").arg(authority);
    }
    let ran = command::run(command.envs(environment.iter().map(|(n, v)| (n, v))));
    if ran.status.success() { Ok(()) } else { Err(ran.told()) }
}
