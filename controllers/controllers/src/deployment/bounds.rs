//! How many pods a rollout may have and must keep.
use client::k8s_openapi::api::apps::v1::Deployment;
use client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The numbers that bound one Deployment's rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) replicas: i32,
    /// So many pods above `replicas` may exist.
    pub(crate) max_surge: i32,
    /// So many of `replicas` may be unavailable.
    pub(crate) max_unavailable: i32,
    pub(crate) rolling: bool,
}

impl Bounds {
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|s| s.replicas).unwrap_or(1).max(0);
        let strategy = spec.and_then(|s| s.strategy.as_ref());
        let rolling = strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") != "Recreate";
        if !rolling {
            return Self { replicas, max_surge: 0, max_unavailable: 0, rolling };
        }
        let update = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let surge = update.and_then(|u| u.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = update.and_then(|u| u.max_unavailable.as_ref()).unwrap_or(&quarter);
        let max_surge = resolve(surge, replicas, Round::Up);
        let mut max_unavailable = resolve(unavailable, replicas, Round::Down);
        if max_surge == 0 && max_unavailable == 0 {
            // Both can round to zero for few replicas; one pod must be free to move or nothing ever would.
            max_unavailable = 1;
        }
        Self { replicas, max_surge, max_unavailable: max_unavailable.min(replicas), rolling }
    }

    /// The most pods that may exist.
    pub(crate) fn ceiling(self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// The fewest pods that must be available.
    pub(crate) fn floor(self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

#[derive(Clone, Copy)]
enum Round {
    Up,
    Down,
}

/// An absolute number or a percentage of `total`; what cannot be read counts as zero (validation refuses it).
fn resolve(value: &IntOrString, total: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(s) => {
            let percent: i64 = s.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let hundredths = percent.max(0).saturating_mul(i64::from(total));
            let whole = match round {
                Round::Up => hundredths.saturating_add(99) / 100,
                Round::Down => hundredths / 100,
            };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};

    fn bounds(replicas: i32, surge: IntOrString, unavailable: IntOrString) -> Bounds {
        Bounds::of(&Deployment {
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(surge),
                        max_unavailable: Some(unavailable),
                    }),
                }),
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        })
    }

    #[test]
    fn surge_rounds_up_and_unavailable_rounds_down() {
        let percent = |s: &str| IntOrString::String(s.into());
        for (replicas, surge, unavailable, want) in [
            (10, percent("25%"), percent("25%"), (3, 2)),
            (3, percent("25%"), percent("25%"), (1, 0)),
            (1, IntOrString::Int(0), percent("25%"), (0, 1)),
            (0, percent("25%"), percent("25%"), (0, 0)),
            (2, IntOrString::Int(1), IntOrString::Int(5), (1, 2)),
            (4, percent("bogus"), IntOrString::Int(-3), (0, 1)),
        ] {
            let b = bounds(replicas, surge, unavailable);
            assert_eq!((b.max_surge, b.max_unavailable), want, "{replicas} replicas");
        }
    }
}
