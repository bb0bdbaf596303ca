//! A whole cluster in one thread: store, API server, scheduler, controllers, nodes; each a process that may die at
//! any of its effects and is started anew, knowing nothing but what it is told.
use crate::door::{Door, Net};
use crate::gate::{Gate, Side};
use crate::journal::Journal;
use crate::machine::{Line, Machine, Prober};
use crate::mutants::{Defect, Mutant};
use crate::observer::Observer;
use crate::rng::Rng;
use crate::server::{Server, ambient};
use crate::tap::Tap;
use crate::weather::{Sky, Weather};
use apiserver::UserInfo;
use client::{Client, Informers};
use machinery::ambient::Ambient;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use store::{FaultyStore, Intercepted, MemoryStore, Retention, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A machine with a kubelet on it.
pub struct Node {
    pub machine: Arc<Machine>,
    /// No packet passes.
    pub cut_off: Arc<AtomicBool>,
    /// The machine was taken away.
    pub off: CancellationToken,
    /// Where its kubelet keeps files; it outlives the kubelet.
    files: tempfile::TempDir,
}

pub struct World {
    pub net: Arc<Net>,
    pub tap: Arc<Tap>,
    pub observer: Arc<Observer>,
    pub journal: Arc<Journal>,
    pub rng: Rng,
    pub nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    ambient: Ambient,
    faulty: Arc<FaultyStore>,
    mutant: Option<Mutant>,
    /// The processes that are alive, by name.
    alive: Mutex<BTreeMap<String, Gate>>,
    /// No process stays down for longer than a moment.
    calm: AtomicBool,
    /// One task keeps each process.
    keepers: Mutex<JoinSet<()>>,
    nodes_made: AtomicU64,
}

/// What every machine is, wherever the simulation runs.
fn facts() -> kubelet::node::facts::Machine {
    kubelet::node::facts::Machine {
        cores: 2,
        memory_bytes: 1 << 30,
        disk_bytes: 1 << 34,
        kernel_version: "6.1.0".into(),
        os_image: "Simulated".into(),
        architecture: "amd64".into(),
        ..Default::default()
    }
}

/// Pods a node takes: few, so that nodes fill up.
const MAX_PODS: u32 = 14;

impl World {
    pub async fn new(seed: u64, mutant: Option<Mutant>, journal: Arc<Journal>) -> Arc<Self> {
        let observer = Arc::new(Observer::new(journal.clone()));
        let ambient = ambient(Rng::new(seed, "ambient"));
        let clock = ambient.clone();
        let clock: store::Clock = Arc::new(move || u64::try_from(clock.now().as_millisecond()).unwrap_or(0));
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(clock, Retention::default()));
        let tap = Arc::new(Tap::new(memory.clone(), observer.clone()).await);
        let tapped = Intercepted::new(memory, tap.clone());
        let mutated = Intercepted::new(Arc::new(tapped), Defect { mutant, count: Arc::default() });
        let faulty = Arc::new(FaultyStore::around(
            Arc::new(mutated),
            store::Faults::default(),
            Rng::new(seed, "store").next(),
        ));
        let server = Server::new(faulty.clone(), ambient.clone(), journal.clone());
        let net = Arc::new(Net {
            server,
            sky: Sky::default(),
            rng: Rng::new(seed, "net"),
            observer: observer.clone(),
            journal: journal.clone(),
        });
        let world = Arc::new(Self {
            net,
            tap,
            observer,
            journal,
            rng: Rng::new(seed, "world"),
            nodes: Mutex::default(),
            ambient,
            faulty,
            mutant,
            alive: Mutex::default(),
            calm: AtomicBool::new(false),
            keepers: Mutex::default(),
            nodes_made: AtomicU64::new(0),
        });
        world.keep(World::run_server);
        world.keep(World::run_scheduler);
        world.keep(World::run_controllers);
        world
    }

    fn keep<F: Future<Output = ()> + Send + 'static>(self: &Arc<Self>, run: impl FnOnce(Arc<Self>) -> F) {
        self.keepers.lock().spawn(run(self.clone()));
    }

    /// What the world is like from now on.
    pub fn weather(&self, weather: Weather) {
        self.net.sky.becomes(weather);
        self.faulty.set_faults(weather.store.faults());
    }

    /// The end of all trouble: nothing fails any more, nothing stays down.
    pub fn clears_up(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.weather(Weather::default());
        for node in self.nodes.lock().values() {
            node.cut_off.store(false, Ordering::Relaxed);
            node.machine.runtime.set_down(None);
        }
        for gate in self.alive.lock().values() {
            gate.spare();
            if self.mutant == Some(Mutant::NoControllers) && gate.name() == "controllers" {
                gate.close("for good");
            }
        }
    }

    /// One of the living processes is to die at one of its next effects.
    pub fn doom_one(&self) {
        let alive = self.alive.lock();
        let gates: Vec<&Gate> = alive.values().collect();
        if gates.is_empty() {
            return;
        }
        let gate = self.rng.pick(&gates);
        let side = *self.rng.pick(&[Side::Before, Side::After]);
        let count = self.rng.between(1, 30);
        self.journal.note(format_args!("doom {}: {side:?} effect {count}", gate.name()));
        gate.die_at(count, side);
    }

    /// The store forgets its history: whoever was away for long is told so and lists anew.
    pub async fn forget_history(&self) {
        let head = self.observer.with(|state| state.head);
        self.journal.note(format_args!("history before {head} is forgotten"));
        if let Err(error) = self.tap.compact(head).await {
            self.journal.broke("the store compacts", error);
        }
    }

    /// How long a process stays down.
    async fn downtime(&self) {
        let most = if self.calm.load(Ordering::Relaxed) { 200 } else { 8_000 };
        tokio::time::sleep(self.rng.millis(10, most)).await;
    }

    fn born(&self, gate: &Gate) {
        self.journal.note(format_args!("start {}", gate.name()));
        self.alive.lock().insert(gate.name().to_owned(), gate.clone());
    }

    fn buried(&self, gate: &Gate) {
        self.alive.lock().remove(gate.name());
    }

    pub fn door(self: &Arc<Self>, user: UserInfo, gate: &Gate, cut_off: Arc<AtomicBool>) -> Door {
        Door { net: self.net.clone(), user, gate: gate.clone(), cut_off }
    }

    fn client(self: &Arc<Self>, user: UserInfo, gate: &Gate) -> Client {
        client::in_process(self.door(user, gate, Arc::default()), "default")
    }

    async fn run_server(self: Arc<Self>) {
        loop {
            let gate = self.net.server.start();
            self.born(&gate);
            gate.token().cancelled().await;
            self.buried(&gate);
            self.net.server.bury();
            self.downtime().await;
        }
    }

    /// Runs a process until it dies; breaks an invariant if it ends by itself.
    async fn live(&self, gate: &Gate, process: impl Future<Output = ()> + Send + 'static) {
        self.born(gate);
        let mut task = JoinSet::new();
        task.spawn(process);
        let dead = gate.token();
        tokio::select! {
            biased;
            () = dead.cancelled() => {}
            ended = task.join_next() => {
                if !gate.is_dead() {
                    let how = ended.and_then(Result::err).map_or("it returned".to_owned(), |e| e.to_string());
                    self.journal.broke("no process ends by itself", format_args!("{}: {how}", gate.name()));
                }
            }
        }
        task.shutdown().await;
        self.buried(gate);
        // Whatever is still under way in its name happens before its successor looks.
        gate.settled().await;
        self.downtime().await;
    }

    async fn run_scheduler(self: Arc<Self>) {
        loop {
            let gate = Gate::open("scheduler", self.journal.clone());
            let client = self.client(UserInfo::component("system:kube-scheduler"), &gate);
            let informers = Informers::new(client.clone(), gate.token());
            let run = scheduler::run(
                scheduler::Config::default(),
                client,
                informers,
                self.ambient.clone(),
                gate.token(),
            );
            self.live(&gate, run).await;
        }
    }

    async fn run_controllers(self: Arc<Self>) {
        loop {
            if self.mutant == Some(Mutant::NoControllers) && self.calm.load(Ordering::Relaxed) {
                return;
            }
            let gate = Gate::open("controllers", self.journal.clone());
            let client = self.client(UserInfo::component("system:kube-controller-manager"), &gate);
            let informers = Informers::new(client.clone(), gate.token());
            let config = controllers::Config { root_ca_pem: "PEM".into(), ..controllers::Config::default() };
            let run = controllers::run(config, client, informers, self.ambient.clone(), gate.token());
            self.live(&gate, run).await;
        }
    }

    /// A new machine joins.
    pub fn add_node(self: &Arc<Self>) -> String {
        let number = self.nodes_made.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("n{number}");
        let node = Arc::new(Node {
            machine: Arc::new(Machine::new(&name, number)),
            cut_off: Arc::default(),
            off: CancellationToken::new(),
            files: tempfile::tempdir().expect("a directory for temporary files"),
        });
        self.nodes.lock().insert(name.clone(), node.clone());
        let runtime = node.machine.runtime.clone();
        self.observer.with(|state| state.machines.insert(name.clone(), runtime));
        self.keep(|world| world.run_kubelet(node));
        name
    }

    /// Takes a machine away for ever; its Node object is the administrator's to delete.
    pub fn take_away(&self, name: &str) {
        if let Some(node) = self.nodes.lock().remove(name) {
            self.journal.note(format_args!("machine {name} is taken away"));
            node.off.cancel();
            self.observer.with(|state| state.machines.remove(name));
            if let Some(gate) = self.alive.lock().get(&format!("kubelet-{name}")) {
                gate.close("its machine is gone");
            }
        }
    }

    async fn run_kubelet(self: Arc<Self>, node: Arc<Node>) {
        let name = node.machine.node.clone();
        while !node.off.is_cancelled() {
            let gate = Gate::open(&format!("kubelet-{name}"), self.journal.clone());
            let door = self.door(UserInfo::node(&name), &gate, node.cut_off.clone());
            let line = Arc::new(Line {
                machine: node.machine.clone(),
                gate: gate.clone(),
                net: self.net.clone(),
                mutant: self.mutant,
            });
            let mut config = kubelet::Config::new(
                &name,
                client::in_process(door, "default"),
                line.clone(),
                line,
                node.files.path().to_owned(),
                IpAddr::V4(Ipv4Addr::LOCALHOST),
            );
            config.max_pods = MAX_PODS;
            config.prober = Arc::new(Prober(node.machine.clone()));
            config.machine = Some(facts());
            let (ambient, token, journal, who) =
                (self.ambient.clone(), gate.token(), self.journal.clone(), name.clone());
            let process = async move {
                if let Err(error) = kubelet::run(config, ambient, token).await {
                    journal.broke("a kubelet starts", format_args!("{who}: {error}"));
                }
            };
            self.live(&gate, process).await;
        }
    }

    /// Something befalls one of the machines.
    pub fn trouble_a_machine(self: &Arc<Self>) {
        let nodes: Vec<Arc<Node>> = self.nodes.lock().values().cloned().collect();
        if nodes.is_empty() {
            return;
        }
        let node = self.rng.pick(&nodes).clone();
        let name = node.machine.node.clone();
        let (runtime, world) = (node.machine.runtime.clone(), self.clone());
        match self.rng.below(4) {
            0 => {
                self.journal.note(format_args!("machine {name} is rebooted"));
                if let Some(gate) = self.alive.lock().get(&format!("kubelet-{name}")) {
                    gate.close("its machine is rebooted");
                }
                runtime.reboot();
            }
            1 => {
                let silence = *self.rng.pick(&[5u64, 30, 60, 400]);
                self.journal.note(format_args!("machine {name} is cut off for {silence} s"));
                node.cut_off.store(true, Ordering::Relaxed);
                self.keep(|_| async move {
                    tokio::time::sleep(Duration::from_secs(silence)).await;
                    node.cut_off.store(false, Ordering::Relaxed);
                });
            }
            2 => {
                let away = self.rng.between(1, 40);
                let loses = self.rng.chance(500);
                self.journal.note(format_args!(
                    "the runtime of {name} is away for {away} s, its containers lost: {loses}"
                ));
                runtime.set_down(Some(cri::Error::Unavailable("the runtime is away".into())));
                if loses {
                    runtime.reboot();
                }
                self.keep(|_| async move {
                    tokio::time::sleep(Duration::from_secs(away)).await;
                    runtime.set_down(None);
                });
            }
            _ => {
                let running = runtime.running();
                if !running.is_empty() {
                    let id = self.rng.pick(&running);
                    world.journal.note(format_args!("container {} on {name} crashes", &id[..12]));
                    runtime.end_container(id, 139, "Error", "segmentation fault");
                }
            }
        }
    }

    /// Everything ends.
    pub async fn end(&self) {
        let mut keepers = std::mem::take(&mut *self.keepers.lock());
        keepers.shutdown().await;
        self.net.server.bury();
    }
}
