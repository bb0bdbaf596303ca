//! Where a container's output goes: its log, and whoever is attached.
use crate::log::Log;
use parking_lot::Mutex;
use shim::Stream;
use std::io;
use std::sync::Arc;
use streaming::Channel;

/// Both. The log comes first; who is attached is never waited for, and loses the connection when too far behind.
pub(crate) struct ContainerOutput {
    log: Log,
    attached: Mutex<Vec<Arc<streaming::Output>>>,
}

/// As streams are called over a connection.
pub(crate) fn channel(stream: Stream) -> Channel {
    match stream {
        Stream::Stdout => Channel::Stdout,
        Stream::Stderr => Channel::Stderr,
    }
}

impl ContainerOutput {
    pub(crate) fn new(log: Log) -> Self {
        Self { log, attached: Mutex::default() }
    }

    /// Writes what has no end of line yet to the log: nothing more will come.
    pub(crate) fn flush(&self) {
        self.log.flush();
    }

    /// The log's file was moved away.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        self.log.reopen()
    }

    /// What comes from now on goes to `output` too, until the guard is dropped.
    pub(crate) fn attach(self: &Arc<Self>, output: Arc<streaming::Output>) -> Attached {
        self.attached.lock().push(output.clone());
        Attached { container: self.clone(), output }
    }
}

impl shim::Output for ContainerOutput {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.log.write(stream, bytes);
        for output in self.attached.lock().iter() {
            output.write(channel(stream), bytes);
        }
    }
}

/// Somebody who is attached.
pub(crate) struct Attached {
    container: Arc<ContainerOutput>,
    output: Arc<streaming::Output>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.container.attached.lock().retain(|other| !Arc::ptr_eq(other, &self.output));
    }
}
