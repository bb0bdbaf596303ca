//! A container's log in CRI's format: `<time> <stream> <F|P> <text>`, one line each.
//!
//! Invariant: what a stream writes appears in its order, and no entry is torn by a rotation. A line beyond 16 KiB is
//! cut into parts (`P`, the last one `F`). A line without its end is written when the container ends. Of all logs no
//! more than [`MAX_OPEN`] files are open: a container that writes nothing costs no descriptor.
use crate::config::{Clock, LogLimits};
use parking_lot::Mutex;
use shim::{Output, Stream};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

/// Log files open at once: a twentieth of the descriptors a process usually may have (20,000), and more containers
/// than write at the same time. Opening one anew takes microseconds.
const MAX_OPEN: usize = 1_000;

/// The longest text of one entry: containerd's and CRI-O's limit too.
const MAX_ENTRY_BYTES: usize = 16 * 1024;

/// One container's log.
pub(crate) struct Log {
    inner: Arc<Mutex<Inner>>,
    open: Arc<OpenLogs>,
    clock: Clock,
    limits: LogLimits,
}

/// The logs whose files are open, the one opened first in front.
#[derive(Default)]
pub(crate) struct OpenLogs(Mutex<VecDeque<Weak<Mutex<Inner>>>>);

impl OpenLogs {
    /// `log` has a file open: others are closed if these are too many.
    fn opened(&self, log: &Arc<Mutex<Inner>>) {
        let mut open = self.0.lock();
        open.push_back(Arc::downgrade(log));
        for _ in MAX_OPEN..open.len() {
            let Some(oldest) = open.pop_front() else { return };
            let Some(oldest_log) = oldest.upgrade() else { continue };
            match oldest_log.try_lock() {
                Some(mut inner) => inner.file = None,
                // It is being written: another's turn. Waiting here for one that may wait for us would be for ever.
                None => open.push_back(oldest),
            };
        }
    }
}

pub(crate) struct Inner {
    path: Option<PathBuf>,
    /// `None` until the next write.
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
    /// A log at `path`, whose file is made, and counted among `open` while it is written; an empty path keeps nothing.
    pub(crate) fn open(path: &str, clock: Clock, limits: LogLimits, open: Arc<OpenLogs>) -> io::Result<Self> {
        let path = Some(path).filter(|path| !path.is_empty()).map(PathBuf::from);
        if let Some(path) = &path {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            append_to(path)?;
        }
        let (stdout, stderr) = (Vec::new(), Vec::new());
        let inner = Inner { path, file: None, size: 0, stdout, stderr, complained: false };
        Ok(Self { inner: Arc::new(Mutex::new(inner)), open, clock, limits })
    }

    /// The file was moved away: writes to a new one from here on.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.file = None;
        inner.path.as_deref().map_or(Ok(()), |path| append_to(path).map(|_| ()))
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
        self.append(&mut inner, &out, now);
    }

    /// Writes whole entries.
    fn append(&self, inner: &mut Inner, entries: &[u8], now: SystemTime) {
        let closed = inner.file.is_none();
        inner.write(entries, now, self.limits);
        if closed && inner.file.is_some() {
            self.open.opened(&self.inner);
        }
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
        self.append(&mut inner, &out, now);
    }
}

impl Inner {
    /// Writes whole entries, opening the file if it is not. A log that cannot be written is no reason to end a container: what is lost is lost.
    fn write(&mut self, entries: &[u8], now: SystemTime, limits: LogLimits) {
        if entries.is_empty() {
            return;
        }
        let result = match self.write_all(entries) {
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

    fn write_all(&mut self, entries: &[u8]) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = match &mut self.file {
            Some(file) => file,
            closed => {
                let (file, size) = append_to(path)?;
                self.size = size;
                closed.insert(file)
            }
        };
        self.size += entries.len() as u64;
        file.write_all(entries)
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
            Log::open(self.path().to_str().unwrap(), Arc::new(clock), limits, Arc::default()).unwrap()
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
    fn no_more_files_are_open_than_may_be_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let open = Arc::<OpenLogs>::default();
        let log = |i: usize| {
            let path = directory.path().join(format!("{i}.log"));
            let clock = Arc::new(|| SystemTime::UNIX_EPOCH);
            Log::open(path.to_str().unwrap(), clock, LogLimits::default(), open.clone()).unwrap()
        };
        let logs: Vec<Log> = (0..MAX_OPEN + 10).map(log).collect();
        let opened = || logs.iter().filter(|log| log.inner.lock().file.is_some()).count();
        assert_eq!(opened(), 0, "who writes nothing has no file open");
        for text in ["one\n", "two\n"] {
            logs.iter().for_each(|log| log.write(Stream::Stdout, text.as_bytes()));
            assert_eq!(opened(), MAX_OPEN);
        }
        for i in [0, MAX_OPEN + 9] {
            let text = fs::read_to_string(directory.path().join(format!("{i}.log"))).unwrap();
            assert!(text.contains("one\n") && text.ends_with("two\n"), "{text}");
        }
        drop(logs);
        assert!(open.0.lock().len() <= MAX_OPEN);
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
