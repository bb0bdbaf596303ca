//! Container logs: the files the runtime writes (`TIME STREAM TAG TEXT` a line), as `kubectl logs` wants them.
use bytes::{Bytes, BytesMut};
use futures::Stream;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes read at once; also the longest line part that is kept waiting for its end. The runtime cuts longer lines.
const CHUNK: usize = 64 * 1024;
/// How soon a quiet log is looked at again while it is followed: at first, and at most.
const POLL_MIN: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_millis(200);
/// The end of a log that becomes a termination message (kubelet: 80 lines, 2048 bytes).
const MESSAGE_LINES: usize = 80;
const MESSAGE_BYTES: usize = 2048;

/// One of a container's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    /// Only what was written to this one.
    pub stream: Option<LogStream>,
    pub follow: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
}

/// A line of a log file.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: &'a str,
    pub stream: LogStream,
    /// The line goes on in the next one.
    pub partial: bool,
    pub text: &'a [u8],
}

/// Reads a line (without its newline); `None` for what is not one.
pub fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    let tag = parts.next()?;
    if !(tag.starts_with(b"F") || tag.starts_with(b"P")) {
        return None;
    }
    Some(Line { time, stream, partial: tag.starts_with(b"P"), text: parts.next().unwrap_or_default() })
}

/// Turns lines of the file into what is shown.
struct Renderer {
    options: LogOptions,
    mid_line: bool,
    skipping: bool,
    left: Option<u64>,
}

impl Renderer {
    fn new(options: LogOptions) -> Self {
        let left = options.limit_bytes;
        Self { options, mid_line: false, skipping: false, left }
    }

    fn done(&self) -> bool {
        self.left == Some(0)
    }

    fn line(&mut self, raw: &[u8], out: &mut BytesMut) {
        let Some(line) = parse_line(raw) else { return };
        if self.options.stream.is_some_and(|wanted| wanted != line.stream) {
            return;
        }
        if !self.mid_line {
            self.skipping = self
                .options
                .since
                .is_some_and(|since| line.time.parse::<Timestamp>().is_ok_and(|t| t < since));
        }
        let first = !self.mid_line;
        self.mid_line = line.partial;
        if self.skipping {
            return;
        }
        if self.options.timestamps && first {
            self.put(line.time.as_bytes(), out);
            self.put(b" ", out);
        }
        self.put(line.text, out);
        if !line.partial {
            self.put(b"\n", out);
        }
    }

    fn put(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let take = match &mut self.left {
            None => bytes.len(),
            Some(left) => {
                let take = (*left).min(bytes.len() as u64);
                *left -= take;
                take as usize
            }
        };
        out.extend_from_slice(&bytes[..take]);
    }
}

/// The files of one container run, oldest first: those rotated away, then the one that is written.
pub fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(vec![path.to_owned()]);
    };
    let mut rotated = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.file_name();
        let Some(rest) = file.to_str().and_then(|f| f.strip_prefix(name)) else { continue };
        // Compressed ones and half-written ones are passed over.
        if rest.starts_with('.') && !rest.ends_with(".gz") && !rest.ends_with(".tmp") {
            rotated.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    rotated.sort();
    let mut all: Vec<PathBuf> = rotated.into_iter().map(|(_, p)| p).collect();
    all.push(path.to_owned());
    Ok(all)
}

/// Where the last `lines` lines begin: index of the file and offset in it.
pub fn tail_start(files: &[PathBuf], lines: u64) -> io::Result<(usize, u64)> {
    use std::io::{Read, Seek, SeekFrom};
    if lines == 0 {
        let size = files.last().and_then(|f| std::fs::metadata(f).ok()).map_or(0, |m| m.len());
        return Ok((files.len().saturating_sub(1), size));
    }
    let mut wanted = lines;
    for (index, path) in files.iter().enumerate().rev() {
        let mut file = match std::fs::File::open(path) {
            Ok(f) => f,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let size = file.metadata()?.len();
        let mut end = size;
        let mut buffer = vec![0; CHUNK];
        while end > 0 {
            let from = end.saturating_sub(CHUNK as u64);
            let part = &mut buffer[..(end - from) as usize];
            file.seek(SeekFrom::Start(from))?;
            file.read_exact(part)?;
            for (i, byte) in part.iter().enumerate().rev() {
                let at = from + i as u64 + 1;
                // The newline at the very end closes the last line; it begins none.
                if *byte == b'\n' && at != size {
                    wanted -= 1;
                    if wanted == 0 {
                        return Ok((index, at));
                    }
                }
            }
            end = from;
        }
        if size > 0 {
            // The first line of the file.
            wanted -= 1;
            if wanted == 0 {
                return Ok((index, 0));
            }
        }
    }
    Ok((0, 0))
}

/// Reads one container run's log.
struct Reader<F> {
    path: PathBuf,
    files: VecDeque<PathBuf>,
    offset: u64,
    open: Option<(File, u64)>,
    rest: BytesMut,
    renderer: Renderer,
    /// Whether the container may still write.
    running: F,
    /// The container ended before the last look: what is read then is all.
    last_look: bool,
    poll: Duration,
}

impl<F: Fn() -> bool> Reader<F> {
    /// The next piece to show; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.renderer.done() {
                return Ok(None);
            }
            if self.open.is_none() && !self.open_next().await? {
                return Ok(None);
            }
            let Some((file, _)) = &mut self.open else { return Ok(None) };
            let mut chunk = BytesMut::with_capacity(CHUNK);
            let read = file.read_buf(&mut chunk).await?;
            if read > 0 {
                self.poll = POLL_MIN;
                self.rest.extend_from_slice(&chunk);
                let mut out = BytesMut::new();
                while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                    let line = self.rest.split_to(end + 1);
                    self.renderer.line(&line[..end], &mut out);
                }
                if self.rest.len() > CHUNK {
                    // Not a log line.
                    self.rest.clear();
                }
                if !out.is_empty() {
                    return Ok(Some(out.freeze()));
                }
                continue;
            }
            if !self.at_end().await? {
                return Ok(None);
            }
        }
    }

    /// Opens the next file; says whether there is one.
    async fn open_next(&mut self) -> io::Result<bool> {
        while let Some(path) = self.files.pop_front() {
            let offset = std::mem::take(&mut self.offset);
            match File::open(&path).await {
                Ok(mut file) => {
                    let inode = file.metadata().await?.ino();
                    if offset > 0 {
                        file.seek(io::SeekFrom::Start(offset)).await?;
                    }
                    self.open = Some((file, inode));
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if self.files.is_empty() && self.renderer.options.follow && !self.last_look {
                        // Nothing has been written yet.
                        self.last_look = !(self.running)();
                        self.wait().await;
                        self.files.push_back(path);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// At the end of a file; says whether to go on.
    async fn at_end(&mut self) -> io::Result<bool> {
        if !self.files.is_empty() {
            self.open = None;
            return Ok(true);
        }
        let inode = self.open.as_ref().map(|(_, i)| *i);
        match tokio::fs::metadata(&self.path).await {
            // The file was rotated away under us: the new one goes on.
            Ok(m) if Some(m.ino()) != inode => {
                self.open = None;
                self.files.push_back(self.path.clone());
                return Ok(true);
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        if !self.renderer.options.follow || self.last_look {
            return Ok(false);
        }
        self.last_look = !(self.running)();
        if !self.last_look {
            self.wait().await;
        }
        Ok(true)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.poll).await;
        self.poll = (self.poll * 2).min(POLL_MAX);
    }
}

/// The log of one container run as a stream of bytes. `running` says whether the container may still write.
pub async fn read_log(
    path: PathBuf,
    options: LogOptions,
    running: impl Fn() -> bool + Send + 'static,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    let (at, tail) = (path.clone(), options.tail_lines);
    let found = tokio::task::spawn_blocking(move || {
        let files = files_of(&at)?;
        let start = match tail {
            Some(n) => tail_start(&files, n)?,
            None => (0, 0),
        };
        Ok::<_, io::Error>((files, start))
    });
    let (files, (first, offset)) = match found.await {
        Ok(Ok(found)) => found,
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => (vec![path.clone()], (0, 0)),
        Ok(Err(e)) => return Err(e),
        Err(e) => return Err(io::Error::other(e)),
    };
    let reader = Reader {
        path,
        files: files.into_iter().skip(first).collect(),
        offset,
        open: None,
        rest: BytesMut::new(),
        renderer: Renderer::new(options),
        running,
        last_look: false,
        poll: POLL_MIN,
    };
    Ok(futures::stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
            Ok(None) => None,
            Err(e) => Some((Err(e), None)),
        }
    }))
}

/// The end of a log, for a termination message.
pub async fn last_lines(path: &str) -> String {
    use futures::StreamExt;
    let options = LogOptions { tail_lines: Some(MESSAGE_LINES as u64), ..Default::default() };
    let Ok(stream) = read_log(PathBuf::from(path), options, || false).await else { return String::new() };
    let mut all = Vec::new();
    tokio::pin!(stream);
    while let Some(Ok(bytes)) = stream.next().await {
        all.extend_from_slice(&bytes);
        if all.len() > 2 * MESSAGE_BYTES {
            all.drain(..all.len() - MESSAGE_BYTES);
        }
    }
    let from = all.len().saturating_sub(MESSAGE_BYTES);
    String::from_utf8_lossy(&all[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LINES: &str = "2026-01-01T00:00:00Z stdout F one\n\
                         2026-01-01T00:00:01Z stderr P tw\n\
                         2026-01-01T00:00:01Z stderr F o\n\
                         rubbish\n\
                         2026-01-01T00:00:02Z stdout F three\n";

    async fn read(path: &Path, options: LogOptions) -> String {
        let stream = read_log(path.to_owned(), options, || false).await.unwrap();
        let parts: Vec<_> = stream.map(|b| b.unwrap()).collect().await;
        String::from_utf8(parts.concat()).unwrap()
    }

    fn log(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[tokio::test]
    async fn lines_are_joined_stamped_cut_and_filtered_as_asked() {
        let (_dir, path) = log(LINES);
        let default = LogOptions::default();
        assert_eq!(read(&path, default.clone()).await, "one\ntwo\nthree\n");
        assert_eq!(
            read(&path, LogOptions { timestamps: true, ..default.clone() }).await,
            "2026-01-01T00:00:00Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:02Z three\n"
        );
        let since = Some("2026-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(read(&path, LogOptions { since, ..default.clone() }).await, "two\nthree\n");
        let stderr = Some(LogStream::Stderr);
        assert_eq!(read(&path, LogOptions { stream: stderr, ..default.clone() }).await, "two\n");
        let stdout = Some(LogStream::Stdout);
        assert_eq!(read(&path, LogOptions { stream: stdout, ..default.clone() }).await, "one\nthree\n");
        assert_eq!(read(&path, LogOptions { limit_bytes: Some(5), ..default.clone() }).await, "one\nt");
        assert_eq!(read(&path, LogOptions { tail_lines: Some(1), ..default.clone() }).await, "three\n");
        assert_eq!(read(&path, LogOptions { tail_lines: Some(0), ..default.clone() }).await, "");
        assert_eq!(read(&path, LogOptions { tail_lines: Some(99), ..default }).await, "one\ntwo\nthree\n");
    }

    #[tokio::test]
    async fn rotated_files_come_first_and_the_tail_reaches_into_them() {
        let (dir, path) = log("2026-01-01T00:00:02Z stdout F new\n");
        let old = dir.path().join("0.log.20260101-000000");
        std::fs::write(&old, "2026-01-01T00:00:00Z stdout F a\n2026-01-01T00:00:01Z stdout F b\n").unwrap();
        let earlier = std::time::UNIX_EPOCH + Duration::from_secs(1);
        std::fs::File::options().write(true).open(&old).unwrap().set_modified(earlier).unwrap();
        std::fs::write(dir.path().join("1.log"), "2026-01-01T00:00:02Z stdout F other run\n").unwrap();
        assert_eq!(read(&path, LogOptions::default()).await, "a\nb\nnew\n");
        assert_eq!(read(&path, LogOptions { tail_lines: Some(2), ..Default::default() }).await, "b\nnew\n");
    }

    #[tokio::test]
    async fn a_missing_log_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("0.log"), LogOptions::default()).await, "");
        assert_eq!(read(&dir.path().join("no/0.log"), LogOptions::default()).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_followed_log_goes_on_over_a_rotation_until_the_container_ends() {
        let (dir, path) = log("2026-01-01T00:00:00Z stdout F one\n");
        let running = Arc::new(AtomicBool::new(true));
        let seen = running.clone();
        let options = LogOptions { follow: true, ..Default::default() };
        let stream = read_log(path.clone(), options, move || seen.load(Ordering::SeqCst)).await.unwrap();
        tokio::pin!(stream);
        assert_eq!(stream.next().await.unwrap().unwrap(), "one\n");
        let mut file = std::fs::File::options().append(true).open(&path).unwrap();
        file.write_all(b"2026-01-01T00:00:01Z stdout F two\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "two\n");
        std::fs::rename(&path, dir.path().join("0.log.20260101-000001")).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:02Z stdout F three\n").unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), "three\n");
        running.store(false, Ordering::SeqCst);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn the_end_of_a_log_becomes_a_message_of_at_most_two_kilobytes() {
        let line = format!("2026-01-01T00:00:00Z stdout F {}\n", "x".repeat(99));
        let (_dir, path) = log(&line.repeat(200));
        let text = last_lines(path.to_str().unwrap()).await;
        assert_eq!(text.len(), 2048);
        assert!(text.ends_with("xxx\n"));
    }
}
