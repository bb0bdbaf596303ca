//! NetworkPolicies between wasm pods: what the kernel would do elsewhere, the sandbox does here.
use crate::harness::{Namespace, environment, http, wait, world};
use std::time::{Duration, Instant};

/// `web` answers, `fetch` asks whom it is told to.
fn manifest(egress: &str) -> String {
    let (hello, fetch) = (world().image("hello-http"), world().pushed("fetch"));
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  containers: [{{name: web, image: {hello}, ports: [{{containerPort: 8080, name: http}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{port: 8888, targetPort: http}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: fetch, labels: {{app: fetch}}, annotations: {{{egress}}}}}
spec:
  containers: [{{name: fetch, image: {fetch}, ports: [{{containerPort: 8080}}]}}]
"#
    )
}

/// Pods in a namespace of their own.
struct Pods {
    t: Namespace,
    web: String,
    fetch: String,
}

impl Pods {
    fn new(name: &str, egress: &str) -> Self {
        let t = Namespace::new(&world().cluster, name);
        t.apply(&manifest(egress));
        t.ok(&["wait", "pod", "web", "fetch", "--for=condition=Ready", "--timeout=90s"]);
        let address = |pod| {
            let pod = t.json(&["get", "pod", pod]);
            pod["status"]["podIP"].as_str().expect("an address").to_owned()
        };
        let (web, fetch) = (address("web"), address("fetch"));
        Self { t, web, fetch }
    }

    /// What the fetching pod says of a URL: the other's status and body, or why there is none.
    fn fetch(&self, url: &str) -> String {
        let answer = http::get(&format!("{}:8080", self.fetch), "fetch", &format!("/{url}"));
        answer.map_or_else(|e| e, |answer| answer.body)
    }

    fn reaches(&self, url: &str) -> bool {
        self.fetch(url).starts_with("200: Hello from WebAssembly")
    }

    fn until(&self, what: &str, url: &str, wanted: bool) -> Duration {
        let began = Instant::now();
        wait::until(what, || {
            let said = self.fetch(url);
            wait::holds(said.starts_with("200: Hello") == wanted, said)
        });
        began.elapsed()
    }
}

const DENY_INGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]
"#;

const DENY_EGRESS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: fetch}
spec:
  podSelector: {matchLabels: {app: fetch}}
  policyTypes: [Egress]
"#;

#[test]
fn a_policy_cuts_two_wasm_pods_apart_within_a_second_and_lets_them_together_again() {
    let pods = Pods::new("netpol-cut", "");
    let ways = [
        format!("http://{}:8080/", pods.web),
        "http://web:8888/".into(),
        "http://web.netpol-cut.svc.cluster.local:8888/".into(),
    ];
    for way in &ways {
        pods.until("both pods know of each other", way, true);
    }
    assert!(pods.fetch("http://web:1/").contains("ConnectionRefused"), "{}", pods.fetch("http://web:1/"));

    assert_eq!(pods.t.apply(DENY_INGRESS), "networkpolicy.networking.k8s.io/web created\n");
    let took = pods.until("the policy holds", &ways[0], false);
    assert!(took < Duration::from_secs(1), "{took:?}");
    for way in &ways {
        assert!(!pods.reaches(way), "by {way}: {}", pods.fetch(way));
    }
    // The node itself is not kept out: its probes, and whoever is on it.
    assert_eq!(http::get(&format!("{}:8080", pods.web), "web", "/").expect("an answer").status, 200);

    pods.t.ok(&["label", "pod", "fetch", "app=friend", "--overwrite"]);
    for way in &ways {
        pods.until("a friend is let in", way, true);
    }
    pods.t.ok(&["label", "pod", "fetch", "app=fetch", "--overwrite"]);
    pods.until("it is no friend any more", &ways[1], false);
    pods.t.ok(&["delete", "netpol", "web"]);
    let took = pods.until("the policy is lifted", &ways[1], true);
    assert!(took < Duration::from_secs(1), "{took:?}");

    pods.t.apply(DENY_EGRESS);
    for way in &ways {
        pods.until("nothing goes out", way, false);
    }
    let said = pods.fetch(&ways[1]);
    assert!(said.contains("DestinationIpProhibited"), "{said}");
    pods.t.ok(&["delete", "netpol", "fetch"]);
    pods.until("the policy is lifted", &ways[1], true);
}

#[test]
fn no_wasm_pod_reaches_the_node_or_a_metadata_service_by_address_or_by_name() {
    let pods = Pods::new("netpol-node", "");
    // Something that would answer: the gateway, on the node's loopback.
    let gateway = world().cluster.gateway();
    let port = gateway.rsplit_once(':').expect("a port").1;
    assert!(http::get(&gateway, "nobody.localhost", "/").is_ok(), "the gateway answers the test");
    for host in ["127.0.0.2", "169.254.169.254", "[::1]", "ip6-localhost", "0.0.0.0"] {
        let said = pods.fetch(&format!("http://{host}:{port}/"));
        assert!(said.contains("DestinationIpProhibited") || said.contains("DnsError"), "{host}: {said}");
    }
    // Its own loopback is its pod, where nothing listens on that port.
    for host in ["127.0.0.1", "localhost"] {
        let said = pods.fetch(&format!("http://{host}:{port}/"));
        assert!(said.contains("ConnectionRefused"), "{host}: {said}");
    }
}

#[test]
fn a_list_of_hosts_lets_a_pod_call_these_and_no_others() {
    let pods = Pods::new("netpol-hosts", r#"dhow.dev/egress: "web:8888, *.example""#);
    pods.until("the listed service answers", "http://web:8888/", true);
    pods.until("by its full name too", "http://web.netpol-hosts.svc:8888/", true);
    for url in [format!("http://{}:8080/", pods.web), "http://other.test/".into()] {
        let said = pods.fetch(&url);
        assert!(said.contains("HttpRequestDenied"), "{url}: {said}");
    }
    let bad =
        manifest(r#"dhow.dev/egress: "http://nonsense""#).replace("name: fetch, labels", "name: bad, labels");
    pods.t.apply(&bad);
    let state = pods.t.container_state("bad", "waiting", "CreateContainerError");
    let message = state["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("annotation dhow.dev/egress: \"http://nonsense\" is neither a host name"),
        "{state}"
    );
}

#[test]
fn kubectl_shows_what_a_policy_says() {
    let t = Namespace::with(&world().cluster, "netpol-kubectl", environment::oldest_kubectl());
    t.apply(DENY_INGRESS);
    let shown = t.ok(&["get", "netpol"]);
    let row: Vec<&str> = shown.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row[..2], ["web", "app=web"], "{shown}");
    let described = t.ok(&["describe", "netpol", "web"]);
    for part in [
        "PodSelector:     app=web",
        "PodSelector: app=friend",
        "Not affecting egress traffic",
        "Policy Types: Ingress",
    ] {
        assert!(described.contains(part), "{part} in {described}");
    }
    let bad = DENY_INGRESS.replace("{podSelector: {matchLabels: {app: friend}}}", "{}");
    let said = t.run_with(&["apply", "-f", "-"], &bad).fails();
    assert!(said.contains("spec.ingress[0].from[0]: Required value: must specify a peer"), "{said}");
    let listed = t.dhow(&["get", "netpol"]).ok();
    assert!(listed.contains("app=web"), "{listed}");
}
