//! A kubeconfig: what kubectl and every other client need to reach the cluster as someone.
use crate::certificate::KeyedCertificate;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A kubeconfig with one cluster, one user and one context, all data inside it. `server` is a URL.
pub fn kubeconfig(
    cluster: &str,
    server: &str,
    authority_pem: &str,
    user: &str,
    own: &KeyedCertificate,
) -> String {
    let context = format!("{user}@{cluster}");
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {context:?}\n\
         clusters:\n- name: {cluster:?}\n  cluster:\n    server: {server:?}\n    certificate-authority-data: {}\n\
         contexts:\n- name: {context:?}\n  context:\n    cluster: {cluster:?}\n    user: {user:?}\n\
         users:\n- name: {user:?}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        STANDARD.encode(authority_pem),
        STANDARD.encode(&own.certificate_pem),
        STANDARD.encode(&own.key_pem),
    )
}
