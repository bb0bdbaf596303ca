//! What every namespace has to have. Pure.
use client::k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The service account of pods that name none.
pub(crate) const DEFAULT: &str = "default";
/// The ConfigMap by which pods know the API server's certificate authority.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";

/// What is to be done in one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create_account: Option<ServiceAccount>,
    pub(crate) create_ca: Option<ConfigMap>,
    pub(crate) update_ca: Option<ConfigMap>,
}

/// Decides about a namespace, given the account and the ConfigMap it has.
pub(crate) fn plan_namespace(
    ns: &Namespace,
    account: Option<&ServiceAccount>,
    ca: Option<&ConfigMap>,
    ca_pem: &str,
) -> Plan {
    let mut plan = Plan::default();
    if ns.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let meta = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: ns.metadata.name.clone(),
        ..ObjectMeta::default()
    };
    if account.is_none() {
        plan.create_account = Some(ServiceAccount { metadata: meta(DEFAULT), ..ServiceAccount::default() });
    }
    let data = Some([(CA_KEY.to_owned(), ca_pem.to_owned())].into());
    match ca {
        _ if ca_pem.is_empty() => {}
        None => {
            let mut metadata = meta(ROOT_CA);
            let text = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                        endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                        guaranteed across distributions of Kubernetes clusters.";
            metadata.annotations = Some([("kubernetes.io/description".to_owned(), text.to_owned())].into());
            plan.create_ca = Some(ConfigMap { metadata, data, ..ConfigMap::default() });
        }
        Some(old) if old.data != data => {
            plan.update_ca = Some(ConfigMap { data, ..old.clone() });
        }
        Some(_) => {}
    }
    plan
}
