//! Who is who in a cluster on one machine.
use super::Args;
use crate::ambient;
use crate::dirs::Layout;
use anyhow::Result;
use pki::{Authority, KeyedCertificate, Subject};
use std::sync::Arc;

/// Everything that is signed, from files that are made where they are missing.
pub(super) struct Certificates {
    /// Signs what the gateway shows for names below localhost.
    pub(super) authority: Arc<Authority>,
    pub(super) authority_pem: String,
    /// The API server's own.
    pub(super) apiserver: KeyedCertificate,
    /// What the API server shows to kubelets.
    pub(super) kubelet_client: KeyedCertificate,
    /// The kubelet's own.
    pub(super) kubelet: KeyedCertificate,
    pub(super) admin: KeyedCertificate,
}

impl Certificates {
    pub(super) fn ensure(
        layout: &Layout,
        node_name: &str,
        args: &Args,
        now: jiff::Timestamp,
    ) -> Result<Self> {
        let dir = layout.pki();
        let authority = pki::ensure_authority(&dir, "ca", "dhow", now)?;
        let service = args.runtime.service_cluster_ip_range.address(0);
        let mut names: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
            "::1",
        ]
        .map(str::to_owned)
        .to_vec();
        names.extend([service.to_string(), node_name.to_owned()]);
        if !args.bind_address.is_unspecified() {
            names.push(args.bind_address.to_string());
        }
        let subject = |common_name, organization| Subject { common_name, organization };
        let node = format!("system:node:{node_name}");
        let node_names = [node_name.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        Ok(Self {
            apiserver: pki::ensure_serving(
                &authority,
                &dir,
                "apiserver",
                subject("kube-apiserver", None),
                &names,
                now,
            )?,
            kubelet_client: pki::ensure_client(
                &authority,
                &dir,
                "apiserver-kubelet-client",
                subject("kube-apiserver-kubelet-client", Some("system:masters")),
                now,
            )?,
            kubelet: pki::ensure_serving(
                &authority,
                &dir,
                "kubelet",
                subject(&node, Some("system:nodes")),
                &node_names,
                now,
            )?,
            admin: pki::ensure_client(
                &authority,
                &dir,
                "admin",
                subject("kubernetes-admin", Some("system:masters")),
                now,
            )?,
            authority_pem: authority.certificate_pem().to_owned(),
            authority: Arc::new(authority),
        })
    }
}

/// Certificates for the gateway, signed when they are asked for: they need no file, the authority has one.
pub(crate) fn issue(authority: Arc<Authority>) -> gateway::Issue {
    Arc::new(move |names: &[String]| {
        let subject = Subject { common_name: "dhow gateway", organization: None };
        let made =
            authority.issue_serving(subject, names, ambient::real().now()).map_err(|e| e.to_string())?;
        let chain_pem = format!("{}{}", made.certificate_pem, authority.certificate_pem());
        Ok(gateway::Keyed { chain_pem, key_pem: made.key_pem })
    })
}
