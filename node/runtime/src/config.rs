//! What a runtime is made of.
use pod_network::PodNetwork;
use shim::Shim;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Tells the time of day.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;
/// Gives random bits, for ids.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a runtime is made of.
#[derive(Clone)]
pub struct Config {
    /// Records, images and sockets lie below it. One process at a time.
    pub root_dir: PathBuf,
    /// In order of preference where several run the same kind of image.
    pub shims: Vec<Arc<dyn Shim>>,
    pub network: Arc<dyn PodNetwork>,
    /// The address of pods with `hostNetwork`.
    pub node_ip: IpAddr,
    pub registries: images::RegistryConfig,
    pub image_limits: images::Limits,
    pub log: LogLimits,
    pub clock: Clock,
    pub random: Random,
}

impl Config {
    /// A configuration with the usual values for what is not named.
    pub fn new(
        root_dir: impl Into<PathBuf>,
        shims: Vec<Arc<dyn Shim>>,
        network: Arc<dyn PodNetwork>,
        clock: Clock,
        random: Random,
    ) -> Self {
        Self {
            root_dir: root_dir.into(),
            shims,
            network,
            node_ip: Ipv4Addr::LOCALHOST.into(),
            registries: Default::default(),
            image_limits: Default::default(),
            log: LogLimits::default(),
            clock,
            random,
        }
    }
}

/// How large a container's log may become. The defaults are the kubelet's (`containerLogMaxSize`,
/// `containerLogMaxFiles`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// A file beyond this is moved aside; 0 leaves that to whoever calls ReopenContainerLog.
    pub max_bytes: u64,
    /// How many files are kept, the one being written included.
    pub max_files: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5 }
    }
}
