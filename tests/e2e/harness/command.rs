//! Other programs: run to their end within a bound, or watched while they run.
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The longest a command may run.
pub const LIMIT: Duration = Duration::from_secs(120);

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ran {
    pub line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Standard output of a command that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}", self.told());
        self.stdout
    }
    /// Standard error of a command that failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.status.success(), "should have failed: {}", self.told());
        self.stderr
    }
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
    pub fn told(&self) -> String {
        format!("$ {}\n{}\nstdout: {}\nstderr: {}", self.line, self.status, self.stdout, self.stderr)
    }
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    run_with_input(command, b"")
}

/// Runs a command with `input` as its standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Ran {
    let line = line(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{line}: {e}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A command need not read what it is given.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    let status = wait(&mut child, LIMIT);
    let killed = status.is_none();
    let status = status.unwrap_or_else(|| {
        child.kill().expect("kill");
        child.wait().expect("wait")
    });
    let ran = Ran {
        line,
        status,
        stdout: stdout.join().expect("a reader"),
        stderr: stderr.join().expect("a reader"),
    };
    writing.join().expect("a writer");
    assert!(!killed, "did not end within {} s: {}", LIMIT.as_secs(), ran.told());
    ran
}

fn read_all(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is shown all the same.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child; `None` when it has not ended within `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("waiting for a child") {
            return Some(status);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    open: usize,
}

/// A program that runs until it is dropped; its output is looked at as it comes.
pub struct Background {
    line: String,
    pub child: Child,
    said: Arc<(Mutex<Said>, Condvar)>,
}

impl Background {
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let line = line(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{line}: {e}"));
        let said = Arc::new((Mutex::new(Said { lines: Vec::new(), open: 2 }), Condvar::new()));
        let stdout: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("piped"));
        let stderr: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("piped"));
        for pipe in [stdout, stderr] {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    said.0.lock().expect("lock").lines.push(line);
                    said.1.notify_all();
                }
                said.0.lock().expect("lock").open -= 1;
                said.1.notify_all();
            });
        }
        Self { line, child, said }
    }

    /// The first line, also of those already said, for which `wanted` holds.
    #[track_caller]
    pub fn line(&self, limit: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        let mut said = self.said.0.lock().expect("lock");
        let mut seen = 0;
        loop {
            while let Some(line) = said.lines.get(seen) {
                if wanted(line) {
                    return line.clone();
                }
                seen += 1;
            }
            let left = limit.saturating_sub(start.elapsed());
            assert!(
                said.open > 0 && !left.is_zero(),
                "$ {}: the line waited for did not come; it said:\n{}",
                self.line,
                said.lines.join("\n")
            );
            said = self.said.1.wait_timeout(said, left).expect("lock").0;
        }
    }

    /// Whether it has said a line that holds `text`.
    pub fn has_said(&self, text: &str) -> bool {
        self.said.0.lock().expect("lock").lines.iter().any(|line| line.contains(text))
    }

    /// Waits until it ends by itself; everything it said.
    #[track_caller]
    pub fn end(mut self, limit: Duration) -> (ExitStatus, String) {
        let status = wait(&mut self.child, limit);
        let mut said = self.said.0.lock().expect("lock");
        let Some(status) = status else {
            panic!(
                "$ {}: still runs after {} s; it said:\n{}",
                self.line,
                limit.as_secs(),
                said.lines.join("\n")
            )
        };
        while said.open > 0 {
            said = self.said.1.wait(said).expect("lock");
        }
        (status, said.lines.join("\n"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
