//! The interfaces that components find here, as the node publishes them and as images are checked against before they
//! are pulled.
//!
//! A name stands for all versions that fit it: `wasi:http/types@0.2` for 0.2.0 to 0.2.12 and later ones.
use crate::Config;
use crate::capability;

/// What `host.rs` links beside the plug-ins: WASI 0.2 and 0.3, and wasi:http of both. (Linkers do not tell what is in them.)
const WASI: &[&str] = &[
    "wasi:cli/environment@0.2",
    "wasi:cli/exit@0.2",
    "wasi:cli/stderr@0.2",
    "wasi:cli/stdin@0.2",
    "wasi:cli/stdout@0.2",
    "wasi:cli/terminal-input@0.2",
    "wasi:cli/terminal-output@0.2",
    "wasi:cli/terminal-stderr@0.2",
    "wasi:cli/terminal-stdin@0.2",
    "wasi:cli/terminal-stdout@0.2",
    "wasi:clocks/monotonic-clock@0.2",
    "wasi:clocks/wall-clock@0.2",
    "wasi:filesystem/preopens@0.2",
    "wasi:filesystem/types@0.2",
    "wasi:http/outgoing-handler@0.2",
    "wasi:http/types@0.2",
    "wasi:io/error@0.2",
    "wasi:io/poll@0.2",
    "wasi:io/streams@0.2",
    "wasi:random/insecure-seed@0.2",
    "wasi:random/insecure@0.2",
    "wasi:random/random@0.2",
    "wasi:sockets/instance-network@0.2",
    "wasi:sockets/ip-name-lookup@0.2",
    "wasi:sockets/network@0.2",
    "wasi:sockets/tcp-create-socket@0.2",
    "wasi:sockets/tcp@0.2",
    "wasi:sockets/udp-create-socket@0.2",
    "wasi:sockets/udp@0.2",
    "wasi:cli/environment@0.3",
    "wasi:cli/exit@0.3",
    "wasi:cli/stderr@0.3",
    "wasi:cli/stdin@0.3",
    "wasi:cli/stdout@0.3",
    "wasi:cli/terminal-input@0.3",
    "wasi:cli/terminal-output@0.3",
    "wasi:cli/terminal-stderr@0.3",
    "wasi:cli/terminal-stdin@0.3",
    "wasi:cli/terminal-stdout@0.3",
    "wasi:cli/types@0.3",
    "wasi:clocks/monotonic-clock@0.3",
    "wasi:clocks/system-clock@0.3",
    "wasi:clocks/types@0.3",
    "wasi:filesystem/preopens@0.3",
    "wasi:filesystem/types@0.3",
    "wasi:http/client@0.3",
    "wasi:http/types@0.3",
    "wasi:random/insecure-seed@0.3",
    "wasi:random/insecure@0.3",
    "wasi:random/random@0.3",
    "wasi:sockets/ip-name-lookup@0.3",
    "wasi:sockets/types@0.3",
];

/// All of them.
pub(crate) fn offers(config: &Config) -> Vec<String> {
    let plugged = capability::all(config);
    // Pre-releases all, which fit themselves only.
    let plugged = plugged.iter().flat_map(|capability| capability.imports());
    WASI.iter().chain(plugged).map(|name| (*name).to_owned()).collect()
}
