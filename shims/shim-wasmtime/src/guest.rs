//! What one container gives to each of its instances: arguments, environment, files, streams, a network policy.
use crate::account::{Account, StoreLimiter};
use crate::figures::{Figures, Instance};
use crate::limits::MAX_RESOURCES;
use crate::meter::Meter;
use crate::outbound::{Outbound, OutboundHooks};
use crate::preopen::Preopen;
use crate::stdio::{GuestInput, GuestOutput};
use shim::Input;
use std::sync::Arc;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::cli::AsyncStdinStream;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// The data of a preview 1 module's store.
pub(crate) struct ModuleState {
    pub(crate) wasi: WasiP1Ctx,
    limiter: StoreLimiter,
    _instance: Instance,
}

/// The data of a component's store.
pub(crate) struct ComponentState {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: OutboundHooks,
    table: ResourceTable,
    limiter: StoreLimiter,
    _instance: Instance,
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// One container as its instances see it.
pub(crate) struct Guest {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) preopens: Vec<Preopen>,
    pub(crate) stdout: GuestOutput,
    pub(crate) stderr: GuestOutput,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) account: Arc<Account>,
    pub(crate) meter: Meter,
    pub(crate) figures: Arc<Figures>,
}

impl Guest {
    pub(crate) fn module_store(
        &self,
        engine: &Engine,
        stdin: Option<Input>,
    ) -> wasmtime::Result<Store<ModuleState>> {
        let mut wasi = self.wasi(stdin)?.build_p1();
        wasi.ctx().table.set_max_capacity(MAX_RESOURCES);
        let limiter = StoreLimiter::new(self.account.clone());
        let mut store = Store::new(engine, ModuleState { wasi, limiter, _instance: self.figures.instance() });
        store.limiter(|state| &mut state.limiter);
        interruptible(&mut store);
        Ok(store)
    }

    pub(crate) fn component_store(
        &self,
        engine: &Engine,
        stdin: Option<Input>,
    ) -> wasmtime::Result<Store<ComponentState>> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let state = ComponentState {
            wasi: self.wasi(stdin)?.build(),
            http: WasiHttpCtx::new(),
            hooks: OutboundHooks(self.outbound.clone()),
            table,
            limiter: StoreLimiter::new(self.account.clone()),
            _instance: self.figures.instance(),
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.limiter);
        interruptible(&mut store);
        Ok(store)
    }

    fn wasi(&self, stdin: Option<Input>) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtx::builder();
        wasi.args(&self.args).envs(&self.env).stdout(self.stdout.clone()).stderr(self.stderr.clone());
        if let Some(input) = stdin {
            wasi.stdin(AsyncStdinStream::new(GuestInput::new(input)));
        }
        if !self.cwd.is_empty() {
            wasi.initial_cwd(&self.cwd);
        }
        for preopen in &self.preopens {
            let access = if preopen.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            wasi.preopened_dir(&preopen.host, &preopen.guest, access)?;
        }
        let outbound = self.outbound.clone();
        wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true).socket_addr_check(
            move |address, usage| {
                let permitted = match usage {
                    SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => outbound.may_bind(address),
                    SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => outbound.may_reach(address.ip()),
                    SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept | SocketAddrUse::UdpReceive => true,
                };
                Box::pin(std::future::ready(permitted))
            },
        );
        Ok(wasi)
    }
}

/// Every tick the guest goes to the end of the line. By tokio's own yield: it lets the thread look at its sockets
/// before the guest goes on, while a guest that merely woke itself would hold them up for dozens of ticks.
fn interruptible<T>(store: &mut Store<T>) {
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
    // Left at its start of 0, the first deadline would have passed before the first instruction.
    store.set_epoch_deadline(1);
}
