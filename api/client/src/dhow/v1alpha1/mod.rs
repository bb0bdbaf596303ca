//! `dhow.dev/v1alpha1`: Function, a program that answers HTTP, and Revision, one unchangeable version of it.
mod function;
mod revision;
mod traffic;
mod trigger;

pub use function::{Function, FunctionSpec, FunctionStatus};
pub use revision::{Revision, RevisionSpec, RevisionStatus};
pub use traffic::{LATEST, TrafficStatus, TrafficTarget};
pub use trigger::{ConcurrencyPolicy, CronTrigger, QueueTrigger, Trigger, TriggerStatus};

/// The group and version of these kinds.
pub const API_VERSION: &str = "dhow.dev/v1alpha1";

/// How a namespaced kind of this group names and writes itself: with `apiVersion` and `kind`, as k8s-openapi's
/// own types do.
macro_rules! namespaced_kind {
    ($kind:ident, $spec:ty, $status:ty, $plural:literal) => {
        impl k8s_openapi::Resource for $kind {
            const API_VERSION: &'static str = super::API_VERSION;
            const GROUP: &'static str = "dhow.dev";
            const KIND: &'static str = stringify!($kind);
            const VERSION: &'static str = "v1alpha1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::NamespaceResourceScope;
        }

        impl k8s_openapi::Metadata for $kind {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }

        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                #[derive(serde::Serialize)]
                #[serde(rename_all = "camelCase")]
                struct Wire<'a> {
                    api_version: &'static str,
                    kind: &'static str,
                    metadata: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
                    spec: &'a $spec,
                    #[serde(skip_serializing_if = "Option::is_none")]
                    status: &'a Option<$status>,
                }
                Wire {
                    api_version: <Self as k8s_openapi::Resource>::API_VERSION,
                    kind: <Self as k8s_openapi::Resource>::KIND,
                    metadata: &self.metadata,
                    spec: &self.spec,
                    status: &self.status,
                }
                .serialize(serializer)
            }
        }
    };
}
use namespaced_kind;
