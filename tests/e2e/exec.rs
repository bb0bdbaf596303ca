//! kubectl exec, attach, cp and run -i: over SPDY (the oldest kubectl) and over WebSocket (the newest).
use crate::harness::command::{self, Background};
use crate::harness::{Namespace, environment, wait, world};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A module that writes what it reads, and exports a function beside that.
const CAT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (loop $again
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const 4096))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (if (i32.load (i32.const 8)) (then
                (i32.store (i32.const 4) (i32.load (i32.const 8)))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
                (br $again)))))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#;

/// Does the same with each kubectl, in a namespace of its own.
fn with_each(name: &str, test: impl Fn(&Namespace)) {
    for (age, program) in
        [("oldest", environment::oldest_kubectl()), ("newest", environment::newest_kubectl())]
    {
        test(&Namespace::with(&world().cluster, &format!("{name}-{age}"), program));
    }
}

fn cat_image() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cat.wasm");
    std::fs::write(&file, wat::parse_str(CAT).expect("a module")).expect("a file");
    let reference = world().registry.reference("exec/cat:v1");
    world().cluster.run(&["push", file.to_str().expect("a path"), &reference]).ok();
    reference
}

/// A pod of one container; `more` are fields of it.
fn pod(t: &Namespace, name: &str, image: &str, more: &str) {
    t.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: '{image}'
    {more}
"
    ));
    t.wait(&format!("pod/{name}"), "condition=Ready");
}

/// A Linux container that waits.
fn busybox(t: &Namespace, name: &str) {
    pod(t, name, &world().busybox(), "command: [sh, -c, 'while true; do sleep 0.2; done']");
}

#[test]
fn a_command_in_a_linux_container_has_its_streams_and_its_exit_code() {
    with_each("exec-linux", |t| {
        busybox(t, "box");
        let ran = t.run(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2"]);
        assert!(ran.status.success(), "{}", ran.told());
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
        let ran = t.run(&["exec", "box", "--", "sh", "-c", "exit 7"]);
        assert_eq!(ran.code(), Some(7), "{}", ran.told());
        assert!(ran.stderr.contains("exit code 7"), "{}", ran.told());
        let said = t.fails(&["exec", "box", "--", "nonsense"]);
        assert!(said.contains("nonsense") && said.contains("not found"), "{said}");
        let said = t.fails(&["exec", "box", "-c", "other", "--", "true"]);
        assert!(said.contains("other"), "{said}");
    });
}

#[test]
fn a_megabyte_goes_in_and_comes_out_whole() {
    with_each("exec-megabyte", |t| {
        busybox(t, "box");
        let text: String = (0..160_000).map(|n| format!("{n:06}\n")).collect();
        let ran =
            command::run_with_input(&mut t.command(&["exec", "-i", "box", "--", "cat"]), text.as_bytes());
        assert!(ran.status.success(), "{}", ran.stderr);
        assert!(ran.stdout == text, "{} of {} bytes came back", ran.stdout.len(), text.len());
    });
}

#[test]
fn files_are_copied_in_and_out() {
    with_each("exec-cp", |t| {
        busybox(t, "box");
        let folder = tempfile::tempdir().expect("a folder");
        let (there, back) = (folder.path().join("there"), folder.path().join("back"));
        let text: String = (0..40_000).map(|n| format!("{n}\n")).collect();
        std::fs::write(&there, &text).expect("a file");
        t.ok(&["cp", there.to_str().expect("a path"), "box:/tmp/there"]);
        assert_eq!(t.ok(&["exec", "box", "--", "tail", "-n", "1", "/tmp/there"]), "39999\n");
        t.ok(&["cp", "box:/tmp/there", back.to_str().expect("a path")]);
        assert!(std::fs::read_to_string(&back).expect("it came back") == text);
    });
}

#[test]
fn a_command_has_a_terminal_where_one_is_asked_for() {
    with_each("exec-tty", |t| {
        busybox(t, "box");
        let words =
            ["exec", "-it", "box", "--", "sh", "-c", "test -t 0 && test -t 2 && echo a terminal; exit 3"];
        let kubectl = t.command(&words);
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().expect("text"));
        let line: Vec<String> =
            std::iter::once(kubectl.get_program()).chain(kubectl.get_args()).map(quoted).collect();
        // script(1) gives kubectl a terminal of its own.
        let mut script = std::process::Command::new("script");
        script.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
        for (name, value) in kubectl.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let ran = command::run(&mut script);
        assert_eq!(ran.code(), Some(3), "{}", ran.told());
        assert!(ran.stdout.contains("a terminal\r\n"), "{}", ran.told());
    });
}

#[test]
fn a_command_whose_client_has_gone_is_ended() {
    with_each("exec-gone", |t| {
        busybox(t, "box");
        let processes = || t.ok(&["exec", "box", "--", "/bin/busybox", "ps"]);
        let sleeping = t.background(&["exec", "box", "--", "sleep", "4242"]);
        wait::until("the command runs", || {
            let all = processes();
            wait::holds(all.contains("sleep 4242"), all)
        });
        // SIGKILL: the connection breaks.
        drop(sleeping);
        wait::until("the command is gone", || {
            let all = processes();
            wait::holds(!all.contains("sleep 4242"), all)
        });
    });
}

#[test]
fn exec_in_a_wasm_container_calls_an_exported_function() {
    let image = cat_image();
    with_each("exec-wasm", |t| {
        pod(t, "tools", &image, "stdin: true");
        assert_eq!(t.ok(&["exec", "tools", "--", "add", "1", "2"]), "3\n");
        let said = t.fails(&["exec", "tools", "--", "sh"]);
        assert!(said.contains("cannot run sh") && said.contains("add(i32, i32)"), "{said}");
        let said = t.fails(&["exec", "tools", "--", "add", "one", "2"]);
        assert!(said.contains("\"one\" is not a value of type i32"), "{said}");
        // A server has no instance now, and none is made for what it does not export.
        pod(t, "web", &world().image("hello-http"), "ports: [{containerPort: 8080}]");
        let said = t.fails(&["exec", "web", "--", "ls"]);
        assert!(said.contains("cannot run ls") && said.contains("exports no function"), "{said}");
    });
}

#[test]
fn the_newest_kubectl_speaks_websocket_and_the_oldest_spdy() {
    let image = cat_image();
    with_each("exec-protocol", |t| {
        pod(t, "tools", &image, "stdin: true");
        let ran = t.run(&["exec", "-v=8", "tools", "--", "add", "1", "2"]);
        assert!(ran.stdout.ends_with("3\n"), "{}", ran.told());
        let websocket = ran.stderr.contains("v5.channel.k8s.io") && !ran.stderr.contains("SPDY/3.1");
        let spdy = ran.stderr.contains("SPDY/3.1") && ran.stderr.contains("v4.channel.k8s.io");
        assert!(websocket != spdy, "{}", ran.told());
        assert_eq!(websocket, t.name.ends_with("newest"), "{}", ran.told());
    });
}

/// What is typed comes out to all who are attached, and the end of the input is the program's end.
fn is_attached_to(t: &Namespace, image: &str, command: &str) {
    pod(t, "cat", image, &format!("stdin: true\n    stdinOnce: true\n    {command}"));
    let watching: Vec<Background> = (0..2).map(|_| t.background(&["attach", "cat"])).collect();
    let typed = "first\nsecond\n";
    // Each is attached when it has seen something: a line is typed until both have.
    let mut attached = t.command(&["attach", "-i", "cat"]);
    let mut typing = attached
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut stdin = typing.stdin.take().expect("piped");
    use std::io::{Read, Write};
    wait::until("all see what is typed", || {
        stdin.write_all(b"hello\n").expect("typed");
        let seen = watching.iter().filter(|watching| watching.has_said("hello")).count();
        wait::holds(seen == watching.len(), format!("{seen} see it"))
    });
    stdin.write_all(typed.as_bytes()).expect("typed");
    drop(stdin);
    let status = command::wait(&mut typing, PATIENCE).expect("it ends with the program");
    let mut out = String::new();
    typing.stdout.take().expect("piped").read_to_string(&mut out).expect("text");
    assert!(status.success() && out.ends_with(typed), "{status}: {out}");
    for watching in watching {
        let (status, said) = watching.end(PATIENCE);
        assert!(status.success() && said.contains("first\nsecond"), "{status}: {said}");
    }
    t.until("the pod has ended well", "pod", "cat", |p| (p["status"]["phase"] == "Succeeded").then_some(()));
    let said = t.fails(&["attach", "cat"]);
    assert!(said.contains("completed pod"), "{said}");
}

#[test]
fn several_are_attached_to_a_wasm_program_and_one_types() {
    let image = cat_image();
    with_each("attach-wasm", |t| is_attached_to(t, &image, ""));
}

#[test]
fn several_are_attached_to_a_linux_program_and_one_types() {
    let image = world().busybox();
    with_each("attach-linux", |t| is_attached_to(t, &image, "command: [cat]"));
}

#[test]
fn run_with_input_runs_a_program_to_its_end() {
    let image = cat_image();
    with_each("run-i", |t| {
        let words = ["run", "once", "-i", "--rm", "--restart=Never", &format!("--image={image}")];
        let ran = command::run_with_input(&mut t.command(&words), b"typed by a person\n");
        assert!(ran.status.success() && ran.stdout.contains("typed by a person\n"), "{}", ran.told());
        assert!(t.find("pod", "once").is_none());
    });
}

#[test]
fn what_cannot_be_attached_to_is_refused_with_a_reason() {
    let image = cat_image();
    with_each("attach-refused", |t| {
        pod(t, "web", &world().image("hello-http"), "ports: [{containerPort: 8080}]");
        let said = t.fails(&["attach", "-i", "web"]);
        assert!(said.contains("reads no input"), "{said}");
        t.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: nowhere}}, spec: {{nodeSelector: {{no: where}}, containers: [{{name: main, image: '{image}'}}]}}}}"
        ));
        let said = t.fails(&["exec", "nowhere", "--", "add", "1", "2"]);
        assert!(said.contains("does not have a host assigned"), "{said}");
    });
}
