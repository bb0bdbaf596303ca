//! A program that runs once: `_start` of a module, `wasi:cli/run` of a component.
use crate::code::{Prepared, Program};
use crate::ending::{Ending, ending_of};
use crate::guest::Guest;
use crate::host::Host;
use shim::Input;
use std::sync::Arc;

/// Runs it to its end. Dropping the future ends the guest where it stands.
pub(crate) async fn run_command(
    host: Arc<Host>,
    prepared: Arc<Prepared>,
    guest: Arc<Guest>,
    stdin: Option<Input>,
) -> Ending {
    let _running = host.ticker.running();
    let meter = guest.meter.clone();
    let call = {
        let host = host.clone();
        async move { call(&host, &prepared.program, &guest, stdin).await }
    };
    match meter.run_call(None, call).await {
        Ok(code) => Ending::Exited(code),
        Err(error) => ending_of(&error),
    }
}

async fn call(host: &Host, program: &Program, guest: &Guest, stdin: Option<Input>) -> wasmtime::Result<i32> {
    match program {
        Program::Module(pre) => {
            let mut store = guest.module_store(&host.engine, stdin)?;
            let instance = pre.instantiate_async(&mut store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            start.call_async(&mut store, ()).await?;
            Ok(0)
        }
        Program::Command(pre) => {
            let mut store = guest.component_store(&host.engine, stdin)?;
            let command = pre.instantiate_async(&mut store).await?;
            let result = command.wasi_cli_run().call_run(&mut store).await?;
            Ok(i32::from(result.is_err()))
        }
        Program::CommandP3(pre) => {
            let mut store = guest.component_store(&host.engine, stdin)?;
            let command = pre.instantiate_async(&mut store).await?;
            let run = async |accessor: &_| command.wasi_cli_run().call_run(accessor).await;
            let result = store.run_concurrent(run).await??;
            Ok(i32::from(result.is_err()))
        }
        Program::Http(_) => Err(wasmtime::format_err!("a wasi:http component is served, not run")),
    }
}
