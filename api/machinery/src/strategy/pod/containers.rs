//! Validation of containers: names, images, ports, environment, mounts, probes, resources.
use super::volumes::{self, Volumes};
use crate::field::{Error, Path};
use crate::strategy::check::{self, Faults, PROTOCOLS, Unique};
use crate::strategy::view::{flag, has, int, list, maybe_int, text};
use crate::validation::{config_map_key, dns_label, dns_subdomain};
use serde_json::Value;

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// All containers of a PodSpec at `path`.
pub(super) fn all(faults: &mut Faults, spec: &Value, volumes: &Volumes, path: &Path) {
    let host_network = flag(spec, "/hostNetwork");
    let mut names = Unique::default();
    let mut host_ports = Unique::default();
    let main = path.child("containers");
    if list(spec, "/containers").is_empty() {
        faults.push(Error::required(main.clone(), ""));
    }
    for (i, c) in list(spec, "/containers").iter().enumerate() {
        let path = main.index(i);
        container(faults, c, volumes, &mut names, &path);
        for name in ["livenessProbe", "startupProbe"] {
            if maybe_int(c, &format!("/{name}/successThreshold")).is_some_and(|n| n != 1) {
                let at = path.child(name).child("successThreshold");
                faults.push(Error::invalid(at, int(c, &format!("/{name}/successThreshold")), "must be 1"));
            }
        }
        ports_on_host(faults, c, host_network, &mut host_ports, &path);
    }
    for (i, c) in list(spec, "/initContainers").iter().enumerate() {
        let path = path.child("initContainers").index(i);
        container(faults, c, volumes, &mut names, &path);
        let restart = text(c, "/restartPolicy");
        if !["", "Always"].contains(&restart) {
            faults.push(Error::not_supported(path.child("restartPolicy"), restart, &["Always"]));
        }
        if restart != "Always" {
            for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if has(c, &format!("/{name}")) {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    faults.push(Error::forbidden(path.child(name), detail));
                }
            }
        }
        ports_on_host(faults, c, host_network, &mut Unique::default(), &path);
    }
}

pub(super) fn image_has_no_spaces(faults: &mut Faults, container: &Value, path: &Path) {
    let image = text(container, "/image");
    if image != image.trim() {
        let detail = "must not have leading or trailing whitespace";
        faults.push(Error::invalid(path.child("image"), image, detail));
    }
}

fn container(faults: &mut Faults, c: &Value, volumes: &Volumes, names: &mut Unique, path: &Path) {
    match text(c, "/name") {
        "" => faults.push(Error::required(path.child("name"), "")),
        name => {
            check::rule(faults, name, path.child("name"), dns_label);
            names.insert(faults, name, path.child("name"));
        }
    }
    check::required(faults, c, path, "image");
    check::one_of(faults, c, path, "imagePullPolicy", PULL_POLICIES);
    check::one_of(faults, c, path, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"]);
    ports(faults, list(c, "/ports"), &path.child("ports"));
    env(faults, list(c, "/env"), &path.child("env"));
    env_from(faults, list(c, "/envFrom"), &path.child("envFrom"));
    volumes::mounts(faults, c, volumes, &path.child("volumeMounts"));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(c, &format!("/{name}")) {
            probe(faults, &c[name], &path.child(name));
        }
    }
    for hook in ["postStart", "preStop"] {
        if has(c, &format!("/lifecycle/{hook}")) {
            let action = &c["lifecycle"][hook];
            handler(
                faults,
                action,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                &path.child("lifecycle").child(hook),
            );
        }
    }
    check::resources(faults, &c["resources"], &path.child("resources"));
    for name in ["runAsUser", "runAsGroup"] {
        if let Some(n) = c["securityContext"][name].as_i64() {
            check::range(faults, n, path.child("securityContext").child(name), 0, i64::from(i32::MAX));
        }
    }
}

fn ports(faults: &mut Faults, ports: &[Value], path: &Path) {
    let mut names = Unique::default();
    for (i, p) in ports.iter().enumerate() {
        let path = path.index(i);
        match text(p, "/name") {
            "" => {}
            name => {
                check::port_name(faults, name, path.child("name"));
                names.insert(faults, name, path.child("name"));
            }
        }
        match int(p, "/containerPort") {
            0 => faults.push(Error::required(path.child("containerPort"), "")),
            n => check::port(faults, n, path.child("containerPort")),
        }
        match int(p, "/hostPort") {
            0 => {}
            n => check::port(faults, n, path.child("hostPort")),
        }
        check::one_of(faults, p, &path, "protocol", PROTOCOLS);
    }
}

/// Two containers may not ask for the same port of the node; on the node's network both ports are one.
fn ports_on_host(faults: &mut Faults, c: &Value, host_network: bool, taken: &mut Unique, path: &Path) {
    for (i, p) in list(c, "/ports").iter().enumerate() {
        let at = path.child("ports").index(i);
        let host_port = int(p, "/hostPort");
        if host_port != 0 {
            let claim = format!("{}/{}/{host_port}", text(p, "/protocol"), text(p, "/hostIP"));
            taken.insert(faults, &claim, at.child("hostPort"));
        }
        // Zero is filled in when a template becomes a pod.
        if host_network && host_port != 0 && host_port != int(p, "/containerPort") {
            let detail = "must match `containerPort` when `hostNetwork` is true";
            faults.push(Error::invalid(at.child("hostPort"), host_port, detail));
        }
    }
}

fn env_name(faults: &mut Faults, name: &str, path: Path) {
    if !name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        let detail = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        faults.push(Error::invalid(path, name, detail));
    }
}

/// A list of EnvVar.
pub(in crate::strategy) fn env(faults: &mut Faults, vars: &[Value], path: &Path) {
    for (i, var) in vars.iter().enumerate() {
        let path = path.index(i);
        match text(var, "/name") {
            "" => faults.push(Error::required(path.child("name"), "")),
            name => env_name(faults, name, path.child("name")),
        }
        if has(var, "/valueFrom") {
            env_source(faults, var, &path.child("valueFrom"));
        }
    }
}

fn env_source(faults: &mut Faults, var: &Value, path: &Path) {
    let source = &var["valueFrom"];
    let given = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"]
        .into_iter()
        .filter(|s| has(source, &format!("/{s}")))
        .collect::<Vec<_>>();
    for name in &given {
        let (reference, path) = (&source[*name], path.child(name));
        match *name {
            "fieldRef" => field_ref(faults, reference, &path),
            "resourceFieldRef" => match text(reference, "/resource") {
                "" => faults.push(Error::required(path.child("resource"), "")),
                r if !RESOURCE_FIELDS.contains(&r) && !r.contains("hugepages-") => {
                    faults.push(Error::not_supported(path.child("resource"), r, RESOURCE_FIELDS));
                }
                _ => {}
            },
            _ => {
                check::required(faults, reference, &path, "name");
                match text(reference, "/key") {
                    "" => faults.push(Error::required(path.child("key"), "")),
                    key => {
                        for e in config_map_key(key).err().into_iter().flatten() {
                            faults.push(Error::invalid(path.child("key"), key, &e));
                        }
                    }
                }
            }
        }
    }
    let refuse = |detail: &str| Error::invalid(path.clone(), "", detail);
    match given.len() {
        0 => faults.push(refuse(
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        )),
        _ if !text(var, "/value").is_empty() => {
            faults.push(refuse("may not be specified when `value` is not empty"));
        }
        1 => {}
        _ => faults.push(refuse("may not have more than one field specified at a time")),
    }
}

fn field_ref(faults: &mut Faults, reference: &Value, path: &Path) {
    let field = text(reference, "/fieldPath");
    let keyed = ["metadata.annotations['", "metadata.labels['"];
    if field.is_empty() {
        faults.push(Error::required(path.child("fieldPath"), ""));
    } else if let Some(rest) = keyed.iter().find_map(|k| field.strip_prefix(k)) {
        check::key(faults, &rest.strip_suffix("']").unwrap_or(rest).to_lowercase(), path.child("fieldPath"));
    } else if !ENV_FIELDS.contains(&field) {
        faults.push(Error::not_supported(path.child("fieldPath"), field, ENV_FIELDS));
    }
}

/// A list of EnvFromSource.
pub(in crate::strategy) fn env_from(faults: &mut Faults, sources: &[Value], path: &Path) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        env_name(faults, text(source, "/prefix"), at.child("prefix"));
        let mut given = 0;
        for name in ["configMapRef", "secretRef"] {
            if has(source, &format!("/{name}")) {
                given += 1;
                check::required(faults, &source[name], &at.child(name), "name");
            }
        }
        match given {
            0 => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                faults.push(Error::invalid(path.clone(), "", detail));
            }
            1 => {}
            _ => {
                let detail = "may not have more than one field specified at a time";
                faults.push(Error::invalid(path.clone(), "", detail));
            }
        }
    }
}

fn probe(faults: &mut Faults, probe: &Value, path: &Path) {
    handler(faults, probe, &["exec", "httpGet", "tcpSocket", "grpc"], path);
    for name in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        check::not_negative(faults, probe, path, name);
    }
    if let Some(n) = maybe_int(probe, "/terminationGracePeriodSeconds")
        && n <= 0
    {
        faults.push(Error::invalid(path.child("terminationGracePeriodSeconds"), n, "must be greater than 0"));
    }
}

fn handler(faults: &mut Faults, action: &Value, kinds: &[&str], path: &Path) {
    let mut given = 0;
    for kind in kinds.iter().filter(|k| has(action, &format!("/{k}"))) {
        let (a, at) = (&action[*kind], path.child(kind));
        given += 1;
        if given > 1 {
            faults.push(Error::forbidden(at, "may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" if list(a, "/command").is_empty() => faults.push(Error::required(at.child("command"), "")),
            "httpGet" => {
                check::required(faults, a, &at, "path");
                check::port_or_name(faults, &a["port"], at.child("port"));
                check::one_of(faults, a, &at, "scheme", &["HTTP", "HTTPS"]);
                for header in list(a, "/httpHeaders") {
                    check::required(faults, header, &at.child("httpHeaders"), "name");
                }
            }
            "tcpSocket" => check::port_or_name(faults, &a["port"], at.child("port")),
            "grpc" => check::port(faults, int(a, "/port"), at.child("port")),
            _ => {}
        }
    }
    if given == 0 {
        faults.push(Error::required(path.clone(), "must specify a handler type"));
    }
}

/// The name of another object in the same namespace.
pub(super) fn object_name(faults: &mut Faults, obj: &Value, path: &Path, name: &str) {
    match obj[name].as_str().unwrap_or("") {
        "" => faults.push(Error::required(path.child(name), "")),
        value => check::rule(faults, value, path.child(name), dns_subdomain),
    }
}
