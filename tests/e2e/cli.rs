//! `dhow` for those without kubectl: run, deploy, push, pull, and the commands that look.
use crate::harness::{Namespace, Ran, command, environment, http, wait, world};
use serde_json::Value;
use std::time::Duration;

fn guest(name: &str) -> String {
    environment::guest(name).to_str().expect("a path of ours").to_owned()
}

/// What failed, in one sentence.
#[track_caller]
fn one_sentence(ran: Ran) -> String {
    let said = ran.fails();
    assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said:?}");
    for word in ["Error(", "Os {", "panicked", "backtrace", "unwrap", "ApiError"] {
        assert!(!said.contains(word), "{word} in {said:?}");
    }
    said
}

#[test]
fn a_program_runs_with_its_arguments_and_exits_with_its_code() {
    let t = Namespace::new(&world().cluster, "run");
    let file = guest("hello-cli");
    assert_eq!(t.dhow(&["run", &file, "--", "world", "again"]).ok(), "Hello, world!\nHello, again!\n");
    for code in [0, 1, 3, 125] {
        let ran = t.dhow(&["run", &file, "--", "--exit", &code.to_string()]);
        assert_eq!(ran.code(), Some(code), "{}", ran.told());
    }
    assert_eq!(t.dhow(&["run", &file, "--env", "GREETING=Good day", "-e", "OTHER=x"]).ok(), "Good day\n");
    let from_registry = t.dhow(&["run", &world().image("hello-cli"), "--", "registry"]);
    assert_eq!(from_registry.ok(), "Hello, registry!\n");
    wait::until("no pod is left", || {
        let left = t.ok(&["get", "pods", "-o", "name"]);
        wait::holds(left.is_empty(), left)
    });
}

/// Prints nothing by itself: which of these guests were left out is said where they are built.
#[test]
fn programs_in_go_and_c_run_as_those_in_rust() {
    let t = Namespace::new(&world().cluster, "run-languages");
    let cases: [(&str, &[&str], i32, &str); 4] = [
        ("counter", &["3"], 0, "1\n2\n3\n"),
        ("counter", &["many"], 2, "is not a number"),
        ("fib", &["50"], 0, "12586269025\n"),
        ("fib", &["93"], 2, "usage: fib N"),
    ];
    for (name, args, code, printed) in cases {
        if environment::was_built(name) {
            let file = guest(name);
            let ran = t.dhow(&[&["run", &file, "--"], args].concat());
            assert_eq!(ran.code(), Some(code), "{name} {args:?}: {}", ran.told());
            if code == 0 {
                assert_eq!(ran.stdout, printed, "{name} {args:?}");
            } else {
                assert!(ran.told().contains(printed), "{name} {args:?}: {}", ran.told());
            }
        }
    }
}

#[test]
fn a_program_sees_what_is_mounted_and_no_more() {
    let t = Namespace::new(&world().cluster, "run-volume");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("note.txt"), "a note\n").expect("a file");
    let (file, host) = (guest("hello-cli"), folder.path().display().to_string());
    let cat = |mount: &str, path: &str| t.dhow(&["run", &file, "-v", mount, "--", "--cat", path]);
    assert_eq!(cat(&format!("{host}:/data:ro"), "/data/note.txt").ok(), "a note\n");
    assert_eq!(cat(&format!("{host}:/data"), "/data/note.txt").ok(), "a note\n");
    let ran = cat(&format!("{host}:/data"), "/etc/passwd");
    assert!(ran.code() == Some(1) && ran.stderr.contains("/etc/passwd"), "{}", ran.told());
    let ran = cat(&format!("{host}:/data"), "/data/../../etc/passwd");
    assert_eq!(ran.code(), Some(1), "{}", ran.told());
    let error = one_sentence(cat("/no/such/folder:/data", "/data/x"));
    assert!(error.contains("/no/such/folder"), "{error}");
}

#[test]
fn standard_input_reaches_the_program() {
    let t = Namespace::new(&world().cluster, "run-stdin");
    let cluster = &world().cluster;
    let file = guest("hello-cli");
    let words = ["--namespace", &t.name, "run", "-i", &file, "--", "--stdin"];
    assert_eq!(
        command::run_with_input(&mut cluster.dhow(&words), b"a line\nand another\n").ok(),
        "a line\nand another\n"
    );
    assert_eq!(command::run_with_input(&mut cluster.dhow(&words), b"").ok(), "");
    let long = "0123456789abcdef".repeat(20_000) + "\n";
    let ran = command::run_with_input(&mut cluster.dhow(&words), long.as_bytes());
    assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
    assert!(ran.stdout == long, "{} bytes came back of {}", ran.stdout.len(), long.len());
}

#[test]
fn a_function_is_deployed_from_a_file_reached_by_its_url_and_removed() {
    let t = Namespace::new(&world().cluster, "deploy");
    let gateway = world().cluster.gateway();
    let url = t.dhow(&["deploy", &guest("hello-http"), "--name", "greeter"]).ok();
    let host = format!("greeter.deploy.localhost:{}", world().cluster.gateway_port);
    assert_eq!(url.trim(), format!("http://{host}"));
    let says = |path: &str| http::get(&gateway, &host, path).expect("an answer of the gateway");
    assert_eq!(says("/some/path?q=1").body, "Hello from WebAssembly: you asked for /some/path?q=1\n");
    let list = t.dhow(&["ls"]).ok();
    assert!(list.contains("greeter") && list.contains("1/1") && list.contains(url.trim()), "{list}");

    // Deployed again with another environment it serves without a moment of silence, then by the new one.
    t.dhow(&[
        "deploy",
        &guest("hello-http"),
        "--name",
        "greeter",
        "--env",
        "GREETING=Salut",
        "--replicas",
        "2",
    ])
    .ok();
    wait::until("the new greeting", || {
        let said = says("/");
        assert_eq!(said.status, 200, "{said:?}");
        wait::holds(said.body.starts_with("Salut"), said.body)
    });
    assert!(t.dhow(&["ls"]).ok().contains("2/2"));
    assert_eq!(t.dhow(&["rm", "greeter"]).ok(), "function.dhow.dev/greeter deleted\n");
    wait::until("the gateway forgets it", || {
        let said = says("/");
        wait::holds(said.status == 404, format!("{said:?}"))
    });
    wait::until("all that was made for it is gone", || {
        let left = t.ok(&["get", "deploy,rs,svc,pods,functions", "-o", "name"]);
        wait::holds(left.is_empty(), left)
    });
    let error = one_sentence(t.dhow(&["rm", "greeter"]));
    assert!(error.contains("greeter"), "{error}");
}

#[test]
fn a_text_component_is_deployed_from_the_registry() {
    let t = Namespace::new(&world().cluster, "deploy-text");
    let url = t.dhow(&["deploy", &world().image("hello-wat")]).ok();
    let host = url.trim().trim_start_matches("http://").to_owned();
    assert!(host.starts_with("hello-wat.deploy-text.localhost"), "{url}");
    let answer = http::get(&world().cluster.gateway(), &host, "/").expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "Hello from WebAssembly text!\n"));
}

#[test]
fn what_kubectl_does_dhow_does_too() {
    let t = Namespace::new(&world().cluster, "verbs");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("app.yaml");
    let write = |replicas: u32| {
        let text = format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: web, image: '{}'}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
",
            world().image("hello-http")
        );
        std::fs::write(&file, text).expect("a file");
    };
    let path = file.to_str().expect("a path of ours");
    write(2);
    assert_eq!(t.dhow(&["apply", "-f", path]).ok(), "deployment.apps/web created\nservice/web created\n");
    let said = t.dhow(&["rollout", "status", "deploy/web"]).ok();
    assert!(said.ends_with("deployment \"web\" successfully rolled out\n"), "{said}");
    assert_eq!(t.dhow(&["apply", "-f", path]).ok(), "deployment.apps/web unchanged\nservice/web unchanged\n");
    write(3);
    assert_eq!(
        t.dhow(&["apply", "-f", path]).ok(),
        "deployment.apps/web configured\nservice/web unchanged\n"
    );
    t.dhow(&["rollout", "status", "deploy", "web"]).ok();

    let table = t.dhow(&["get", "pods"]).ok();
    assert!(table.starts_with("NAME ") && table.matches("1/1").count() == 3, "{table}");
    assert!(t.dhow(&["get", "pods", "-o", "wide"]).ok().contains("NODE"));
    let names = t.dhow(&["get", "pods", "-l", "app=web", "-o", "name"]).ok();
    assert!(names.lines().count() == 3 && names.lines().all(|l| l.starts_with("pod/web-")), "{names}");
    let object: Value =
        serde_json::from_str(&t.dhow(&["get", "deploy", "web", "-o", "json"]).ok()).expect("JSON");
    assert_eq!((&object["kind"], &object["spec"]["replicas"]), (&"Deployment".into(), &3.into()));
    let yaml = t.dhow(&["get", "deploy/web", "-o", "yaml"]).ok();
    assert!(yaml.contains("replicas: 3") && yaml.contains("kind: Deployment"), "{yaml}");
    assert!(t.dhow(&["get", "deploy,svc", "-A"]).ok().contains("verbs"));
    let described = t.dhow(&["describe", "deploy", "web"]).ok();
    assert!(described.contains("web") && described.contains("ScalingReplicaSet"), "{described}");

    assert_eq!(t.dhow(&["scale", "deploy/web", "--replicas", "1"]).ok(), "deployment.apps/web scaled\n");
    t.dhow(&["rollout", "status", "deploy/web"]).ok();
    t.ok(&["set", "env", "deploy/web", "GREETING=x"]);
    t.dhow(&["rollout", "status", "deploy/web"]).ok();
    assert_eq!(t.dhow(&["rollout", "history", "deploy/web"]).ok().lines().count(), 3);
    assert_eq!(t.dhow(&["rollout", "undo", "deploy/web"]).ok(), "deployment.apps/web rolled back\n");
    t.dhow(&["rollout", "status", "deploy/web"]).ok();
    let env = t.json(&["get", "deploy", "web"])["spec"]["template"]["spec"]["containers"][0]["env"].clone();
    assert!(env.is_null() || env == serde_json::json!([]), "{env}");
    t.dhow(&["rollout", "restart", "deploy/web"]).ok();
    t.dhow(&["rollout", "status", "deploy/web"]).ok();

    t.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: talker}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: '{}', args: [a, b]}}]}}}}",
        world().image("hello-cli")
    ));
    assert_eq!(t.dhow(&["logs", "-f", "talker"]).ok_when_started(&t), "Hello, a!\nHello, b!\n");
    assert_eq!(t.dhow(&["logs", "talker", "--tail", "1"]).ok(), "Hello, b!\n");
    assert!(t.dhow(&["api-resources"]).ok().contains("functions"));
    assert_eq!(t.dhow(&["delete", "-f", path]).ok(), "deployment.apps/web deleted\nservice/web deleted\n");
    assert_eq!(t.dhow(&["delete", "pod", "talker"]).ok(), "pod/talker deleted\n");
    let error = one_sentence(t.dhow(&["delete", "pod", "talker"]));
    assert!(error.contains("talker"), "{error}");
}

trait OnceStarted {
    fn ok_when_started(self, t: &Namespace) -> String;
}

impl OnceStarted for Ran {
    /// The log of a container that did not run yet is asked for again once it does.
    fn ok_when_started(self, t: &Namespace) -> String {
        if self.status.success() {
            return self.stdout;
        }
        t.until("the talker ran", "pod", "talker", |p| (p["status"]["phase"] == "Succeeded").then_some(()));
        t.dhow(&["logs", "talker"]).ok()
    }
}

#[test]
fn an_artifact_goes_to_a_registry_and_comes_back_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let world = world();
    let out = folder.path().join("back.wasm");
    let back = |words: &[&str], environment: &[(&str, std::path::PathBuf)]| {
        let mut command = world.cluster.dhow(words);
        command.arg("-o").arg(&out).envs(environment.iter().map(|(n, v)| (n, v)));
        command::run(&mut command)
    };
    let reference = world.registry.reference("there/and-back:v1");
    let pushed = world.cluster.run(&["push", &guest("hello-cli"), &reference]).ok();
    let digest = pushed.lines().find(|l| l.starts_with("sha256:")).expect("a digest").to_owned();
    assert!(back(&["pull", &reference], &[]).ok().contains(&digest));
    let original = std::fs::read(environment::guest("hello-cli")).expect("the guest");
    assert!(std::fs::read(&out).expect("the file") == original, "another file came back");
    back(&["pull", &format!("{}@{digest}", world.registry.reference("there/and-back"))], &[]).ok();
    // Others read it too: it is an ordinary OCI artifact.
    let inspected = command::run(std::process::Command::new("skopeo").args([
        "inspect",
        "--tls-verify=false",
        "--raw",
        &format!("docker://{reference}"),
    ]))
    .ok();
    assert!(inspected.contains("application/wasm"), "{inspected}");

    let secure = world.secure.reference("samples/hello-cli:v1");
    let authority = world.secure.authority.as_ref().expect("one").to_str().expect("a path").to_owned();
    let trusting = ["pull", &secure, "--registry-ca", &authority];
    let login = |password: &str| [("DOCKER_CONFIG", world.secure.credentials(folder.path(), password))];
    back(&trusting, &login("right")).ok();
    for environment in [&login("not-mine")[..], &[("DOCKER_CONFIG", folder.path().to_owned())]] {
        let error = one_sentence(back(&trusting, environment));
        assert!(error.contains(&world.secure.address) && !error.contains("not-mine"), "{error}");
    }
    let error = one_sentence(back(&["pull", &secure], &login("right")));
    assert!(error.contains("certificate") || error.contains("issuer"), "{error}");
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("the folder")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.starts_with(".dhow"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn completion_and_help_need_no_cluster() {
    for shell in ["bash", "zsh", "fish"] {
        let script = world().cluster.run(&["completion", shell]).ok();
        assert!(script.contains("deploy") && script.contains("rollout"), "{shell}");
    }
    let help = world().cluster.run(&["--help"]).ok();
    for word in ["up", "run", "deploy", "push", "get", "apply"] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(&format!("{word} "))), "{word} in {help}");
    }
    assert!(!help.contains("internal"), "{help}");
    assert!(world().cluster.run(&["--version"]).ok().starts_with("dhow "));
    assert!(!help.contains('\u{1b}'), "no colours into a pipe");
}

#[test]
fn a_deploy_that_failed_does_not_haunt_the_next_one() {
    let t = Namespace::new(&world().cluster, "haunted");
    // Nobody listens on port 1.
    let failed = t.dhow(&["deploy", "127.0.0.1:1/none:1", "--name", "site"]);
    assert!(failed.code() == Some(1) && failed.stderr.contains("site cannot start"), "{}", failed.told());
    t.dhow(&["deploy", &guest("hello-http"), "--name", "site"]).ok();
}

#[test]
fn run_and_deploy_send_each_other_what_is_not_theirs() {
    let t = Namespace::new(&world().cluster, "not-theirs");
    let ran = t.dhow(&["run", &guest("hello-http")]);
    assert!(ran.code() == Some(125) && ran.stderr.contains("dhow deploy"), "{}", ran.told());
    let deployed = t.dhow(&["deploy", &guest("hello-cli")]);
    assert!(deployed.code() == Some(1) && deployed.stderr.contains("dhow run"), "{}", deployed.told());
}

#[test]
fn errors_are_one_sentence_that_says_what_to_do() {
    let t = Namespace::new(&world().cluster, "errors");
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text.wasm");
    std::fs::write(&text, "no wasm at all").expect("a file");
    let text = text.to_str().expect("a path");
    for (words, parts) in [
        (&["get", "nonsense"][..], &["nonsense"][..]),
        (&["get", "pod", "missing"], &["missing", "not found"]),
        (&["run", text], &["not a WebAssembly module"]),
        (&["run", "./missing.wasm"], &["missing.wasm"]),
        (&["run", "x", "--env", "NOVALUE"], &["NOVALUE", "NAME=VALUE"]),
        (&["deploy", "./missing.wasm"], &["missing.wasm"]),
        (&["push", "/missing.wasm", "127.0.0.1:1/x:v1"], &["/missing.wasm"]),
        (&["push", text, "127.0.0.1:1/x:v1"], &["WebAssembly"]),
        (&["pull", "127.0.0.1:1/x:v1"], &["127.0.0.1:1"]),
        (&["push", &guest("hello-cli"), "Not A Reference"], &["Not A Reference"]),
        (&["logs", "missing"], &["missing"]),
        (&["scale", "deploy/missing", "--replicas", "2"], &["missing"]),
        (&["rollout", "status", "deploy/missing"], &["missing"]),
        (&["apply", "-f", "/missing.yaml"], &["/missing.yaml"]),
    ] {
        let error = one_sentence(t.dhow(words));
        for part in parts {
            assert!(error.contains(part), "{words:?}: {part} in {error}");
        }
    }
    // No cluster at all.
    let nowhere = folder.path().join("kubeconfig");
    let config = std::fs::read_to_string(world().cluster.kubeconfig()).expect("the kubeconfig");
    std::fs::write(&nowhere, config.replace(&format!(":{}", world().cluster.port), ":1")).expect("a file");
    let error = one_sentence(t.dhow(&["--kubeconfig", nowhere.to_str().expect("a path"), "get", "pods"]));
    assert!(error.contains("dhow up"), "{error}");
    let error = one_sentence(t.dhow(&["--kubeconfig", "/missing/kubeconfig", "get", "pods"]));
    assert!(error.contains("/missing/kubeconfig"), "{error}");
}

#[test]
fn ctrl_c_ends_a_run_and_removes_its_pod() {
    let t = Namespace::new(&world().cluster, "run-interrupted");
    let file = guest("hello-cli");
    let mut run = command::Background::spawn(&mut world().cluster.dhow(&[
        "--namespace",
        &t.name,
        "run",
        &file,
        "--",
        "here",
        "--spin",
    ]));
    run.line(Duration::from_secs(30), |l| l == "Hello, here!");
    // SAFETY: no memory is involved.
    unsafe { libc::kill(run.child.id() as i32, libc::SIGINT) };
    let status = command::wait(&mut run.child, Duration::from_secs(30)).expect("it ends");
    assert_eq!(status.code(), Some(130));
    wait::until("its pod is gone", || {
        let left = t.ok(&["get", "pods", "-o", "name"]);
        wait::holds(left.is_empty(), left)
    });
}
