//! GetContainerEvents: what happens, with the state after it.
use crate::open::Runtime;
use cri::{ContainerEventResponse, ContainerEventType, Error, EventStream};
use futures::StreamExt;
use tokio::sync::broadcast::error::RecvError;

impl Runtime {
    pub(crate) fn events(&self) -> EventStream {
        let receiver = self.inner.events.subscribe();
        let runtime = self.clone();
        let events = futures::stream::unfold(Some((receiver, runtime)), |reader| async move {
            let (mut receiver, runtime) = reader?;
            let received = tokio::select! {
                received = receiver.recv() => received,
                _ = runtime.inner.shutdown.cancelled() => return None,
            };
            match received {
                Ok((kind, container, sandbox)) => {
                    let event = runtime.event(kind, container, &sandbox);
                    Some((Ok(event), Some((receiver, runtime))))
                }
                Err(RecvError::Lagged(missed)) => Some((
                    Err(Error::ResourceExhausted(format!("{missed} events were missed: list again"))),
                    None,
                )),
                Err(RecvError::Closed) => None,
            }
        });
        events.boxed()
    }

    fn event(&self, kind: ContainerEventType, container_id: String, sandbox: &str) -> ContainerEventResponse {
        let state = self.inner.state.lock();
        ContainerEventResponse {
            container_id,
            container_event_type: kind as i32,
            created_at: self.now(),
            pod_sandbox_status: state.sandboxes.get(sandbox).map(Into::into),
            containers_statuses: state
                .of_sandbox(sandbox)
                .iter()
                .map(|entry| entry.record().into())
                .collect(),
        }
    }
}
