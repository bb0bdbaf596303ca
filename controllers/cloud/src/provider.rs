//! The trait and what its calls speak of.
use async_trait::async_trait;

/// Why the cloud did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the cloud knows no {what} {name:?}")]
    NotFound { what: &'static str, name: String },
    /// Trying again later may help.
    #[error("the cloud is unavailable: {0}")]
    Unavailable(String),
    /// Trying again will not help.
    #[error("the cloud refuses: {0}")]
    Refused(String),
}

/// A cloud. A capability it lacks is `None`; the controllers that need it then do not run.
pub trait CloudProvider: Send + Sync + 'static {
    /// The scheme of `spec.providerID`: `fake` in `fake://node-1`.
    fn name(&self) -> &str;
    fn instances(&self) -> Option<&dyn Instances> {
        None
    }
    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        None
    }
    fn routes(&self) -> Option<&dyn Routes> {
        None
    }
    fn zones(&self) -> Option<&dyn Zones> {
        None
    }
}

/// The machine behind a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// `spec.providerID`: `<name>://<id>`.
    pub provider_id: String,
    /// `node.kubernetes.io/instance-type`.
    pub instance_type: String,
    pub addresses: Vec<String>,
    /// It exists and is switched off.
    pub is_shut_down: bool,
}

/// Whether nodes' machines exist, and what they are.
#[async_trait]
pub trait Instances: Send + Sync {
    /// The machine of a node; `None` if there is none any more.
    async fn instance(&self, node: &str) -> Result<Option<Instance>, Error>;
}

/// What a load balancer shall do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Unique in the cluster: made from the Service's uid.
    pub name: String,
    /// The Service's port, its protocol, and where nodes take it.
    pub backends: Vec<Backend>,
    /// Names of the nodes to send to.
    pub nodes: Vec<String>,
    /// `spec.loadBalancerSourceRanges`; empty lets everybody in.
    pub source_ranges: Vec<String>,
}

/// One port of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub protocol: String,
    pub port: u16,
    pub node_port: u16,
}

/// Where a load balancer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ingress {
    Ip(String),
    Hostname(String),
}

/// Addresses for Services of type LoadBalancer.
#[async_trait]
pub trait LoadBalancers: Send + Sync {
    async fn get(&self, name: &str) -> Result<Option<Vec<Ingress>>, Error>;
    /// Makes it so, and says where it is reached.
    async fn ensure(&self, wanted: &LoadBalancer) -> Result<Vec<Ingress>, Error>;
    /// One that is not there is deleted.
    async fn ensure_deleted(&self, name: &str) -> Result<(), Error>;
}

/// The way to the pods of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub node: String,
    /// The node's pod CIDR.
    pub destination: String,
}

/// Routes between nodes, where the cloud's network has to know pods' addresses.
#[async_trait]
pub trait Routes: Send + Sync {
    async fn list(&self) -> Result<Vec<Route>, Error>;
    async fn ensure(&self, route: &Route) -> Result<(), Error>;
    async fn ensure_deleted(&self, route: &Route) -> Result<(), Error>;
}

/// `topology.kubernetes.io/region` and `…/zone`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    pub region: String,
    pub zone: String,
}

/// Where machines stand.
#[async_trait]
pub trait Zones: Send + Sync {
    async fn zone(&self, node: &str) -> Result<Option<Zone>, Error>;
}
