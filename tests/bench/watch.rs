//! Watches, and how far behind the writes they are.
use crate::Plan;
use crate::cluster::{Cluster, json_request};
use crate::connection::{Connection, Protocol};
use crate::figure::{Figure, rounded};
use crate::load::{self, Until};
use crate::samples::Samples;
use crate::writes;
use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A watch over HTTPS on a connection of its own.
pub(crate) struct Watch {
    body: Incoming,
    buffer: BytesMut,
    _connection: Connection,
}

#[derive(Deserialize)]
pub(crate) struct Event {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) object: Value,
}

impl Event {
    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
    fn condition(&self, kind: &str) -> bool {
        let conditions = self.object["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
    }
    pub(crate) fn ready(&self) -> bool {
        self.kind != "DELETED" && self.condition("Ready")
    }
    pub(crate) fn is_ready(&self, name: &str) -> bool {
        self.name() == name && self.ready()
    }
    pub(crate) fn is_scheduled(&self, name: &str) -> bool {
        self.name() == name && self.condition("PodScheduled")
    }
}

impl Watch {
    /// Everything that happens in a collection from now on.
    pub(crate) async fn of(cluster: &Cluster, path: &str) -> Result<Self> {
        let list = cluster.ask(Method::GET, &format!("{path}?limit=1"), Value::Null).await?;
        let revision = list["metadata"]["resourceVersion"].as_str().context("a revision")?;
        let mut connection = cluster.connect(Protocol::Http2).await?;
        let path = format!("{path}?watch=true&resourceVersion={revision}&timeoutSeconds=600");
        let response = connection.begin(json_request(Method::GET, &path, Vec::new())?).await?;
        ensure!(response.status().is_success(), "watch: {}", response.status());
        Ok(Self { body: response.into_body(), buffer: BytesMut::new(), _connection: connection })
    }

    /// The next event as it came, without the end of its line.
    pub(crate) async fn next_line(&mut self) -> Result<Bytes> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                return Ok(line);
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Event> {
        Ok(serde_json::from_slice(&self.next_line().await?)?)
    }

    pub(crate) async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        loop {
            let event = self.next().await?;
            if wanted(&event) {
                return Ok(event);
            }
        }
    }
}

/// What is read of an event under load.
#[derive(Deserialize)]
struct Brief<'a> {
    #[serde(borrow)]
    object: BriefObject<'a>,
}
#[derive(Deserialize)]
struct BriefObject<'a> {
    #[serde(borrow)]
    metadata: BriefMeta<'a>,
}
#[derive(Deserialize)]
struct BriefMeta<'a> {
    name: &'a str,
}

/// How long after a write was acknowledged a watcher hears of it, while 64 clients write as fast as they can.
pub(crate) async fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(plan, &[]).await?;
    let mut connections = cluster.connections(writes::CLIENTS, Protocol::Http2).await?;
    let mut watch = Watch::of(&cluster, "/api/v1/namespaces/default/configmaps").await?;
    let answered: RefCell<HashMap<String, Instant>> = RefCell::default();
    let heard: RefCell<HashMap<String, Instant>> = RefCell::default();
    let listening = async {
        loop {
            let line = watch.next_line().await?;
            let now = Instant::now();
            if let Ok(event) = serde_json::from_slice::<Brief<'_>>(&line) {
                heard.borrow_mut().insert(event.object.metadata.name.to_owned(), now);
            }
        }
        #[expect(unreachable_code, reason = "says what the block would give")]
        anyhow::Ok(())
    };
    let writing = async {
        let load = load::run(
            &mut connections,
            Until::Elapsed(plan.seconds(10)),
            |number| writes::create_config_map("default", &format!("lag-{number}")),
            |answer| {
                let now = Instant::now();
                writes::check_created(answer)?;
                let object: BriefObject<'_> = serde_json::from_slice(&answer.body)?;
                answered.borrow_mut().insert(object.metadata.name.to_owned(), now);
                Ok(())
            },
        )
        .await?;
        // The last events are on their way.
        let begin = Instant::now();
        while heard.borrow().len() < answered.borrow().len() && begin.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(load)
    };
    let load = tokio::select! {
        ended = listening => {
            ended?;
            anyhow::bail!("the watch ended");
        }
        load = writing => load?,
    };
    let (answered, heard) = (answered.into_inner(), heard.into_inner());
    ensure!(heard.len() >= answered.len(), "{} writes, {} events", answered.len(), heard.len());
    let mut lags = Samples::default();
    for (name, at) in &answered {
        lags.add(heard.get(name).context("an event for every write")?.saturating_duration_since(*at));
    }
    cluster.stop().await?;
    Ok(vec![
        Figure::new(
            "write acknowledged to its watch event, under that load, p99",
            lags.percentile_ms(99.0),
            "ms",
        )
        .beside(format!(
            "p50 {}; {} events, {} writes/s beside it",
            rounded(lags.percentile_ms(50.0)),
            lags.len(),
            rounded(load.per_second)
        )),
    ])
}
