//! Command components from WebAssembly text that use what this node offers beside WASI.
use crate::text::assemble;
use tempfile::TempDir;

/// The interfaces as guests know them, one package a file.
const PACKAGES: [(&str, &str); 5] = [
    ("cli", "package wasi:cli@0.2.0; interface run { run: func() -> result; }"),
    (
        "config",
        "package wasi:config@0.2.0-rc.1; interface store {
            variant error { upstream(string), io(string) }
            get: func(key: string) -> result<option<string>, error>;
            get-all: func() -> result<list<tuple<string, string>>, error>; }",
    ),
    (
        "logging",
        "package wasi:logging@0.1.0-draft; interface logging {
            enum level { trace, debug, info, warn, error, critical }
            log: func(level: level, context: string, message: string); }",
    ),
    (
        "keyvalue",
        "package wasi:keyvalue@0.2.0-draft;
        interface store {
            variant error { no-such-store, access-denied, other(string) }
            record key-response { keys: list<string>, cursor: option<u64> }
            open: func(identifier: string) -> result<bucket, error>;
            resource bucket {
                get: func(key: string) -> result<option<list<u8>>, error>;
                set: func(key: string, value: list<u8>) -> result<_, error>;
                delete: func(key: string) -> result<_, error>;
                exists: func(key: string) -> result<bool, error>;
                list-keys: func(cursor: option<u64>) -> result<key-response, error>;
            } }
        interface atomics {
            use store.{bucket, error};
            increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>; }
        interface batch {
            use store.{bucket, error};
            delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>; }",
    ),
    (
        "keyvalue2",
        "package wasi:keyvalue@0.2.0-draft2;
        interface store {
            variant error { no-such-store, access-denied, other(string) }
            open: func(identifier: string) -> result<bucket, error>;
            resource bucket {
                get: func(key: string) -> result<option<list<u8>>, error>;
            } }
        interface atomics {
            use store.{bucket, error};
            increment: func(bucket: borrow<bucket>, key: string, delta: s64) -> result<s64, error>; }",
    ),
];

const CONFIG: &str = r#"(import "wasi:config/store@0.2.0-rc.1" "get" (func $config (param i32 i32 i32)))"#;
const STORE: &str = r#"
    (import "wasi:keyvalue/store@0.2.0-draft" "open" (func $open (param i32 i32 i32)))
    (import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.get" (func $get (param i32 i32 i32 i32)))
    (import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.set" (func $set (param i32 i32 i32 i32 i32 i32)))
    (import "wasi:keyvalue/store@0.2.0-draft" "[method]bucket.delete" (func $delete (param i32 i32 i32 i32)))
    (import "wasi:keyvalue/atomics@0.2.0-draft" "increment" (func $increment (param i32 i32 i32 i64 i32)))"#;
const STORE2: &str = r#"
    (import "wasi:keyvalue/store@0.2.0-draft2" "open" (func $open (param i32 i32 i32)))
    (import "wasi:keyvalue/store@0.2.0-draft2" "[method]bucket.get" (func $get (param i32 i32 i32 i32)))
    (import "wasi:keyvalue/atomics@0.2.0-draft2" "increment" (func $increment (param i32 i32 i32 i64 i32)))"#;

/// A command that runs `body`, with texts at 1024 onwards. `$say` logs a text, `$fail` what an error at $ret says.
fn command(world: &str, imports: &str, data: &str, body: &str) -> Vec<u8> {
    let wat = format!(
        r#"(module {imports}
      (import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))
      (memory (export "memory") 64)
      (global $next (mut i32) (i32.const 65536))
      {data}
      (data (i32.const 1900) "no-such-store")
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
        (global.set $next (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
      (func $say (param i32 i32)
        (call $log (i32.const 2) (i32.const 0) (i32.const 0) (local.get 0) (local.get 1)))
      ;; Says the error of a result at $ret, whose error lies at $at; gives 1 if it is one.
      (func $fail (param $ret i32) (param $at i32) (result i32)
        (if (i32.eqz (i32.load8_u (local.get $ret))) (then (return (i32.const 0))))
        (if (i32.eqz (i32.load8_u (local.get $at)))
          (then (call $say (i32.const 1900) (i32.const 13)))
          (else (call $say (i32.load offset=4 (local.get $at)) (i32.load offset=8 (local.get $at)))))
        (i32.const 1))
      (func (export "wasi:cli/run@0.2.0#run") (result i32) (local $bucket i32)
        {body} (i32.const 0)))"#
    );
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("deps")).unwrap();
    std::fs::write(dir.path().join("world.wit"), format!("package t:t; world w {{ {world} }}")).unwrap();
    for (name, text) in PACKAGES {
        std::fs::write(dir.path().join(format!("deps/{name}.wit")), text).unwrap();
    }
    assemble(&wat, dir.path()).unwrap()
}

/// Says what the key `colour` is.
pub fn says_its_colour() -> Vec<u8> {
    let world = "import wasi:config/store@0.2.0-rc.1; import wasi:logging/logging@0.1.0-draft; \
        export wasi:cli/run@0.2.0;";
    command(
        world,
        CONFIG,
        r#"(data (i32.const 1024) "colour")"#,
        "(call $config (i32.const 1024) (i32.const 6) (i32.const 8))
         (if (call $fail (i32.const 8) (i32.const 12)) (then (return (i32.const 1))))
         (if (i32.eqz (i32.load8_u (i32.const 12))) (then (return (i32.const 1))))
         (call $say (i32.load (i32.const 16)) (i32.load (i32.const 20)))",
    )
}

/// Logs nothing else than one line at level `info`.
pub fn says_hello() -> Vec<u8> {
    command(
        "import wasi:logging/logging@0.1.0-draft; export wasi:cli/run@0.2.0;",
        "",
        r#"(data (i32.const 1024) "hello")"#,
        "(call $say (i32.const 1024) (i32.const 5))",
    )
}

/// Logs a message of so many bytes.
pub fn says(bytes: u32) -> Vec<u8> {
    let pages = (bytes >> 16) + 2;
    let grow =
        format!("(drop (memory.grow (i32.const {pages}))) (call $say (i32.const 65536) (i32.const {bytes}))");
    command("import wasi:logging/logging@0.1.0-draft; export wasi:cli/run@0.2.0;", "", "", &grow)
}

const OPEN: &str = "
    (call $open (i32.const 1024) (i32.const NAME_LENGTH) (i32.const 8))
    (if (call $fail (i32.const 8) (i32.const 12)) (then (return (i32.const 1))))
    (local.set $bucket (i32.load (i32.const 12)))";

const COUNT: &str = "
    (call $increment (local.get $bucket) (i32.const 1100) (i32.const 5) (i64.const 1) (i32.const 8))
    (if (call $fail (i32.const 8) (i32.const 16)) (then (return (i32.const 1))))
    (call $get (local.get $bucket) (i32.const 1100) (i32.const 5) (i32.const 8))
    (if (call $fail (i32.const 8) (i32.const 12)) (then (return (i32.const 1))))
    (call $say (i32.load (i32.const 16)) (i32.load (i32.const 20)))";

fn with_bucket(name: &str, body: &str, world: &str, imports: &str) -> Vec<u8> {
    let data = format!(r#"(data (i32.const 1024) "{name}") (data (i32.const 1100) "count") "#);
    let world = format!("{world} import wasi:logging/logging@0.1.0-draft; export wasi:cli/run@0.2.0;");
    command(
        &world,
        imports,
        &data,
        &format!("{}{body}", OPEN.replace("NAME_LENGTH", &name.len().to_string())),
    )
}

/// Adds 1 to `count` in the bucket and says the sum.
pub fn counts(bucket: &str) -> Vec<u8> {
    let world = "import wasi:keyvalue/store@0.2.0-draft; import wasi:keyvalue/atomics@0.2.0-draft;";
    with_bucket(bucket, COUNT, world, STORE)
}

/// The same through the later version of the interface.
pub fn counts_draft2(bucket: &str) -> Vec<u8> {
    let world = "import wasi:keyvalue/store@0.2.0-draft2; import wasi:keyvalue/atomics@0.2.0-draft2;";
    with_bucket(bucket, COUNT, world, STORE2)
}

/// Writes `bytes` bytes to `count` until it is refused, by other keys each time, and says why.
pub fn hoards(bytes: u32) -> Vec<u8> {
    let world = "import wasi:keyvalue/store@0.2.0-draft;";
    let imports: String =
        STORE.lines().filter(|line| !line.contains("atomics")).collect::<Vec<_>>().join("\n");
    let body = format!(
        "(loop $more
           (call $set (local.get $bucket) (i32.const 1100) (i32.const 5) (i32.const 65536) (i32.const {bytes})
             (i32.const 8))
           (if (call $fail (i32.const 8) (i32.const 12)) (then (return (i32.const 1))))
           (i32.store (i32.const 1100) (i32.add (i32.load (i32.const 1100)) (i32.const 0x01)))
           (br $more))"
    );
    with_bucket("default", &body, world, &imports)
}
