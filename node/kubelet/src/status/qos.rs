//! The quality-of-service class of a pod (`Guaranteed`, `Burstable`, `BestEffort`).
use client::k8s_openapi::api::core::v1 as core;

/// Limit and request of a container for one resource.
fn named<'a>(c: &'a core::Container, name: &str) -> (Option<&'a str>, Option<&'a str>) {
    let Some(r) = &c.resources else { return (None, None) };
    let limit = r.limits.as_ref().and_then(|l| l.get(name)).map(|q| q.0.as_str());
    let request = r.requests.as_ref().and_then(|l| l.get(name)).map(|q| q.0.as_str());
    (limit, request)
}

/// The class: Guaranteed when every container limits CPU and memory and requests just that; BestEffort when
/// nobody asks for anything.
pub fn qos_class(spec: &core::PodSpec) -> &'static str {
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut asked = false;
    let mut guaranteed = true;
    for c in all() {
        for name in ["cpu", "memory"] {
            match named(c, name) {
                (Some(limit), request) => {
                    asked = true;
                    guaranteed &= request.is_none_or(|r| r == limit);
                }
                (None, Some(_)) => {
                    asked = true;
                    guaranteed = false;
                }
                (None, None) => guaranteed = false,
            }
        }
    }
    match (asked, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
