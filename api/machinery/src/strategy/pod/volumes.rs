//! Validation of volumes and of the mounts that refer to them.
use super::containers::object_name;
use crate::field::{Error, Path};
use crate::strategy::check::{self, Faults, Unique};
use crate::strategy::view::{has, list, maybe_int, text};
use crate::validation::dns_label;
use serde_json::Value;
use std::collections::BTreeSet;

/// The names of a pod's volumes.
pub(in crate::strategy) type Volumes = BTreeSet<String>;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// Octal 0777.
const MAX_MODE: i64 = 511;
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// A list of Volume. Gives their names.
pub(in crate::strategy) fn volumes(faults: &mut Faults, volumes: &[Value], path: &Path) -> Volumes {
    let mut names = Unique::default();
    let mut out = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        match text(volume, "/name") {
            "" => faults.push(Error::required(path.child("name"), "")),
            name => {
                check::rule(faults, name, path.child("name"), dns_label);
                if !names.contains(name) {
                    out.insert(name.to_owned());
                }
                names.insert(faults, name, path.child("name"));
            }
        }
        let sources = volume.as_object().into_iter().flatten();
        let mut sources = sources.filter(|(k, v)| *k != "name" && !v.is_null());
        match sources.next() {
            None => faults.push(Error::required(path, "must specify a volume type")),
            Some((kind, source)) => {
                self::source(faults, kind, source, &path.child(kind));
                for (other, _) in sources {
                    let detail = "may not specify more than 1 volume type";
                    faults.push(Error::forbidden(path.child(other), detail));
                }
            }
        }
    }
    out
}

fn source(faults: &mut Faults, kind: &str, source: &Value, path: &Path) {
    match kind {
        "emptyDir" if check::quantity(&source["sizeLimit"]).is_some_and(|q| q.0 < 0) => {
            let detail = "SizeLimit field must be a valid resource quantity";
            faults.push(Error::forbidden(path.child("sizeLimit"), detail));
        }
        "hostPath" => {
            check::required(faults, source, path, "path");
            no_backsteps(faults, text(source, "/path"), path.child("path"));
            let kind = text(source, "/type");
            if !HOST_PATH_TYPES.contains(&kind) {
                faults.push(Error::not_supported(path.child("type"), kind, HOST_PATH_TYPES));
            }
        }
        "configMap" => {
            check::required(faults, source, path, "name");
            files(faults, source, path);
        }
        "secret" => {
            check::required(faults, source, path, "secretName");
            files(faults, source, path);
        }
        "downwardAPI" => {
            mode(faults, source, path, "defaultMode");
            downward(faults, list(source, "/items"), path);
        }
        "projected" => projected(faults, source, path),
        "persistentVolumeClaim" => object_name(faults, source, path, "claimName"),
        "nfs" => {
            check::required(faults, source, path, "server");
            check::required(faults, source, path, "path");
        }
        _ => {}
    }
}

fn mode(faults: &mut Faults, source: &Value, path: &Path, name: &str) {
    if let Some(n) = source[name].as_i64()
        && !(0..=MAX_MODE).contains(&n)
    {
        faults.push(Error::invalid(path.child(name), n, MODE));
    }
}

/// A volume made of the keys of a ConfigMap or Secret.
fn files(faults: &mut Faults, source: &Value, path: &Path) {
    mode(faults, source, path, "defaultMode");
    for (i, item) in list(source, "/items").iter().enumerate() {
        let path = path.child("items").index(i);
        check::required(faults, item, &path, "key");
        relative_path(faults, item, &path);
        mode(faults, item, &path, "mode");
    }
}

fn downward(faults: &mut Faults, items: &[Value], path: &Path) {
    for (i, item) in items.iter().enumerate() {
        let path = path.child("items").index(i);
        relative_path(faults, item, &path);
        mode(faults, item, &path, "mode");
        match (has(item, "/fieldRef"), has(item, "/resourceFieldRef")) {
            (true, true) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                faults.push(Error::invalid(path, "resource", detail));
            }
            (false, false) => {
                faults.push(Error::required(path, "one of fieldRef and resourceFieldRef is required"));
            }
            _ => {}
        }
    }
}

fn projected(faults: &mut Faults, source: &Value, path: &Path) {
    mode(faults, source, path, "defaultMode");
    for (i, part) in list(source, "/sources").iter().enumerate() {
        let path = path.child("sources").index(i);
        for name in ["configMap", "secret"] {
            if has(part, &format!("/{name}")) {
                check::required(faults, &part[name], &path.child(name), "name");
                files(faults, &part[name], &path.child(name));
            }
        }
        downward(faults, list(part, "/downwardAPI/items"), &path.child("downwardAPI"));
        if has(part, "/serviceAccountToken") {
            let (token, path) = (&part["serviceAccountToken"], path.child("serviceAccountToken"));
            relative_path(faults, token, &path);
            if maybe_int(token, "/expirationSeconds").is_some_and(|n| n < 600) {
                let detail = "may not specify a duration less than 10 minutes";
                faults.push(Error::invalid(
                    path.child("expirationSeconds"),
                    token["expirationSeconds"].clone(),
                    detail,
                ));
            }
        }
    }
}

/// `path` of an item: there, relative, without steps up, and not in the way of kubelet's own `..data`.
fn relative_path(faults: &mut Faults, item: &Value, path: &Path) {
    let value = text(item, "/path");
    let at = path.child("path");
    if value.is_empty() {
        faults.push(Error::required(at, ""));
        return;
    }
    descending(faults, value, at.clone());
    if value.starts_with("..") && !value.split('/').any(|p| p == "..") {
        faults.push(Error::invalid(at, value, "must not start with '..'"));
    }
}

fn descending(faults: &mut Faults, value: &str, path: Path) {
    if value.starts_with('/') {
        faults.push(Error::invalid(path.clone(), value, "must be a relative path"));
    }
    no_backsteps(faults, value, path);
}

fn no_backsteps(faults: &mut Faults, value: &str, path: Path) {
    if value.split('/').any(|part| part == "..") {
        faults.push(Error::invalid(path, value, "must not contain '..'"));
    }
}

/// A container's volumeMounts: each names a volume of the pod, no two the same place.
pub(in crate::strategy) fn mounts(faults: &mut Faults, container: &Value, volumes: &Volumes, path: &Path) {
    let mut places = BTreeSet::new();
    for (i, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let path = path.index(i);
        match text(mount, "/name") {
            "" => faults.push(Error::required(path.child("name"), "")),
            name if !volumes.contains(name) => faults.push(Error::not_found(path.child("name"), name)),
            _ => {}
        }
        let place = text(mount, "/mountPath");
        if place.is_empty() {
            faults.push(Error::required(path.child("mountPath"), ""));
        } else if !places.insert(place) {
            faults.push(Error::invalid(path.child("mountPath"), place, "must be unique"));
        }
        for name in ["subPath", "subPathExpr"] {
            descending(faults, text(mount, &format!("/{name}")), path.child(name));
        }
        if has(mount, "/subPath") && has(mount, "/subPathExpr") {
            let detail = "subPathExpr and subPath are mutually exclusive";
            faults.push(Error::invalid(path.child("subPathExpr"), text(mount, "/subPathExpr"), detail));
        }
        let propagation = ["Bidirectional", "HostToContainer", "None"];
        check::maybe_one_of(faults, mount, &path, "mountPropagation", &propagation);
    }
}
