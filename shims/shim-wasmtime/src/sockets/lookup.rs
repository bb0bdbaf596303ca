//! Names of Services, and which names a pod with a list of hosts may look up.
//!
//! A name that stands for an address of the cluster is given to wasmtime as that address, any other as it is. What it is
//! told of a name is remembered, so that a list of hosts holds for connections to addresses too.
use super::p2::{refusal, told};
use crate::guest::ComponentState;
use crate::reach::Refused;
use std::net::IpAddr;
use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::p2::Network;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host, HostResolveAddressStream, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network;
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup, types};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};

const P2: &str = "wasi:sockets/ip-name-lookup@0.2.12";
const P3: &str = "wasi:sockets/ip-name-lookup@0.3.0";

type Store<'a> = StoreContextMut<'a, ComponentState>;

pub(super) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    let mut p2 = linker.instance(P2)?;
    p2.func_wrap(
        "resolve-addresses",
        |mut store: Store<'_>, (network, name): (Resource<Network>, String)| {
            let state = store.data_mut();
            let asked = match state.reach().lookup(&name) {
                Ok(asked) => asked,
                Err(why) => return Ok((Err(refusal(why)),)),
            };
            let stream = Host::resolve_addresses(&mut state.sockets(), network, asked);
            if let Ok(stream) = &stream {
                // A number may have been another lookup's before; there are no more than the table may hold.
                state.pod.lookups.insert(stream.rep(), name);
            }
            told(stream)
        },
    )?;
    p2.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: Store<'_>, (stream,): (Resource<ResolveAddressStream>,)| {
            let (state, number) = (store.data_mut(), stream.rep());
            let next = HostResolveAddressStream::resolve_next_address(&mut state.sockets(), stream);
            if let (Ok(Some(address)), Some(name)) = (&next, state.pod.lookups.get(&number)) {
                state.reach().learn(from_p2(*address), name);
            }
            told(next)
        },
    )?;
    linker.instance(P3)?.func_wrap_concurrent(
        "resolve-addresses",
        |accessor: &Accessor<ComponentState>, (name,): (String,)| {
            Box::pin(async move { Ok((resolve_p3(accessor, name).await?,)) })
        },
    )
}

async fn resolve_p3(
    accessor: &Accessor<ComponentState>,
    name: String,
) -> wasmtime::Result<Result<Vec<types::IpAddress>, ip_name_lookup::ErrorCode>> {
    let reach = accessor.with(|mut access| access.get().reach().clone());
    let asked = match reach.lookup(&name) {
        Ok(asked) => asked,
        Err(Refused::Host | Refused::Address) => return Ok(Err(ip_name_lookup::ErrorCode::AccessDenied)),
        Err(_) => return Ok(Err(ip_name_lookup::ErrorCode::NameUnresolvable)),
    };
    let sockets = accessor.with_getter::<WasiSockets>(ComponentState::sockets);
    let found = <WasiSockets as ip_name_lookup::HostWithStore<_>>::resolve_addresses(&sockets, asked).await?;
    for address in found.iter().flatten() {
        reach.learn(from_p3(*address), &name);
    }
    Ok(found)
}

fn from_p2(address: network::IpAddress) -> IpAddr {
    match address {
        network::IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]),
        network::IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]),
    }
}

fn from_p3(address: types::IpAddress) -> IpAddr {
    match address {
        types::IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]),
        types::IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]),
    }
}
