//! What the tests stand on.
pub mod cluster;
pub mod collector;
pub mod command;
pub mod environment;
pub mod guard;
pub mod http;
pub mod kubectl;
pub mod namespace;
pub mod registry;
pub mod wait;
pub mod world;

pub use cluster::Cluster;
pub use command::Ran;
pub use kubectl::Kubectl;
pub use namespace::Namespace;
pub use world::world;
