//! One decision: which node for this pod.
use crate::cache::Snapshot;
use crate::framework::{FitError, Framework, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

/// Enough nodes to choose from (upstream's `minFeasibleNodesToFind`).
const MIN_FEASIBLE: usize = 100;
/// The least share of all nodes to find, in hundredths.
const MIN_PERCENTAGE: usize = 5;

/// Which nodes to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// Where among the nodes to begin: after the last one looked at before, so that all get their turn.
    pub start: usize,
    /// `percentageOfNodesToScore`; 0 lets the number of nodes decide.
    pub percentage: usize,
}

/// A node was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub node: String,
    /// How many nodes were looked at, and how many of them fit.
    pub looked_at: usize,
    pub feasible: usize,
}

/// How many nodes that fit are enough.
pub fn feasible_nodes_to_find(all: usize, percentage: usize) -> usize {
    if all < MIN_FEASIBLE {
        return all;
    }
    let percentage = match percentage {
        0 => 50usize.saturating_sub(all / 125).max(MIN_PERCENTAGE),
        p => p.min(100),
    };
    (all * percentage / 100).max(MIN_FEASIBLE)
}

/// Decides. The same arguments, the same random numbers, the same decision.
pub fn schedule_one(
    framework: &Framework,
    snapshot: &Snapshot,
    pod: &PodInfo,
    sampling: Sampling,
    random: &mut dyn FnMut() -> u64,
) -> Result<Placement, FitError> {
    let mut error = FitError { all_nodes: snapshot.nodes().len(), ..FitError::default() };
    if error.all_nodes == 0 {
        return Err(error);
    }
    let mut rejections = Vec::new();
    match candidates(framework, snapshot, pod, sampling.start) {
        Err(rejection) => {
            error.rejected_by.insert(rejection.plugin);
            error.pre_filter = Some(rejection.reasons.join(", "));
        }
        Ok(Candidates { nodes, restricted_by }) => {
            let enough = feasible_nodes_to_find(nodes.len(), sampling.percentage);
            let verdicts: Vec<_> =
                framework.cluster_filters.iter().filter_map(|p| p.begin(pod, snapshot)).collect();
            let mut feasible = Vec::new();
            let mut looked_at = 0;
            for node in nodes {
                looked_at += 1;
                let judged = filter(framework, snapshot, pod, node)
                    .and_then(|()| verdicts.iter().try_for_each(|judge| judge(node)));
                match judged {
                    Ok(()) => feasible.push(node),
                    Err(rejection) => rejections.push((node, rejection)),
                }
                if feasible.len() >= enough {
                    break;
                }
            }
            if !feasible.is_empty() {
                let node = choose(framework, snapshot, pod, &feasible, random).name.clone();
                return Ok(Placement { node, looked_at, feasible: feasible.len() });
            }
            for (_, rejection) in &rejections {
                error.count(rejection);
            }
            if !restricted_by.is_empty() {
                // The nodes that a PreFilter left out count as rejected by it.
                let left_out = error.all_nodes - looked_at;
                if left_out > 0 {
                    let reason = format!("node(s) didn't satisfy plugin(s) [{}]", restricted_by.join(" "));
                    error.reasons.insert(reason, left_out);
                }
                error.rejected_by.extend(restricted_by);
            }
        }
    }
    error.post_filter = framework.post_filters.iter().find_map(|p| p.post_filter(pod, snapshot, &rejections));
    Err(error)
}

struct Candidates<'s> {
    nodes: Vec<&'s NodeInfo>,
    /// The PreFilters that left nodes out.
    restricted_by: Vec<&'static str>,
}

/// The nodes that the PreFilters leave, beginning at `start`.
fn candidates<'s>(
    framework: &Framework,
    snapshot: &'s Snapshot,
    pod: &PodInfo,
    start: usize,
) -> Result<Candidates<'s>, Rejection> {
    let mut restricted_by = Vec::new();
    let mut names: Option<std::collections::BTreeSet<String>> = None;
    for plugin in &framework.pre_filters {
        if let Some(only) = plugin.pre_filter(pod, snapshot)? {
            restricted_by.push(plugin.name());
            names = Some(match names {
                None => only,
                Some(before) => before.intersection(&only).cloned().collect(),
            });
        }
    }
    let nodes = match names {
        Some(names) => names.iter().filter_map(|n| snapshot.node(n)).collect(),
        None => {
            let all = snapshot.nodes();
            let (before, after) = all.split_at(start % all.len());
            after.iter().chain(before).collect()
        }
    };
    Ok(Candidates { nodes, restricted_by })
}

fn filter(
    framework: &Framework,
    snapshot: &Snapshot,
    pod: &PodInfo,
    node: &NodeInfo,
) -> Result<(), Rejection> {
    framework.filters.iter().try_for_each(|plugin| plugin.filter(pod, node, snapshot))
}

/// The node with the greatest score; of equals, any.
fn choose<'n>(
    framework: &Framework,
    snapshot: &'n Snapshot,
    pod: &'n PodInfo,
    feasible: &[&'n NodeInfo],
    random: &mut dyn FnMut() -> u64,
) -> &'n NodeInfo {
    if let [only] = feasible {
        return only;
    }
    let mut totals = vec![0i64; feasible.len()];
    let mut scores = Vec::with_capacity(feasible.len());
    for (plugin, weight) in &framework.scores {
        scores.clear();
        scores.extend(feasible.iter().map(|node| plugin.score(pod, node)));
        plugin.normalise(&mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total = total.saturating_add(score.saturating_mul(*weight));
        }
    }
    for (plugin, weight) in &framework.cluster_scores {
        let Some(score) = plugin.begin(pod, snapshot, feasible) else { continue };
        scores.clear();
        scores.extend(feasible.iter().map(|node| score(node)));
        plugin.normalise(&mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total = total.saturating_add(score.saturating_mul(*weight));
        }
    }
    let best = totals.iter().copied().max().unwrap_or(0);
    let equals: Vec<usize> = (0..totals.len()).filter(|i| totals[*i] == best).collect();
    // `equals` holds at least the best one. The bias of the remainder is below 2^-50.
    feasible[equals[(random() % equals.len() as u64) as usize]]
}
