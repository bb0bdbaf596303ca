//! What the runtime says of one pod: its sandboxes and containers, newest first.
use jiff::Timestamp;

/// A sandbox as the runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
    pub ready: bool,
    /// Empty while the sandbox has no address.
    pub ip: String,
    pub more_ips: Vec<String>,
    pub created_at: Timestamp,
}

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Made, never started.
    Created,
    Running,
    Exited,
    /// The runtime lost track of it.
    Unknown,
}

/// A container as the runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    /// How often a container of this name was made before.
    pub attempt: u32,
    pub sandbox_id: String,
    pub state: RunState,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    pub log_path: String,
    /// [`spec_hash`] of the container's specification when it was made; empty when unknown.
    pub hash: String,
}

impl Container {
    /// Whether it ended because its runtime did: nobody knows its exit code. containerd and our runtime say so with
    /// these two.
    pub fn is_lost(&self) -> bool {
        self.state == RunState::Exited && self.exit_code == 255 && self.reason == "Unknown"
    }
}

/// One pod as the runtime sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedPod {
    /// Newest attempt first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest attempt first within a name.
    pub containers: Vec<Container>,
}

impl ObservedPod {
    /// Puts both lists into their order.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        self.containers.sort_by(|a, b| {
            a.name.cmp(&b.name).then(b.attempt.cmp(&a.attempt)).then(b.created_at.cmp(&a.created_at))
        });
    }

    /// The newest container of a name, in whichever sandbox.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The container of a name before the newest.
    pub fn before_newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    /// The newest sandbox, ready or not.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The newest sandbox, if it is ready.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// Whether anything of the pod may still be running.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| matches!(c.state, RunState::Running | RunState::Unknown))
    }

    /// Dead containers nobody needs any more: of each name the newest and the one before it stay (the latter
    /// for `lastState` and `kubectl logs --previous`).
    pub fn surplus(&self) -> Vec<String> {
        let mut surplus = Vec::new();
        let mut name = "";
        let mut kept = 0;
        for c in &self.containers {
            if c.name != name {
                name = &c.name;
                kept = 0;
            }
            kept += 1;
            if kept > 2 && c.state == RunState::Exited {
                surplus.push(c.id.clone());
            }
        }
        surplus
    }
}

/// A stable hash over what may not change in a running container: its name and image (FNV-1a, 64 bits).
pub fn spec_hash(name: &str, image: &str) -> String {
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    for b in name.bytes().chain(std::iter::once(0)).chain(image.bytes()) {
        h ^= u64::from(b);
        h = h.wrapping_mul(0x0100_0000_01b3);
    }
    format!("{h:016x}")
}
