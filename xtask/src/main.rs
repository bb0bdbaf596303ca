//! Every chore of this workspace that is not `cargo build`: `cargo xtask <command>`. One file a command; `cargo` and `debian` are what they share.
use clap::Parser;

mod api_tables;
mod bench;
mod cargo;
mod debian;
mod demo;
mod guests;
mod soak;
mod test;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the dhow workspace")]
enum Command {
    ApiTables(api_tables::Args),
    Bench(bench::Args),
    Demo(demo::Args),
    Guests(guests::Args),
    Soak(soak::Args),
    Test(test::Args),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::ApiTables(args) => api_tables::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Guests(args) => guests::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Test(args) => test::run(&args),
    }
}

/// The folder of the workspace, wherever the command was given.
fn workspace_root() -> std::path::PathBuf {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}
