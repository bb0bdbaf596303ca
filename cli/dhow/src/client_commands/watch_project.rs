//! `dhow watch`.
use crate::client_commands::deploy::{self, Wish};
use crate::connect::{Cluster, Connection};
use crate::output;
use crate::project::Project;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;

/// Build and deploy the function in a folder, again at every change, until Ctrl-C
///
/// What runs goes on while a build fails or a new version does not start. After each build it says how long it took
/// until the new version answered, and the parts of it.
///
/// Examples:
///   dhow watch
///   dhow watch ./hello
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The folder
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Seconds to wait until a version serves
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

/// Between two looks at the files: shorter than anybody notices, and a look takes a millisecond.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    // A mistake in the manifest of the first look is the user's to mend before anything runs.
    Project::open(&args.folder)?;
    let connection = cluster.connect().await?;
    let mut stop = crate::ambient::StopSignal::new()?;
    let follow = async {
        loop {
            // The manifest is watched too, so it is read anew each time.
            let project = match Project::open(&args.folder) {
                Ok(project) => project,
                Err(error) => {
                    output::error(&error);
                    tokio::time::sleep(LOOK_AGAIN * 10).await;
                    continue;
                }
            };
            let seen = project.state();
            match once(&connection, &project, args.timeout).await {
                Ok(()) => {}
                Err(error) => output::error(&error),
            }
            while project.state() == seen {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    };
    tokio::select! {
        () = follow => {}
        _ = stop.recv() => {}
    }
    Ok(())
}

async fn once(connection: &Connection, project: &Project, timeout: u64) -> Result<()> {
    let file = project.build().await?;
    let wish = Wish::of_project(project, &file);
    let served = deploy::deploy(connection, wish, timeout).await?;
    println!("{} after {}: {}", served.url, served.took, served.note);
    Ok(())
}
