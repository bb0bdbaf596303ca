//! `spec.triggers`: what calls the function besides HTTP requests.
use super::queue;
use crate::cron::{Schedule, time_zone};
use crate::field::{Error, Path};
use crate::strategy::check::{self, Faults, Unique};
use crate::strategy::view::{each, fill, has, text};
use crate::validation::dns_label;
use serde_json::Value;

const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];
/// Each is looked at again and again, and its outcome is written into the function's status.
const MAX_TRIGGERS: usize = 32;
/// Kept in the object and sent at each call.
const MAX_BODY_BYTES: usize = 64 << 10;
const MAX_PATH_LEN: usize = 2048;

/// A trigger without a name is called by its place.
pub(super) fn default_names(spec: &mut Value) {
    for (i, trigger) in each(spec, "/triggers").enumerate() {
        fill(trigger, "name", format!("trigger-{i}"));
        if let Some(cron) = trigger.get_mut("cron").filter(|c| c.is_object()) {
            fill(cron, "concurrencyPolicy", "Allow");
        }
        if let Some(queue) = trigger.get_mut("queue").filter(|q| q.is_object()) {
            queue::default(queue);
        }
    }
}

/// `timeout_seconds` is the function's.
pub(super) fn check(faults: &mut Faults, triggers: &[Value], timeout_seconds: i64, path: &Path) {
    if triggers.len() > MAX_TRIGGERS {
        faults.push(Error::too_many(path.clone(), triggers.len(), MAX_TRIGGERS));
        return;
    }
    let mut names = Unique::default();
    for (i, trigger) in triggers.iter().enumerate() {
        let path = path.index(i);
        let name = text(trigger, "/name");
        if name.is_empty() {
            faults.push(Error::required(path.child("name"), ""));
        } else {
            check::rule(faults, name, path.child("name"), dns_label);
            names.insert(faults, name, path.child("name"));
        }
        match (has(trigger, "/cron"), has(trigger, "/queue")) {
            (true, false) => cron(faults, &trigger["cron"], &path.child("cron")),
            (false, true) => queue::check(faults, &trigger["queue"], timeout_seconds, &path.child("queue")),
            (true, true) => {
                faults.push(Error::forbidden(path.child("queue"), "may not be specified beside `cron`"));
            }
            (false, false) => {
                faults.push(Error::required(path, "must specify a kind of trigger: `cron` or `queue`"));
            }
        }
    }
}

fn cron(faults: &mut Faults, cron: &Value, path: &Path) {
    match text(cron, "/schedule") {
        "" => faults.push(Error::required(path.child("schedule"), "")),
        schedule => {
            if let Err(why) = Schedule::parse(schedule) {
                faults.push(Error::invalid(path.child("schedule"), schedule, &why));
            }
        }
    }
    let zone = text(cron, "/timeZone");
    if let Err(why) = time_zone(zone) {
        faults.push(Error::invalid(path.child("timeZone"), zone, &why));
    }
    check::maybe_one_of(faults, cron, path, "concurrencyPolicy", POLICIES);
    check::not_negative(faults, cron, path, "startingDeadlineSeconds");
    check_target(faults, cron, path);
    if text(cron, "/body").len() > MAX_BODY_BYTES {
        faults.push(Error::too_long(path.child("body"), MAX_BODY_BYTES));
    }
}

/// The path and query of a trigger's requests.
pub(super) fn check_target(faults: &mut Faults, trigger: &Value, path: &Path) {
    let target = text(trigger, "/path");
    let is_target = target.starts_with('/') && target.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#');
    if !target.is_empty() && (!is_target || target.len() > MAX_PATH_LEN) {
        let detail =
            "must be an absolute path, with a query or without, in the form of a URL (e.g. /tick?all=1)";
        faults.push(Error::invalid(path.child("path"), target, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::check::tests::shown;
    use serde_json::json;

    #[test]
    fn a_schedule_that_cannot_be_read_is_refused_with_the_reason() {
        let mut spec = json!({"triggers": [
            {"cron": {"schedule": "*/5 * * * *", "timeZone": "Europe/Berlin", "path": "/tick?a=1"}},
            {"cron": {"schedule": "61 * * * *", "timeZone": "Mars", "path": "tick", "concurrencyPolicy": "Never",
                "startingDeadlineSeconds": -1}},
            {"name": "trigger-0", "cron": {}},
            {"name": "X"},
            {"cron": {"schedule": "@daily"}, "queue": {"url": "redis://r", "stream": "s"}},
        ]});
        default_names(&mut spec);
        let mut faults = Faults::new();
        check(&mut faults, spec["triggers"].as_array().unwrap(), 30, &Path::new("t"));
        assert_eq!(
            shown(&faults),
            [
                "t[1].cron.schedule: Invalid value: \"61 * * * *\": minute \"61\": values go from 0 to 59",
                "t[1].cron.timeZone: Invalid value: \"Mars\": is not in the time zone database; a name is, for \
                 example, Europe/Berlin",
                "t[1].cron.concurrencyPolicy: Unsupported value: \"Never\": supported values: \"Allow\", \"Forbid\", \
                 \"Replace\"",
                "t[1].cron.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
                "t[1].cron.path: Invalid value: \"tick\": must be an absolute path, with a query or without, in the \
                 form of a URL (e.g. /tick?all=1)",
                "t[2].name: Duplicate value: \"trigger-0\"",
                "t[2].cron.schedule: Required value",
                "t[3].name: Invalid value: \"X\": a lowercase RFC 1123 label must consist of lower case alphanumeric \
                 characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
                 '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "t[3]: Required value: must specify a kind of trigger: `cron` or `queue`",
                "t[4].queue: Forbidden: may not be specified beside `cron`",
            ]
        );
    }
}
