//! `spec.triggers[].queue`: messages of a Redis stream.
use super::trigger::check_target;
use crate::field::{Error, Path};
use crate::strategy::check::{self, Faults};
use crate::strategy::view::{fill, has, maybe_int, text};
use crate::validation::{config_map_key, dns_subdomain};
use serde_json::Value;

const CONCURRENCY: i64 = 10;
/// Each is a connection to a pod and a message in memory, in the process of the controllers.
const MAX_CONCURRENCY: i64 = 256;
const ATTEMPTS: i64 = 5;
const MAX_ATTEMPTS: i64 = 100;
const BACKOFF_SECONDS: i64 = 1;
/// A day: a message that waits longer is forgotten by everybody but Redis.
const MAX_SECONDS: i64 = 86_400;
/// Redis would take 512 MiB; a name is sent with every command.
const MAX_NAME_LEN: usize = 512;
const MAX_URL_LEN: usize = 2048;
/// Redis' `databases` is 16 by default and has no bound; nobody has more.
const MAX_DATABASE: u32 = 65_535;

pub(super) fn default(queue: &mut Value) {
    fill(queue, "concurrency", CONCURRENCY);
    fill(queue, "maxAttempts", ATTEMPTS);
    fill(queue, "backoffSeconds", BACKOFF_SECONDS);
}

pub(super) fn check(faults: &mut Faults, queue: &Value, timeout_seconds: i64, path: &Path) {
    match (has(queue, "/url"), has(queue, "/secretKeyRef")) {
        (true, false) => {
            let url = text(queue, "/url");
            // What stands in an error is written to logs: not a password that somebody put here.
            let shown = if url.contains('@') { "redis://…@…" } else { url };
            if let Err(why) = redis_url(url) {
                faults.push(Error::invalid(path.child("url"), shown, &why));
            }
        }
        (false, true) => secret_key(faults, &queue["secretKeyRef"], &path.child("secretKeyRef")),
        (true, true) => {
            faults.push(Error::forbidden(path.child("secretKeyRef"), "may not be specified beside `url`"));
        }
        (false, false) => faults.push(Error::required(path.clone(), "must specify `url` or `secretKeyRef`")),
    }
    let stream = text(queue, "/stream");
    if stream.is_empty() {
        faults.push(Error::required(path.child("stream"), ""));
    }
    for field in ["stream", "group", "deadLetterStream"] {
        name(faults, queue, field, path);
    }
    if !stream.is_empty() && text(queue, "/deadLetterStream") == stream {
        let detail = "must be another stream than `stream`";
        faults.push(Error::invalid(path.child("deadLetterStream"), stream, detail));
    }
    check_target(faults, queue, path);
    for (field, low, high) in [
        ("concurrency", 1, MAX_CONCURRENCY),
        ("maxAttempts", 1, MAX_ATTEMPTS),
        ("backoffSeconds", 1, MAX_SECONDS),
        // A message that is being worked on must not be taken for one that was forgotten.
        ("visibilityTimeoutSeconds", timeout_seconds + 1, MAX_SECONDS),
    ] {
        if let Some(n) = maybe_int(queue, &format!("/{field}")) {
            check::range(faults, n, path.child(field), low, high);
        }
    }
}

fn secret_key(faults: &mut Faults, reference: &Value, path: &Path) {
    match text(reference, "/name") {
        "" => faults.push(Error::required(path.child("name"), "")),
        name => check::rule(faults, name, path.child("name"), dns_subdomain),
    }
    match text(reference, "/key") {
        "" => faults.push(Error::required(path.child("key"), "")),
        key => {
            for why in config_map_key(key).err().into_iter().flatten() {
                faults.push(Error::invalid(path.child("key"), key, &why));
            }
        }
    }
}

/// Names of keys and groups: Redis takes any bytes, people type printable ones.
fn name(faults: &mut Faults, queue: &Value, field: &str, path: &Path) {
    let name = text(queue, &format!("/{field}"));
    if name.len() > MAX_NAME_LEN {
        faults.push(Error::too_long(path.child(field), MAX_NAME_LEN));
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let detail = "must not contain spaces or control characters";
        faults.push(Error::invalid(path.child(field), name, detail));
    }
}

/// Why `url` is not `redis://HOST[:PORT][/DATABASE]`.
fn redis_url(url: &str) -> Result<(), String> {
    const FORM: &str = "must be redis://HOST[:PORT][/DATABASE]";
    let Some(rest) = url.strip_prefix("redis://") else {
        return Err(format!("{FORM}, the only kind served"));
    };
    if rest.contains('@') {
        return Err("must not hold a user or a password: put the URL into a Secret and name it in \
                    `secretKeyRef`"
            .to_owned());
    }
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']').ok_or(FORM)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| FORM)?;
            (host, port)
        }
        None => match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        },
    };
    let is_port = match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
        None => port.is_empty(),
    };
    let is_host = host.contains(':')
        || (!host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
    let is_database = database.is_empty() || database.parse::<u32>().is_ok_and(|n| n <= MAX_DATABASE);
    if is_host && is_port && is_database && url.len() <= MAX_URL_LEN { Ok(()) } else { Err(FORM.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::check::tests::shown;
    use serde_json::json;

    fn faults(mut queue: Value) -> Vec<String> {
        default(&mut queue);
        let mut faults = Faults::new();
        check(&mut faults, &queue, 30, &Path::new("q"));
        shown(&faults)
    }

    #[test]
    fn a_stream_and_where_it_is_are_all_a_queue_needs() {
        assert_eq!(faults(json!({"url": "redis://redis", "stream": "orders"})), [""; 0]);
        let secret = json!({"name": "redis", "key": "url"});
        assert_eq!(faults(json!({"secretKeyRef": secret, "stream": "orders"})), [""; 0]);
        for url in ["redis://redis.shop.svc:6379/0", "redis://10.0.0.1:1", "redis://[::1]:6379/15"] {
            assert_eq!(redis_url(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_a_password_is_not_repeated() {
        for url in [
            "",
            "http://x",
            "rediss://x",
            "redis://",
            "redis://:6379",
            "redis://x:0",
            "redis://x/y",
            "redis://x:1:2",
            "redis://[::1",
            "redis://[x]",
            "redis://x y",
            "redis://x?protocol=3",
            "redis://x/0/1",
        ] {
            let got = faults(json!({"url": url, "stream": "s"}));
            assert!(
                got.len() == 1 && got[0].contains("must be redis://HOST[:PORT][/DATABASE]"),
                "{url}: {got:?}"
            );
        }
        let got = faults(json!({"url": "redis://:hunter2@x", "stream": "s"}));
        assert!(
            got.len() == 1 && got[0].contains("`secretKeyRef`") && !got[0].contains("hunter2"),
            "{got:?}"
        );
        assert_eq!(
            faults(json!({"stream": "a b", "group": "g".repeat(513), "deadLetterStream": "a b", "path": "x",
                "concurrency": 0, "maxAttempts": 101, "backoffSeconds": 0, "visibilityTimeoutSeconds": 30})),
            [
                "q: Required value: must specify `url` or `secretKeyRef`",
                "q.stream: Invalid value: \"a b\": must not contain spaces or control characters",
                "q.group: Too long: may not be more than 512 bytes",
                "q.deadLetterStream: Invalid value: \"a b\": must not contain spaces or control characters",
                "q.deadLetterStream: Invalid value: \"a b\": must be another stream than `stream`",
                "q.path: Invalid value: \"x\": must be an absolute path, with a query or without, in the form of a URL \
                 (e.g. /tick?all=1)",
                "q.concurrency: Invalid value: 0: must be between 1 and 256, inclusive",
                "q.maxAttempts: Invalid value: 101: must be between 1 and 100, inclusive",
                "q.backoffSeconds: Invalid value: 0: must be between 1 and 86400, inclusive",
                "q.visibilityTimeoutSeconds: Invalid value: 30: must be between 31 and 86400, inclusive",
            ]
        );
        let got = faults(json!({"url": "redis://x", "secretKeyRef": {}}));
        assert_eq!(
            got,
            ["q.secretKeyRef: Forbidden: may not be specified beside `url`", "q.stream: Required value"]
        );
        let got = faults(json!({"secretKeyRef": {"key": "a/b"}, "stream": "s"}));
        assert!(got.len() == 2 && got[0] == "q.secretKeyRef.name: Required value", "{got:?}");
    }
}
