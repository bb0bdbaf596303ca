//! Calls of exported functions: what `kubectl exec` does in a WebAssembly container.
use crate::text::assemble;
use crate::world::{World, module, soon};
use shim::{Container, Error, ExecStreams};
use std::sync::Arc;
use std::time::Duration;

/// A command that waits for its input, and two ways to export functions beside it.
const WIT: &str = "package a:b;
  interface tools { twice: func(text: string) -> string; check: func(n: s32) -> result<s32, string>; }
  world w { export wasi:cli/run@0.2.0; export add: func(a: s32, b: s32) -> s32; export spin: func(); export tools; }";
const COMPONENT: &str = r#"(module
  (memory (export "memory") 1)
  (data (i32.const 512) "negative")
  (global $free (mut i32) (i32.const 4096))
  (func $alloc (param $size i32) (result i32)
    (global.get $free) (global.set $free (i32.add (global.get $free) (local.get $size))))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32) (call $alloc (local.get $size)))
  (func (export "wasi:cli/run@0.2.0#run") (result i32) (loop (br 0)) (i32.const 0))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "spin") (loop (br 0)))
  (func (export "a:b/tools#twice") (param $at i32) (param $length i32) (result i32) (local $to i32)
    (local.set $to (call $alloc (i32.mul (local.get $length) (i32.const 2))))
    (memory.copy (local.get $to) (local.get $at) (local.get $length))
    (memory.copy (i32.add (local.get $to) (local.get $length)) (local.get $at) (local.get $length))
    (i32.store (i32.const 16) (local.get $to))
    (i32.store (i32.const 20) (i32.mul (local.get $length) (i32.const 2)))
    (i32.const 16))
  (func (export "a:b/tools#check") (param $n i32) (result i32)
    (if (i32.lt_s (local.get $n) (i32.const 0)) (then
      (i32.store (i32.const 16) (i32.const 1))
      (i32.store (i32.const 20) (i32.const 512))
      (i32.store (i32.const 24) (i32.const 8)))
    (else
      (i32.store (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (local.get $n))))
    (i32.const 16)))"#;

async fn component(world: &World) -> Arc<dyn Container> {
    let wit = world.dir.path().join("wit");
    std::fs::create_dir_all(wit.join("deps")).unwrap();
    std::fs::write(wit.join("world.wit"), WIT).unwrap();
    std::fs::write(
        wit.join("deps/cli.wit"),
        "package wasi:cli@0.2.0; interface run { run: func() -> result; }",
    )
    .unwrap();
    world.start(world.spec(&assemble(COMPONENT, &wit).unwrap()).0).await
}

/// The exit code and both outputs.
async fn exec(
    world: &World,
    container: &Arc<dyn Container>,
    args: &[&str],
) -> Result<(i32, String, String), Error> {
    let (_, log) = world.spec(&module("", ""));
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let code = soon(container.exec(&args, Duration::from_secs(30), log.clone())).await?;
    Ok((code, log.stdout(), log.stderr()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_components_functions_are_called_by_name_with_values() {
    let world = World::new();
    let container = component(&world).await;
    let call = async |args: &[&str]| exec(&world, &container, args).await.unwrap();
    assert_eq!(call(&["add", "1", "2"]).await, (0, "3\n".into(), String::new()));
    assert_eq!(call(&["add", "-4", "2"]).await.1, "-2\n");
    // A string with quotes, as WAVE has it, or without; a function by its last name, or by all of it.
    assert_eq!(call(&["twice", "ha"]).await.1, "\"haha\"\n");
    assert_eq!(call(&["a:b/tools#twice", "\"ha \""]).await.1, "\"ha ha \"\n");
    assert_eq!(call(&["check", "7"]).await, (0, "ok(7)\n".into(), String::new()));
    assert_eq!(call(&["check", "-7"]).await, (1, "err(\"negative\")\n".into(), String::new()));
    soon(container.delete()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_called_is_refused_with_what_can() {
    let world = World::new();
    let container = component(&world).await;
    let refuse = async |args: &[&str]| exec(&world, &container, args).await.unwrap_err().to_string();
    let error = refuse(&["sh", "-c", "ls"]).await;
    assert!(error.starts_with("default/pod/main: cannot run sh") && error.contains("no shell"), "{error}");
    assert!(
        error.contains("add(a: s32, b: s32)") && error.contains("a:b/tools#twice(text: string)"),
        "{error}"
    );
    assert!(!error.contains("wasi:cli/run"), "{error}");
    assert!(refuse(&["add", "1"]).await.contains("add takes 2 arguments, 1 were given"));
    let error = refuse(&["add", "1", "two"]).await;
    assert!(error.contains("\"two\" is not a s32 for b"), "{error}");
    let plain = world.start(world.spec(&module("", "(loop (br 0))")).0).await;
    let error = exec(&world, &plain, &["sh"]).await.unwrap_err().to_string();
    assert!(error.contains("this one exports no function to call"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_end_is_ended_by_its_timeout_or_with_its_container() {
    let world = World::new();
    let container = component(&world).await;
    let (_, log) = world.spec(&module("", ""));
    let spin = ["spin".to_owned()];
    let error =
        soon(container.exec(&spin, Duration::from_millis(50), log.clone())).await.unwrap_err().to_string();
    assert!(error.contains("spin did not end within 50ms"), "{error}");
    let calling = container.clone();
    let call =
        tokio::spawn(async move { calling.exec(&["spin".to_owned()], Duration::from_secs(3600), log).await });
    container.kill(9).await.unwrap();
    assert!(soon(call).await.unwrap().is_err());
    soon(container.delete()).await.unwrap();
    assert_eq!(container.stats().memory_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_from_a_terminal_is_answered_for_one_and_ends_with_ctrl_c() {
    let world = World::new();
    let container = component(&world).await;
    let (_, log) = world.spec(&module("", ""));
    let streams = |typed: &'static [u8]| ExecStreams {
        stdin: Some(Box::new(typed)),
        output: log.clone(),
        terminal: Some(tokio::sync::watch::channel(None).1),
    };
    let add = ["add", "1", "2"].map(str::to_owned);
    assert_eq!(soon(container.exec_with(&add, streams(b"typed"))).await.unwrap(), 0);
    assert_eq!(log.stdout(), "3\r\n");
    assert_eq!(soon(container.exec_with(&["spin".to_owned()], streams(b"\x03"))).await.unwrap(), 130);
    soon(container.delete()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_modules_functions_take_numbers_and_a_trap_is_told() {
    let world = World::new();
    let guest = module(
        r#"(func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
           (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2)))
           (func (export "quit") (call $exit (i32.const 9)))"#,
        "(loop (br 0))",
    );
    let container = world.start(world.spec(&guest).0).await;
    let call = async |args: &[&str]| exec(&world, &container, args).await.unwrap();
    assert_eq!(call(&["div", "7", "-2"]).await, (0, "-3\n".into(), String::new()));
    assert_eq!(call(&["half", "3"]).await.1, "1.5\n");
    assert_eq!(call(&["quit"]).await.0, 9);
    let (code, _, stderr) = call(&["div", "1", "0"]).await;
    assert_eq!(code, 134);
    assert!(stderr.contains("divide by zero"), "{stderr}");
}
