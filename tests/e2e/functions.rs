//! Revisions of a function: who serves, how requests are divided, how one goes back.
use crate::harness::{Namespace, environment, http, wait, world};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A function whose revisions are told apart by what they say: r1 says `one`, r2 `two`.
fn two_revisions(t: &Namespace) -> String {
    let guest = environment::guest("hello-http");
    let guest = guest.to_str().expect("a path of ours");
    for word in ["one", "two"] {
        t.dhow(&["deploy", guest, "--name", "greeter", "--env", &format!("GREETING={word}")]).ok();
    }
    format!("greeter.{}.localhost:{}", t.name, world().cluster.gateway_port)
}

/// The first word of the answer of the revision that was asked.
fn says(host: &str, headers: &[(&str, &str)]) -> Result<String, String> {
    let answer = http::request(&world().cluster.gateway(), host, "GET", "/", headers, b"")?;
    match answer.status {
        200 => Ok(answer.body.split_whitespace().next().unwrap_or_default().to_owned()),
        _ => Err(format!("{answer:?}")),
    }
}

fn served(t: &Namespace) -> String {
    let traffic = t.json(&["get", "fn", "greeter"])["status"]["traffic"].clone();
    let share =
        |s: &serde_json::Value| format!("{}={}", s["revision"].as_str().unwrap_or_default(), s["percent"]);
    traffic.as_array().into_iter().flatten().map(share).collect::<Vec<_>>().join(" ")
}

/// The gateway hears of a change a moment after the function's status tells of it.
fn until_it_says(host: &str, headers: &[(&str, &str)], word: &str) {
    wait::until("the gateway has heard of it", || {
        let said = says(host, headers)?;
        wait::holds(said == word, said)
    });
}

#[test]
fn requests_with_a_header_go_to_the_canary_and_all_others_do_not() {
    let t = Namespace::new(&world().cluster, "canary");
    let host = two_revisions(&t);
    let said = t.dhow(&["traffic", "greeter", "r1=100", "--header", "X-Canary=yes:r2"]).ok();
    assert_eq!(said, "greeter serves greeter-r1 100 %, greeter-r2 for X-Canary: yes\n");
    until_it_says(&host, &[], "one");
    until_it_says(&host, &[("x-canary", "yes")], "two");
    for n in 0..50 {
        assert_eq!(says(&host, &[("X-CANARY", "yes")]).as_deref(), Ok("two"), "request {n}");
        assert_eq!(says(&host, &[("x-canary", "no")]).as_deref(), Ok("one"), "request {n}");
        assert_eq!(says(&host, &[]).as_deref(), Ok("one"), "request {n}");
    }
    let listed = t.dhow(&["revisions", "greeter"]).ok();
    assert!(listed.contains("X-Canary: yes") && listed.contains("100 %"), "{listed}");
    assert!(t.ok(&["get", "rev", "greeter-r2"]).contains("True"));
}

#[test]
fn ninety_of_a_hundred_requests_go_where_the_traffic_says() {
    let t = Namespace::new(&world().cluster, "split");
    let host = two_revisions(&t);
    assert_eq!(
        t.dhow(&["traffic", "greeter", "r1=90,r2=10"]).ok(),
        "greeter serves greeter-r1 90 %, greeter-r2 10 %\n"
    );
    until_it_says(&host, &[], "one");
    let all = 1000;
    let two = (0..all).filter(|_| says(&host, &[]).expect("an answer") == "two").count();
    // A coin would be within 5 standard deviations (9.5 each) but once in a million runs.
    assert!((52..=148).contains(&two), "{two} of {all} went to the revision with 10 %");
    let refused = t.dhow(&["traffic", "greeter", "r1=90,r2=20"]);
    assert!(refused.code() == Some(1) && refused.stderr.contains("110"), "{}", refused.told());
    let refused = t.dhow(&["traffic", "greeter", "r9=100"]);
    assert!(
        refused.code() == Some(1) && refused.stderr.contains("dhow revisions greeter"),
        "{}",
        refused.told()
    );
    let kubectl = t.fails(&[
        "patch",
        "fn",
        "greeter",
        "--type=merge",
        "-p",
        r#"{"spec":{"traffic":[{"revision":"greeter-r1","percent":90}]}}"#,
    ]);
    assert!(kubectl.contains("spec.traffic: Invalid value: 90"), "{kubectl}");
}

#[test]
fn going_back_under_load_loses_no_request() {
    let t = Namespace::new(&world().cluster, "rollback");
    let host = two_revisions(&t);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = || {
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if let Err(why) = says(&host, &[]) {
                failed.push(why);
            }
            asked.fetch_add(1, Ordering::Relaxed);
        }
        failed
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        let some_more = || {
            let before = asked.load(Ordering::Relaxed);
            wait::until("requests are answered", || {
                let now = asked.load(Ordering::Relaxed);
                wait::holds(now > before + 100, format!("{before}, then {now}"))
            });
        };
        some_more();
        // The first revision sleeps by now, or will soon: either way it is woken before it is asked.
        assert_eq!(t.dhow(&["rollback", "greeter"]).ok(), "greeter serves greeter-r1 100 %\n");
        some_more();
        until_it_says(&host, &[], "one");
        assert_eq!(t.dhow(&["traffic", "greeter", "latest=100"]).ok(), "greeter serves greeter-r2 100 %\n");
        some_more();
        wait::until("the other revision is put to sleep", || {
            let d = t.json(&["get", "deploy", "greeter-r1"]);
            wait::holds(d["spec"]["replicas"] == 0, d["spec"]["replicas"].to_string())
        });
        some_more();
        assert_eq!(t.dhow(&["rollback", "greeter", "--to", "r1"]).ok(), "greeter serves greeter-r1 100 %\n");
        some_more();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let failed = client.join().expect("a client");
            assert!(failed.is_empty(), "{} requests failed, one of them: {}", failed.len(), failed[0]);
        }
    });
    until_it_says(&host, &[], "one");
}

#[test]
fn a_revision_that_never_gets_ready_leaves_the_traffic_where_it_was() {
    let t = Namespace::new(&world().cluster, "never-ready");
    let host = two_revisions(&t);
    // Nobody listens on port 1.
    let failed = t.dhow(&["deploy", "127.0.0.1:1/none:1", "--name", "greeter"]);
    assert_eq!(failed.code(), Some(1), "{}", failed.told());
    // The one or, a moment later, the other: both with the reason.
    let states = ["ErrImagePull", "ImagePullBackOff"];
    let told = states.iter().any(|state| {
        let told = format!("greeter cannot start: greeter-r3: {state}");
        failed.stderr.contains(&told)
    });
    assert!(told, "{}", failed.stderr);
    assert!(failed.stderr.contains("registry 127.0.0.1:1 cannot be reached"), "{}", failed.stderr);
    assert!(failed.stderr.contains("greeter-r2 100 % serves as before"), "{}", failed.stderr);
    assert_eq!(served(&t), "greeter-r2=100");
    assert_eq!(says(&host, &[]).as_deref(), Ok("two"));
    let condition = t.json(&["get", "fn", "greeter"])["status"]["conditions"][0].clone();
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&"False".into(), &"RevisionFailed".into()),
        "{condition}"
    );
    assert!(
        t.dhow(&["revisions", "greeter"])
            .ok()
            .lines()
            .any(|l| l.contains("greeter-r3") && l.contains("Failed"))
    );
    // What serves needs nothing from what does not.
    t.dhow(&["traffic", "greeter", "r1=100"]).ok();
    assert_eq!(served(&t), "greeter-r1=100");
    wait::within(Duration::from_secs(60), "the old one serves", || {
        let said = says(&host, &[])?;
        wait::holds(said == "one", said)
    });
}

#[test]
fn a_function_is_asked_and_its_log_is_read_by_its_name() {
    let t = Namespace::new(&world().cluster, "invoke");
    let host = two_revisions(&t);
    until_it_says(&host, &[], "two");
    assert_eq!(
        t.dhow(&["invoke", "greeter", "--path", "/x?y=1"]).ok(),
        "two from WebAssembly: you asked for /x?y=1\n"
    );
    let head = t.dhow(&["invoke", "greeter", "-i", "-d", "text", "-H", "x-a: b"]).ok();
    assert!(head.starts_with("HTTP/1.1 200 OK\n"), "{head}");
    let missing = t.dhow(&["invoke", "nobody"]);
    assert!(missing.code() == Some(1) && missing.stderr.contains("dhow ls"), "{}", missing.told());
    t.dhow(&["logs", "greeter"]).ok();
    let missing = t.dhow(&["logs", "nobody"]);
    assert!(
        missing.code() == Some(1) && missing.stderr.contains("neither a pod nor a function"),
        "{}",
        missing.told()
    );
}

#[test]
fn a_cron_trigger_calls_the_revision_that_serves() {
    let t = Namespace::new(&world().cluster, "cron");
    let image = world().image("hello-http");
    let function = |schedule: &str| {
        format!(
            "{{apiVersion: dhow.dev/v1alpha1, kind: Function, metadata: {{name: clock}}, spec: {{image: {image}, \
             triggers: [{{name: tick, cron: {{schedule: '{schedule}', path: /tick, timeZone: Europe/Berlin}}}}]}}}}"
        )
    };
    let refused = t.run_with(&["apply", "-f", "-"], &function("61 * * * *")).fails();
    assert!(
        refused.contains("spec.triggers[0].cron.schedule: Invalid value: \"61 * * * *\": minute"),
        "{refused}"
    );
    t.apply(&function("* * * * *"));
    wait::within(Duration::from_secs(150), "it was called at a full minute", || {
        let status = t.json(&["get", "fn", "clock"])["status"].clone();
        let tick = &status["triggers"][0];
        let at_the_minute = tick["lastScheduleTime"].as_str().is_some_and(|t| t.ends_with(":00Z"));
        let called = tick["lastResult"] == "answered 200" && tick["lastSuccessfulTime"].is_string();
        wait::holds(at_the_minute && called, status.to_string())
    });
}

/// Begins a request whose body does not come yet; the guest waits for it when this returns (`100 Continue` is sent when
/// somebody reads).
fn begun(address: &str) -> TcpStream {
    let mut stream = http::connect(address).expect("a connection");
    let head = b"POST / HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    stream.write_all(head).expect("the head is taken");
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).expect("the guest reads");
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

/// Whether the answer begins to come within a time.
fn is_answered(mut stream: &TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).expect("a timeout");
    let mut head = [0; 12];
    match stream.read_exact(&mut head) {
        Ok(()) => head == *b"HTTP/1.1 204",
        Err(_) => false,
    }
}

#[test]
fn a_function_that_takes_one_request_at_a_time_is_given_one_at_a_time() {
    let t = Namespace::new(&world().cluster, "concurrency");
    for (name, concurrency) in [("one", "concurrency: 1, "), ("any", "concurrency: 100000, ")] {
        let image = world().pushed("orders");
        t.apply(&format!(
            "{{apiVersion: dhow.dev/v1alpha1, kind: Function, metadata: {{name: {name}}}, spec: {{{concurrency}image: {image}}}}}"
        ));
        let address = wait::until("its pod is ready", || {
            let pods = t.items(&["get", "pods", "-l", &format!("dhow.dev/function={name}")]);
            let pod = pods.first().ok_or("no pod")?;
            let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
            wait::holds(ready, pod["status"].to_string())?;
            Ok(format!("{}:8080", pod["status"]["podIP"].as_str().unwrap_or_default()))
        });
        let (mut first, mut second) = (begun(&address), http::connect(&address).expect("a connection"));
        second.write_all(b"POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 0\r\n\r\n").expect("it is taken");
        match name {
            "one" => assert!(!is_answered(&second, Duration::from_secs(1)), "two at a time"),
            _ => assert!(is_answered(&second, Duration::from_secs(20)), "it waits for the other"),
        }
        first.write_all(b"done").expect("the body is taken");
        assert!(is_answered(&first, Duration::from_secs(20)), "{name}");
        if name == "one" {
            assert!(is_answered(&second, Duration::from_secs(20)), "its turn has come");
        }
    }
}

#[test]
fn what_a_component_imports_is_read_before_its_pods_are_made() {
    let t = Namespace::new(&world().cluster, "imports-of-functions");
    let guest = environment::guest("hello-http");
    for (name, what) in [("file", guest.to_str().expect("a path")), ("pulled", &world().image("hello-http"))]
    {
        t.dhow(&["deploy", what, "--name", name]).ok();
        let imports = t.json(&["get", "rev", &format!("{name}-r1")])["spec"]["imports"].clone();
        let names: Vec<&str> = imports.as_array().into_iter().flatten().filter_map(|i| i.as_str()).collect();
        assert!(names.iter().any(|i| i.starts_with("wasi:http/types@")), "{name}: {imports}");
        let pods = t.items(&["get", "pods", "-l", &format!("dhow.dev/function={name}")]);
        assert_eq!(pods[0]["metadata"]["annotations"]["dhow.dev/imports"], names.join(","));
    }
}

#[test]
fn a_project_is_made_built_and_run_where_its_compiler_is() {
    let t = Namespace::new(&world().cluster, "project");
    let folder = tempfile::tempdir().expect("a folder");
    for language in ["go", "c"] {
        let doctor = t.dhow(&["doctor", "--language", language]);
        let made = folder.path().join(format!("my-{language}-tool"));
        let path = made.to_str().expect("a path of ours");
        assert!(t.dhow(&["new", language, path]).ok().contains("dhow build"), "{language}");
        let again = t.dhow(&["new", language, path]);
        assert!(again.code() == Some(1) && again.stderr.contains("is there already"), "{}", again.told());
        let built = t.dhow(&["build", path]);
        if doctor.code() == Some(0) {
            assert!(built.ok().contains("next: dhow run"), "{language}");
            let wasm = format!("{path}/my-{language}-tool.wasm");
            assert_eq!(
                t.dhow(&["run", &wasm, "--", "a", "b"]).ok(),
                format!("Hello from my-{language}-tool: a b\n")
            );
        } else {
            assert!(built.code() == Some(1) && built.stderr.contains("needs"), "{}", built.told());
            assert!(doctor.stdout.contains("missing"), "{}", doctor.told());
        }
    }
    let nothing = t.dhow(&["build", "/"]);
    assert!(nothing.code() == Some(1) && nothing.stderr.contains("dhow new"), "{}", nothing.told());
}

#[test]
fn what_a_program_writes_to_standard_error_comes_out_there() {
    let t = Namespace::new(&world().cluster, "streams");
    let guest = environment::guest("hello-cli");
    let guest = guest.to_str().expect("a path of ours");
    // It complains about the file on standard error.
    let ran = t.dhow(&["run", guest, "--", "--cat", "/no/such/file"]);
    assert_ne!(ran.code(), Some(0), "{}", ran.told());
    assert!(ran.stdout.is_empty() && ran.stderr.contains("/no/such/file"), "{}", ran.told());
}
