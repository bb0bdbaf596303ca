//! Where a socket's datagrams go, and under which name their answers come back.
//!
//! A guest that asks a Service takes an answer from nobody else: its library compares addresses. So what an endpoint
//! sends to a socket that was led there bears the Service's address, as the kernel's address translation would make it.
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Destinations that one socket remembers; looked through for each datagram. A resolver asks three servers, a client of
/// a few Services not many more. Answers of those forgotten bear the endpoint's own address.
const MAX_WAYS: usize = 16;

/// One socket's.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// What the guest named, and where that leads; the newest last.
    led: VecDeque<(SocketAddr, SocketAddr)>,
}

impl Ways {
    /// Where the last datagram to an address went.
    pub(super) fn of(&self, named: SocketAddr) -> Option<SocketAddr> {
        self.led.iter().find(|(known, _)| *known == named).map(|(_, way)| *way)
    }

    /// Notes where a datagram goes.
    pub(super) fn note(&mut self, named: SocketAddr, way: SocketAddr) {
        // Whom the guest calls by his own address answers by it.
        self.led.retain(|(known, led)| *known != named && *led != way);
        if named != way {
            self.led.push_back((named, way));
            if self.led.len() > MAX_WAYS {
                self.led.pop_front();
            }
        }
    }

    /// Who this is to the guest.
    pub(super) fn named(&self, peer: SocketAddr) -> SocketAddr {
        self.led.iter().find(|(_, way)| *way == peer).map_or(peer, |(named, _)| *named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_bear_the_name_that_was_called_last_and_few_are_remembered() {
        let address = |n: u8| SocketAddr::from(([127, 42, 0, n], 53));
        let mut ways = Ways::default();
        let (service, other, endpoint) = (address(1), address(2), address(3));
        ways.note(service, endpoint);
        assert_eq!((ways.of(service), ways.named(endpoint)), (Some(endpoint), service));
        assert_eq!(ways.named(other), other);
        ways.note(other, endpoint);
        assert_eq!((ways.of(service), ways.named(endpoint)), (None, other));
        ways.note(endpoint, endpoint);
        assert_eq!((ways.of(endpoint), ways.named(endpoint)), (None, endpoint));
        for n in 10..10 + MAX_WAYS as u8 + 1 {
            ways.note(address(n), address(n + 100));
        }
        assert_eq!((ways.named(address(110)), ways.named(address(111))), (address(110), address(11)));
    }
}
