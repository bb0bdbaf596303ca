//! Every sandbox has the node's address: pods with `hostNetwork`.
use crate::{Attachment, Error, PodNetwork};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Gives every sandbox the node's address.
pub struct HostNetwork {
    ip: IpAddr,
    held: Mutex<BTreeSet<String>>,
}

impl HostNetwork {
    pub fn new(ip: IpAddr) -> Self {
        Self { ip, held: Mutex::default() }
    }

    fn attachment(&self) -> Attachment {
        Attachment { ip: self.ip, namespace: None }
    }
}

#[async_trait]
impl PodNetwork for HostNetwork {
    async fn allocate(&self, sandbox: &str) -> Result<Attachment, Error> {
        self.held.lock().insert(sandbox.to_string());
        Ok(self.attachment())
    }

    async fn adopt(&self, sandbox: &str, _: &Attachment) -> Result<(), Error> {
        self.held.lock().insert(sandbox.to_string());
        Ok(())
    }

    async fn release(&self, sandbox: &str) -> Result<(), Error> {
        self.held.lock().remove(sandbox);
        Ok(())
    }

    async fn list(&self) -> Vec<(String, Attachment)> {
        self.held.lock().iter().map(|sandbox| (sandbox.clone(), self.attachment())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_host_network_passes_the_suite() {
        crate::suite::run(|| HostNetwork::new("192.0.2.7".parse().unwrap()), crate::suite::Addresses::Shared)
            .await;
    }
}
