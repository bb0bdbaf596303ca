//! The innocent functions: what is done to each, and which answers it may give.
//!
//! A function says who it is and which revision: `fn-7.g1.r3` is the third revision of the first life of `fn-7`. A
//! revision may answer from the moment at which it was asked for until a moment after the status says that others
//! serve.
use crate::api::Api;
use crate::watcher::Watcher;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The longest request; a revision without traffic keeps its pods for so long and five seconds more.
pub(crate) const TIMEOUT_SECONDS: u32 = 5;
/// Functions of one namespace.
const PER_NAMESPACE: usize = 100;
/// Between two looks at what the watch told.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Revisions one goes back at the most: more are kept (`revisionHistoryLimit` 10).
const BACK: u64 = 4;

#[derive(Debug, Default)]
struct State {
    /// How often it was made.
    life: u32,
    /// The number of its newest revision.
    newest: u32,
    /// The revision with the largest share.
    serving: u32,
    may_answer: BTreeSet<u32>,
    /// Whether clients may ask.
    open: bool,
    in_flight: usize,
}

pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    state: RefCell<State>,
}

/// What a client was told it may hear, taken when it began to ask.
pub(crate) struct Asked<'a> {
    function: &'a Function,
    life: u32,
    may_answer: BTreeSet<u32>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.function.state.borrow_mut().in_flight -= 1;
    }
}

impl Asked<'_> {
    /// Why this is not an answer to what was asked.
    pub(crate) fn check(&self, path: &str, text: &str) -> Result<(), String> {
        let state = self.function.state.borrow();
        let named = format!("{}.g{}.r", self.function.name, self.life);
        let number = text
            .strip_prefix(&named)
            .and_then(|rest| rest.strip_suffix(&format!(" from WebAssembly: you asked for {path}\n")))
            .and_then(|number| number.parse::<u32>().ok());
        match number {
            None => Err(format!("another answer was due: {:?}", text.chars().take(120).collect::<String>())),
            Some(n) if self.may_answer.contains(&n) || state.may_answer.contains(&n) => Ok(()),
            Some(n) => Err(format!("revision {n} answered, {:?} serve", state.may_answer)),
        }
    }
}

pub(crate) fn namespaces(functions: usize) -> Vec<String> {
    (0..functions.div_ceil(PER_NAMESPACE)).map(|n| format!("soak-{n}")).collect()
}

impl Function {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            name: format!("fn-{number}"),
            namespace: format!("soak-{}", number / PER_NAMESPACE),
            turn: tokio::sync::Mutex::default(),
            state: RefCell::default(),
        }
    }

    pub(crate) fn host(&self) -> String {
        format!("{}.{}.localhost", self.name, self.namespace)
    }

    /// The prefix of the names of all its pods.
    pub(crate) fn pod_prefix(&self) -> String {
        format!("{}-r", self.name)
    }

    /// Begins a request; `None` while nobody may ask.
    pub(crate) fn ask(&self) -> Option<Asked<'_>> {
        let mut state = self.state.borrow_mut();
        state.open.then(|| {
            state.in_flight += 1;
            Asked { function: self, life: state.life, may_answer: state.may_answer.clone() }
        })
    }

    fn collection(&self) -> String {
        format!("/apis/dhow.dev/v1alpha1/namespaces/{}/functions", self.namespace)
    }
    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }
    fn env(&self, life: u32, revision: u32) -> Value {
        json!([{ "name": "GREETING", "value": format!("{}.g{life}.r{revision}", self.name) }])
    }
}

/// How functions are changed.
pub(crate) struct Fleet {
    pub(crate) api: Api,
    pub(crate) watcher: Watcher,
    pub(crate) image: String,
    pub(crate) gateway: SocketAddr,
    /// The longest a change may take until it is served.
    pub(crate) limit: Duration,
    /// From the status that tells of a change until every proxy has heard of it.
    pub(crate) heard: Duration,
}

impl Fleet {
    /// Makes the function and opens it to clients.
    pub(crate) async fn create(&self, function: &Function) -> Result<()> {
        let _turn = function.turn.lock().await;
        self.make(function).await
    }

    async fn make(&self, function: &Function) -> Result<()> {
        let life = {
            let mut state = function.state.borrow_mut();
            let life = state.life + 1;
            *state = State { life, newest: 1, serving: 1, may_answer: [1].into(), ..State::default() };
            life
        };
        let object = json!({
            "apiVersion": "dhow.dev/v1alpha1",
            "kind": "Function",
            "metadata": { "name": function.name, "namespace": function.namespace },
            "spec": {
                "image": self.image,
                "env": function.env(life, 1),
                "timeoutSeconds": TIMEOUT_SECONDS,
            },
        });
        self.api.create(&function.collection(), &object).await?;
        self.until_served(function, &[1]).await?;
        self.until_answered(function).await?;
        function.state.borrow_mut().open = true;
        Ok(())
    }

    /// Waits until the status says that exactly these revisions serve.
    async fn until_served(&self, function: &Function, revisions: &[u32]) -> Result<()> {
        let wanted: BTreeSet<String> = revisions.iter().map(|r| format!("{}-r{r}", function.name)).collect();
        self.until(function, &format!("{wanted:?} serve"), || {
            let known = self.watcher.functions.get(&function.namespace, &function.name)?;
            let status = known.status.as_ref()?;
            let serving: BTreeSet<String> = status.traffic.iter().map(|t| t.revision.clone()).collect();
            (status.observed_generation >= known.metadata.generation && serving == wanted).then_some(())
        })
        .await
    }

    async fn until(&self, function: &Function, what: &str, look: impl Fn() -> Option<()>) -> Result<()> {
        let begun = Instant::now();
        while look().is_none() {
            if begun.elapsed() > self.limit {
                let known = self.watcher.functions.get(&function.namespace, &function.name);
                let status = known.and_then(|f| serde_json::to_string(&f.status).ok()).unwrap_or_default();
                bail!("{}: not so after {:?}: {what}; its status: {status}", function.name, self.limit);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Waits until the gateway leads to it.
    async fn until_answered(&self, function: &Function) -> Result<()> {
        use crate::connection::Connection;
        let begun = Instant::now();
        loop {
            let asked = async { Connection::open(self.gateway).await?.get(&function.host(), "/").await };
            match asked.await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                answer if begun.elapsed() > self.limit => {
                    let said = answer.map(|a| format!("{} {}", a.status, a.text.trim()));
                    bail!("{} is not answered after {:?}: {said:?}", function.name, self.limit);
                }
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Changes who serves: these revisions may answer from now on, and in the end no others.
    async fn turn_to(&self, function: &Function, revisions: &[u32], patch: &Value) -> Result<()> {
        function.state.borrow_mut().may_answer.extend(revisions);
        self.api.merge(&function.path(), patch).await?;
        self.until_served(function, revisions).await?;
        tokio::time::sleep(self.heard).await;
        let mut state = function.state.borrow_mut();
        state.may_answer = revisions.iter().copied().collect();
        state.serving = revisions[0];
        Ok(())
    }

    pub(crate) async fn deploy(&self, function: &Function) -> Result<()> {
        let _turn = function.turn.lock().await;
        let (life, revision) = {
            let mut state = function.state.borrow_mut();
            // Without a target of its own, traffic goes to the newest that was ever ready until the new one is.
            let before = state.newest;
            state.may_answer.insert(before);
            state.newest += 1;
            (state.life, state.newest)
        };
        let patch = json!({ "spec": { "env": function.env(life, revision), "traffic": null } });
        self.turn_to(function, &[revision], &patch)
            .await
            .with_context(|| format!("deploying revision {revision}"))
    }

    /// An older revision than the one that serves, `back` steps back; `None` if there is none.
    fn older(function: &Function, back: u64) -> Option<u32> {
        let state = function.state.borrow();
        let oldest = state.newest.saturating_sub(BACK as u32).max(1);
        (oldest < state.serving).then(|| (state.serving - 1).saturating_sub(back as u32).max(oldest))
    }

    pub(crate) async fn roll_back(&self, function: &Function, back: u64) -> Result<()> {
        let _turn = function.turn.lock().await;
        let Some(revision) = Self::older(function, back) else { return Ok(()) };
        let target = format!("{}-r{revision}", function.name);
        let patch = json!({ "spec": { "traffic": [{ "revision": target, "percent": 100 }] } });
        self.turn_to(function, &[revision], &patch)
            .await
            .with_context(|| format!("going back to revision {revision}"))
    }

    pub(crate) async fn split(&self, function: &Function, percent: u32) -> Result<()> {
        let _turn = function.turn.lock().await;
        let serving = function.state.borrow().serving;
        let Some(older) = Self::older(function, 0) else { return Ok(()) };
        let target = |n: u32, percent: u32| json!({ "revision": format!("{}-r{n}", function.name), "percent": percent });
        let patch =
            json!({ "spec": { "traffic": [target(older, percent), target(serving, 100 - percent)] } });
        self.turn_to(function, &[serving, older], &patch)
            .await
            .with_context(|| format!("splitting between revisions {older} and {serving}"))
    }

    pub(crate) async fn scale(&self, function: &Function, replicas: u32) -> Result<()> {
        let _turn = function.turn.lock().await;
        self.api.merge(&function.path(), &json!({ "spec": { "replicas": replicas } })).await?;
        let wanted = i32::try_from(replicas)?;
        let what = format!("{replicas} pods of the serving revision are ready");
        self.until(function, &what, || {
            let known = self.watcher.functions.get(&function.namespace, &function.name)?;
            let status = known.status.as_ref()?;
            let there = status.replicas == wanted && status.ready_replicas == wanted;
            (status.observed_generation >= known.metadata.generation && there).then_some(())
        })
        .await
        .with_context(|| format!("scaling to {replicas}"))
    }

    /// Deletes the function, once nobody asks it, and makes it anew.
    pub(crate) async fn replace(&self, function: &Function) -> Result<()> {
        let _turn = function.turn.lock().await;
        function.state.borrow_mut().open = false;
        self.until(function, "requests end", || (function.state.borrow().in_flight == 0).then_some(()))
            .await?;
        self.api.delete(&function.path()).await?;
        self.until(function, "it and its pods are gone", || {
            let gone = self.watcher.functions.get(&function.namespace, &function.name).is_none();
            let pods = self.watcher.pods.list_with_prefix(&function.namespace, &function.pod_prefix());
            (gone && pods.is_empty()).then_some(())
        })
        .await?;
        // What it was made of goes with it, a moment later; its names must be free again.
        let path = format!("/apis/dhow.dev/v1alpha1/namespaces/{}/revisions", function.namespace);
        let begun = Instant::now();
        let selector = format!("{path}?labelSelector=dhow.dev%2Ffunction%3D{}", function.name);
        while !self.api.get(&selector).await?["items"].as_array().is_none_or(Vec::is_empty) {
            if begun.elapsed() > self.limit {
                bail!("{}: its revisions are still there {:?} after it", function.name, self.limit);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.make(function).await.context("making it anew")
    }

    /// After the storm: it answers, with a revision that may.
    pub(crate) async fn serves(&self, function: &Function) -> Result<()> {
        let _turn = function.turn.lock().await;
        self.until_answered(function).await?;
        if !function.state.borrow().open {
            bail!("{} was not made anew", function.name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_come_from_the_function_that_was_asked_and_a_revision_that_serves() {
        let function = Function::new(7);
        assert!(function.ask().is_none(), "it is not there yet");
        *function.state.borrow_mut() =
            State { life: 2, newest: 4, serving: 4, may_answer: [4].into(), open: true, in_flight: 0 };
        let asked = function.ask().expect("open");
        let answer = |who: &str| asked.check("/x", &format!("{who} from WebAssembly: you asked for /x\n"));
        assert_eq!(answer("fn-7.g2.r4"), Ok(()));
        for wrong in ["fn-7.g2.r3", "fn-7.g1.r4", "fn-70.g2.r4", "Hello", ""] {
            assert!(answer(wrong).is_err(), "{wrong}");
        }
        assert!(asked.check("/y", "fn-7.g2.r4 from WebAssembly: you asked for /x\n").is_err());
        function.state.borrow_mut().may_answer = [3].into();
        assert_eq!(answer("fn-7.g2.r3"), Ok(()), "it may now");
        assert_eq!(answer("fn-7.g2.r4"), Ok(()), "it might when the request began");
        drop(asked);
        assert_eq!(function.state.borrow().in_flight, 0);
    }

    #[test]
    fn one_goes_back_to_what_is_kept() {
        let function = Function::new(0);
        let at = |newest, serving| {
            *function.state.borrow_mut() = State { newest, serving, ..State::default() };
            [0, 9].map(|back| Fleet::older(&function, back))
        };
        assert_eq!(at(1, 1), [None, None]);
        assert_eq!(at(3, 3), [Some(2), Some(1)]);
        assert_eq!(at(9, 9), [Some(8), Some(5)]);
        assert_eq!(at(9, 5), [None, None]);
    }
}
