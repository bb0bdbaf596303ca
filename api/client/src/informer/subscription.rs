//! What changed, as a subscriber of an informer hears it.
use super::Object;
use super::store::Store;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// One change. It is a wake-up: look at the informer for what is, not only at the change.
#[derive(Debug)]
pub enum Change<K> {
    /// The object was added or changed, or is there at the beginning.
    Applied(Arc<K>),
    /// The object is gone; this is its last known state.
    Deleted(Arc<K>),
    /// The subscriber fell behind and deletions may have been missed. An [`Change::Applied`] for every object
    /// that is there follows: whoever derives state from changes starts from nothing here, whoever only wakes
    /// up work does nothing.
    Resync,
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Applied(o) => Self::Applied(o.clone()),
            Self::Deleted(o) => Self::Deleted(o.clone()),
            Self::Resync => Self::Resync,
        }
    }
}

/// A bounded stream of changes.
pub struct Subscription<K> {
    store: Arc<Store<K>>,
    /// Objects that were there when the subscription (again) began.
    present: std::vec::IntoIter<Arc<K>>,
    changes: Option<broadcast::Receiver<Change<K>>>,
}

impl<K: Object> Subscription<K> {
    pub(super) fn new(store: Arc<Store<K>>) -> Self {
        let (present, changes) = store.snapshot();
        Self { store, present: present.into_iter(), changes }
    }

    /// The next change; None after the shutdown. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Change<K>> {
        if let Some(object) = self.present.next() {
            return Some(Change::Applied(object));
        }
        match self.changes.as_mut()?.recv().await {
            Ok(change) => Some(change),
            Err(RecvError::Closed) => {
                self.changes = None;
                None
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::debug!(missed, "a subscriber fell behind and starts again");
                let (present, changes) = self.store.snapshot();
                self.present = present.into_iter();
                self.changes = changes;
                Some(Change::Resync)
            }
        }
    }
}
