//! Watches: what the server streams is checked, then broken as the weather is.
use crate::answers::place;
use crate::door::{Asked, Body, BoxError, Door, Net};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Deserialize;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// The lines of a body; an error is the last.
fn lines<B>(body: B) -> impl Stream<Item = Result<Bytes, BoxError>>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    stream::unfold(Some((body, BytesMut::new())), |state| async move {
        let (mut body, mut buffer) = state?;
        loop {
            if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                let line = buffer.split_to(end + 1).freeze();
                return Some((Ok(line), Some((body, buffer))));
            }
            match body.frame().await? {
                Ok(frame) => buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d)),
                Err(error) => return Some((Err(error.into()), None)),
            }
        }
    })
}

fn body(lines: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(lines.map(|line| line.map(Frame::data))))
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    resource_version: String,
}

/// What a watch has shown so far.
struct Shown {
    resource: String,
    namespace: String,
    /// The revision up to which everything was shown; `None` before the first is known.
    until: Option<u64>,
    /// Nothing is left out by a selector.
    whole: bool,
}

impl Shown {
    fn of(asked: &Asked) -> Option<Self> {
        let place = place(&asked.path)?;
        let parameter = |name: &str| {
            asked
                .query
                .split('&')
                .filter_map(|p| p.split_once('='))
                .find(|(n, v)| *n == name && !v.is_empty())
                .map(|(_, v)| v)
        };
        let until = parameter("resourceVersion").and_then(|v| v.parse().ok()).filter(|v| *v > 0);
        let whole = parameter("fieldSelector").is_none()
            && parameter("labelSelector").is_none()
            && place.name.is_empty();
        // events.k8s.io is stored as core's.
        let resource = match place.resource.as_str() {
            "events.k8s.io/events" => "core/events".to_owned(),
            other => other.to_owned(),
        };
        Some(Self { resource, namespace: place.namespace, until, whole })
    }

    fn check(&mut self, line: &[u8], net: &Net) -> Result<(), String> {
        let line: Line =
            serde_json::from_slice(line).map_err(|e| format!("{e}: {}", String::from_utf8_lossy(line)))?;
        if line.kind == "ERROR" {
            self.until = None;
            return Ok(());
        }
        let Some(until) = self.until else { return Ok(()) };
        let meta = line.object.metadata;
        let revision: u64 =
            meta.resource_version.parse().map_err(|_| format!("{} without a resourceVersion", line.kind))?;
        let is_bookmark = line.kind == "BOOKMARK";
        if revision < until || (revision == until && !is_bookmark) {
            return Err(format!("{} {} of revision {revision} after {until}", line.kind, meta.name));
        }
        self.until = Some(revision);
        net.observer.with(|state| {
            let log = state.log.get(&self.resource).map_or(&[][..], Vec::as_slice);
            let from = log.partition_point(|e| e.revision <= until);
            let to = log.partition_point(|e| e.revision <= revision);
            let mut passed =
                log[from..to].iter().filter(|e| self.namespace.is_empty() || e.namespace == self.namespace);
            if !is_bookmark {
                match passed.next_back() {
                    Some(e)
                        if e.revision == revision && e.name == meta.name && e.namespace == meta.namespace =>
                    {
                        if self.whole && (line.kind == "DELETED") != e.deleted {
                            return Err(format!(
                                "{} {} at revision {revision}, deleted: {}",
                                line.kind, meta.name, e.deleted
                            ));
                        }
                    }
                    _ => {
                        return Err(format!(
                            "{} {} of revision {revision}, which is not its",
                            line.kind, meta.name
                        ));
                    }
                }
            }
            match passed.next_back().filter(|_| self.whole) {
                Some(skipped) => Err(format!(
                    "{} of revision {revision} after {until}: {} {} of revision {} was not shown",
                    line.kind, self.resource, skipped.name, skipped.revision
                )),
                None => Ok(()),
            }
        })
    }
}

/// A watch as the server sends it: every revision of its keys, in order. It ends when the server dies.
pub fn checked(from_server: apiserver::Body, dead: CancellationToken, net: Arc<Net>, asked: &Asked) -> Body {
    let (mut shown, path) = (Shown::of(asked), format!("{}?{}", asked.path, asked.query));
    let lines = lines(from_server).map(move |line| {
        if let (Ok(line), Some(shown)) = (&line, &mut shown)
            && let Err(how) = shown.check(line, &net)
        {
            net.journal
                .broke("a watch shows every revision once and in order", format_args!("{path}: {how}"));
        }
        line
    });
    body(lines.take_until(async move { dead.cancelled().await }))
}

/// The same watch as it arrives.
pub fn broken_as_the_weather_is(from_net: Body, door: Door, asked: Asked) -> Body {
    let dead = door.gate.token();
    let arriving = stream::unfold(Some((Box::pin(lines(from_net)), Vec::<Bytes>::new())), move |state| {
        let (door, path) = (door.clone(), asked.path.clone());
        async move {
            let (mut lines, mut again) = state?;
            if let Some(line) = again.pop() {
                return Some((Ok(line), Some((lines, again))));
            }
            let line = match lines.next().await? {
                Ok(line) => line,
                Err(error) => return Some((Err(error), None)),
            };
            let (net, weather, who) = (&door.net, door.net.sky.is(), door.gate.name());
            let broken = || Err::<Bytes, BoxError>(Box::new(Error::from(ErrorKind::ConnectionReset)));
            if door.cut_off.load(Ordering::Relaxed) {
                return Some((broken(), None));
            }
            if net.rng.chance(weather.lag) {
                tokio::time::sleep(net.rng.millis(10, 2000)).await;
            }
            if net.rng.chance(weather.cut) {
                net.journal.note(format_args!("fault {who}: its watch of {path} breaks"));
                // Half of them end as if all had been said.
                return if net.rng.chance(500) { Some((broken(), None)) } else { None };
            }
            if net.rng.chance(weather.repeat) {
                again.push(line.clone());
            }
            Some((Ok(line), Some((lines, again))))
        }
    });
    body(arriving.take_until(async move { dead.cancelled().await }))
}
