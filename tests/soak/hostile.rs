//! Guests that mean harm. Those that answer HTTP are Functions and are asked all the time; the others are pods.
use crate::text::assemble;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::Path;

pub(crate) const NAMESPACE: &str = "hostile";

/// A kind of harm.
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    serves: bool,
}

/// One that runs.
pub(crate) struct Hostile {
    pub(crate) name: String,
    /// Whether it is a Function; else it is a pod.
    pub(crate) serves: bool,
    /// One change at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    image: String,
}

const HELLO: &str = include_str!("../../sample-workloads/hello-wat/hello.wat");
const FIELDS: &str = "  resource fields {
    constructor();
";
const MORE_FIELDS: &str = "  variant header-error { invalid-syntax, forbidden, immutable }
  resource fields {
    constructor();
    append: func(name: string, value: list<u8>) -> result<_, header-error>;
";
const BEGIN: &str = "(local.set $response (call $response (call $fields)))";
const WRITE: &str = "(call $write (local.get $stream) (i32.const 1024) (i32.const 29) (global.get $at))";

/// The text sample with something replaced.
fn server(name: &'static str, parts: &[(&str, &str)]) -> Result<Guest> {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sample-workloads/hello-wat/wit");
    let wit = tempfile::tempdir()?;
    std::fs::create_dir(wit.path().join("deps"))?;
    for file in ["world.wit", "deps/io.wit", "deps/http.wit"] {
        let text = std::fs::read_to_string(sample.join(file))?;
        std::fs::write(wit.path().join(file), text.replace(FIELDS, MORE_FIELDS))?;
    }
    let mut text = HELLO.to_owned();
    for (from, to) in parts {
        ensure!(text.contains(from), "hello.wat holds no {from}");
        text = text.replace(from, to);
    }
    Ok(Guest { name, bytes: assemble(&text, wit.path())?, serves: true })
}

/// One that does `first` at the start of each request.
fn at_first(name: &'static str, first: &str) -> Result<Guest> {
    server(name, &[(BEGIN, &format!("{first} {BEGIN}"))])
}

/// A WASI p1 program.
fn program(name: &'static str, body: &str) -> Result<Guest> {
    let text = format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 2048) "f")
  (func (export "_start") (local $n i32) {body}))"#
    );
    Ok(Guest { name, bytes: wat::parse_str(text)?, serves: false })
}

pub(crate) fn guests() -> Result<Vec<Guest>> {
    let headers = [
        (
            "(memory (export",
            r#"(import "wasi:http/types@0.2.0" "[method]fields.append"
                (func $append (param i32 i32 i32 i32 i32 i32))) (memory (export"#,
        ),
        (
            BEGIN,
            "(local.set $body (call $fields))
             (loop $more
               (call $append (local.get $body) (i32.const 1024) (i32.const 5) (i32.const 1024) (i32.const 5)
                 (global.get $at))
               (local.set $stream (i32.add (local.get $stream) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $stream) (i32.const 100000))))
             (local.set $response (call $response (local.get $body)))",
        ),
    ];
    let sockets = include_str!("../../shims/shim-wasmtime/tests/guests/sockets/guest.wat")
        .replace("(call $BODY)", "(loop (call $tcp (i32.const 0) (i32.const 64)) (br 0))")
        .replace("$PORT", "1");
    let sockets = ["$A", "$B", "$C", "$D"]
        .iter()
        .fold(sockets, |text, name| text.replace(&format!("i32.const {name})"), "i32.const 127)"));
    let sockets_wit =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shims/shim-wasmtime/tests/guests/sockets/wit");
    Ok(vec![
        at_first("endless-request", "(loop (br 0))")?,
        at_first("memory-bomb", "(loop (drop (memory.grow (i32.const 16))) (br 0))")?,
        at_first("trap", "(unreachable)")?,
        server("endless-response", &[(WRITE, &format!("(loop {WRITE} (br 0))"))])?,
        server("header-bomb", &headers)?,
        program("endless-loop", "(loop (br 0))")?,
        program(
            "log-flood",
            "(i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 32768))
             (loop (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))",
        )?,
        // A volume with one file is mounted: each turn opens it once more.
        program(
            "file-hoarder",
            "(loop (drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 2048) (i32.const 1) (i32.const 1)
               (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 100))) (br 0))",
        )?,
        program("memory-eater", "(loop (drop (memory.grow (i32.const 16))) (br 0))")?,
        Guest { name: "socket-hoarder", bytes: assemble(&sockets, &sockets_wit)?, serves: false },
    ])
}

impl Hostile {
    pub(crate) fn new(guest: &Guest, number: usize, image: &str) -> Self {
        Self {
            name: format!("{}-{number}", guest.name),
            serves: guest.serves,
            turn: tokio::sync::Mutex::default(),
            image: image.to_owned(),
        }
    }

    /// The object that runs it.
    pub(crate) fn object(&self) -> Value {
        let limits = json!({ "limits": { "memory": "64Mi" } });
        let metadata = json!({ "name": self.name, "namespace": NAMESPACE });
        if self.serves {
            return json!({
                "apiVersion": "dhow.dev/v1alpha1",
                "kind": "Function",
                "metadata": metadata,
                "spec": {
                    "image": self.image,
                    "timeoutSeconds": crate::fleet::TIMEOUT_SECONDS,
                    "resources": limits,
                },
            });
        }
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main",
                    "image": self.image,
                    "resources": limits,
                    "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
                }],
                "volumes": [{ "name": "scratch", "emptyDir": {} }],
            },
        })
    }

    /// Where objects of its kind are.
    pub(crate) fn collection(&self) -> String {
        if self.serves {
            format!("/apis/dhow.dev/v1alpha1/namespaces/{NAMESPACE}/functions")
        } else {
            format!("/api/v1/namespaces/{NAMESPACE}/pods")
        }
    }

    pub(crate) fn host(&self) -> String {
        format!("{}.{NAMESPACE}.localhost", self.name)
    }
}
