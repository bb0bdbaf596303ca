//! Checks that many kinds share, worded as upstream.
use super::view::{flag, has, list, map, maybe_int, text};
use crate::field::{Error, Path};
use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use crate::validation::{self, qualified_name};
use serde_json::Value;
use std::net::IpAddr;

pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const IMMUTABLE: &str = "field is immutable";
/// The largest Unix port number.
const MAX_PORT: i64 = 65535;
/// The longest name of a port (RFC 6335).
const MAX_PORT_NAME: usize = 15;
pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Collects errors: `Faults` is what a validation returns, one push a fault.
pub(super) type Faults = Vec<Error>;

/// The field `name` of `obj`, if it is a number, is not negative.
pub(super) fn not_negative(faults: &mut Faults, obj: &Value, path: &Path, name: &str) {
    if let Some(n) = obj[name].as_i64()
        && n < 0
    {
        faults.push(Error::invalid(path.child(name), n, NOT_NEGATIVE));
    }
}

pub(super) fn range(faults: &mut Faults, n: i64, path: Path, low: i64, high: i64) {
    if n < low || n > high {
        faults.push(Error::invalid(path, n, &format!("must be between {low} and {high}, inclusive")));
    }
}
pub(super) fn port(faults: &mut Faults, n: i64, path: Path) {
    range(faults, n, path, 1, MAX_PORT);
}

/// A port's number, or the name of one (RFC 6335).
pub(super) fn port_or_name(faults: &mut Faults, v: &Value, path: Path) {
    match v {
        Value::Number(_) => port(faults, v.as_i64().unwrap_or(0), path),
        Value::String(s) => port_name(faults, s, path),
        _ => faults.push(Error::required(path, "")),
    }
}
pub(super) fn port_name(faults: &mut Faults, name: &str, path: Path) {
    let mut refuse = |detail: &str| faults.push(Error::invalid(path.clone(), name, detail));
    if name.len() > MAX_PORT_NAME {
        refuse("must be no more than 15 characters");
    }
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        refuse("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        refuse("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        refuse("must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        refuse("must not begin or end with a hyphen");
    }
}

/// The field `name` is one of `supported`; absent is a fault too.
pub(super) fn one_of(faults: &mut Faults, obj: &Value, path: &Path, name: &str, supported: &[&str]) {
    match obj[name].as_str().unwrap_or("") {
        "" => faults.push(Error::required(path.child(name), "")),
        v if !supported.contains(&v) => faults.push(Error::not_supported(path.child(name), v, supported)),
        _ => {}
    }
}
/// The field `name`, if given, is one of `supported`.
pub(super) fn maybe_one_of(faults: &mut Faults, obj: &Value, path: &Path, name: &str, supported: &[&str]) {
    if !text(obj, &format!("/{name}")).is_empty() {
        one_of(faults, obj, path, name, supported);
    }
}

/// The string field `name` is there.
pub(super) fn required(faults: &mut Faults, obj: &Value, path: &Path, name: &str) {
    if obj[name].as_str().unwrap_or("").is_empty() {
        faults.push(Error::required(path.child(name), ""));
    }
}

/// `value` follows a rule of [`validation`].
pub(super) fn rule(faults: &mut Faults, value: &str, path: Path, rule: fn(&str) -> Result<(), String>) {
    if let Err(e) = rule(value) {
        faults.push(Error::invalid(path, value, &e));
    }
}

pub(super) fn key(faults: &mut Faults, key: &str, path: Path) {
    for e in qualified_name(key).err().into_iter().flatten() {
        faults.push(Error::invalid(path.clone(), key, &e));
    }
}

pub(super) fn labels(faults: &mut Faults, obj: &Value, path: &Path, name: &str) {
    faults.extend(validation::labels(obj[name].as_object(), &path.child(name)));
}

pub(super) fn ip(faults: &mut Faults, address: &str, path: Path) {
    if address.parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        faults.push(Error::invalid(path, address, detail));
    }
}

/// A metav1.LabelSelector.
pub(super) fn label_selector(faults: &mut Faults, selector: &Value, path: &Path) {
    faults.extend(validation::labels(map(selector, "/matchLabels"), &path.child("matchLabels")));
    for (i, e) in list(selector, "/matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = list(e, "/values");
        match text(e, "/operator") {
            "In" | "NotIn" if values.is_empty() => faults.push(Error::required(
                path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => faults.push(Error::forbidden(
                path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                faults.push(Error::invalid(path.child("operator"), other, "not a valid selector operator"))
            }
        }
        key(faults, text(e, "/key"), path.child("key"));
        for (j, v) in values.iter().enumerate() {
            for e in validation::label_value(v.as_str().unwrap_or("")).err().into_iter().flatten() {
                faults.push(Error::invalid(path.child("values").index(j), v.clone(), &e));
            }
        }
    }
}

/// `spec.selector` of a workload: there, not empty, and true of the labels of `spec.template`.
pub(super) fn selector_of_template(faults: &mut Faults, spec: &Value, path: &Path) {
    let selector = &spec["selector"];
    let at = path.child("selector");
    if selector.is_null() {
        faults.push(Error::required(at, ""));
        return;
    }
    label_selector(faults, selector, &at);
    match LabelSelector::from_object(selector) {
        Err(e) => faults.push(Error::invalid(at, selector.clone(), &e.0)),
        Ok(s) if s.is_everything() => {
            faults.push(Error::invalid(at, selector.clone(), "empty selector is invalid for deployment"))
        }
        Ok(s) => {
            let labels = &spec["template"]["metadata"]["labels"];
            if !s.matches(labels) {
                let at = path.child("template").child("metadata").child("labels");
                faults.push(Error::invalid(
                    at,
                    labels.clone(),
                    "`selector` does not match template `labels`",
                ));
            }
        }
    }
}

/// A field that may not change once it is there.
pub(super) fn immutable(faults: &mut Faults, new: &Value, old: &Value, path: Path) {
    if !super::view::same(new, old) {
        faults.push(Error::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// A number of something, or a percentage of it: `2`, `25%`. Gives the number, or the percentage.
pub(super) fn count_or_percent(faults: &mut Faults, v: &Value, path: Path) -> i64 {
    match v {
        Value::String(s) => match s.strip_suffix('%').and_then(|n| n.parse::<u32>().ok()) {
            Some(n) => i64::from(n),
            None => {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. \
                              '1%',  or '93%', regex used for validation is '[0-9]+%')";
                faults.push(Error::invalid(path, s.as_str(), detail));
                0
            }
        },
        v => {
            let n = v.as_i64().unwrap_or(0);
            if n < 0 {
                faults.push(Error::invalid(path, n, NOT_NEGATIVE));
            }
            n
        }
    }
}

/// Resource requirements of a container: known names, nothing negative, no request over its limit.
pub(super) fn resources(faults: &mut Faults, resources: &Value, path: &Path) {
    for side in ["limits", "requests"] {
        let side_path = path.child(side);
        for (name, quantity) in resources[side].as_object().into_iter().flatten() {
            resource_name(faults, name, &side_path);
            quantity_not_negative(faults, quantity, side_path.key(name));
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name];
        if let (Some(r), Some(l)) = (quantity(request), quantity(limit))
            && r > l
        {
            let limit = limit.as_str().unwrap_or("");
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            faults.push(Error::invalid(path.child("requests"), request.clone(), &detail));
        }
    }
    for claim in list(resources, "/claims") {
        if !has(claim, "/name") {
            faults.push(Error::required(path.child("claims"), ""));
        }
    }
}

pub(super) fn quantity(v: &Value) -> Option<Quantity> {
    v.as_str().and_then(|s| Quantity::parse(s).ok())
}

pub(super) fn quantity_not_negative(faults: &mut Faults, v: &Value, path: Path) {
    match v.as_str().map(Quantity::parse) {
        Some(Ok(q)) if q < Quantity::ZERO => faults.push(Error::invalid(path, v.clone(), NOT_NEGATIVE)),
        Some(Err(e)) => faults.push(Error::invalid(path, v.clone(), &e.to_string())),
        _ => {}
    }
}

fn resource_name(faults: &mut Faults, name: &str, path: &Path) {
    if let Err(errors) = qualified_name(name) {
        for e in errors {
            faults.push(Error::invalid(path.clone(), name, &e));
        }
        return;
    }
    let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        let detail = "must be a standard resource type or fully qualified";
        faults.push(Error::invalid(path.clone(), name, detail));
        faults.push(Error::invalid(path.clone(), name, "must be a standard resource for containers"));
    }
}

/// Replica counts of a status: none negative, none over `status.replicas`.
pub(super) fn replica_status(status: &Value, counts: &[&str]) -> Faults {
    let (path, mut faults) = (Path::new("status"), Faults::new());
    let total = maybe_int(status, "/replicas").unwrap_or(0);
    not_negative(&mut faults, status, &path, "replicas");
    for name in counts {
        not_negative(&mut faults, status, &path, name);
        if let Some(n) = status[*name].as_i64()
            && n > total
        {
            faults.push(Error::invalid(path.child(name), n, "cannot be greater than status.replicas"));
        }
    }
    faults
}

/// Whether a ConfigMap or Secret was frozen, and the faults of a change to it.
pub(super) fn frozen(new: &Value, old: &Value, data_fields: &[&str]) -> Faults {
    let mut faults = Faults::new();
    if !flag(old, "/immutable") {
        return faults;
    }
    const WHY: &str = "field is immutable when `immutable` is set";
    if !flag(new, "/immutable") {
        faults.push(Error::forbidden(Path::new("immutable"), WHY));
    }
    for field in data_fields {
        if !super::view::same(&new[*field], &old[*field]) {
            faults.push(Error::forbidden(Path::new(field), WHY));
        }
    }
    faults
}

/// Names in a list may come once. Call with each name and its path.
#[derive(Default)]
pub(super) struct Unique(std::collections::BTreeSet<String>);

impl Unique {
    pub(super) fn insert(&mut self, faults: &mut Faults, name: &str, path: Path) {
        if !self.0.insert(name.to_owned()) {
            faults.push(Error::duplicate(path, name));
        }
    }
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// Errors as a client reads them.
    pub(in crate::strategy) fn shown(faults: &[Error]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_may_not_exceed_limits_nor_be_negative() {
        let mut faults = Faults::new();
        let r = json!({"limits": {"cpu": "1", "memory": "-1"}, "requests": {"cpu": "2", "gpu": "1"}});
        resources(&mut faults, &r, &Path::new("r"));
        assert_eq!(
            shown(&faults),
            [
                "r.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
                "r.requests: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                "r.requests: Invalid value: \"gpu\": must be a standard resource for containers",
                "r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ]
        );
    }

    #[test]
    fn port_names_follow_rfc_6335() {
        let check = |name: &str| {
            let mut faults = Faults::new();
            port_name(&mut faults, name, Path::new("p"));
            faults.len()
        };
        assert_eq!(
            [check("http"), check("a-1"), check("1"), check("a--b"), check("-a"), check("A")],
            [0, 0, 1, 1, 1, 2]
        );
        assert_eq!(check("a-name-too-long-for-it"), 1);
    }
}
