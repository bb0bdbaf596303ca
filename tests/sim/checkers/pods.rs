//! A pod is bound once, ends once, and speaks of its own containers.
use super::Checker;
use crate::state::{Change, State, has_ended, is_true, list, text, uid};

pub struct BoundOnce;

impl Checker for BoundOnce {
    fn invariant(&self) -> &'static str {
        "a pod is bound once, to one node"
    }

    fn committed(&mut self, change: &Change, _: &State) -> Result<(), String> {
        if change.resource != "core/pods" {
            return Ok(());
        }
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Ok(()) };
        let (before, after) = (text(old, "/spec/nodeName"), text(new, "/spec/nodeName"));
        if !before.is_empty() && before != after {
            return Err(format!("{} moved from {before} to {after:?}", change.about()));
        }
        Ok(())
    }
}

pub struct EndsOnce;

impl Checker for EndsOnce {
    fn invariant(&self) -> &'static str {
        "a pod that has ended stays so, and its containers' restarts are only counted up"
    }

    fn committed(&mut self, change: &Change, _: &State) -> Result<(), String> {
        if change.resource != "core/pods" {
            return Ok(());
        }
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Ok(()) };
        let (before, after) = (text(old, "/status/phase"), text(new, "/status/phase"));
        // Who fails a pod in the kubelet's stead (its node is gone) marks it so and removes it; a last word of that
        // kubelet may come between, as upstream.
        if has_ended(old) && before != after && !is_true(old, "DisruptionTarget") {
            return Err(format!("{} was {before} and is {after}", change.about()));
        }
        for new in list(new, "/status/containerStatuses") {
            let old = list(old, "/status/containerStatuses").iter().find(|o| o["name"] == new["name"]);
            let (before, after) =
                (old.and_then(|o| o["restartCount"].as_i64()), new["restartCount"].as_i64());
            if before > after {
                return Err(format!(
                    "{}: {} restarts of {} became {after:?}",
                    change.about(),
                    before.unwrap_or(0),
                    new["name"]
                ));
            }
        }
        Ok(())
    }
}

pub struct OwnContainers;

impl Checker for OwnContainers {
    fn invariant(&self) -> &'static str {
        "a pod's status tells of containers made for that very pod on its node"
    }

    fn committed(&mut self, change: &Change, state: &State) -> Result<(), String> {
        if change.resource != "core/pods" {
            return Ok(());
        }
        let Some(pod) = &change.new else { return Ok(()) };
        for status in list(pod, "/status/containerStatuses") {
            let Some((_, id)) = status["containerID"].as_str().and_then(|id| id.split_once("://")) else {
                continue;
            };
            let Some(record) = state.containers.get(id) else {
                return Err(format!("{} tells of container {id}, which no node made", change.about()));
            };
            if record.pod_uid != uid(pod) || record.node != text(pod, "/spec/nodeName") {
                return Err(format!(
                    "{} (uid {}) tells of container {id} of pod {} on {}",
                    change.about(),
                    uid(pod),
                    record.pod_uid,
                    record.node
                ));
            }
        }
        Ok(())
    }
}

pub struct StoppedFirst;

impl Checker for StoppedFirst {
    fn invariant(&self) -> &'static str {
        "a pod that was deleted with grace leaves the API after its containers have stopped"
    }

    fn committed(&mut self, change: &Change, state: &State) -> Result<(), String> {
        let (Some(old), None) = (&change.old, &change.new) else { return Ok(()) };
        if change.resource != "core/pods" || state.forced.contains(uid(old)) {
            return Ok(());
        }
        let Some(machine) = state.machines.get(text(old, "/spec/nodeName")) else { return Ok(()) };
        let running = machine.running();
        let own = running.iter().find(|id| state.containers.get(*id).is_some_and(|c| c.pod_uid == uid(old)));
        match own {
            Some(id) => Err(format!("{} is gone, its container {id} runs on", change.about())),
            None => Ok(()),
        }
    }
}
