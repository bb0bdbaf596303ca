//! The rows of the resource table.
use super::{
    columns,
    config_map::ConfigMap,
    deployment::Deployment,
    endpoint_slice::EndpointSlice,
    endpoints::Endpoints,
    event::{CoreEvent, Event},
    function::Function,
    horizontal_pod_autoscaler::{HorizontalPodAutoscaler, HorizontalPodAutoscalerV1},
    ingress::Ingress,
    ingress_class::IngressClass,
    job::Job,
    lease::Lease,
    namespace::Namespace,
    network_policy::NetworkPolicy,
    node::Node,
    pod::Pod,
    replica_set::ReplicaSet,
    revision::Revision,
    runtime_class::RuntimeClass,
    secret::Secret,
    service::Service,
    service_account::ServiceAccount,
};
use crate::resource::{ALL_VERBS, Resource, Scope, Subresource, SubresourceKind, Verb};

/// How long an event is kept: kube-apiserver's default `--event-ttl`.
const EVENT_TTL_SECONDS: u64 = 3600;

const CREATE: &[Verb] = &[Verb::Create];
const CREATE_GET: &[Verb] = &[Verb::Create, Verb::Get];
const GET: &[Verb] = &[Verb::Get];
const GET_PATCH_UPDATE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
/// A namespace is emptied before it goes, so they go one at a time.
const ALL_BUT_DELETE_COLLECTION: &[Verb] =
    &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

type Gvk = (&'static str, &'static str, &'static str);

const fn sub(name: &'static str, kind: SubresourceKind, gvk: Gvk, verbs: &'static [Verb]) -> Subresource {
    Subresource { name, kind, gvk, verbs }
}
const fn status(gvk: Gvk) -> Subresource {
    sub("status", SubresourceKind::Status, gvk, GET_PATCH_UPDATE)
}
const SCALE: Subresource =
    sub("scale", SubresourceKind::Scale, ("autoscaling", "v1", "Scale"), GET_PATCH_UPDATE);

/// A namespaced core/v1 kind with nothing special; each row says where it differs.
const CORE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "",
    storage: ("", ""),
    selectable_fields: &[],
    columns: &[],
    strategy: &ConfigMap,
    ttl_seconds: None,
};

/// The resource table.
pub static TABLE: &[Resource] = &[
    Resource {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        schema: "io.k8s.api.core.v1.ConfigMap",
        storage: ("", "configmaps"),
        columns: columns::CONFIG_MAP,
        strategy: &ConfigMap,
        ..CORE
    },
    Resource {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        schema: "io.k8s.api.core.v1.Endpoints",
        storage: ("", "endpoints"),
        columns: columns::ENDPOINTS,
        strategy: &Endpoints,
        ..CORE
    },
    Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        schema: "io.k8s.api.core.v1.Event",
        storage: ("", "events"),
        selectable_fields: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        columns: columns::CORE_EVENT,
        strategy: &CoreEvent,
        ttl_seconds: Some(EVENT_TTL_SECONDS),
        ..CORE
    },
    Resource {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        verbs: ALL_BUT_DELETE_COLLECTION,
        subresources: &[
            sub("finalize", SubresourceKind::Finalize, ("", "v1", "Namespace"), &[Verb::Update]),
            status(("", "v1", "Namespace")),
        ],
        schema: "io.k8s.api.core.v1.Namespace",
        storage: ("", "namespaces"),
        selectable_fields: &["status.phase", "name"],
        columns: columns::NAMESPACE,
        strategy: &Namespace,
        ..CORE
    },
    Resource {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: &[
            sub(
                "proxy",
                SubresourceKind::Proxy,
                ("", "v1", "NodeProxyOptions"),
                &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update],
            ),
            status(("", "v1", "Node")),
        ],
        schema: "io.k8s.api.core.v1.Node",
        storage: ("", "nodes"),
        selectable_fields: &["spec.unschedulable"],
        columns: columns::NODE,
        strategy: &Node,
        ..CORE
    },
    Resource {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            sub("attach", SubresourceKind::Attach, ("", "v1", "PodAttachOptions"), CREATE_GET),
            sub("binding", SubresourceKind::Binding, ("", "v1", "Binding"), CREATE),
            sub("eviction", SubresourceKind::Eviction, ("policy", "v1", "Eviction"), CREATE),
            sub("exec", SubresourceKind::Exec, ("", "v1", "PodExecOptions"), CREATE_GET),
            sub("log", SubresourceKind::Log, ("", "v1", "Pod"), GET),
            status(("", "v1", "Pod")),
        ],
        schema: "io.k8s.api.core.v1.Pod",
        storage: ("", "pods"),
        selectable_fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        columns: columns::POD,
        strategy: &Pod,
        ..CORE
    },
    Resource {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        schema: "io.k8s.api.core.v1.Secret",
        storage: ("", "secrets"),
        selectable_fields: &["type"],
        columns: columns::SECRET,
        strategy: &Secret,
        ..CORE
    },
    Resource {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        schema: "io.k8s.api.core.v1.ServiceAccount",
        storage: ("", "serviceaccounts"),
        columns: columns::SERVICE_ACCOUNT,
        strategy: &ServiceAccount,
        ..CORE
    },
    Resource {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[status(("", "v1", "Service"))],
        schema: "io.k8s.api.core.v1.Service",
        storage: ("", "services"),
        selectable_fields: &["spec.clusterIP", "spec.type"],
        columns: columns::SERVICE,
        strategy: &Service,
        ..CORE
    },
    Resource {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, status(("apps", "v1", "Deployment"))],
        schema: "io.k8s.api.apps.v1.Deployment",
        storage: ("apps", "deployments"),
        columns: columns::DEPLOYMENT,
        strategy: &Deployment,
        ..CORE
    },
    Resource {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, status(("apps", "v1", "ReplicaSet"))],
        schema: "io.k8s.api.apps.v1.ReplicaSet",
        storage: ("apps", "replicasets"),
        selectable_fields: &["status.replicas"],
        columns: columns::REPLICA_SET,
        strategy: &ReplicaSet,
        ..CORE
    },
    Resource {
        group: "autoscaling",
        version: "v2",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[status(("autoscaling", "v2", "HorizontalPodAutoscaler"))],
        schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
        storage: ("autoscaling", "horizontalpodautoscalers"),
        columns: columns::HORIZONTAL_POD_AUTOSCALER,
        strategy: &HorizontalPodAutoscaler,
        ..CORE
    },
    // After the form in which it is stored.
    Resource {
        group: "autoscaling",
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[status(("autoscaling", "v1", "HorizontalPodAutoscaler"))],
        schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
        storage: ("autoscaling", "horizontalpodautoscalers"),
        columns: columns::HORIZONTAL_POD_AUTOSCALER_V1,
        strategy: &HorizontalPodAutoscalerV1,
        ..CORE
    },
    Resource {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: &["all"],
        subresources: &[status(("batch", "v1", "Job"))],
        schema: "io.k8s.api.batch.v1.Job",
        storage: ("batch", "jobs"),
        selectable_fields: &["status.successful"],
        columns: columns::JOB,
        strategy: &Job,
        ..CORE
    },
    Resource {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        schema: "io.k8s.api.coordination.v1.Lease",
        storage: ("coordination.k8s.io", "leases"),
        columns: columns::LEASE,
        strategy: &Lease,
        ..CORE
    },
    Resource {
        group: "dhow.dev",
        version: "v1alpha1",
        kind: "Function",
        plural: "functions",
        singular: "function",
        short_names: &["fn"],
        categories: &["all"],
        subresources: &[SCALE, status(("dhow.dev", "v1alpha1", "Function"))],
        schema: "dev.dhow.v1alpha1.Function",
        storage: ("dhow.dev", "functions"),
        columns: columns::FUNCTION,
        strategy: &Function,
        ..CORE
    },
    Resource {
        group: "dhow.dev",
        version: "v1alpha1",
        kind: "Revision",
        plural: "revisions",
        singular: "revision",
        short_names: &["rev"],
        subresources: &[status(("dhow.dev", "v1alpha1", "Revision"))],
        schema: "dev.dhow.v1alpha1.Revision",
        storage: ("dhow.dev", "revisions"),
        columns: columns::REVISION,
        strategy: &Revision,
        ..CORE
    },
    Resource {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        schema: "io.k8s.api.discovery.v1.EndpointSlice",
        storage: ("discovery.k8s.io", "endpointslices"),
        columns: columns::ENDPOINT_SLICE,
        strategy: &EndpointSlice,
        ..CORE
    },
    Resource {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        schema: "io.k8s.api.events.v1.Event",
        storage: ("", "events"),
        selectable_fields: &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        columns: columns::EVENT,
        strategy: &Event,
        ttl_seconds: Some(EVENT_TTL_SECONDS),
        ..CORE
    },
    Resource {
        group: "networking.k8s.io",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        subresources: &[status(("networking.k8s.io", "v1", "Ingress"))],
        schema: "io.k8s.api.networking.v1.Ingress",
        storage: ("networking.k8s.io", "ingresses"),
        columns: columns::INGRESS,
        strategy: &Ingress,
        ..CORE
    },
    Resource {
        group: "networking.k8s.io",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        scope: Scope::Cluster,
        schema: "io.k8s.api.networking.v1.IngressClass",
        storage: ("networking.k8s.io", "ingressclasses"),
        columns: columns::INGRESS_CLASS,
        strategy: &IngressClass,
        ..CORE
    },
    Resource {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        schema: "io.k8s.api.networking.v1.NetworkPolicy",
        storage: ("networking.k8s.io", "networkpolicies"),
        columns: columns::NETWORK_POLICY,
        strategy: &NetworkPolicy,
        ..CORE
    },
    Resource {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        scope: Scope::Cluster,
        schema: "io.k8s.api.node.v1.RuntimeClass",
        storage: ("node.k8s.io", "runtimeclasses"),
        columns: columns::RUNTIME_CLASS,
        strategy: &RuntimeClass,
        ..CORE
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_is_complete_and_no_two_share_a_path_or_a_kind() {
        let (mut paths, mut kinds) = (HashSet::new(), HashSet::new());
        for r in TABLE {
            assert!(paths.insert((r.group, r.version, r.plural)), "{}", r.plural);
            assert!(kinds.insert((r.group, r.version, r.kind)), "{}", r.kind);
            for text in [r.kind, r.plural, r.singular, r.schema, r.version, r.storage.1] {
                assert!(!text.is_empty(), "{} has an empty field", r.plural);
            }
            assert_eq!(r.singular, r.kind.to_lowercase());
            assert!(r.columns.iter().filter(|c| c.format == "name").count() == 1, "{}", r.plural);
            let shares_storage = (r.group, r.plural) != r.storage;
            assert_eq!(shares_storage, r.group == "events.k8s.io", "{}", r.plural);
        }
    }

    #[test]
    fn a_path_that_names_two_groups_keeps_them_apart() {
        let core = crate::resource::lookup("", "v1", "events").expect("a row");
        let new = crate::resource::lookup_kind("events.k8s.io/v1", "Event").expect("a row");
        assert_eq!(core.storage, new.storage);
        assert_ne!(core.schema, new.schema);
        assert_eq!(core.group_resource(), "events");
        assert_eq!(new.group_resource(), "events.events.k8s.io");
    }
}
