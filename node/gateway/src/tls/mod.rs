//! TLS: the certificate of each host, by the name a client asks for.
//!
//! ```text
//!   SNI ──► a Secret that an Ingress names (exact host, then `*.`) ──► for a routed name below localhost: one of our
//!           own authority, made when first asked for ──► the default certificate
//! ```
//!
//! Invariant: a certificate that was good stays until a good one replaces it or nobody asks for it.
mod certificate;
mod plan;
#[cfg(test)]
mod tests;

use crate::routes::{RouteTable, normal_host};
use arc_swap::ArcSwap;
use certificate::{Error as BadCertificate, certified, of_secret, provider};
use client::k8s_openapi::api::core::v1::Secret;
use client::k8s_openapi::api::networking::v1::Ingress;
use parking_lot::Mutex;
use plan::{SecretName, plan_certificates};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Own certificates kept for names below localhost: some 2 KiB each.
const MAX_ISSUED: usize = 1024;

/// A certificate of our own is made anew after so long; it is good for a year.
const ISSUED_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A certificate chain and its private key, both PEM.
pub struct Keyed {
    pub chain_pem: String,
    pub key_pem: String,
}

/// Makes certificates that are good for the names given to it: the cluster's own authority.
pub type Issue = Arc<dyn Fn(&[String]) -> Result<Keyed, String> + Send + Sync>;

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no certificate can be made for the gateway: {0}")]
    Issue(String),
    #[error("the gateway's own certificate cannot be used")]
    Own(#[source] BadCertificate),
    #[error("the gateway's listener has no address")]
    Listener(#[source] std::io::Error),
    #[error("the TLS settings do not fit together")]
    Settings(#[from] rustls::Error),
}

/// Something that is wrong with an Ingress' certificate.
pub(crate) struct Complaint {
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) message: String,
}

/// A Secret's certificate, as last seen good.
struct Loaded {
    /// What was looked at last, good or not.
    version: Option<String>,
    certificate: Option<Arc<CertifiedKey>>,
    /// What is wrong with it.
    fault: Option<String>,
}

/// The certificates in force.
#[derive(Debug, Default)]
struct Named {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wild: HashMap<String, Arc<CertifiedKey>>,
}

/// All certificates, for every handshake.
pub struct Certificates {
    provider: Arc<CryptoProvider>,
    issue: Issue,
    table: Arc<ArcSwap<RouteTable>>,
    default: Arc<CertifiedKey>,
    named: ArcSwap<Named>,
    issued: Mutex<HashMap<String, (Arc<CertifiedKey>, Instant)>>,
    loaded: Mutex<BTreeMap<SecretName, Loaded>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

impl Certificates {
    pub(crate) fn new(issue: Issue, table: Arc<ArcSwap<RouteTable>>) -> Result<Arc<Self>, Error> {
        let provider = provider();
        let names = ["localhost", "*.localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let own = issue(&names).map_err(Error::Issue)?;
        let default =
            certified(own.chain_pem.as_bytes(), own.key_pem.as_bytes(), &provider).map_err(Error::Own)?;
        Ok(Arc::new(Self {
            provider,
            issue,
            table,
            default,
            named: ArcSwap::default(),
            issued: Mutex::default(),
            loaded: Mutex::default(),
        }))
    }

    /// What the listener is set up with: HTTP/2 and HTTP/1.1, and whoever asks is shown the certificate of the name
    /// they ask for.
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Takes up what the Ingresses and their Secrets say now; what is wrong with them.
    pub(crate) fn follow(
        &self,
        ingresses: &[Arc<Ingress>],
        secret: impl Fn(&str, &str) -> Option<Arc<Secret>>,
    ) -> Vec<Complaint> {
        let wanted = plan_certificates(ingresses);
        let mut loaded = self.loaded.lock();
        loaded.retain(|name, _| wanted.secrets.contains_key(name));
        let mut complaints = Vec::new();
        for (name, asking) in &wanted.secrets {
            let known = loaded.entry(name.clone()).or_insert(Loaded {
                version: None,
                certificate: None,
                fault: None,
            });
            self.look_at(known, secret(&name.0, &name.1).as_deref());
            if let Some(fault) = &known.fault {
                let instead = match known.certificate {
                    Some(_) => "the one before stays in use",
                    None => "the gateway's own is shown instead",
                };
                let message =
                    format!("the certificate of Secret {:?} is not used: {fault}; {instead}", name.1);
                complaints.extend(
                    asking.iter().map(|i| Complaint { ingress: i.clone(), message: message.clone() }),
                );
            }
        }
        let mut named = Named::default();
        for (host, name) in &wanted.hosts {
            let Some(certificate) = loaded.get(name).and_then(|l| l.certificate.clone()) else { continue };
            match host.strip_prefix("*.") {
                Some(rest) => named.wild.insert(rest.to_owned(), certificate),
                None => named.exact.insert(host.clone(), certificate),
            };
        }
        self.named.store(Arc::new(named));
        complaints
    }

    fn look_at(&self, known: &mut Loaded, secret: Option<&Secret>) {
        let Some(secret) = secret else {
            known.version = None;
            known.fault = Some("there is no such Secret of type kubernetes.io/tls".to_owned());
            return;
        };
        if known.version.is_some() && known.version == secret.metadata.resource_version {
            return;
        }
        known.version = secret.metadata.resource_version.clone();
        match of_secret(secret, &self.provider) {
            Ok(certificate) => (known.certificate, known.fault) = (Some(certificate), None),
            Err(error) => known.fault = Some(client::error_chain(&error)),
        }
    }

    fn find(&self, host: &str) -> Arc<CertifiedKey> {
        let host = normal_host(host);
        let named = self.named.load();
        let wild = || host.split_once('.').and_then(|(_, rest)| named.wild.get(rest));
        if let Some(certificate) = named.exact.get(&*host).or_else(wild) {
            return certificate.clone();
        }
        if host.ends_with(".localhost") && self.table.load().names(&host) {
            return self.own(&host);
        }
        self.default.clone()
    }

    /// Our own certificate for one name. Programs that check names take no `*.localhost`: a wildcard must have two
    /// labels after it.
    fn own(&self, host: &str) -> Arc<CertifiedKey> {
        let mut issued = self.issued.lock();
        if let Some((certificate, made)) = issued.get(host)
            && made.elapsed() < ISSUED_LIFE
        {
            return certificate.clone();
        }
        let made = (self.issue)(&[host.to_owned()])
            .ok()
            .and_then(|own| certified(own.chain_pem.as_bytes(), own.key_pem.as_bytes(), &self.provider).ok());
        let Some(made) = made else { return self.default.clone() };
        if issued.len() >= MAX_ISSUED {
            issued.clear();
        }
        issued.insert(host.to_owned(), (made.clone(), Instant::now()));
        made
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().map_or_else(|| self.default.clone(), |name| self.find(name)))
    }
}
