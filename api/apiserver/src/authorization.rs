//! Who may do what: a small fixed set of rules, as a pure function.
use crate::authentication::{AUTHENTICATED, MASTERS, UserInfo};
use machinery::status::Status;
use serde_json::{Value, json};

/// What someone wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes<'a> {
    Resource {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
    NonResource {
        verb: &'a str,
        path: &'a str,
    },
}

/// The components of the control plane and the node, by the names their certificates carry.
const COMPONENTS: &[&str] = &[
    "system:kube-scheduler",
    "system:kube-controller-manager",
    "system:kube-proxy",
    "system:gateway",
    "system:metrics-server",
];
/// What everyone may read, upstream's `system:public-info-viewer`.
const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];
/// What everyone who is known may read, upstream's `system:discovery`.
const DISCOVERY_PATHS: &[&str] = &["/api", "/apis", "/openapi"];

/// Whether `user` may do this.
pub fn authorize(user: &UserInfo, attributes: &Attributes<'_>) -> bool {
    let node = user.in_group("system:nodes") && user.name.starts_with("system:node:");
    // A shell in every pod is nothing that a component needs, nor whoever got hold of its key.
    let streams =
        matches!(attributes, Attributes::Resource { resource: "pods", subresource: "exec" | "attach", .. });
    if user.in_group(MASTERS) || (!streams && (COMPONENTS.contains(&user.name.as_str()) || node)) {
        return true;
    }
    let below = |path: &str, roots: &[&str]| {
        roots
            .iter()
            .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    match attributes {
        Attributes::NonResource { verb: "get" | "head", path } => {
            below(path, PUBLIC_PATHS) || (user.in_group(AUTHENTICATED) && below(path, DISCOVERY_PATHS))
        }
        // Upstream's `system:basic-user`: whoever is known may ask what they may do, and who they are.
        Attributes::Resource { verb: "create", group, resource, .. } => {
            user.in_group(AUTHENTICATED)
                && matches!(
                    (*group, *resource),
                    ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
                        | ("authentication.k8s.io", "selfsubjectreviews")
                )
        }
        _ => false,
    }
}

/// The 403 for a refused request, worded as upstream words it.
pub(crate) fn forbidden(user: &UserInfo, attributes: &Attributes<'_>) -> Status {
    match *attributes {
        Attributes::NonResource { verb, path } => Status::forbidden(
            None,
            "",
            format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name),
        ),
        Attributes::Resource { verb, group, resource, subresource, namespace, name } => {
            let subject = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
            let named = if name.is_empty() { String::new() } else { format!(" {name:?}") };
            let what = if subresource.is_empty() {
                resource.to_owned()
            } else {
                format!("{resource}/{subresource}")
            };
            let place = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            let mut status = Status::new(
                403,
                "Forbidden",
                format!(
                    "{subject}{named} is forbidden: User {:?} cannot {verb} resource {what:?} in API group {group:?} {place}",
                    user.name
                ),
            );
            let mut details = json!({ "kind": resource });
            if !name.is_empty() {
                details["name"] = json!(name);
            }
            if !group.is_empty() {
                details["group"] = json!(group);
            }
            status.details = details;
            status
        }
    }
}

/// What `user` may do, as a SubjectRulesReviewStatus.
pub(crate) fn rules(user: &UserInfo) -> Value {
    let everything = Attributes::Resource {
        verb: "*",
        group: "*",
        resource: "*",
        subresource: "",
        namespace: "*",
        name: "",
    };
    let mut resource_rules = Vec::new();
    let mut non_resource_rules = Vec::new();
    if authorize(user, &everything) {
        resource_rules.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
        non_resource_rules.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
    }
    if user.in_group(AUTHENTICATED) {
        resource_rules.push(json!({
            "verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        }));
        resource_rules.push(json!({
            "verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"],
        }));
        let paths: Vec<String> =
            DISCOVERY_PATHS.iter().flat_map(|p| [(*p).to_owned(), format!("{p}/*")]).collect();
        non_resource_rules.push(json!({ "verbs": ["get"], "nonResourceURLs": paths }));
    }
    non_resource_rules.push(json!({ "verbs": ["get"], "nonResourceURLs": PUBLIC_PATHS }));
    json!({ "resourceRules": resource_rules, "nonResourceRules": non_resource_rules, "incomplete": false })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST_PODS: Attributes<'_> = Attributes::Resource {
        verb: "list",
        group: "",
        resource: "pods",
        subresource: "",
        namespace: "default",
        name: "",
    };

    #[test]
    fn masters_components_and_nodes_may_do_everything_others_nothing() {
        for user in [UserInfo::admin(), UserInfo::component("system:kube-scheduler"), UserInfo::node("a")] {
            assert!(authorize(&user, &LIST_PODS), "{user:?}");
        }
        let impostor = UserInfo::new("system:node:a", ["developers"]);
        for user in [impostor, UserInfo::new("jane", ["developers"]), UserInfo::anonymous()] {
            assert!(!authorize(&user, &LIST_PODS), "{user:?}");
        }
    }

    #[test]
    fn a_shell_in_a_pod_is_for_administrators_alone() {
        for subresource in ["exec", "attach"] {
            let exec = Attributes::Resource {
                verb: "create",
                group: "",
                resource: "pods",
                subresource,
                namespace: "default",
                name: "web",
            };
            assert!(authorize(&UserInfo::admin(), &exec));
            for user in [UserInfo::component("system:kube-scheduler"), UserInfo::node("a")] {
                assert!(!authorize(&user, &exec), "{user:?}");
            }
        }
    }

    #[test]
    fn anonymous_sees_health_and_version_and_those_who_are_known_discovery_too() {
        let may = |user: &UserInfo, path| authorize(user, &Attributes::NonResource { verb: "get", path });
        let (nobody, jane) = (UserInfo::anonymous(), UserInfo::new("jane", ["developers"]));
        assert!(may(&nobody, "/livez/ping") && may(&nobody, "/version"));
        assert!(!may(&nobody, "/api") && !may(&nobody, "/healthzz") && !may(&nobody, "/metrics"));
        assert!(may(&jane, "/apis/apps/v1") && !may(&jane, "/metrics"));
    }

    #[test]
    fn refusals_are_worded_as_upstream_words_them() {
        let jane = UserInfo::new("jane", ["developers"]);
        assert_eq!(
            forbidden(&jane, &LIST_PODS).message,
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let scale = Attributes::Resource {
            verb: "patch",
            group: "apps",
            resource: "deployments",
            subresource: "scale",
            namespace: "",
            name: "d",
        };
        assert_eq!(
            forbidden(&jane, &scale).message,
            "deployments.apps \"d\" is forbidden: User \"jane\" cannot patch resource \"deployments/scale\" in API group \"apps\" at the cluster scope"
        );
    }
}
