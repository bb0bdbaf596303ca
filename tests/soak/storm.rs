//! Carries the plan out.
use crate::cluster::{Cluster, NODE};
use crate::faults::Faults;
use crate::fleet::{Fleet, Function};
use crate::hostile::{self, Hostile};
use crate::outage::{Killed, Outage};
use crate::plan::{Action, Step};
use crate::rng::Rng;
use crate::watcher::{Key, Standing};
use anyhow::{Context, Result, bail};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Changes under way at a time: more would only wait for one another on two cores.
const AT_ONCE: usize = 16;
/// Between two looks at whether a killed component answers.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The longest wait for pods after a kill, however long they may take: what comes later is told with its time.
const LONGEST: Duration = Duration::from_secs(120);

/// How long pods may take until they are Ready again.
pub(crate) fn recovery_bound(pods: usize, patience: f64) -> Duration {
    // Two seconds for each thousand. A process must start first, so there is no less for fewer.
    Duration::from_secs_f64(2.0 * (pods as f64 / 1000.0).max(1.0) * patience)
}

/// What was done.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) outages: Rc<RefCell<Vec<Outage>>>,
    pub(crate) deploys: Cell<usize>,
    pub(crate) rollbacks: Cell<usize>,
    pub(crate) splits: Cell<usize>,
    pub(crate) scalings: Cell<usize>,
    pub(crate) replacements: Cell<usize>,
    pub(crate) hostile_replacements: Cell<usize>,
    /// After kills of the runtime: how many pods there were, and when the last was Ready again.
    pub(crate) recoveries: RefCell<Vec<(usize, Duration)>>,
    /// When every slice had them as ready again.
    pub(crate) endpoints_back: RefCell<Vec<Duration>>,
    /// After kills of the kubelet: when it answered again.
    pub(crate) kubelet_back: RefCell<Vec<Duration>>,
}

pub(crate) struct Storm {
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) fleet: Rc<Fleet>,
    pub(crate) functions: Rc<Vec<Function>>,
    pub(crate) hostile: Rc<Vec<Hostile>>,
    pub(crate) faults: Rc<Faults>,
    pub(crate) done: Rc<Done>,
    pub(crate) patience: f64,
}

fn count(cell: &Cell<usize>) {
    cell.set(cell.get() + 1);
}

impl Storm {
    /// Does every step at its time; returns when all are done.
    pub(crate) async fn run(self: &Rc<Self>, steps: Vec<Step>, rng: Rng) {
        let begun = tokio::time::Instant::now();
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut changes = JoinSet::new();
        // Kills wait for one another, not for changes.
        let kills = Rc::new(tokio::sync::Mutex::new(()));
        for step in steps {
            tokio::time::sleep_until(begun + step.at).await;
            while changes.try_join_next().is_some() {}
            let storm = self.clone();
            let killed = match step.action {
                Action::KillRuntime => Some(Killed::Runtime),
                Action::KillKubelet => Some(Killed::Kubelet),
                Action::KillBoth => Some(Killed::Both),
                _ => None,
            };
            if let Some(killed) = killed {
                eprintln!("{step}");
                let kills = kills.clone();
                changes.spawn_local(async move {
                    // The kubelet may die while the runtime comes back: that is a test of its own.
                    let _turn = if killed.runtime() { Some(kills.lock().await) } else { None };
                    if let Err(error) = storm.kill(killed).await {
                        storm.faults.add(format!("{step}: {error:#}"));
                    }
                });
                continue;
            }
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let back = rng.below(3);
            changes.spawn_local(async move {
                if let Err(error) = storm.change(step.action, back).await {
                    storm.faults.add(format!("{step}: {error:#}"));
                }
                drop(slot);
            });
        }
        while changes.join_next().await.is_some() {}
    }

    async fn change(&self, action: Action, back: u64) -> Result<()> {
        let (functions, fleet, done) = (&self.functions, &self.fleet, &self.done);
        match action {
            Action::Deploy(n) => {
                fleet.deploy(&functions[n]).await?;
                count(&done.deploys);
            }
            Action::Rollback(n) => {
                fleet.roll_back(&functions[n], back).await?;
                count(&done.rollbacks);
            }
            Action::Split(n, percent) => {
                fleet.split(&functions[n], percent).await?;
                count(&done.splits);
            }
            Action::Scale(n, replicas) => {
                fleet.scale(&functions[n], replicas).await?;
                count(&done.scalings);
            }
            Action::Replace(n) => {
                fleet.replace(&functions[n]).await?;
                count(&done.replacements);
            }
            Action::ReplaceHostile(n) => {
                self.replace_hostile(n).await?;
                count(&done.hostile_replacements);
            }
            Action::KillRuntime | Action::KillKubelet | Action::KillBoth => {}
        }
        Ok(())
    }

    async fn replace_hostile(&self, n: usize) -> Result<()> {
        let guest = &self.hostile[n];
        let _turn = guest.turn.lock().await;
        let collection = guest.collection();
        let path = format!("{collection}/{}", guest.name);
        if self.fleet.api.exists(&path).await? {
            self.fleet.api.delete(&path).await?;
        }
        let begun = Instant::now();
        let prefix = if guest.serves { format!("{}-r", guest.name) } else { guest.name.clone() };
        loop {
            let pods = self.fleet.watcher.pods.list_with_prefix(hostile::NAMESPACE, &prefix);
            if pods.is_empty() && !self.fleet.api.exists(&path).await? {
                break;
            }
            if begun.elapsed() > self.fleet.limit {
                bail!("hostile guest {} is still there after {:?}", guest.name, self.fleet.limit);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        // Revisions of the same name may be on their way out: the controller says so and tries again.
        self.fleet.api.create(&collection, &guest.object()).await.map(drop)
    }

    async fn kill(&self, killed: Killed) -> Result<()> {
        let (runtime, kubelet) = (self.cluster.process("runtime")?, self.cluster.process("kubelet")?);
        let before = self.fleet.watcher.innocent();
        let pods = self.fleet.watcher.pods.len();
        let began = Instant::now();
        let number = {
            let mut outages = self.done.outages.borrow_mut();
            outages.push(Outage { killed, began, ended: None });
            outages.len() - 1
        };
        if killed != Killed::Kubelet {
            runtime.kill();
        }
        if killed != Killed::Runtime {
            kubelet.kill();
            self.kubelet_answers().await?;
            self.done.kubelet_back.borrow_mut().push(began.elapsed());
        }
        let mut ended = Instant::now();
        if killed.runtime() {
            let recovered = self.fleet.watcher.recovered(&before, LONGEST).await;
            let (took, bound) = (began.elapsed(), recovery_bound(pods, self.patience));
            self.done.recoveries.borrow_mut().push((pods, took));
            eprintln!(
                "            {} of {pods} pods are Ready again after {:.2} s",
                before.len(),
                took.as_secs_f64()
            );
            match recovered {
                Err(missing) => self.faults.add(format!(
                    "{} of {} pods are not Ready {:.0} s after the runtime was killed: {}",
                    missing.len(),
                    before.len(),
                    took.as_secs_f64(),
                    self.tell(missing.first(), &before)
                )),
                Ok(()) if took > bound => self.faults.add(format!(
                    "{pods} pods took {:.2} s to be Ready again, {:.2} s are allowed",
                    took.as_secs_f64(),
                    bound.as_secs_f64()
                )),
                Ok(()) => {}
            }
            let Some(heard) = self.fleet.watcher.endpoints_ready(&before, self.fleet.heard, LONGEST).await
            else {
                bail!("pods that are Ready again have no ready endpoint after {LONGEST:?}");
            };
            self.done.endpoints_back.borrow_mut().push(heard.saturating_duration_since(began));
            ended = heard;
        }
        self.done.outages.borrow_mut()[number].ended = Some(ended);
        Ok(())
    }

    /// How a pod stood before, and what its status says now.
    fn tell(&self, pod: Option<&Key>, before: &BTreeMap<Key, Standing>) -> String {
        let Some(key) = pod else { return String::new() };
        let now = self.fleet.watcher.pods.get(&key.0, &key.1);
        let status = now.and_then(|pod| serde_json::to_string(&pod.status).ok());
        format!("{}/{} was {:?}, now {}", key.0, key.1, before.get(key), status.unwrap_or_default())
    }

    /// Waits until the kubelet that was killed answers through the API server.
    async fn kubelet_answers(&self) -> Result<()> {
        let kubelet = self.cluster.process("kubelet")?;
        let old = kubelet.pid();
        let begun = Instant::now();
        loop {
            let healthy = kubelet.pid().is_some_and(|pid| Some(pid) != old);
            let path = format!("/api/v1/nodes/{NODE}/proxy/healthz");
            if healthy {
                let request = http::Request::get(&path).body(Vec::new())?;
                if self.fleet.api.0.request_text(request).await.is_ok() {
                    return Ok(());
                }
            }
            if begun.elapsed() > LONGEST {
                bail!("the kubelet does not answer {LONGEST:?} after it was killed");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Makes the hostile guests.
pub(crate) async fn release(fleet: &Fleet, hostile: &[Hostile]) -> Result<()> {
    for guest in hostile {
        fleet
            .api
            .create(&guest.collection(), &guest.object())
            .await
            .with_context(|| format!("making the hostile guest {}", guest.name))?;
    }
    Ok(())
}
