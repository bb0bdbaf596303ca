//! What a consumer needs of the cluster: where its Redis is, and where its function is.
use super::super::place::{self, Place};
use super::redis::{Backend, Failure};
use super::settings::{Settings, Source};
use crate::context::Context;
use async_trait::async_trait;
use client::dhow::v1alpha1::Function;
use client::k8s_openapi::api::core::v1::{Secret, Service};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::kube::api::Api;
use client::{Informer, ServiceEndpoints};
use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion};
use std::net::{IpAddr, SocketAddr};

const FORM: &str = "is not redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], the only kind served";
/// Longer ones are no URLs of a Redis.
const MAX_URL_BYTES: usize = 4096;
/// Of a name; others are not tried.
const MAX_ADDRESSES: usize = 8;

#[async_trait]
pub(super) trait Surroundings: Send + Sync {
    /// Where the function is called now.
    fn place(&self) -> Place;
    /// Where Redis is now, and how to log in.
    async fn backend(&self) -> Result<Backend, Failure>;
}

/// The cluster's.
pub(super) struct Cluster {
    pub(super) ctx: Context,
    pub(super) functions: Informer<Function>,
    pub(super) slices: Informer<EndpointSlice>,
    pub(super) settings: Settings,
}

#[async_trait]
impl Surroundings for Cluster {
    fn place(&self) -> Place {
        let key = &self.settings.function;
        match self.functions.get(&key.namespace, &key.name) {
            Some(function) => place::of(&self.slices, &self.ctx.ambient, key, &function),
            None => Place::default(),
        }
    }

    async fn backend(&self) -> Result<Backend, Failure> {
        let Target { host, port, backend } = match &self.settings.source {
            Source::Url(url) => parse(url, "spec")?,
            Source::Secret { name, key } => {
                parse(&self.secret(name, key).await?, &format!("key {key} of Secret {name}"))?
            }
        };
        let addresses = match host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => match self.service(&host, port).await? {
                Some(addresses) => addresses,
                None => resolve(&host, port).await?,
            },
        };
        let addresses: Vec<_> =
            addresses.into_iter().filter(|a| may_be_reached(a.ip())).take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            let text = format!(
                "{host} has no address that may be reached: link-local addresses and those of groups may not"
            );
            return Err(Failure::Misconfigured(text));
        }
        Ok(Backend { addresses, ..backend })
    }
}

impl Cluster {
    async fn secret(&self, name: &str, key: &str) -> Result<String, Failure> {
        let secrets: Api<Secret> =
            Api::namespaced(self.ctx.client.clone(), &self.settings.function.namespace);
        let secret = match secrets.get_opt(name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => {
                return Err(Failure::Misconfigured(format!("there is no Secret {name} in this namespace")));
            }
            Err(error) => {
                return Err(Failure::Unavailable(format!(
                    "Secret {name} cannot be read: {}",
                    client::error_chain(&error)
                )));
            }
        };
        let Some(value) = secret.data.unwrap_or_default().remove(key) else {
            return Err(Failure::Misconfigured(format!("Secret {name} has no key {key}")));
        };
        String::from_utf8(value.0)
            .map_err(|_| Failure::Misconfigured(format!("key {key} of Secret {name} is no text")))
    }

    /// The addresses of the Service that the name means, if it means one. Of a Service with an address of its own it is
    /// that; of a headless one those of its ready pods.
    async fn service(&self, host: &str, port: u16) -> Result<Option<Vec<SocketAddr>>, Failure> {
        let Some((name, namespace)) = service_name(host, &self.settings.function.namespace) else {
            return Ok(None);
        };
        let services: Api<Service> = Api::namespaced(self.ctx.client.clone(), namespace);
        let service = match services.get_opt(name).await {
            Ok(Some(service)) => service,
            Ok(None) => return Ok(None),
            Err(error) => {
                return Err(Failure::Unavailable(format!(
                    "Service {name} cannot be read: {}",
                    client::error_chain(&error)
                )));
            }
        };
        let spec = service.spec.unwrap_or_default();
        if let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) {
            return Ok(Some(vec![SocketAddr::new(ip, port)]));
        }
        let slices = self.slices.list_with_prefix(namespace, &format!("{name}-"));
        let endpoints = ServiceEndpoints::of(&slices);
        let ports = spec.ports.unwrap_or_default();
        let mut ready: Vec<SocketAddr> = ports
            .iter()
            .flat_map(|p| endpoints.addresses(namespace, name, p.name.as_deref().unwrap_or_default()))
            .map(|a| SocketAddr::new(a.ip(), port))
            .collect();
        ready.sort_unstable();
        ready.dedup();
        if ready.is_empty() {
            return Err(Failure::Unavailable(format!("Service {name} in {namespace} has no ready endpoint")));
        }
        Ok(Some(ready))
    }
}

struct Target {
    host: String,
    port: u16,
    /// Its addresses are not known yet.
    backend: Backend,
}

/// `place`: where the URL stands. What is told of it holds no password.
fn parse(url: &str, place: &str) -> Result<Target, Failure> {
    let wrong = || Failure::Misconfigured(format!("the URL in {place} {FORM}"));
    let url = url.trim();
    if !url.starts_with("redis://") || url.len() > MAX_URL_BYTES {
        return Err(wrong());
    }
    let info = url.into_connection_info().map_err(|_| wrong())?;
    let ConnectionAddr::Tcp(host, port) = info.addr().clone() else { return Err(wrong()) };
    let host = host.trim_matches(['[', ']']).to_owned();
    let login = info.redis_settings().clone().set_skip_set_lib_name().set_protocol(ProtocolVersion::RESP2);
    let shown_host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let shown = format!("redis://{shown_host}:{port}/{}", login.db());
    Ok(Target { host, port, backend: Backend { addresses: Vec::new(), login, shown } })
}

/// The Service that a name means to pods of `namespace`: `NAME`, `NAME.NAMESPACE`, `NAME.NAMESPACE.svc` and what follows.
fn service_name<'a>(host: &'a str, namespace: &'a str) -> Option<(&'a str, &'a str)> {
    let mut labels = host.trim_end_matches('.').split('.');
    let name = labels.next().filter(|name| !name.is_empty())?;
    let namespace = labels.next().unwrap_or(namespace);
    matches!(labels.next(), None | Some("svc")).then_some((name, namespace))
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    match tokio::net::lookup_host((host, port)).await {
        Ok(found) => Ok(found.collect()),
        Err(e) => {
            Err(Failure::Unavailable(format!("{host} is neither a Service nor another known name: {e}")))
        }
    }
}

/// Looked at after the name was resolved: whoever may write a Function has the controllers connect where it says, and a
/// cloud's metadata service trusts whoever can reach it. The loopback stays open: it is where pods, Services and, on
/// one machine, a Redis beside dhow are.
fn may_be_reached(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let is_metadata = ip.octets() == [100, 100, 100, 200];
            !(ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_unspecified()
                || is_metadata)
        }
        IpAddr::V6(ip) => {
            let is_metadata = ip.segments()[..2] == [0xfd00, 0x0ec2];
            !(ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified() || is_metadata)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let target = parse(" redis://user:hunter2@redis.shop:6380/3\n", "spec").ok().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("redis.shop", 6380));
        assert_eq!(target.backend.shown, "redis://redis.shop:6380/3");
        assert_eq!(target.backend.login.password(), Some("hunter2"));
        let target = parse("redis://[::1]", "spec").ok().unwrap();
        assert_eq!((target.host.as_str(), target.backend.shown.as_str()), ("::1", "redis://[::1]:6379/0"));
        for url in ["", "http://x", "rediss://x", "unix:///x", "redis://:hunter2@x/y", "redis+unix:///x"] {
            let Err(error) = parse(url, "key k of Secret s") else { panic!("{url}") };
            let text = error.to_string();
            assert!(text.contains("key k of Secret s") && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn names_mean_services_as_they_do_to_pods() {
        assert_eq!(service_name("redis", "shop"), Some(("redis", "shop")));
        assert_eq!(service_name("redis.data", "shop"), Some(("redis", "data")));
        assert_eq!(service_name("redis.data.svc.cluster.local.", "shop"), Some(("redis", "data")));
        assert_eq!(service_name("redis.example.com", "shop"), None);
        assert_eq!(service_name("", "shop"), None);
    }

    #[test]
    fn metadata_services_are_not_reached() {
        for ip in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "fd00:ec2::254",
        ] {
            assert!(!may_be_reached(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["127.0.0.1", "127.96.0.9", "::1", "10.0.0.1", "198.51.100.7", "2001:db8::1", "fd00::1"] {
            assert!(may_be_reached(ip.parse().unwrap()), "{ip}");
        }
    }
}
