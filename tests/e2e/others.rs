//! Guests made by the tools of others: Spin's SDK, componentize-js, componentize-py. They run as they are.
//!
//! Which of them were left out of a run is said where they are built (`cargo xtask test --others`).
use crate::harness::http::Answer;
use crate::harness::{Namespace, command, environment, http, wait, world};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A debug build compiles the 18 MB of a Python component in half a minute, on busy cores in two.
const COMPILED: &str = "110";

fn ask(t: &Namespace, name: &str) -> Result<Answer, String> {
    let host = format!("{name}.{}.localhost:{}", t.name, world().cluster.gateway_port);
    http::get(&world().cluster.gateway(), &host, "/some/path?q=1")
}

/// What each of them says, of the name it was built under.
fn greeting(guest: &str) -> String {
    match guest {
        "spin-hello" => "Hello from a Spin component: you asked for /some/path?q=1\n".to_owned(),
        _ => format!("Hello from {guest}: you asked for /some/path?q=1\n"),
    }
}

#[test]
fn components_made_by_other_tools_answer_one_and_many_requests_unchanged() {
    let t = Namespace::new(&world().cluster, "others");
    for guest in ["spin-hello", "hello-js", "hello-py"] {
        if !environment::was_built(guest) {
            continue;
        }
        // From a registry: what it imports is looked at before it is pulled.
        let image = world().pushed(guest);
        let begun = Instant::now();
        t.dhow(&["deploy", &image, "--name", guest, "--timeout", COMPILED]).ok();
        let deployed = begun.elapsed();
        let begun = Instant::now();
        let answer = ask(&t, guest).expect("an answer");
        println!("{guest}: deployed after {deployed:?}, answered after {:?}", begun.elapsed());
        assert_eq!((answer.status, answer.body), (200, greeting(guest)));
        ask_at_once(&t, guest, 8);
    }
    if !environment::was_built("hello-py") {
        return;
    }
    // An instance of Python's takes more than the program declares, and four of them fit: the others wait.
    let limit = r#"{"spec":{"resources":{"limits":{"memory":"64Mi"}}}}"#;
    t.ok(&["patch", "fn", "hello-py", "--type=merge", "-p", limit]);
    wait::until("the pod with the limit serves", || {
        let traffic = t.json(&["get", "fn", "hello-py"])["status"]["traffic"].clone();
        wait::holds(traffic[0]["revision"] == "hello-py-r2", traffic.to_string())
    });
    for _ in 0..3 {
        ask_at_once(&t, "hello-py", 16);
    }
    let pods = t.json(&["get", "pods", "-l", "dhow.dev/revision=hello-py-r2"]);
    assert_eq!(pods["items"][0]["status"]["containerStatuses"][0]["restartCount"], 0, "{pods}");
}

fn ask_at_once(t: &Namespace, guest: &str, count: usize) {
    std::thread::scope(|scope| {
        let many: Vec<_> = (0..count).map(|_| scope.spawn(|| ask(t, guest))).collect();
        for answer in many {
            let answer = answer.join().expect("a client").expect("an answer");
            assert_eq!((answer.status, answer.body), (200, greeting(guest)));
        }
    });
}

/// The commands of docs/functions.md, but for the one that fetches the tools: those of the build of the guests are used.
#[test]
fn templates_in_javascript_and_python_become_functions_by_the_commands_of_the_docs() {
    let t = Namespace::new(&world().cluster, "templates");
    let folder = tempfile::tempdir().expect("a folder");
    for (template, guest, tools, install) in [
        ("javascript", "hello-js", "node_modules", "npm ci"),
        ("python", "hello-py", ".venv", "python3 -m venv"),
    ] {
        let name = format!("my-{template}");
        let made = folder.path().join(&name);
        let path = made.to_str().expect("a path of ours");
        assert!(t.dhow(&["new", template, path]).ok().contains(install), "{template}");
        let doctor = t.dhow(&["doctor", "--language", template]);
        let refused = t.dhow(&["build", path]);
        assert_eq!(refused.code(), Some(1), "{}", refused.told());
        if doctor.code() != Some(0) {
            assert!(refused.stderr.contains("needs"), "{}", refused.told());
            continue;
        }
        assert!(
            refused.stderr.contains(tools) && refused.stderr.contains(install),
            "what is missing, and how to get it: {}",
            refused.told()
        );
        if !environment::was_built(guest) {
            continue;
        }
        let installed = environment::guests().join("projects").join(guest).join(tools);
        symlink(&installed, made.join(tools)).expect("a link");
        let built = t.dhow(&["build", path]).ok();
        assert!(built.contains("next: dhow deploy"), "{built}");
        let wasm = made.join(format!("{name}.wasm"));
        let wasm = wasm.to_str().expect("a path of ours");
        t.dhow(&["deploy", wasm, "--timeout", COMPILED, "--replicas", "1"]).ok();
        let answer = ask(&t, &name).expect("an answer");
        assert_eq!((answer.status, answer.body), (200, greeting(&name)));
    }
}

/// Changes of a small Rust function, each with a build that costs nothing: what is measured is what `dhow watch` adds.
#[test]
fn a_change_of_a_small_function_answers_within_a_second_of_its_build() {
    /// What the developers' loop promises. One change of several must keep it: who else uses the machine is not known.
    const PROMISED: Duration = Duration::from_secs(1);
    const CHANGES: usize = 8;
    let t = Namespace::new(&world().cluster, "watch");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(
        path("dhow.toml"),
        "name = \"small\"\n[build]\ncommand = [\"cp\", \"next.wasm\", \"small.wasm\"]\noutput = \"small.wasm\"\n\
         watch = [\"next.wasm\"]\n",
    )
    .expect("a file");
    write_version(&path("next.wasm"), 0);
    let folder_name = folder.path().to_str().expect("a path of ours");
    let mut watch = world().cluster.dhow(&["--namespace", &t.name, "watch", folder_name]);
    let watch = command::Background::spawn(&mut watch);
    let says = |version: usize| {
        let answer = ask(&t, "small")?;
        wait::holds(answer.body.contains(&word(version)), format!("{answer:?}"))
    };
    watch.line(wait::LONG, |line| line.contains("small-r1 100 %"));
    wait::until("the first version answers", || says(0));
    let mut took = Vec::new();
    for version in 1..=CHANGES {
        // Beside it, and then in its place: never half a file.
        write_version(&path("new.wasm"), version);
        let changed = Instant::now();
        std::fs::rename(path("new.wasm"), path("next.wasm")).expect("renaming");
        wait::until("the new version answers", || says(version));
        let answered = changed.elapsed();
        let revision = format!("small-r{} 100 %", version + 1);
        let line = watch.line(wait::LONG, |line| line.contains(&revision));
        println!("version {version}: {} ms after the change; {line}", answered.as_millis());
        assert!(line.contains(" ms (sent "), "{line}");
        took.push(answered);
        if version > 2 && took.iter().any(|took| *took < PROMISED) {
            return;
        }
    }
    panic!("from a change to its answer: {took:?}");
}

fn word(version: usize) -> String {
    format!("from version {version:03}")
}

/// The Rust sample, saying something else of the same length.
fn write_version(path: &PathBuf, version: usize) {
    let mut bytes = std::fs::read(environment::guest("hello-http")).expect("the guest");
    let old = b"from WebAssembly";
    let new = word(version);
    assert_eq!(old.len(), new.len());
    let at = bytes.windows(old.len()).position(|w| w == old).expect("what it says");
    bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    std::fs::write(path, bytes).expect("a file");
}
