//! A cloud in memory: it has what a test gives it, and fails when told to.
use crate::provider::{
    CloudProvider, Error, Ingress, Instance, Instances, LoadBalancer, LoadBalancers, Route, Routes, Zone,
    Zones,
};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    instances: BTreeMap<String, Instance>,
    zones: BTreeMap<String, Zone>,
    load_balancers: BTreeMap<String, (LoadBalancer, Vec<Ingress>)>,
    routes: BTreeSet<Route>,
    failure: Option<Error>,
    next_address: u8,
}

/// A cloud with every capability.
#[derive(Default)]
pub struct FakeCloud {
    state: Mutex<State>,
}

impl FakeCloud {
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked left the maps whole: nothing is changed in two steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a node a machine in a zone.
    pub fn add_instance(&self, node: &str, instance: Instance, zone: Zone) {
        let mut state = self.state();
        state.instances.insert(node.to_owned(), instance);
        state.zones.insert(node.to_owned(), zone);
    }

    pub fn remove_instance(&self, node: &str) {
        let mut state = self.state();
        state.instances.remove(node);
        state.zones.remove(node);
    }

    /// Every call fails with `error` until this is called with `None`.
    pub fn fail_with(&self, error: Option<Error>) {
        self.state().failure = error;
    }

    /// The load balancers there are.
    pub fn load_balancers_now(&self) -> Vec<LoadBalancer> {
        self.state().load_balancers.values().map(|(lb, _)| lb.clone()).collect()
    }

    fn checked(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.state();
        match &state.failure {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }
}

impl CloudProvider for FakeCloud {
    fn name(&self) -> &str {
        "fake"
    }
    fn instances(&self) -> Option<&dyn Instances> {
        Some(self)
    }
    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        Some(self)
    }
    fn routes(&self) -> Option<&dyn Routes> {
        Some(self)
    }
    fn zones(&self) -> Option<&dyn Zones> {
        Some(self)
    }
}

#[async_trait]
impl Instances for FakeCloud {
    async fn instance(&self, node: &str) -> Result<Option<Instance>, Error> {
        Ok(self.checked()?.instances.get(node).cloned())
    }
}

#[async_trait]
impl Zones for FakeCloud {
    async fn zone(&self, node: &str) -> Result<Option<Zone>, Error> {
        Ok(self.checked()?.zones.get(node).cloned())
    }
}

#[async_trait]
impl LoadBalancers for FakeCloud {
    async fn get(&self, name: &str) -> Result<Option<Vec<Ingress>>, Error> {
        Ok(self.checked()?.load_balancers.get(name).map(|(_, ingress)| ingress.clone()))
    }

    async fn ensure(&self, wanted: &LoadBalancer) -> Result<Vec<Ingress>, Error> {
        let mut state = self.checked()?;
        if let Some((lb, ingress)) = state.load_balancers.get_mut(&wanted.name) {
            *lb = wanted.clone();
            return Ok(ingress.clone());
        }
        state.next_address = state.next_address.wrapping_add(1);
        // 192.0.2.0/24 is set aside for examples (RFC 5737).
        let ingress = vec![Ingress::Ip(format!("192.0.2.{}", state.next_address))];
        state.load_balancers.insert(wanted.name.clone(), (wanted.clone(), ingress.clone()));
        Ok(ingress)
    }

    async fn ensure_deleted(&self, name: &str) -> Result<(), Error> {
        self.checked()?.load_balancers.remove(name);
        Ok(())
    }
}

#[async_trait]
impl Routes for FakeCloud {
    async fn list(&self) -> Result<Vec<Route>, Error> {
        Ok(self.checked()?.routes.iter().cloned().collect())
    }

    async fn ensure(&self, route: &Route) -> Result<(), Error> {
        self.checked()?.routes.insert(route.clone());
        Ok(())
    }

    async fn ensure_deleted(&self, route: &Route) -> Result<(), Error> {
        self.checked()?.routes.remove(route);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    /// The fake never waits, so its futures are ready at once.
    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("the fake waited"),
        }
    }

    #[test]
    fn a_load_balancer_keeps_its_address_when_it_is_ensured_again() {
        let cloud = FakeCloud::new();
        let balancers = cloud.load_balancers().unwrap();
        let mut wanted = LoadBalancer { name: "a1".into(), ..LoadBalancer::default() };
        let first = now(balancers.ensure(&wanted)).unwrap();
        wanted.nodes.push("n1".into());
        assert_eq!(now(balancers.ensure(&wanted)).unwrap(), first);
        assert_eq!(cloud.load_balancers_now(), [wanted]);
        now(balancers.ensure_deleted("a1")).unwrap();
        now(balancers.ensure_deleted("a1")).unwrap();
        assert_eq!(now(balancers.get("a1")).unwrap(), None);
    }

    #[test]
    fn a_cloud_that_is_down_says_so() {
        let cloud = FakeCloud::new();
        cloud.add_instance("n1", Instance::default(), Zone::default());
        let down = Error::Unavailable("maintenance".into());
        cloud.fail_with(Some(down.clone()));
        assert_eq!(now(cloud.instances().unwrap().instance("n1")), Err(down));
        cloud.fail_with(None);
        assert!(now(cloud.instances().unwrap().instance("n1")).unwrap().is_some());
        assert!(now(cloud.zones().unwrap().zone("n2")).unwrap().is_none());
    }

    #[test]
    fn routes_are_a_set() {
        let cloud = FakeCloud::new();
        let routes = cloud.routes().unwrap();
        let r = Route { node: "n1".into(), destination: "10.0.1.0/24".into() };
        now(routes.ensure(&r)).unwrap();
        now(routes.ensure(&r)).unwrap();
        assert_eq!(now(routes.list()).unwrap(), [r]);
    }
}
