//! Images that cannot run, and code that is compiled once.
use crate::world::{World, module, shim_in, soon};
use shim::{Error, ImageContent, ImageKind, Shim};
use std::os::unix::fs::MetadataExt;

fn text_of(error: Error) -> String {
    assert!(matches!(error, Error::InvalidImage(_)), "{error:?}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_webassembly_is_refused_with_how_it_starts() {
    let world = World::new();
    let text = text_of(world.refuse(b"#!/bin/sh\necho hi").await);
    assert_eq!(text, "default/pod/main: the image is not a WebAssembly binary (starts with \"#!/bin/s\")");
    let text = text_of(world.refuse(b"\0asm\x01\0\0\0garbage").await);
    assert!(text.contains("the WebAssembly binary is not valid"), "{text}");
    let text = text_of(world.refuse(b"(module)").await);
    assert!(text.contains("exports no _start"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_nobody_offers_is_named() {
    let world = World::new();
    let text =
        text_of(world.refuse(br#"(module (import "env" "magic" (func)) (func (export "_start")))"#).await);
    assert!(text.ends_with("imports env::magic, which this node does not offer"), "{text}");
    let component = br#"(component
        (import "foo:bar/baz@1.0.0" (instance (export "f" (func))))
        (core module $m (func (export "run") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $f (result (result)) (canon lift (core func $i "run")))
        (instance $run (export "run" (func $f)))
        (export "wasi:cli/run@0.2.0" (instance $run)))"#;
    let text = text_of(world.refuse(component).await);
    assert!(text.ends_with("imports foo:bar/baz@1.0.0, which this node does not offer"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_wants_more_memories_or_tables_than_there_are_is_refused_every_time() {
    let world = World::new();
    let module = |items: String| format!(r#"(module {items} (func (export "_start")))"#);
    let component = format!(
        r#"(component (core module $m (memory 1)) {}
        (core module $r (func (export "run") (result i32) (i32.const 0)))
        (core instance $i (instantiate $r))
        (func $f (result (result)) (canon lift (core func $i "run")))
        (instance $run (export "run" (func $f)))
        (export "wasi:cli/run@0.2.0" (instance $run)))"#,
        "(core instance (instantiate $m))".repeat(100)
    );
    for text in [module("(memory 1)".repeat(90)), module("(table 1 funcref)".repeat(90)), component] {
        // The second time its code lies in the cache.
        for _ in 0..2 {
            let error = text_of(world.refuse(text.as_bytes()).await);
            assert!(error.contains("asks for more than one instance gets here"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linux_image_and_a_terminal_are_refused() {
    let world = World::new();
    let (mut spec, _) = world.spec(b"x");
    spec.image = ImageContent::Linux { layers: Vec::new() };
    let error = world.shim.create(spec).await.err().unwrap().to_string();
    assert!(error.contains("Linux root filesystem"), "{error}");
    let (mut spec, _) = world.spec(b"x");
    spec.terminal = true;
    assert!(world.shim.create(spec).await.err().unwrap().to_string().contains("no terminal"));
    assert_eq!((world.shim.handler(), world.shim.image_kind()), ("wasmtime", ImageKind::Wasm));
    world.shim.ready().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compiled_code_survives_the_process_and_is_made_anew_when_tampered_with() {
    let world = World::new();
    let guest = module("", "(call $exit (i32.const 7))");
    assert_eq!(world.run(world.spec(&guest).0).await.code, 7);
    let cached = || {
        let files = std::fs::read_dir(world.dir.path().join("cache")).unwrap();
        let mut code =
            files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "cwasm"));
        (code.next().unwrap(), code.next())
    };
    let (file, none) = cached();
    assert_eq!(none, None);
    let inode = file.metadata().unwrap().ino();

    let (again, _) = shim_in(world.dir.path());
    let container = soon(again.create(world.spec(&guest).0)).await.unwrap();
    soon(container.start()).await.unwrap();
    assert_eq!(soon(container.wait()).await.code, 7);
    assert_eq!(file.metadata().unwrap().ino(), inode, "it was taken from the cache");

    // A writer that knows no key, in place of the file: what is mapped elsewhere must not change.
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let tampered = file.metadata().unwrap().ino();
    let (third, _) = shim_in(world.dir.path());
    let container = soon(third.create(world.spec(&guest).0)).await.unwrap();
    soon(container.start()).await.unwrap();
    assert_eq!(soon(container.wait()).await.code, 7);
    assert_ne!(file.metadata().unwrap().ino(), tampered, "it was compiled anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_what_its_digest_says_is_refused_and_leaves_nothing_in_the_cache() {
    let world = World::new();
    let (mut spec, _) = world.spec(&module("", ""));
    let ImageContent::Wasm { digest, .. } = &mut spec.image else { unreachable!() };
    *digest = format!("sha256:{}", "0".repeat(64));
    let text = text_of(soon(world.shim.create(spec)).await.err().unwrap());
    assert!(text.contains("instead of sha256:0000") && text.contains("pull it again"), "{text}");
    let files = std::fs::read_dir(world.dir.path().join("cache")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["node.key"]);
}
