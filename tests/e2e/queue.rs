//! Queue triggers as users meet them: a real Redis, messages written by its own commands.
use crate::harness::cluster::free_port;
use crate::harness::guard::Guard;
use crate::harness::{Namespace, environment, wait, world};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Command, Stdio};

/// A Redis with a password, that writes everything to its disk before it answers.
struct Redis {
    port: u16,
    guard: Guard,
    child: Option<Child>,
}

impl Redis {
    fn new(name: &str) -> Self {
        let mut redis = Self { port: free_port(), guard: Guard::new(name), child: None };
        redis.start();
        redis
    }

    fn start(&mut self) {
        // Its title would hide the folder by which the guard knows it.
        let mut child = Command::new(environment::redis())
            .args(["-", "--set-proc-title", "no", "--dir"])
            .arg(self.guard.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        let config = format!(
            "bind 127.0.0.1\nport {}\nsave \"\"\nappendonly yes\nappendfsync always\nrequirepass hunter2\n",
            self.port
        );
        child.stdin.take().expect("its input").write_all(config.as_bytes()).expect("its configuration");
        self.child = Some(child);
        wait::until("Redis answers", || self.ask::<String>(&["PING"]).map(drop));
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let mut child = self.child.take().expect("a Redis that runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    fn url(&self) -> String {
        format!("redis://:hunter2@127.0.0.1:{}/0", self.port)
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T, String> {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_connection().map_err(|e| e.to_string())?;
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).map_err(|e| e.to_string())
    }

    #[track_caller]
    fn add(&self, stream: &str, fields: &[&str]) -> String {
        self.ask(&[&["XADD", stream, "*"], fields].concat()).expect("XADD")
    }

    #[track_caller]
    fn entries(&self, stream: &str) -> Vec<BTreeMap<String, String>> {
        let all: Vec<(String, Vec<(String, String)>)> =
            self.ask(&["XRANGE", stream, "-", "+"]).expect("XRANGE");
        all.into_iter().map(|(_, fields)| fields.into_iter().collect()).collect()
    }

    /// Messages of the group that were not given out, and those that were and are not acknowledged.
    fn left(&self, stream: &str, group: &str) -> Result<(i64, i64), String> {
        let groups: Vec<BTreeMap<String, redis::Value>> = self.ask(&["XINFO", "GROUPS", stream])?;
        let number = |of: &BTreeMap<String, redis::Value>, field: &str| match of.get(field) {
            Some(redis::Value::Int(n)) => *n,
            _ => -1,
        };
        let named = redis::Value::BulkString(group.into());
        let own = groups.iter().find(|of| of.get("name") == Some(&named)).ok_or("no group")?;
        Ok((number(own, "lag"), number(own, "pending")))
    }

    #[track_caller]
    fn until_done(&self, stream: &str, group: &str) {
        wait::until("all messages are acknowledged", || {
            let left = self.left(stream, group)?;
            wait::holds(left == (0, 0), format!("{left:?} not given out, not acknowledged"))
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn function(queue: &str) -> String {
    format!(
        "{{apiVersion: dhow.dev/v1alpha1, kind: Function, metadata: {{name: orders}}, spec: {{image: '{}', triggers: \
         [{{name: work, queue: {{{queue}}}}}]}}}}",
        world().pushed("orders")
    )
}

/// A function that works off the stream `work`.
fn deployed(t: &Namespace, redis: &Redis, more: &str) {
    t.ok(&["create", "secret", "generic", "redis", &format!("--from-literal=url={}", redis.url())]);
    t.apply(&function(&format!("secretKeyRef: {{name: redis, key: url}}, stream: work{more}")));
}

fn condition(t: &Namespace, name: &str) -> Option<Value> {
    let conditions = t.json(&["get", "fn", "orders"])["status"]["conditions"].clone();
    conditions.as_array().into_iter().flatten().find(|c| c["type"] == name).cloned()
}

#[track_caller]
fn until_triggers_are(t: &Namespace, status: &str, words: &str) -> Value {
    wait::until(&format!("TriggersReady is {status}"), || {
        let condition = condition(t, "TriggersReady").ok_or("there is none yet")?;
        let says = condition["message"].as_str().unwrap_or_default().contains(words);
        wait::holds(condition["status"] == status && says, condition.to_string())?;
        Ok(condition)
    })
}

/// What the function was given: bodies with how many times each came.
fn orders(t: &Namespace) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for line in t.ok(&["logs", "-l", "dhow.dev/function=orders", "--tail=-1"]).lines() {
        let order =
            line.strip_prefix("order ").and_then(|l| l.split_once(", message ")).expect("a line of ours").0;
        *all.entry(order.to_owned()).or_default() += 1;
    }
    all
}

#[test]
fn every_message_of_a_stream_is_delivered_and_what_fails_ends_in_the_dead_letter_stream() {
    let t = Namespace::new(&world().cluster, "queue");
    let redis = Redis::new("queue");
    // Half of them before there is anybody who would read them.
    let item = |n: usize| format!("item-{n:03}");
    (0..50).for_each(|n| drop(redis.add("work", &["data", &item(n)])));
    deployed(&t, &redis, ", maxAttempts: 2");
    until_triggers_are(&t, "True", "");
    (50..100).for_each(|n| drop(redis.add("work", &["data", &item(n)])));
    let failing = redis.add("work", &["what", "fail"]);
    redis.until_done("work", "orders");
    let seen = wait::until("all of them are in the log", || {
        let seen = orders(&t);
        let missing: Vec<String> = (0..100).map(item).filter(|item| !seen.contains_key(item)).collect();
        wait::holds(missing.is_empty(), format!("{missing:?} of {seen:?}"))?;
        Ok(seen)
    });
    // Nothing failed but one: nothing was delivered twice but that.
    let (fail, others): (Vec<_>, Vec<_>) = seen.iter().partition(|(order, _)| order.contains("fail"));
    assert!(others.iter().all(|(_, times)| **times == 1), "{others:?}");
    assert_eq!(fail, [(&r#"{"what":"fail"}"#.to_owned(), &2)]);
    let dead = redis.entries("work-dead");
    assert_eq!(dead.len(), 1, "{dead:?}");
    for (name, value) in [
        ("dhow-reason", "answered 500"),
        ("dhow-attempts", "2"),
        ("dhow-id", &failing),
        ("dhow-stream", "work"),
        ("dhow-function", "queue/orders"),
        ("what", "fail"),
    ] {
        assert_eq!(dead[0].get(name).map(String::as_str), Some(value), "{dead:?}");
    }
    t.event("orders", &["DeadLettered", &failing, "answered 500"]);
    let text = t.ok(&["get", "--raw", "/metrics"]);
    let labels = r#"namespace="queue",name="orders",trigger="work""#;
    for line in [
        format!("function_queue_messages_total{{{labels},result=\"delivered\"}} 100"),
        format!("function_queue_messages_total{{{labels},result=\"failed\"}} 2"),
        format!("function_queue_messages_total{{{labels},result=\"dead_lettered\"}} 1"),
        format!("function_queue_pending_messages{{{labels}}} 0"),
        format!("function_queue_lag_messages{{{labels}}} 0"),
        format!("function_queue_connected{{{labels}}} 1"),
    ] {
        assert!(text.lines().any(|own| own == line), "{line}\n{text}");
    }
    wait::until("the status has the last figures", || {
        let status = t.json(&["get", "fn", "orders"])["status"]["triggers"][0].clone();
        let done = status["pendingMessages"] == 0 && status["lagMessages"] == 0;
        wait::holds(done && status["lastSuccessfulTime"].is_string(), status.to_string())
    });
}

#[test]
fn a_redis_that_is_killed_and_comes_back_loses_no_message() {
    let t = Namespace::new(&world().cluster, "queue-restart");
    let mut redis = Redis::new("queue-restart");
    deployed(&t, &redis, "");
    let item = |n: usize| format!("item-{n:03}");
    for n in 0..60 {
        redis.add("work", &["data", &item(n)]);
    }
    redis.kill();
    let gone = until_triggers_are(&t, "False", "redis://127.0.0.1");
    assert!(!gone.to_string().contains("hunter2"), "{gone}");
    assert!(t.dhow(&["ls"]).ok().contains("orders"), "the function itself goes on");
    assert_eq!(condition(&t, "Ready").expect("a condition")["status"], "True");
    redis.start();
    for n in 60..100 {
        redis.add("work", &["data", &item(n)]);
    }
    redis.until_done("work", "orders");
    until_triggers_are(&t, "True", "");
    let seen: BTreeSet<String> = orders(&t).into_keys().collect();
    assert_eq!(seen, (0..100).map(item).collect::<BTreeSet<_>>());
    assert!(redis.entries("work-dead").is_empty());
}

#[test]
fn what_is_wrong_with_a_queue_is_told_by_field_or_by_condition() {
    let t = Namespace::new(&world().cluster, "queue-wrong");
    let refused = t
        .run_with(
            &["apply", "-f", "-"],
            &function("url: 'redis://:hunter2@localhost', maxAttempts: 0, visibilityTimeoutSeconds: 30"),
        )
        .fails();
    for part in [
        "spec.triggers[0].queue.url: Invalid value: \"redis://…@…\": must not hold a user or a password: put the URL \
         into a Secret and name it in `secretKeyRef`",
        "spec.triggers[0].queue.stream: Required value",
        "spec.triggers[0].queue.maxAttempts: Invalid value: 0: must be between 1 and 100, inclusive",
        "spec.triggers[0].queue.visibilityTimeoutSeconds: Invalid value: 30: must be between 31 and 86400, inclusive",
    ] {
        assert!(refused.contains(part), "{part}\n{refused}");
    }
    t.apply(&function("secretKeyRef: {name: redis, key: url}, stream: work"));
    until_triggers_are(&t, "False", "trigger work: there is no Secret redis in this namespace");
    let listed = t.dhow(&["ls"]).ok();
    assert!(listed.contains("trigger work: there is no Secret redis in this namespace"), "{listed}");
    let wide = t.ok(&["get", "fn", "orders", "-o", "wide"]);
    assert!(wide.contains("work=Misconfigured"), "{wide}");
    let deployed = t.dhow(&["deploy", &world().image("orders"), "--name", "orders"]);
    assert!(
        deployed.stderr.contains("but not its queue: trigger work: there is no Secret"),
        "{}",
        deployed.told()
    );
    assert_eq!(deployed.code(), Some(0), "the function itself serves");
    // It is looked for again by itself.
    let redis = Redis::new("queue-wrong");
    t.ok(&["create", "secret", "generic", "redis", &format!("--from-literal=url={}", redis.url())]);
    until_triggers_are(&t, "True", "");
    redis.add("work", &["data", "found"]);
    redis.until_done("work", "orders");
    t.apply(&function("url: 'redis://169.254.169.254', stream: work"));
    until_triggers_are(&t, "False", "has no address that may be reached");
    t.ok(&["patch", "fn", "orders", "--type=merge", "-p", r#"{"spec":{"triggers":null}}"#]);
    wait::until("nothing is said of what is no longer wanted", || match condition(&t, "TriggersReady") {
        None => Ok(()),
        Some(condition) => Err(condition.to_string()),
    });
}
