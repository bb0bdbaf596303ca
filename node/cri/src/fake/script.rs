//! What a fake container does, and what happens to calls.
use std::sync::Arc;
use std::time::Duration;

/// How a container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Until it is stopped.
    Forever,
    /// Ends by itself.
    Exit { code: i32, after: Duration, reason: String, message: String },
}

/// What a command executed in a container does: arguments in, exit code and output out.
pub type Exec = Arc<dyn Fn(&[String]) -> (i32, String) + Send + Sync>;

/// The life of containers of one image.
#[derive(Clone)]
pub struct Script {
    /// Pulling it takes this long.
    pub pull_takes: Duration,
    /// Pulling it fails with this.
    pub pull_error: Option<crate::Error>,
    pub create_error: Option<crate::Error>,
    pub start_error: Option<crate::Error>,
    pub run: Run,
    /// From SIGTERM to its end; `None` ignores SIGTERM and waits to be killed.
    pub stop_takes: Option<Duration>,
    /// Its code when it ends on SIGTERM.
    pub stop_code: i32,
    /// Lines it writes to stdout when it starts.
    pub output: Vec<String>,
    pub exec: Option<Exec>,
    /// A command executed in it takes this long to be answered, whatever its limit.
    pub exec_takes: Duration,
    /// Where Exec and Attach say that streams are.
    pub streams_url: String,
    pub memory_bytes: u64,
    pub cpu_nanoseconds: u64,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            pull_takes: Duration::ZERO,
            pull_error: None,
            create_error: None,
            start_error: None,
            run: Run::Forever,
            stop_takes: Some(Duration::ZERO),
            stop_code: 143,
            output: Vec::new(),
            exec: None,
            exec_takes: Duration::ZERO,
            streams_url: "http://127.0.0.1:1/nobody".into(),
            memory_bytes: 1 << 20,
            cpu_nanoseconds: 1_000_000,
        }
    }
}

impl Script {
    /// Runs until stopped.
    pub fn forever() -> Self {
        Self::default()
    }

    /// Ends with `code` after a while.
    pub fn exits(code: i32, after: Duration) -> Self {
        let reason = if code == 0 { "Completed" } else { "Error" };
        Self {
            run: Run::Exit { code, after, reason: reason.into(), message: String::new() },
            ..Self::default()
        }
    }

    /// Cannot be pulled.
    pub fn missing(image: &str) -> Self {
        Self {
            pull_error: Some(crate::Error::NotFound(format!("image {image:?} is not in its registry"))),
            ..Self::default()
        }
    }

    /// What an image's own name says, for images nobody scripted: the last path element without its tag is
    /// `missing`, `exit-CODE` or `exit-CODE-after-SECONDS`; anything else runs for ever.
    pub fn by_name(image: &str) -> Self {
        let last = image.rsplit('/').next().unwrap_or(image);
        let name = last.split(['@', ':']).next().unwrap_or(last);
        if name == "missing" {
            return Self::missing(image);
        }
        let Some(rest) = name.strip_prefix("exit-") else { return Self::forever() };
        let (code, after) = rest.split_once("-after-").unwrap_or((rest, "0"));
        match (code.parse(), after.parse()) {
            (Ok(code), Ok(seconds)) => Self::exits(code, Duration::from_secs(seconds)),
            _ => Self::forever(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_name_is_its_script() {
        assert_eq!(Script::by_name("registry.example/app:1").run, Run::Forever);
        assert_eq!(Script::by_name("exit-3").run, Script::exits(3, Duration::ZERO).run);
        assert_eq!(
            Script::by_name("localhost:5000/exit-0-after-20:v1").run,
            Script::exits(0, Duration::from_secs(20)).run
        );
        assert!(Script::by_name("docker.io/library/missing:latest").pull_error.is_some());
    }
}
