//! `spec.traffic`: which revision gets which share.
use crate::field::{Error, Path};
use crate::strategy::check::{self, Faults, Unique};
use crate::strategy::view::{has, map, maybe_int, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// The `revision` that means the newest ready one.
const LATEST: &str = "latest";
/// The gateway goes through all of them for each request.
const MAX_TARGETS: usize = 32;
const MAX_HEADERS: usize = 8;
/// A header's value is compared with each request's: no longer than what servers take of a whole head.
const MAX_HEADER_VALUE_LEN: usize = 4096;

/// Checks the targets of the function called `function`.
pub(super) fn check(faults: &mut Faults, function: &str, targets: &[Value], path: &Path) {
    if targets.is_empty() {
        return;
    }
    if targets.len() > MAX_TARGETS {
        faults.push(Error::too_many(path.clone(), targets.len(), MAX_TARGETS));
        return;
    }
    let (mut by_share, mut by_headers) = (Unique::default(), Unique::default());
    let (mut sum, mut complete) = (0, true);
    for (i, target) in targets.iter().enumerate() {
        let path = path.index(i);
        let revision = text(target, "/revision");
        check_revision(faults, function, revision, path.child("revision"));
        match map(target, "/headers").filter(|h| !h.is_empty()) {
            Some(headers) => {
                if maybe_int(target, "/percent").is_some_and(|n| n != 0) {
                    let detail =
                        "must not be set for an entry with `headers`: all requests with them go there";
                    faults.push(Error::forbidden(path.child("percent"), detail));
                }
                let key = check_headers(faults, headers, &path.child("headers"));
                by_headers.insert(faults, &key, path.child("headers"));
            }
            None => {
                if !has(target, "/percent") {
                    faults.push(Error::required(
                        path.child("percent"),
                        "an entry without `headers` has a share",
                    ));
                    complete = false;
                }
                let percent = maybe_int(target, "/percent").unwrap_or(0);
                check::range(faults, percent, path.child("percent"), 0, 100);
                sum += percent.clamp(0, 100);
                by_share.insert(faults, revision, path.child("revision"));
            }
        }
    }
    if complete && sum != 100 {
        let detail = "the percents of the entries without `headers` must sum to 100";
        faults.push(Error::invalid(path.clone(), sum, detail));
    }
}

fn check_revision(faults: &mut Faults, function: &str, revision: &str, path: Path) {
    if revision.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let number = revision.strip_prefix(function).and_then(|rest| rest.strip_prefix("-r"));
    let is_number = |n: &str| !n.is_empty() && !n.starts_with('0') && n.bytes().all(|b| b.is_ascii_digit());
    if revision != LATEST && !number.is_some_and(is_number) {
        let detail =
            format!("must be `latest` or the name of a revision of this function (e.g. {function}-r1)");
        faults.push(Error::invalid(path, revision, &detail));
    }
}

/// Checks the headers. Gives them in a form in which equal ones are equal.
fn check_headers(faults: &mut Faults, headers: &serde_json::Map<String, Value>, path: &Path) -> String {
    if headers.len() > MAX_HEADERS {
        faults.push(Error::too_many(path.clone(), headers.len(), MAX_HEADERS));
    }
    let mut all = BTreeSet::new();
    let mut names = Unique::default();
    for (name, value) in headers {
        let (value, at) = (value.as_str().unwrap_or(""), path.key(name));
        // A token of RFC 9110.
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token) {
            faults.push(Error::invalid(
                at.clone(),
                name.as_str(),
                "must be the name of an HTTP header (e.g. x-canary)",
            ));
        }
        if value.len() > MAX_HEADER_VALUE_LEN {
            faults.push(Error::too_long(at.clone(), MAX_HEADER_VALUE_LEN));
        }
        if value != value.trim() || !value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            let detail = "must be printable ASCII without space around it, as a header's value is";
            faults.push(Error::invalid(at.clone(), value, detail));
        }
        let name = name.to_ascii_lowercase();
        names.insert(faults, &name, at);
        all.insert(format!("{name}: {value}"));
    }
    all.into_iter().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::check::tests::shown;
    use serde_json::json;

    fn faults(traffic: Value) -> Vec<String> {
        let mut faults = Faults::new();
        check(&mut faults, "f", traffic.as_array().unwrap(), &Path::new("spec").child("traffic"));
        shown(&faults)
    }

    #[test]
    fn shares_make_a_hundred_and_headers_stand_beside_them() {
        let r = |n: u32, percent: u32| json!({"revision": format!("f-r{n}"), "percent": percent});
        let by = |n: u32, name: &str| json!({"revision": format!("f-r{n}"), "headers": {name: "1"}});
        assert_eq!(faults(json!([])), [""; 0]);
        assert_eq!(faults(json!([r(1, 90), {"revision": "latest", "percent": 10}])), [""; 0]);
        assert_eq!(faults(json!([r(1, 100), by(1, "x-a"), by(2, "x-b")])), [""; 0]);
        assert_eq!(faults(json!([r(1, 100), r(2, 0)])), [""; 0]);
        for (traffic, want) in [
            (json!([r(1, 90)]), "spec.traffic: Invalid value: 90: the percents"),
            (json!([by(1, "x")]), "spec.traffic: Invalid value: 0: the percents"),
            (json!([r(1, 50), r(1, 50)]), "spec.traffic[1].revision: Duplicate value: \"f-r1\""),
            (json!([r(1, 100), by(2, "X-a"), by(3, "x-A")]), "spec.traffic[2].headers: Duplicate value"),
            (json!([{"revision": "f-r1"}]), "spec.traffic[0].percent: Required value"),
            (
                json!([r(1, 100), {"revision": "f-r2", "percent": 5, "headers": {"a": "b"}}]),
                "spec.traffic[1].percent: Forbidden",
            ),
            (json!([r(1, 100), by(2, "x y")]), "spec.traffic[1].headers[x y]: Invalid value"),
            (
                json!([r(1, 100), {"revision": "f-r2", "headers": {"a": "b\r\nc: d"}}]),
                "spec.traffic[1].headers[a]: Invalid value",
            ),
            (
                json!([{"revision": "g-r1", "percent": 100}]),
                "spec.traffic[0].revision: Invalid value: \"g-r1\": must be `latest`",
            ),
            (json!([{"revision": "f-r01", "percent": 100}]), "spec.traffic[0].revision: Invalid value"),
            (json!([{"percent": 100}]), "spec.traffic[0].revision: Required value"),
            (json!([r(1, 101)]), "spec.traffic[0].percent: Invalid value: 101: must be between 0 and 100"),
            (json!((0..33).map(|n| r(n, 3)).collect::<Vec<_>>()), "spec.traffic: Too many: 33"),
        ] {
            let got = faults(traffic.clone());
            assert!(got.len() == 1 && got[0].starts_with(want), "{traffic}: {got:?}");
        }
    }
}
