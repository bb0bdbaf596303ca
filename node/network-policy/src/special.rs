//! Addresses that are not like others: those of the machine itself, and those that hand out its credentials.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services that are not on a link-local address: AWS over IPv6, Alibaba, Oracle, Azure.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Why an address is not like others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Nobody's: unspecified, multicast, broadcast. Never a destination.
    Nobody,
    /// This machine's loopback. Never a destination, whatever a policy says.
    Loopback,
    /// Link-local, which every cloud's metadata service is, or a metadata service elsewhere. A destination only when a
    /// policy names it.
    Metadata,
}

impl Special {
    /// What is special about an address; `None` for the usual ones.
    pub fn of(address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            return Some(Self::Nobody);
        }
        if METADATA.contains(&address) {
            return Some(Self::Metadata);
        }
        match address {
            IpAddr::V4(v4) if v4.is_loopback() => Some(Self::Loopback),
            IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0 => Some(Self::Nobody),
            IpAddr::V4(v4) => v4.is_link_local().then_some(Self::Metadata),
            IpAddr::V6(v6) if v6.is_loopback() => Some(Self::Loopback),
            // An IPv4 address in the old form, which some systems still connect to.
            IpAddr::V6(v6) => match v6.to_ipv4() {
                Some(v4) => Self::of(IpAddr::V4(v4)).or(Some(Self::Nobody)),
                None => v6.is_unicast_link_local().then_some(Self::Metadata),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_and_metadata_addresses_are_special_in_every_form() {
        let of = |address: &str| Special::of(address.parse().unwrap());
        for usual in ["10.1.2.3", "93.184.216.34", "2606:2800::1", "::ffff:10.0.0.1", "fd00::1", "172.16.0.1"]
        {
            assert_eq!(of(usual), None, "{usual}");
        }
        for (address, special) in [
            ("127.0.0.1", Special::Loopback),
            ("127.42.0.1", Special::Loopback),
            ("::1", Special::Loopback),
            ("::ffff:127.0.0.1", Special::Loopback),
            ("::127.0.0.1", Special::Loopback),
            ("169.254.169.254", Special::Metadata),
            ("::ffff:169.254.169.254", Special::Metadata),
            ("::169.254.169.254", Special::Metadata),
            ("fe80::1", Special::Metadata),
            ("fd00:ec2::254", Special::Metadata),
            ("100.100.100.200", Special::Metadata),
            ("0.0.0.0", Special::Nobody),
            ("0.1.2.3", Special::Nobody),
            ("::", Special::Nobody),
            ("224.0.0.1", Special::Nobody),
            ("ff02::1", Special::Nobody),
            ("255.255.255.255", Special::Nobody),
        ] {
            assert_eq!(of(address), Some(special), "{address}");
        }
    }
}
