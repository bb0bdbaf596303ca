//! What a queue trigger asks for, with all defaults. Pure.
use client::ObjectKey;
use client::dhow::v1alpha1::{Function, QueueTrigger};
use std::time::Duration;

/// As the server's defaults.
const CONCURRENCY: i32 = 10;
const MAX_ATTEMPTS: i32 = 5;
const BACKOFF_SECONDS: i32 = 1;
/// The visibility timeout is at least a minute, and so much longer than a call may take.
const MIN_VISIBILITY: Duration = Duration::from_secs(60);
const VISIBILITY_SLACK: Duration = Duration::from_secs(30);

/// Where the URL of Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Url(String),
    /// A key of a Secret in the function's namespace.
    Secret {
        name: String,
        key: String,
    },
}

/// Of one trigger. A consumer whose settings change is ended and another one begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) function: ObjectKey,
    pub(super) uid: String,
    pub(super) trigger: String,
    pub(super) source: Source,
    pub(super) stream: String,
    pub(super) group: String,
    /// The name in the group: no other function has it, not even one of the same name in another cluster.
    pub(super) consumer: String,
    pub(super) dead_letter_stream: String,
    pub(super) path: String,
    pub(super) concurrency: usize,
    pub(super) max_attempts: u64,
    /// After the first failure; doubled after each further one, `visibility` at most.
    pub(super) backoff: Duration,
    /// After so long a message of another consumer is taken over.
    pub(super) visibility: Duration,
    /// Of a call.
    pub(super) timeout: Duration,
}

fn seconds(n: i32) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

impl Settings {
    pub(super) fn of(key: &ObjectKey, function: &Function, trigger: &str, queue: &QueueTrigger) -> Self {
        let uid = function.metadata.uid.clone().unwrap_or_default();
        let timeout = function.spec.timeout_or_default();
        let source = match (&queue.url, &queue.secret_key_ref) {
            (None, Some(reference)) => {
                Source::Secret { name: reference.name.clone(), key: reference.key.clone() }
            }
            (url, _) => Source::Url(url.clone().unwrap_or_default()),
        };
        let dead_letter_stream =
            queue.dead_letter_stream.clone().unwrap_or_else(|| format!("{}-dead", queue.stream));
        Self {
            function: key.clone(),
            trigger: trigger.to_owned(),
            source,
            stream: queue.stream.clone(),
            group: queue.group.clone().unwrap_or_else(|| key.name.clone()),
            consumer: format!("dhow/{uid}/{trigger}"),
            dead_letter_stream,
            path: queue.path.clone().unwrap_or_else(|| "/".to_owned()),
            concurrency: usize::try_from(queue.concurrency.unwrap_or(CONCURRENCY)).unwrap_or(1).max(1),
            max_attempts: u64::try_from(queue.max_attempts.unwrap_or(MAX_ATTEMPTS)).unwrap_or(1).max(1),
            backoff: seconds(queue.backoff_seconds.unwrap_or(BACKOFF_SECONDS)).max(seconds(1)),
            visibility: queue
                .visibility_timeout_seconds
                .map_or((timeout + VISIBILITY_SLACK).max(MIN_VISIBILITY), seconds),
            timeout,
            uid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::dhow::v1alpha1::FunctionSpec;

    #[test]
    fn what_is_not_said_follows_from_the_function() {
        let mut function = Function::new("shop", "mail", FunctionSpec::default());
        function.metadata.uid = Some("u".into());
        let key = ObjectKey::new("shop", "mail");
        let mut queue = QueueTrigger { stream: "orders".into(), ..QueueTrigger::default() };
        let s = Settings::of(&key, &function, "t", &queue);
        assert_eq!((s.group.as_str(), s.dead_letter_stream.as_str()), ("mail", "orders-dead"));
        assert_eq!((s.consumer.as_str(), s.path.as_str()), ("dhow/u/t", "/"));
        assert_eq!((s.concurrency, s.max_attempts), (10, 5));
        assert_eq!((s.backoff, s.visibility), (seconds(1), seconds(60)));
        function.spec.timeout_seconds = Some(3600);
        assert_eq!(Settings::of(&key, &function, "t", &queue).visibility, seconds(3630));
        queue.visibility_timeout_seconds = Some(4000);
        assert_eq!(Settings::of(&key, &function, "t", &queue).visibility, seconds(4000));
        queue.backoff_seconds = Some(i32::MIN);
        queue.max_attempts = Some(-1);
        let s = Settings::of(&key, &function, "t", &queue);
        assert_eq!((s.backoff, s.max_attempts), (seconds(1), 1), "nonsense does no harm");
    }
}
