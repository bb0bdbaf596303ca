//! The host names a pod may call: the annotation `dhow.dev/egress`.
use std::net::IpAddr;
use std::str::FromStr;

/// The annotation of a pod that lists the hosts its wasm containers may call. Without it all may be called; empty, none.
pub const EGRESS_ANNOTATION: &str = "dhow.dev/egress";

/// Hosts in one list. Each is looked at for each name; the annotations of a pod are 256 KiB together.
const MAX_HOSTS: usize = 256;
/// The longest DNS name (RFC 1035).
const MAX_NAME: usize = 253;

/// Why a list was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostListError {
    #[error("{0:?} is neither a host name, nor *.NAME, nor an address, with :PORT or without")]
    Host(String),
    #[error("it lists {0} hosts; {MAX_HOSTS} are allowed")]
    TooMany(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    /// Every name that ends in this, which begins with a dot.
    Below(String),
    Address(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    host: Host,
    /// `None`: every port.
    port: Option<u16>,
}

/// The hosts that may be called: `api.example.com`, `*.example.com:443`, `10.0.0.7:5432`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostList(Vec<Entry>);

fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= MAX_NAME && name.split('.').all(label)
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn parse_entry(text: &str) -> Option<Entry> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(Entry { host: Host::Address(address.to_canonical()), port: None });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
        None => (text, None),
    };
    let host = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => Host::Address(address.to_canonical()),
        Err(_) => match host.strip_prefix("*.") {
            Some(rest) => Host::Below(format!(".{}", Some(normal(rest)).filter(|name| is_name(name))?)),
            None => Host::Name(Some(normal(host)).filter(|name| is_name(name))?),
        },
    };
    Some(Entry { host, port })
}

impl FromStr for HostList {
    type Err = HostListError;

    /// Hosts between commas or spaces.
    fn from_str(text: &str) -> Result<Self, HostListError> {
        let words: Vec<&str> =
            text.split([',', ' ', '\n', '\t']).map(str::trim).filter(|word| !word.is_empty()).collect();
        if words.len() > MAX_HOSTS {
            return Err(HostListError::TooMany(words.len()));
        }
        let entry = |word: &&str| parse_entry(word).ok_or_else(|| HostListError::Host((*word).to_owned()));
        words.iter().map(entry).collect::<Result<_, _>>().map(Self)
    }
}

impl HostList {
    /// Whether a host that goes by these names may be called at this port; `None` asks whether at any.
    pub fn permits(&self, names: &[String], port: Option<u16>) -> bool {
        self.0.iter().filter(|entry| Self::has_port(entry, port)).any(|entry| {
            names.iter().map(|name| normal(name)).any(|name| match &entry.host {
                Host::Name(own) => *own == name,
                Host::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
                Host::Address(_) => false,
            })
        })
    }

    /// Whether the list has this very address.
    pub fn permits_address(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|entry| Self::has_port(entry, Some(port)) && entry.host == Host::Address(address))
    }

    fn has_port(entry: &Entry, port: Option<u16>) -> bool {
        port.is_none() || entry.port.is_none() || entry.port == port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(list: &str, name: &str, port: u16) -> bool {
        list.parse::<HostList>().unwrap().permits(&[name.to_owned()], Some(port))
    }

    #[test]
    fn names_wildcards_ports_and_addresses_are_told_apart() {
        let list = "api.example.com, *.shop.example:443\n10.0.0.7:5432 [2001:db8::1]:80 Cased.Example.";
        assert!(permits(list, "api.example.com", 80) && permits(list, "API.example.com.", 8080));
        assert!(permits(list, "cased.example", 1));
        assert!(permits(list, "a.shop.example", 443) && permits(list, "b.a.shop.example", 443));
        assert!(!permits(list, "a.shop.example", 80) && !permits(list, "shop.example", 443));
        assert!(!permits(list, "evil-api.example.com", 80) && !permits(list, "xshop.example", 443));
        assert!(!permits(list, "10.0.0.7", 5432), "an address is no name");
        let list: HostList = list.parse().unwrap();
        assert!(list.permits_address("10.0.0.7".parse().unwrap(), 5432));
        assert!(list.permits_address("::ffff:10.0.0.7".parse().unwrap(), 5432));
        assert!(!list.permits_address("10.0.0.7".parse().unwrap(), 80));
        assert!(list.permits_address("2001:db8::1".parse().unwrap(), 80));
        assert!(list.permits(&["a.shop.example".to_owned()], None));
        assert!(!list.permits(&["other.example".to_owned()], None));
    }

    #[test]
    fn an_empty_list_permits_nothing_and_nonsense_is_refused() {
        assert!(!permits("", "example.com", 80) && !permits(" , ", "", 80));
        for bad in ["a..b", "*", "a.*.b", "http://a", "a:0", "a:99999", "*.", "a/b", "ä.example", "a:b:c"] {
            let error = bad.parse::<HostList>().unwrap_err();
            assert!(matches!(error, HostListError::Host(_)), "{bad}: {error}");
        }
        let many = vec!["a"; 257].join(",");
        assert_eq!(many.parse::<HostList>().unwrap_err(), HostListError::TooMany(257));
    }
}
