//! A container's log in CRI's format: `<time> <stream> <F|P> <text>`, one line each.
//!
//! Invariant: what a stream writes appears in its order, and no entry is torn by a rotation. A line beyond 16 KiB is
//! cut into parts (`P`, the last one `F`). A line without its end is written when the container ends.
use crate::config::{Clock, LogLimits};
use parking_lot::Mutex;
use shim::{Output, Stream};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The longest text of one entry: containerd's and CRI-O's limit too.
const MAX_ENTRY_BYTES: usize = 16 * 1024;

/// One container's log.
pub(crate) struct Log {
    inner: Mutex<Inner>,
    clock: Clock,
    limits: LogLimits,
}

struct Inner {
    path: Option<PathBuf>,
    file: Option<File>,
    size: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Said once: the disk is full, the directory is gone.
    complained: bool,
}

/// The time as log entries and rotated files carry it.
fn stamp(now: SystemTime) -> jiff::Timestamp {
    jiff::Timestamp::try_from(now).unwrap_or_default()
}

/// Appends entries for `bytes` to `out`, keeping an unfinished line in `partial`.
fn format_entries(out: &mut Vec<u8>, time: &str, stream: &str, partial: &mut Vec<u8>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let text = &bytes[..end.unwrap_or(bytes.len())];
        let room = MAX_ENTRY_BYTES - partial.len();
        if text.len() > room {
            partial.extend_from_slice(&text[..room]);
            entry(out, time, stream, b'P', partial);
            bytes = &bytes[room..];
            continue;
        }
        partial.extend_from_slice(text);
        bytes = &bytes[text.len()..];
        if end.is_some() {
            entry(out, time, stream, b'F', partial);
            bytes = &bytes[1..];
        }
    }
}

fn entry(out: &mut Vec<u8>, time: &str, stream: &str, tag: u8, text: &mut Vec<u8>) {
    out.extend_from_slice(time.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.append(text);
    out.push(b'\n');
}

impl Log {
    /// A log at `path`; an empty path keeps nothing.
    pub(crate) fn open(path: &str, clock: Clock, limits: LogLimits) -> io::Result<Self> {
        let path = Some(path).filter(|path| !path.is_empty()).map(PathBuf::from);
        let (file, size) = match &path {
            Some(path) => {
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory)?;
                }
                let (file, size) = append_to(path)?;
                (Some(file), size)
            }
            None => (None, 0),
        };
        let inner = Inner { path, file, size, stdout: Vec::new(), stderr: Vec::new(), complained: false };
        Ok(Self { inner: Mutex::new(inner), clock, limits })
    }

    /// The file was moved away: writes to a new one from here on.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if let Some(path) = &inner.path {
            let (file, size) = append_to(path)?;
            (inner.file, inner.size) = (Some(file), size);
        }
        Ok(())
    }

    /// Writes what has no end of line yet: nothing more will come.
    pub(crate) fn flush(&self) {
        let now = (self.clock)();
        let time = format!("{:.9}", stamp(now));
        let mut inner = self.inner.lock();
        let mut out = Vec::new();
        for stream in ["stdout", "stderr"] {
            let partial = if stream == "stdout" { &mut inner.stdout } else { &mut inner.stderr };
            if !partial.is_empty() {
                // Readers put an end of line after `F`, and there was none.
                entry(&mut out, &time, stream, b'P', partial);
            }
        }
        inner.write(&out, now, self.limits);
    }
}

impl Output for Log {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let now = (self.clock)();
        let time = format!("{:.9}", stamp(now));
        let mut inner = self.inner.lock();
        if inner.path.is_none() {
            return;
        }
        let mut out = Vec::with_capacity(bytes.len() + 64);
        match stream {
            Stream::Stdout => format_entries(&mut out, &time, "stdout", &mut inner.stdout, bytes),
            Stream::Stderr => format_entries(&mut out, &time, "stderr", &mut inner.stderr, bytes),
        }
        inner.write(&out, now, self.limits);
    }
}

impl Inner {
    /// Writes whole entries. A log that cannot be written is no reason to end a container: what is lost is lost.
    fn write(&mut self, entries: &[u8], now: SystemTime, limits: LogLimits) {
        let Some(file) = self.file.as_mut().filter(|_| !entries.is_empty()) else { return };
        let written = file.write_all(entries);
        self.size += entries.len() as u64;
        let result = match written {
            Ok(()) if limits.max_bytes > 0 && self.size >= limits.max_bytes => {
                self.rotate(now, limits.max_files)
            }
            other => other,
        };
        match result {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(path = ?self.path, %error, "a container's log cannot be written");
            }
            Err(_) => {}
        }
    }

    /// Moves the file aside under the time, starts a new one, and removes the oldest beyond the limit.
    fn rotate(&mut self, now: SystemTime, max_files: usize) -> io::Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        // The nanoseconds keep two rotations within one second apart.
        let time = stamp(now).strftime("%Y%m%d-%H%M%S.%9f").to_string();
        let mut aside = path.clone().into_os_string();
        aside.push(format!(".{time}"));
        match fs::rename(&path, &aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let (file, size) = append_to(&path)?;
        (self.file, self.size) = (Some(file), size);
        for old in rotated(&path)?.iter().rev().skip(max_files.saturating_sub(1)) {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// The files a log was moved to, oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    struct Bench {
        directory: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("pod/c/0.log")
        }

        fn log(&self, limits: LogLimits) -> Log {
            let ticks = AtomicU64::new(0);
            let clock = move || {
                let tick = ticks.fetch_add(1, Ordering::Relaxed);
                SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, tick as u32 + 5)
            };
            Log::open(self.path().to_str().unwrap(), Arc::new(clock), limits).unwrap()
        }

        fn read(&self) -> String {
            fs::read_to_string(self.path()).unwrap()
        }
    }

    #[test]
    fn entries_have_the_form_of_the_interface() {
        let bench = Bench::new();
        let log = bench.log(LogLimits::default());
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"oops\n");
        log.write(Stream::Stdout, b"o\n\nend");
        log.flush();
        assert_eq!(
            bench.read(),
            "2023-11-14T22:13:20.000000005Z stdout F one\n\
             2023-11-14T22:13:20.000000006Z stderr F oops\n\
             2023-11-14T22:13:20.000000007Z stdout F two\n\
             2023-11-14T22:13:20.000000007Z stdout F \n\
             2023-11-14T22:13:20.000000008Z stdout P end\n"
        );
    }

    #[test]
    fn a_long_line_comes_in_parts_that_join_to_it() {
        let bench = Bench::new();
        let log = bench.log(LogLimits::default());
        let line: String = (0..40_000).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        for piece in line.as_bytes().chunks(7_001) {
            log.write(Stream::Stdout, piece);
        }
        log.write(Stream::Stdout, b"\n");
        let text = bench.read();
        let entries: Vec<(&str, &str)> =
            text.lines().map(|l| l.split_once("stdout ").unwrap().1.split_once(' ').unwrap()).collect();
        assert_eq!(entries.iter().map(|(tag, _)| *tag).collect::<String>(), "PPF");
        assert_eq!(entries.iter().map(|(_, text)| *text).collect::<String>(), line);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_entry() {
        let bench = Bench::new();
        let log = bench.log(LogLimits::default());
        log.write(Stream::Stdout, &[b'x'; MAX_ENTRY_BYTES]);
        log.write(Stream::Stdout, b"\n");
        assert_eq!(bench.read().lines().count(), 1);
        assert!(bench.read().contains("stdout F xx"));
    }

    #[test]
    fn a_full_file_is_moved_aside_and_the_oldest_go() {
        let bench = Bench::new();
        let log = bench.log(LogLimits { max_bytes: 1000, max_files: 3 });
        for i in 0..200 {
            log.write(Stream::Stdout, format!("line {i}\n").as_bytes());
        }
        let mut files: Vec<PathBuf> =
            fs::read_dir(bench.path().parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 3, "{files:?}");
        assert_eq!(files[0], bench.path());
        let all: String =
            files[1..].iter().chain(&files[..1]).map(|f| fs::read_to_string(f).unwrap()).collect();
        let numbers: Vec<u32> = all.lines().map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(*numbers.last().unwrap(), 199);
        assert!(
            numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "nothing is lost between files: {numbers:?}"
        );
    }

    #[test]
    fn after_a_reopen_a_new_file_is_written() {
        let bench = Bench::new();
        let log = bench.log(LogLimits::default());
        log.write(Stream::Stdout, b"old\n");
        let aside = bench.directory.path().join("aside");
        fs::rename(bench.path(), &aside).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"new\n");
        assert!(fs::read_to_string(aside).unwrap().ends_with("old\n"));
        assert!(bench.read().ends_with("new\n") && !bench.read().contains("old"));
    }
}
