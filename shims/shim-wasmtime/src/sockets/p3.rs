//! WASI 0.3: `wasi:sockets/types`.
//!
//! Its listening sockets give their connections as a stream, which cannot be looked through on the way: binding loopback
//! is refused there for TCP, where it would admit others.
use super::{lead, plan_bind, plan_source};
use crate::guest::ComponentState;
use crate::reach::Refused;
use futures::FutureExt;
use network_policy::Protocol;
use std::net::SocketAddr;
use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore, IpSocketAddress,
    TcpSocket, UdpSocket,
};
use wasmtime_wasi::p3::sockets::SocketResult;
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};

const TYPES: &str = "wasi:sockets/types@0.3.0";

type Store<'a> = StoreContextMut<'a, ComponentState>;

fn told<T>(done: SocketResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match done {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => error.downcast().map(|code| (Err(code),)),
    }
}

fn refusal(why: Refused) -> ErrorCode {
    match why {
        Refused::Host | Refused::Address => ErrorCode::AccessDenied,
        Refused::NoEndpoint | Refused::Unknown => ErrorCode::ConnectionRefused,
    }
}

fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

pub(super) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: Store<'_>, (socket, address): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::new(async move { told(bind_tcp(store.data_mut(), socket, address).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |accessor: &Accessor<ComponentState>, (socket, address): (Resource<TcpSocket>, IpSocketAddress)| {
            Box::pin(async move { told(connect_tcp(accessor, socket, address).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: Store<'_>, (socket, address): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move { told(bind_udp(store.data_mut(), socket, address).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: Store<'_>, (socket, address): (Resource<UdpSocket>, IpSocketAddress)| {
            Box::new(async move { told(connect_udp(store.data_mut(), socket, address).await) })
        },
    )?;
    types.func_wrap(
        "[method]udp-socket.get-remote-address",
        |mut store: Store<'_>, (socket,): (Resource<UdpSocket>,)| {
            told(remote_address(store.data_mut(), socket))
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor: &Accessor<ComponentState>,
         (socket, data, remote): (Resource<UdpSocket>, Vec<u8>, Option<IpSocketAddress>)| {
            Box::pin(async move { told(send(accessor, socket, data, remote).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.receive",
        |accessor: &Accessor<ComponentState>, (socket,): (Resource<UdpSocket>,)| {
            Box::pin(async move { told(receive(accessor, socket).await) })
        },
    )
}

async fn bind_tcp(
    state: &mut ComponentState,
    socket: Resource<TcpSocket>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let bind = plan_bind(state.pod.pod_ip, SocketAddr::from(address));
    if bind.inward {
        return Err(ErrorCode::AccessDenied.into());
    }
    HostTcpSocket::bind(&mut state.sockets(), socket, bind.address.into()).await
}

async fn connect_tcp(
    accessor: &Accessor<ComponentState>,
    socket: Resource<TcpSocket>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let led = accessor.with(|mut access| {
        let state = access.get();
        let ways = state.reach().translate(SocketAddr::from(address), Protocol::Tcp).map_err(refusal)?;
        let destination = *ways.first().ok_or(ErrorCode::ConnectionRefused)?;
        if let Some(source) = plan_source(state.pod.pod_ip, destination.ip())
            && HostTcpSocket::get_local_address(&mut state.sockets(), again(&socket)).is_err()
        {
            // Nothing in it waits. Where binding fails, connecting says why.
            let _ = HostTcpSocket::bind(&mut state.sockets(), again(&socket), source.into()).now_or_never();
        }
        let from = HostTcpSocket::get_local_address(&mut state.sockets(), again(&socket));
        if from.is_ok_and(|from| SocketAddr::from(from).ip() == state.pod.pod_ip) {
            state.reach().clear(destination);
        }
        Ok::<_, ErrorCode>(destination)
    });
    let destination = led?;
    let sockets = accessor.with_getter::<WasiSockets>(ComponentState::sockets);
    <WasiSockets as HostTcpSocketWithStore<_>>::connect(&sockets, socket, destination.into()).await
}

async fn bind_udp(
    state: &mut ComponentState,
    socket: Resource<UdpSocket>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let bind = plan_bind(state.pod.pod_ip, SocketAddr::from(address));
    let number = socket.rep();
    HostUdpSocket::bind(&mut state.sockets(), socket, bind.address.into()).await?;
    state.pod.bound(number, bind);
    Ok(())
}

/// Where a datagram of a socket goes. Binds one that is to send before it was bound; nothing in that waits.
fn lead_from(
    state: &mut ComponentState,
    socket: &Resource<UdpSocket>,
    named: SocketAddr,
) -> Result<SocketAddr, ErrorCode> {
    let bound = HostUdpSocket::get_local_address(&mut state.sockets(), again(socket)).is_ok();
    if !bound {
        // The number may have been another socket's before.
        state.pod.ways.remove(&socket.rep());
    }
    let ways = state.pod.ways(socket.rep());
    let way = lead(state, &ways, named).map_err(refusal)?;
    if let Some(source) = plan_source(state.pod.pod_ip, way.ip()).filter(|_| !bound) {
        // Where binding fails, sending says why.
        let _ = HostUdpSocket::bind(&mut state.sockets(), again(socket), source.into()).now_or_never();
    }
    Ok(way)
}

async fn connect_udp(
    state: &mut ComponentState,
    socket: Resource<UdpSocket>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let destination = lead_from(state, &socket, SocketAddr::from(address))?;
    HostUdpSocket::connect(&mut state.sockets(), socket, destination.into()).await
}

fn remote_address(state: &mut ComponentState, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
    let ways = state.pod.ways(socket.rep());
    let remote = HostUdpSocket::get_remote_address(&mut state.sockets(), socket)?;
    Ok(ways.lock().named(remote.into()).into())
}

async fn send(
    accessor: &Accessor<ComponentState>,
    socket: Resource<UdpSocket>,
    data: Vec<u8>,
    remote: Option<IpSocketAddress>,
) -> SocketResult<()> {
    let remote = accessor.with(|mut access| {
        let led = remote.map(|remote| lead_from(access.get(), &socket, SocketAddr::from(remote)));
        Ok::<_, ErrorCode>(led.transpose()?.map(IpSocketAddress::from))
    })?;
    let sockets = accessor.with_getter::<WasiSockets>(ComponentState::sockets);
    <WasiSockets as HostUdpSocketWithStore<_>>::send(&sockets, socket, data, remote).await
}

async fn receive(
    accessor: &Accessor<ComponentState>,
    socket: Resource<UdpSocket>,
) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
    let sockets = accessor.with_getter::<WasiSockets>(ComponentState::sockets);
    loop {
        let (data, from) =
            <WasiSockets as HostUdpSocketWithStore<_>>::receive(&sockets, again(&socket)).await?;
        let peer = SocketAddr::from(from);
        let named = accessor.with(|mut access| {
            let pod = &mut access.get().pod;
            pod.admits(socket.rep(), peer.ip()).then(|| pod.ways(socket.rep()).lock().named(peer))
        });
        if let Some(named) = named {
            return Ok((data, named.into()));
        }
    }
}
