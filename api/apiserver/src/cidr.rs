//! A range of IPv4 addresses.
use std::net::Ipv4Addr;
use std::str::FromStr;

/// `127.96.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: u32,
    bits: u8,
}

/// Why a range was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("{0:?} is not an IPv4 range like 127.96.0.0/16")]
    Malformed(String),
    #[error("{0:?} must have between 8 and 30 network bits")]
    Size(String),
}

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(malformed)?;
        let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        let bits: u8 = bits.parse().map_err(|_| malformed())?;
        if !(8..=30).contains(&bits) {
            return Err(CidrError::Size(text.to_owned()));
        }
        Ok(Self { network: u32::from(address) & (u32::MAX << (32 - bits)), bits })
    }
}

impl Cidr {
    /// dhow's default for Services: loopback, so that kube-proxy needs no rights to answer there.
    pub const DEFAULT_SERVICES: Self = Self { network: 0x7f60_0000, bits: 16 };

    /// How many addresses can be given out: all but the network's own and the broadcast address.
    pub fn usable(&self) -> u32 {
        (1_u32 << (32 - self.bits)) - 2
    }
    /// The usable address number `index`, from 0.
    pub fn address(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1 + index)
    }
    /// Whether the address is one that can be given out.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        address > self.network && address <= self.network + self.usable()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_masked_and_bounded() {
        let range: Cidr = "10.96.3.4/12".parse().unwrap();
        assert_eq!(range.to_string(), "10.96.0.0/12");
        assert_eq!(range.address(0).to_string(), "10.96.0.1");
        assert!(range.contains("10.111.255.254".parse().unwrap()));
        assert!(!range.contains("10.111.255.255".parse().unwrap()));
        assert!("10.0.0.0/31".parse::<Cidr>().is_err() && "x/8".parse::<Cidr>().is_err());
        assert_eq!(Cidr::DEFAULT_SERVICES, "127.96.0.0/16".parse().unwrap());
    }
}
