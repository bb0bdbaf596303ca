//! A container in memory: its record, the shim's handle on it, its log and its input.
use crate::output::ContainerOutput;
use crate::record::{ContainerRecord, ExitRecord};
use cri::ContainerState;
use parking_lot::Mutex;
use shim::Container;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::DuplexStream;
use tokio::sync::watch;

/// A container.
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    record: Mutex<ContainerRecord>,
    /// `None` for one that ended before this process began.
    pub(crate) handle: Mutex<Option<Arc<dyn Container>>>,
    pub(crate) log: Arc<ContainerOutput>,
    /// Where its input is written; taken away when there will be no more.
    pub(crate) input: tokio::sync::Mutex<Option<DuplexStream>>,
    pub(crate) stdin_once: bool,
    /// Held by whoever starts or removes it: such calls follow each other.
    pub(crate) busy: tokio::sync::Mutex<()>,
    ended: watch::Sender<bool>,
}

impl Entry {
    pub(crate) fn new(
        record: ContainerRecord,
        handle: Option<Arc<dyn Container>>,
        log: Arc<ContainerOutput>,
        input: Option<DuplexStream>,
        stdin_once: bool,
    ) -> Self {
        Self {
            id: record.id.clone(),
            sandbox: record.sandbox.clone(),
            ended: watch::Sender::new(record.exit.is_some()),
            record: Mutex::new(record),
            handle: Mutex::new(handle),
            log,
            input: tokio::sync::Mutex::new(input),
            stdin_once,
            busy: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        self.record.lock().clone()
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.record.lock().state()
    }

    pub(crate) fn handle(&self) -> Option<Arc<dyn Container>> {
        self.handle.lock().clone()
    }

    pub(crate) fn set_started(&self, at: i64) -> ContainerRecord {
        let mut record = self.record.lock();
        record.started_at = at;
        record.clone()
    }

    /// Notes its end; `None` if it had ended before. Nobody waiting hears of it until [`Self::announce_end`].
    pub(crate) fn set_exit(&self, exit: ExitRecord) -> Option<ContainerRecord> {
        let mut record = self.record.lock();
        if record.exit.is_some() {
            return None;
        }
        record.exit = Some(exit);
        Some(record.clone())
    }

    pub(crate) fn announce_end(&self) {
        self.ended.send_replace(true);
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        // The sender is a field of this very entry: an error cannot be.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Waits for its end; says whether it came in time.
    pub(crate) async fn wait(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.ended()).await.is_ok()
    }
}

impl ContainerRecord {
    pub(crate) fn state(&self) -> ContainerState {
        match (&self.exit, self.started_at) {
            (Some(_), _) => ContainerState::Exited,
            (None, 0) => ContainerState::Created,
            (None, _) => ContainerState::Running,
        }
    }
}

/// Nanoseconds since 1970, as CRI has times.
pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl From<shim::Exit> for ExitRecord {
    fn from(exit: shim::Exit) -> Self {
        let finished_at = nanoseconds(exit.finished_at);
        Self { code: exit.code, reason: exit.reason, message: exit.message, finished_at }
    }
}
