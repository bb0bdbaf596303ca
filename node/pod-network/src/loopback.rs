//! Addresses below 127.0.0.0/8: every process of this machine may bind them without being root, and nothing has to
//! be set up. The development mode of one machine.
use crate::{Attachment, Error, PodNetwork};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

/// Hands out addresses of a loopback range.
pub struct LoopbackNetwork {
    range: String,
    first: u32,
    /// One past the last.
    end: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_sandbox: BTreeMap<String, u32>,
    by_address: BTreeMap<u32, String>,
    /// Where to look for the next address never given out.
    fresh: u32,
    /// Given back, the one free for longest in front.
    free: VecDeque<u32>,
}

impl LoopbackNetwork {
    /// The range a node uses unless told otherwise.
    pub const DEFAULT_RANGE: &str = "127.42.0.0/16";

    /// A network over `range`, such as [`Self::DEFAULT_RANGE`]: inside 127.0.0.0/8, /8 to /24.
    pub fn new(range: &str) -> Result<Self, Error> {
        let invalid = |reason| Error::InvalidRange { range: range.to_string(), reason };
        let (base, bits) = range.split_once('/').ok_or_else(|| invalid("it has no prefix length"))?;
        let base: Ipv4Addr = base.parse().map_err(|_| invalid("it does not begin with an IPv4 address"))?;
        let bits: u32 = bits.parse().map_err(|_| invalid("its prefix length is no number"))?;
        if !(8..=24).contains(&bits) {
            return Err(invalid("its prefix length is not between 8 and 24"));
        }
        if !base.is_loopback() {
            return Err(invalid("it is not inside 127.0.0.0/8"));
        }
        let first = u32::from(base) & (u32::MAX << (32 - bits));
        if first != u32::from(base) {
            return Err(invalid("its address has bits set beyond the prefix"));
        }
        let end = first + (1 << (32 - bits));
        let state = State { fresh: first, ..State::default() };
        Ok(Self { range: range.to_string(), first, end, state: Mutex::new(state) })
    }

    /// Without .0 and .255: some programs take them for a network or a broadcast. 127.0.0.1 is the node's own.
    fn usable(address: u32) -> bool {
        !matches!(address & 0xff, 0 | 255) && address != u32::from(Ipv4Addr::LOCALHOST)
    }

    fn limit(&self) -> usize {
        ((self.end - self.first) / 256 * 254) as usize
    }
}

impl State {
    /// An address never given out, else the one that has been free for longest: clients and proxies that still
    /// think of its last holder had the most time to forget it.
    fn next(&mut self, end: u32) -> Option<u32> {
        while self.fresh < end {
            let address = self.fresh;
            self.fresh += 1;
            if LoopbackNetwork::usable(address) && !self.by_address.contains_key(&address) {
                return Some(address);
            }
        }
        while let Some(address) = self.free.pop_front() {
            if !self.by_address.contains_key(&address) {
                return Some(address);
            }
        }
        None
    }

    fn hold(&mut self, sandbox: &str, address: u32) {
        self.by_sandbox.insert(sandbox.to_string(), address);
        self.by_address.insert(address, sandbox.to_string());
    }
}

fn attachment(address: u32) -> Attachment {
    Attachment { ip: IpAddr::V4(address.into()), namespace: None }
}

#[async_trait]
impl PodNetwork for LoopbackNetwork {
    async fn allocate(&self, sandbox: &str) -> Result<Attachment, Error> {
        let mut state = self.state.lock();
        if let Some(address) = state.by_sandbox.get(sandbox) {
            return Ok(attachment(*address));
        }
        let address = state
            .next(self.end)
            .ok_or_else(|| Error::Exhausted { range: self.range.clone(), limit: self.limit() })?;
        state.hold(sandbox, address);
        Ok(attachment(address))
    }

    async fn adopt(&self, sandbox: &str, held: &Attachment) -> Result<(), Error> {
        let out_of_range =
            || Error::OutOfRange { ip: held.ip, sandbox: sandbox.to_string(), range: self.range.clone() };
        let IpAddr::V4(ip) = held.ip else { return Err(out_of_range()) };
        let address = u32::from(ip);
        if !(self.first..self.end).contains(&address) || !Self::usable(address) {
            return Err(out_of_range());
        }
        let mut state = self.state.lock();
        match state.by_address.get(&address) {
            Some(holder) if holder == sandbox => return Ok(()),
            Some(holder) => {
                let holder = holder.clone();
                return Err(Error::Taken { ip: held.ip, sandbox: sandbox.to_string(), holder });
            }
            None => {}
        }
        state.hold(sandbox, address);
        // Addresses below the highest one held were given out by the process before: they rest first.
        if address >= state.fresh {
            let passed: Vec<u32> = (state.fresh..address).filter(|a| Self::usable(*a)).collect();
            state.free.extend(passed);
            state.fresh = address + 1;
        }
        Ok(())
    }

    async fn release(&self, sandbox: &str) -> Result<(), Error> {
        let mut state = self.state.lock();
        if let Some(address) = state.by_sandbox.remove(sandbox) {
            state.by_address.remove(&address);
            state.free.push_back(address);
        }
        Ok(())
    }

    async fn list(&self) -> Vec<(String, Attachment)> {
        let state = self.state.lock();
        state.by_sandbox.iter().map(|(sandbox, address)| (sandbox.clone(), attachment(*address))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn small() -> LoopbackNetwork {
        LoopbackNetwork::new("127.42.7.0/24").unwrap()
    }

    #[tokio::test]
    async fn the_loopback_network_passes_the_suite() {
        crate::suite::run(small, crate::suite::Addresses::Own).await;
    }

    #[tokio::test]
    async fn a_full_range_says_so_and_serves_again_after_a_release() {
        let network = small();
        let mut seen = BTreeSet::new();
        for i in 0..254 {
            assert!(seen.insert(network.allocate(&format!("s{i}")).await.unwrap().ip));
        }
        assert!(!seen.contains(&"127.42.7.0".parse::<IpAddr>().unwrap()));
        assert!(!seen.contains(&"127.42.7.255".parse::<IpAddr>().unwrap()));
        let error = network.allocate("one too many").await.unwrap_err();
        assert_eq!(error.to_string(), "all 254 pod addresses of 127.42.7.0/24 are in use");
        let freed = network.allocate("s17").await.unwrap();
        network.release("s17").await.unwrap();
        assert_eq!(network.allocate("next").await.unwrap(), freed);
    }

    #[tokio::test]
    async fn an_address_just_given_back_is_the_last_to_be_used_again() {
        let network = small();
        let first = network.allocate("a").await.unwrap();
        network.release("a").await.unwrap();
        for i in 0..253 {
            assert_ne!(network.allocate(&format!("s{i}")).await.unwrap(), first);
        }
        assert_eq!(network.allocate("last").await.unwrap(), first);
    }

    #[tokio::test]
    async fn after_a_restart_fresh_addresses_come_before_those_the_old_process_gave_back() {
        let network = small();
        let held = Attachment { ip: "127.42.7.9".parse().unwrap(), namespace: None };
        network.adopt("old", &held).await.unwrap();
        assert_eq!(network.allocate("new").await.unwrap().ip, "127.42.7.10".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_range_that_cannot_serve_is_refused_with_the_reason() {
        for (range, reason) in [
            ("10.0.0.0/16", "not inside 127.0.0.0/8"),
            ("127.42.0.0", "no prefix length"),
            ("127.42.0.0/30", "between 8 and 24"),
            ("127.42.0.1/16", "bits set beyond"),
            ("x/16", "does not begin with an IPv4 address"),
        ] {
            let error = LoopbackNetwork::new(range).err().expect(range).to_string();
            assert!(error.contains(reason), "{range}: {error}");
        }
    }
}
