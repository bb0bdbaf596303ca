//! What this node offers to components beyond WASI's own interfaces: small plug-ins, one file each.
//!
//! Invariant: a component gets what its pod configured and nothing else. One that imports an interface its pod says
//! nothing about is refused when its container is made, with the annotation that would permit it; no call of a running
//! guest finds a capability missing.
//!
//! ```text
//!   node:      Capability ── imports() ─► what the node publishes
//!                         └─ link() ────► the linker of all components
//!   container: Capability ── grant() ───► Granted ─► Access, at every call of the guest
//! ```
pub(crate) mod beneath;
pub(crate) mod config;
pub(crate) mod keyvalue;
pub(crate) mod logging;

use crate::Config;
use crate::executor::Owned;
use crate::guest::ComponentState;
use crate::outbound::Outbound;
use crate::stdio::GuestOutput;
use shim::{Error, Mount};
use std::collections::BTreeMap;
use std::sync::Arc;
use telemetry::SpanContext;
use wasmtime::component::{HasData, Linker, ResourceTable};

/// One interface, or a few that belong together.
pub(crate) trait Capability: Send + Sync {
    /// The interfaces by their full names: what a component imports, and what the node says it offers.
    fn imports(&self) -> &'static [&'static str];

    /// Adds the functions of its interfaces.
    fn link(&self, linker: &mut Linker<ComponentState>) -> wasmtime::Result<()>;

    /// Reads what the pod says for one container and adds it to what the container has. Asked only for components that
    /// import one of [`Capability::imports`]; the error ([`Error::InvalidSpec`]) says how to permit it.
    fn grant(&self, wanted: &Wanted<'_>, granted: &mut Granted) -> Result<(), Error>;

    /// Removes what a namespace keeps on this node; [`Error::Unavailable`] while one of its containers may use it.
    fn forget_namespace(&self, _namespace: &str) -> Result<(), Error> {
        Ok(())
    }
}

/// A container that wants a capability.
pub(crate) struct Wanted<'a> {
    pub(crate) namespace: &'a str,
    /// Its name within the pod, by which annotations mean it.
    pub(crate) container: &'a str,
    /// For messages.
    pub(crate) display_name: &'a str,
    pub(crate) annotations: &'a BTreeMap<String, String>,
    pub(crate) mounts: &'a [Mount],
    pub(crate) outbound: &'a Arc<Outbound>,
    pub(crate) executor: &'a Owned,
}

impl Wanted<'_> {
    /// The annotation that is for this container: `config.dhow.dev/main`.
    fn annotation(&self, kind: &str) -> (String, Option<&str>) {
        let key = format!("{kind}.dhow.dev/{}", self.container);
        let value = self.annotations.get(&key).map(|value| value.trim()).filter(|value| !value.is_empty());
        (key, value)
    }

    fn invalid(&self, why: impl std::fmt::Display) -> Error {
        Error::InvalidSpec(format!("{}: {why}", self.display_name))
    }

    /// The volume mounted at `path` in the container.
    fn mount_at(&self, path: &str) -> Option<&Mount> {
        let same = |other: &str| other.trim_end_matches('/') == path.trim_end_matches('/');
        self.mounts.iter().find(|mount| same(&mount.container_path))
    }
}

/// What one container was granted.
#[derive(Default)]
pub(crate) struct Granted {
    pub(crate) config: Option<config::Values>,
    pub(crate) keyvalue: Option<keyvalue::Buckets>,
    pub(crate) logging: Option<logging::Threshold>,
}

/// What a call of a guest reaches.
pub(crate) struct Access<'a> {
    pub(crate) granted: &'a Granted,
    pub(crate) stderr: &'a GuestOutput,
    /// The request that is being served, where its trace is known.
    pub(crate) serving: Option<&'a SpanContext>,
    pub(crate) table: &'a mut ResourceTable,
}

/// Ties [`Access`] to bindings.
pub(crate) struct HasAccess;

impl HasData for HasAccess {
    type Data<'a> = Access<'a>;
}

/// All plug-ins of this node.
pub(crate) fn all(config: &Config) -> Vec<Box<dyn Capability>> {
    vec![
        Box::new(config::ConfigStore),
        Box::new(keyvalue::KeyValue::new(config.keyvalue_dir.clone(), config.keyvalue_bytes)),
        Box::new(logging::Logging),
    ]
}

/// Grants a container all that its component imports, or says why not.
pub(crate) fn grant_all(
    capabilities: &[Box<dyn Capability>],
    imports: &[String],
    wanted: &Wanted<'_>,
) -> Result<Granted, Error> {
    let mut granted = Granted::default();
    for capability in capabilities {
        if imports.iter().any(|import| capability.imports().contains(&import.as_str())) {
            capability.grant(wanted, &mut granted)?;
        }
    }
    Ok(granted)
}

/// Namespace and name of a container, of `namespace/pod/name`.
pub(crate) fn names(display_name: &str) -> (&str, &str) {
    let namespace = display_name.split('/').next().unwrap_or_default();
    let container = display_name.rsplit('/').next().unwrap_or_default();
    (namespace, container)
}
