//! The one program: a cluster, its components one by one, and the commands that use it.
//!
//! Purpose: choose the store, the runtime and the cloud, and wire the rooms together.
//!
//! Invariant: nothing is decided here. Flags become the configuration of a room, a room's error becomes one sentence.
//!
//! ```text
//!   dhow up ──► apiserver · scheduler · controllers · kubelet · kube-proxy · gateway   (this process)
//!          └──► dhow runtime                                                           (a process of its own)
//!   dhow deploy, run, get, … ──► the API server, as any client
//! ```
mod allocator;
mod ambient;
mod client_commands;
mod components;
mod connect;
mod descriptors;
mod dirs;
mod otlp;
mod output;
mod project;
mod resources;
mod up;

use clap::{CommandFactory, Parser, Subcommand};
use client_commands as commands;
use std::process::ExitCode;

/// A WebAssembly-first orchestrator that speaks Kubernetes' API
///
/// Start with `dhow up`, then `dhow deploy hello.wasm` in another terminal.
#[derive(Parser)]
#[command(name = "dhow", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    cluster: connect::Cluster,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Up(up::Args),
    New(commands::new::Args),
    Build(commands::build::Args),
    Watch(commands::watch_project::Args),
    Deploy(commands::deploy::Args),
    Ls(commands::functions::ListArgs),
    Rm(commands::functions::RemoveArgs),
    Revisions(commands::revisions::ListArgs),
    Rollback(commands::revisions::RollbackArgs),
    Traffic(commands::traffic::Args),
    Invoke(commands::invoke::Args),
    Run(commands::run::Args),
    Push(commands::push::Args),
    Pull(commands::pull::Args),
    Get(commands::get::Args),
    Describe(commands::describe::Args),
    Logs(commands::logs::Args),
    Apply(commands::apply::Args),
    Delete(commands::delete::Args),
    Scale(commands::scale::Args),
    Rollout(commands::rollout::Args),
    ApiResources(commands::api_resources::Args),
    Doctor(commands::doctor::Args),
    /// Print the completions of a shell
    Completion {
        shell: clap_complete::Shell,
    },
    Apiserver(components::apiserver::Args),
    Scheduler(components::scheduler::Args),
    ControllerManager(components::controller_manager::Args),
    Kubelet(components::kubelet::Args),
    KubeProxy(components::kube_proxy::Args),
    Gateway(components::gateway::Args),
    Runtime(components::runtime::Args),
    #[command(hide = true, disable_help_flag = true)]
    InternalWasmCompile {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    #[command(hide = true, disable_help_flag = true)]
    InternalShimMonitor {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

impl Command {
    /// Whether it stays and serves others, for whom a connection that breaks is an everyday thing.
    fn serves(&self) -> bool {
        matches!(
            self,
            Self::Up(_)
                | Self::Apiserver(_)
                | Self::Scheduler(_)
                | Self::ControllerManager(_)
                | Self::Kubelet(_)
                | Self::KubeProxy(_)
                | Self::Gateway(_)
                | Self::Runtime(_)
        )
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // These fork or limit themselves: they must not run inside a runtime with threads.
    match cli.command {
        Command::InternalShimMonitor { args } => return shim_oci::monitor_main(args),
        Command::InternalWasmCompile { args } => return shim_wasmtime::compile_main(args),
        _ => {}
    }
    if !cli.command.serves() {
        output::end_with_the_reader();
    }
    descriptors::raise_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: the threads cannot be started: {e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(dispatch(cli));
    // A thread that waits for standard input would be waited for.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::FAILURE
    })
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let cluster = &cli.cluster;
    match cli.command {
        Command::Up(args) => up::run(cluster, args).await?,
        Command::New(args) => commands::new::run(&args)?,
        Command::Build(args) => commands::build::run(&args).await?,
        Command::Watch(args) => commands::watch_project::run(cluster, args).await?,
        Command::Deploy(args) => commands::deploy::run(cluster, args).await?,
        Command::Ls(args) => commands::functions::list(cluster, args).await?,
        Command::Rm(args) => commands::functions::remove(cluster, args).await?,
        Command::Revisions(args) => commands::revisions::list(cluster, args).await?,
        Command::Rollback(args) => commands::revisions::rollback(cluster, args).await?,
        Command::Traffic(args) => commands::traffic::run(cluster, args).await?,
        Command::Invoke(args) => return commands::invoke::run(cluster, args).await,
        Command::Run(args) => return commands::run::run(cluster, args).await,
        Command::Push(args) => commands::push::run(args).await?,
        Command::Pull(args) => commands::pull::run(cluster, args).await?,
        Command::Get(args) => commands::get::run(cluster, args).await?,
        Command::Describe(args) => commands::describe::run(cluster, args).await?,
        Command::Logs(args) => commands::logs::run(cluster, args).await?,
        Command::Apply(args) => commands::apply::run(cluster, args).await?,
        Command::Delete(args) => commands::delete::run(cluster, args).await?,
        Command::Scale(args) => commands::scale::run(cluster, args).await?,
        Command::Rollout(args) => commands::rollout::run(cluster, args).await?,
        Command::ApiResources(args) => commands::api_resources::run(cluster, args).await?,
        Command::Doctor(args) => commands::doctor::run(cluster, args).await?,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "dhow", &mut std::io::stdout());
        }
        Command::Apiserver(args) => components::apiserver::run(args).await?,
        Command::Scheduler(args) => components::scheduler::run(cluster, args).await?,
        Command::ControllerManager(args) => components::controller_manager::run(cluster, args).await?,
        Command::Kubelet(args) => components::kubelet::run(cluster, args).await?,
        Command::KubeProxy(args) => components::kube_proxy::run(cluster, args).await?,
        Command::Gateway(args) => components::gateway::run(cluster, args).await?,
        Command::Runtime(args) => components::runtime::run(args).await?,
        Command::InternalShimMonitor { .. } | Command::InternalWasmCompile { .. } => {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_flags_of_a_command_have_the_same_name() {
        Cli::command().debug_assert();
    }
}
