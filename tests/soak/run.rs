//! One run: start, a lap for the baseline, the storm, and what is left after it.
use crate::api::Api;
use crate::cluster::{Cluster, NODE};
use crate::faults::Faults;
use crate::fleet::{Fleet, Function, namespaces};
use crate::hostile::{self, Hostile};
use crate::load::{Client, Seen, Way, provoke};
use crate::plan::{Shape, plan};
use crate::rng::Rng;
use crate::storm::{Done, Storm, release};
use crate::usage::{ALLOWANCE, Reading, excess};
use crate::watcher::{Watcher, guard_steady, standing};
use crate::{Args, report};
use anyhow::{Context, Result, bail};
use futures::StreamExt;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The longest wait for the cluster, and for what was deleted to be gone.
const LONG: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Functions made at a time.
const AT_ONCE: usize = 16;
/// Clients of each way, and their pause: some 300 requests a second together, which leaves the machine to what is
/// tested.
const CLIENTS: [usize; 3] = [6, 2, 1];
const PAUSE: Duration = Duration::from_millis(25);
/// For each so many functions there is one more hostile guest of each kind.
const FUNCTIONS_PER_HOSTILE: usize = 500;

pub(crate) async fn run(args: &Args) -> Result<()> {
    let begun = Instant::now();
    let seed = args.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    println!(
        "seed {seed}: {} functions, a storm of {:.1} minutes (again: --seed {seed} --functions {} --minutes {})",
        args.functions, args.minutes, args.functions, args.minutes
    );
    let faults = Rc::new(Faults::new(begun));
    // Each of them with two pods while one revision takes over from another, and the hostile ones.
    let max_pods = args.functions * 3 + 100;
    let cluster = Cluster::start(&args.dhow, max_pods, faults.clone()).await?;
    let soak = Soak::new(args, seed, length, cluster, faults.clone()).await?;
    let outcome = soak.laps().await;
    let (found, logs) = (faults.count(), outcome.is_err() || faults.count() > 0);
    if let (true, Some(folder)) = (logs, &args.keep_logs) {
        soak.cluster.keep_logs(folder)?;
        println!("logs are kept in {}", folder.display());
    } else if logs {
        println!("{}", soak.cluster.logs(40));
    }
    outcome?;
    drop(soak.fleet);
    let cluster = Rc::try_unwrap(soak.cluster).ok().context("somebody still holds the cluster")?;
    cluster.stop().await?;
    println!("\nthe run took {:.0} s", begun.elapsed().as_secs_f64());
    if found > 0 {
        println!("{found} faults:");
        for fault in faults.told() {
            println!("  {fault}");
        }
        bail!("{found} faults were found (seed {seed})");
    }
    println!("nothing was found");
    Ok(())
}

struct Soak<'a> {
    args: &'a Args,
    seed: u64,
    shape: Shape,
    cluster: Rc<Cluster>,
    fleet: Rc<Fleet>,
    functions: Rc<Vec<Function>>,
    hostile: Rc<Vec<Hostile>>,
    faults: Rc<Faults>,
    shutdown: CancellationToken,
}

/// Clients at work.
struct Load {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    seen: Rc<Seen>,
}

impl Load {
    async fn end(mut self) -> Rc<Seen> {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.seen
    }
}

impl<'a> Soak<'a> {
    async fn new(
        args: &'a Args,
        seed: u64,
        length: Duration,
        cluster: Cluster,
        faults: Rc<Faults>,
    ) -> Result<Self> {
        let api = Api(cluster.client.clone());
        until("the node is Ready", LONG, async || {
            let node = api.get(&format!("/api/v1/nodes/{NODE}")).await.unwrap_or_default();
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
        .await?;
        let image = api.import(NODE, "hello-http", std::fs::read(&args.guest)?).await?;
        let mut hostile = Vec::new();
        for guest in hostile::guests()? {
            let image = api.import(NODE, guest.name, guest.bytes.clone()).await?;
            let copies = 1 + args.functions / FUNCTIONS_PER_HOSTILE;
            hostile.extend((0..copies).map(|number| Hostile::new(&guest, number, &image)));
        }
        let shutdown = CancellationToken::new();
        let fleet = Fleet {
            watcher: Watcher::start(cluster.client.clone(), shutdown.clone()).await,
            api,
            image,
            gateway: cluster.gateway,
            limit: Duration::from_secs_f64(60.0 * args.patience),
            // The endpoints controller, a watch, a new routing table: some 20 ms each on a quiet machine.
            heard: Duration::from_secs_f64(0.5 * args.patience),
        };
        Ok(Self {
            args,
            seed,
            shape: Shape {
                functions: args.functions,
                steady: args.functions / 10,
                hostile: hostile.len(),
                length,
            },
            cluster: Rc::new(cluster),
            fleet: Rc::new(fleet),
            functions: Rc::new((0..args.functions).map(Function::new).collect()),
            hostile: Rc::new(hostile),
            faults,
            shutdown,
        })
    }

    async fn laps(&self) -> Result<()> {
        self.create().await?;
        println!("asking them for the baseline …");
        let load = self.load().await?;
        tokio::time::sleep((self.shape.length / 10).clamp(Duration::from_secs(8), Duration::from_secs(60)))
            .await;
        let seen = load.end().await;
        if seen.failed.get() > 0 {
            let first = seen.failures.borrow().first().map(|f| report::tell(f, &[], Instant::now()));
            self.faults
                .add(format!("{} requests failed before anything was done: {first:?}", seen.failed.get()));
        }
        self.delete().await?;
        let baseline = self.settled().await;
        println!("the baseline:\n{baseline}");

        self.create().await?;
        let done = Rc::new(Done::default());
        let (seen, curve) = self.storm(&done).await?;
        println!("with everything there:\n{}", self.cluster.reading());
        self.delete().await?;
        let outages = done.outages.borrow().clone();
        let failures = seen.failures.borrow().clone();
        let judged = report::judge_all(&failures, &outages, self.fleet.heard);
        for failure in &judged.unexplained {
            self.faults.add(report::tell(failure, &outages, self.faults.begun()));
        }
        let after = self.back_to(&baseline).await;
        report::print(&done, &seen, &judged, &curve);
        println!("the baseline:\n{baseline}after everything was deleted:\n{after}");
        self.shutdown.cancel();
        Ok(())
    }

    async fn create(&self) -> Result<()> {
        let begun = Instant::now();
        let api = &self.fleet.api;
        for name in namespaces(self.args.functions).iter().map(String::as_str).chain([hostile::NAMESPACE]) {
            // One of the lap before may be on its way out.
            until(&format!("namespace {name} is made"), LONG, async || api.namespace(name).await.is_ok())
                .await?;
        }
        let made = futures::stream::iter(self.functions.iter())
            .map(|function| self.fleet.create(function))
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for outcome in made {
            outcome.context("making the functions")?;
        }
        println!("{} functions serve after {:.1} s", self.functions.len(), begun.elapsed().as_secs_f64());
        // They come last: nobody has to be made beside them.
        release(&self.fleet, &self.hostile).await?;
        until("every hostile guest has run", LONG, async || self.all_have_run()).await
    }

    /// Whether a container of each hostile guest has been started, however it ended: its code is compiled then.
    fn all_have_run(&self) -> bool {
        self.hostile.iter().all(|guest| {
            let pods = self.fleet.watcher.pods.list_with_prefix(hostile::NAMESPACE, &guest.name);
            let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
            statuses.flatten().any(|status| status.container_id.is_some())
        })
    }

    /// Deletes the namespaces and waits until nothing of them is left.
    async fn delete(&self) -> Result<()> {
        let begun = Instant::now();
        let mut names = namespaces(self.args.functions);
        names.push(hostile::NAMESPACE.to_owned());
        for name in &names {
            self.fleet.api.delete(&format!("/api/v1/namespaces/{name}")).await?;
        }
        let patience = Duration::from_secs_f64(LONG.as_secs_f64() * self.args.patience);
        until("the namespaces are gone", patience, async || {
            for name in &names {
                if self.fleet.api.exists(&format!("/api/v1/namespaces/{name}")).await.unwrap_or(true) {
                    return false;
                }
            }
            self.fleet.watcher.pods.is_empty()
        })
        .await?;
        println!("everything is deleted after {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    async fn load(&self) -> Result<Load> {
        let steady = &self.functions[..self.shape.steady];
        let mut pods = Vec::new();
        let mut services = Vec::new();
        for function in steady {
            let address = self.fleet.watcher.address(&function.namespace, &function.pod_prefix());
            pods.push(address.with_context(|| format!("{} has no address", function.name))?);
            let path = format!("/api/v1/namespaces/{}/services/{}", function.namespace, function.name);
            let service = self.fleet.api.get(&path).await?;
            let ip = service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse::<std::net::IpAddr>().ok());
            let port = service["spec"]["ports"][0]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            let (ip, port) = ip.zip(port).with_context(|| format!("{}: {service}", function.name))?;
            services.push(std::net::SocketAddr::new(ip, port));
        }
        let ways =
            [Way::Gateway(self.fleet.gateway), Way::Pods(Rc::new(pods)), Way::Services(Rc::new(services))];
        let (seen, stop) = (Rc::new(Seen::default()), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for (way, count) in ways.into_iter().zip(CLIENTS) {
            for number in 0..count {
                let client = Client {
                    functions: self.functions.clone(),
                    rng: Rng::new(self.seed, &format!("client {way:?} {number}")),
                    way: way.clone(),
                    pause: PAUSE,
                    spoil: self.args.spoil,
                };
                tasks.spawn_local(client.run(seen.clone(), stop.clone()));
            }
        }
        let hosts = self.hostile.iter().filter(|guest| guest.serves).map(Hostile::host).collect();
        let faults = self.faults.clone();
        let unanswered = Rc::new(move |what: String| faults.add(what));
        tasks.spawn_local(provoke(self.fleet.gateway, hosts, seen.clone(), unanswered, stop.clone()));
        Ok(Load { tasks, stop, seen })
    }

    /// The plan carried out under load, and every function asked after it.
    async fn storm(&self, done: &Rc<Done>) -> Result<(Rc<Seen>, Vec<(Duration, u64)>)> {
        let steps = plan(self.seed, &self.shape);
        println!("the storm: {} steps", steps.len());
        let steady = self.steady()?;
        let guarding = tokio::task::spawn_local(guard_steady(
            self.fleet.watcher.clone(),
            steady.clone(),
            done.outages.clone(),
            self.faults.clone(),
        ));
        let curve = Rc::new(RefCell::new(Vec::new()));
        let measuring = tokio::task::spawn_local({
            let (cluster, curve, every) = (self.cluster.clone(), curve.clone(), self.shape.length / 30);
            async move {
                let begun = Instant::now();
                loop {
                    curve.borrow_mut().push((begun.elapsed(), cluster.reading().bytes()));
                    tokio::time::sleep(every).await;
                }
            }
        });
        let load = self.load().await?;
        let storm = Rc::new(Storm {
            cluster: self.cluster.clone(),
            fleet: self.fleet.clone(),
            functions: self.functions.clone(),
            hostile: self.hostile.clone(),
            faults: self.faults.clone(),
            done: done.clone(),
            patience: self.args.patience,
        });
        storm.run(steps, Rng::new(self.seed, "storm")).await;
        drop(storm);
        let serving = futures::stream::iter(self.functions.iter())
            .map(|function| self.fleet.serves(function))
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for error in serving.into_iter().filter_map(Result::err) {
            self.faults.add(format!("after the storm: {error:#}"));
        }
        let seen = load.end().await;
        measuring.abort();
        guarding.abort();
        // Both hold what is taken apart at the end.
        let _ = (measuring.await, guarding.await);
        self.check_steady(&steady, done);
        if seen.answered() == 0 {
            bail!("no request was answered: this was no soak");
        }
        Ok((seen, Rc::try_unwrap(curve).map(RefCell::into_inner).unwrap_or_default()))
    }

    /// The pods of functions that nobody changes.
    fn steady(&self) -> Result<std::collections::BTreeMap<crate::watcher::Key, crate::watcher::Standing>> {
        self.functions[..self.shape.steady]
            .iter()
            .map(|function| {
                let pods =
                    self.fleet.watcher.pods.list_with_prefix(&function.namespace, &function.pod_prefix());
                let pod = pods.first().with_context(|| format!("{} has no pod", function.name))?;
                let standing = standing(pod).with_context(|| format!("{} is not Ready", function.name))?;
                Ok((crate::watcher::key(pod), standing))
            })
            .collect()
    }

    /// Each death of the runtime is counted as one restart, and nothing else is.
    fn check_steady(
        &self,
        before: &std::collections::BTreeMap<crate::watcher::Key, crate::watcher::Standing>,
        done: &Done,
    ) {
        let deaths = done.outages.borrow().iter().filter(|o| o.killed.runtime()).count();
        for ((namespace, name), old) in before {
            let now = self.fleet.watcher.pods.get(namespace, name).and_then(|pod| standing(&pod));
            let expected = crate::watcher::Standing {
                restarts: old.restarts + i32::try_from(deaths).unwrap_or(i32::MAX),
                ..old.clone()
            };
            if now.as_ref() != Some(&expected) {
                self.faults.add(format!("pod {name} should be {expected:?} after the storm; it is {now:?}"));
            }
        }
    }

    /// Waits until memory goes down no more; what is held then.
    async fn settled(&self) -> Reading {
        let mut last = self.cluster.reading();
        // Connections that nobody uses and threads that nobody needs are let go after some seconds.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.cluster.reading();
            let files =
                |reading: &Reading| reading.processes.values().map(|u| u.files + u.threads).sum::<usize>();
            let still = now.bytes() + (1 << 20) > last.bytes() && files(&now) >= files(&last);
            last = now;
            if still {
                break;
            }
        }
        last
    }

    /// Waits until nothing lies above the baseline; what does in the end is a fault.
    async fn back_to(&self, baseline: &Reading) -> Reading {
        // Idle connections are closed and idle threads end within 30 s.
        let limit = Duration::from_secs(60);
        let begun = Instant::now();
        loop {
            let now = self.cluster.reading();
            let above = excess(baseline, &now, &ALLOWANCE);
            if above.is_empty() {
                println!("everything is back at the baseline after {:.1} s", begun.elapsed().as_secs_f64());
                return now;
            }
            if begun.elapsed() > limit {
                for what in above {
                    self.faults.add(format!("not back at the baseline: {what}"));
                }
                return now;
            }
            tokio::time::sleep(LOOK_AGAIN * 5).await;
        }
    }
}

async fn until(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !look().await {
        if begun.elapsed() > limit {
            bail!("{what}: not so after {} s", limit.as_secs());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
