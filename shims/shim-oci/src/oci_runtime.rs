//! The OCI runtime's command line.
use shim::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Every command but `exec` is done in tens of milliseconds; a machine under full load may need a hundred times that.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(crate) struct OciRuntime {
    pub(crate) program: PathBuf,
    pub(crate) root: PathBuf,
}

impl OciRuntime {
    pub(crate) fn new(program: impl AsRef<Path>, root: &Path) -> Self {
        Self { program: program.as_ref().to_owned(), root: root.to_owned() }
    }

    pub(crate) fn ensure_installed(&self) -> Result<(), Error> {
        let name = self.program.display();
        let found = if self.program.components().count() > 1 {
            self.program.is_file()
        } else {
            std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|directory| directory.join(&self.program).is_file())
            })
        };
        if found {
            return Ok(());
        }
        Err(Error::Unavailable(match self.program.to_str() {
            Some("runc" | "crun") => {
                format!(
                    "Linux containers need {name}, which is not installed; install it with: apt-get install {name}"
                )
            }
            _ => format!(
                "Linux containers need {name}, which is not there; install it or choose another --oci-runtime"
            ),
        }))
    }

    /// The command up to and including its global options.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub(crate) async fn ensure_started(&self, id: &str) -> Result<(), Error> {
        match self.run(&["start".as_ref(), id.as_ref()]).await {
            Err(text) if !text.contains("already running") => Err(self.failed("start", id, &text)),
            _ => Ok(()),
        }
    }

    /// A container that has ended already is no error.
    pub(crate) async fn kill(&self, id: &str, signal: i32) -> Result<(), Error> {
        match self.run(&["kill".as_ref(), id.as_ref(), signal.to_string().as_ref()]).await {
            Err(text) if !is_gone(&text) => Err(self.failed("kill", id, &text)),
            _ => Ok(()),
        }
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<(), Error> {
        match self.run(&["delete".as_ref(), "--force".as_ref(), id.as_ref()]).await {
            Err(text) if !is_gone(&text) => Err(self.failed("delete", id, &text)),
            _ => Ok(()),
        }
    }

    async fn run(&self, args: &[&OsStr]) -> Result<(), String> {
        let output = self.command().args(args).output();
        let output = match tokio::time::timeout(COMMAND_TIMEOUT, output).await {
            Ok(Ok(output)) => output,
            Ok(Err(e)) => return Err(e.to_string()),
            Err(_) => return Err(format!("no answer for {COMMAND_TIMEOUT:?}")),
        };
        if output.status.success() {
            return Ok(());
        }
        Err(last_message(&String::from_utf8_lossy(&output.stderr)))
    }

    fn failed(&self, verb: &str, id: &str, text: &str) -> Error {
        Error::Unavailable(format!("{} {verb} {id} failed: {text}", self.program.display()))
    }
}

fn is_gone(text: &str) -> bool {
    [
        "does not exist",
        "not running",
        "process already finished",
        "no such process",
        "container not running",
        "not exist",
    ]
    .iter()
    .any(|part| text.contains(part))
}

/// What a person should read of what a runtime printed: its last line, and of a log line its message.
pub(crate) fn last_message(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim();
    if let Ok(entry) = serde_json::from_str::<serde_json::Value>(line)
        && let Some(message) = entry["msg"].as_str()
    {
        return message.to_owned();
    }
    // logrus: time="…" level=error msg="…"
    match line.split_once(" msg=\"") {
        Some((_, message)) => message.trim_end_matches('"').replace("\\\"", "\""),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_taken_out_of_every_kind_of_log_line() {
        assert_eq!(
            last_message("a\ntime=\"x\" level=error msg=\"no \\\"sh\\\" here\"\n\n"),
            "no \"sh\" here"
        );
        assert_eq!(last_message(r#"{"level":"error","msg":"oops"}"#), "oops");
        assert_eq!(last_message("plain words"), "plain words");
        assert_eq!(last_message(""), "it said nothing");
    }

    #[test]
    fn a_missing_runtime_is_named_with_what_to_do() {
        let runtime = OciRuntime::new("/nowhere/youki", Path::new("/x"));
        assert!(
            runtime
                .ensure_installed()
                .unwrap_err()
                .to_string()
                .contains("/nowhere/youki, which is not there")
        );
    }
}
