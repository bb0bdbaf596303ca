;; A wasi:http 0.3 service in WebAssembly text: it answers every request with the same line.
;;
;; An async function of the component model without a stack of its own: whenever it has to wait it returns what for, and
;; $again is called with what happened. It answers first and writes the body after that, as its reader takes it:
;;
;;   handle ── answer ──► write the body ──► write "no trailers" ──► end
;;                            └─ wait ─┘          └─ wait ─┘
(module
  (import "wasi:http/types@0.3.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.3.0" "[resource-drop]request" (func $drop-request (param i32)))
  ;; Headers, the body (0, or 1 and a stream), trailers; writes the response and a future nobody here asks for.
  (import "wasi:http/types@0.3.0" "[static]response.new" (func $response (param i32 i32 i32 i32 i32)))
  ;; Both give two ends: the one to read in the low half, the one to write in the high half.
  (import "wasi:http/types@0.3.0" "[stream-new-0][static]response.new" (func $body (result i64)))
  (import "wasi:http/types@0.3.0" "[future-new-1][static]response.new" (func $trailers (result i64)))
  (import "wasi:http/types@0.3.0" "[async-lower][stream-write-0][static]response.new"
    (func $write-body (param i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.3.0" "[async-lower][future-write-1][static]response.new"
    (func $write-trailers (param i32 i32) (result i32)))
  (import "wasi:http/types@0.3.0" "[stream-drop-writable-0][static]response.new" (func $drop-body (param i32)))
  (import "wasi:http/types@0.3.0" "[future-drop-writable-1][static]response.new"
    (func $drop-trailers (param i32)))
  (import "wasi:http/types@0.3.0" "[future-drop-readable-2][static]response.new"
    (func $drop-transmission (param i32)))
  ;; 0 and the response, or 1 and an error-code with its payload.
  (import "[export]wasi:http/handler@0.3.0" "[task-return]handle"
    (func $answer (param i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "$root" "[waitable-set-new]" (func $set-new (result i32)))
  (import "$root" "[waitable-join]" (func $join (param $waitable i32) (param $set i32)))
  (import "$root" "[waitable-set-drop]" (func $set-drop (param i32)))

  (memory (export "memory") 1)
  (data (i32.const 1024) "Hello from WASI 0.3!\n")
  ;; At 64 the response and the future; at 128, all zero, the result that says "no trailers".

  (global $set (mut i32) (i32.const 0))
  (global $body-end (mut i32) (i32.const 0))
  (global $trailers-end (mut i32) (i32.const 0))
  ;; What is waited for: 0 nothing, 1 the body, 2 the trailers.
  (global $stage (mut i32) (i32.const 0))

  (func (export "[async-lift]wasi:http/handler@0.3.0#handle") (param $request i32) (result i32)
    (local $body i64) (local $trailers i64)
    (call $drop-request (local.get $request))
    (local.set $body (call $body))
    (local.set $trailers (call $trailers))
    (global.set $body-end (call $high (local.get $body)))
    (global.set $trailers-end (call $high (local.get $trailers)))
    (call $response (call $fields) (i32.const 1) (i32.wrap_i64 (local.get $body))
      (i32.wrap_i64 (local.get $trailers)) (i32.const 64))
    (call $drop-transmission (i32.load (i32.const 68)))
    (call $answer (i32.const 0) (i32.load (i32.const 64)) (i32.const 0) (i64.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (global.set $set (call $set-new))
    (global.set $stage (i32.const 1))
    (if (call $blocked (call $write-body (global.get $body-end) (i32.const 1024) (i32.const 21)))
      (then (return (call $wait (global.get $body-end)))))
    (call $end-body))

  (func (export "[callback][async-lift]wasi:http/handler@0.3.0#handle")
    (param $event i32) (param $waitable i32) (param $how i32) (result i32)
    (if (i32.eq (global.get $stage) (i32.const 1)) (then (return (call $end-body))))
    (call $end-trailers))

  (func $end-body (result i32)
    (call $drop-body (global.get $body-end))
    (global.set $stage (i32.const 2))
    (if (call $blocked (call $write-trailers (global.get $trailers-end) (i32.const 128)))
      (then (return (call $wait (global.get $trailers-end)))))
    (call $end-trailers))

  (func $end-trailers (result i32)
    (call $drop-trailers (global.get $trailers-end))
    (call $set-drop (global.get $set))
    (global.set $stage (i32.const 0))
    (i32.const 0))

  ;; Wait (2) for what is in the set.
  (func $wait (param $waitable i32) (result i32)
    (call $join (local.get $waitable) (global.get $set))
    (i32.or (i32.const 2) (i32.shl (global.get $set) (i32.const 4))))

  (func $blocked (param $written i32) (result i32) (i32.eq (local.get $written) (i32.const -1)))

  (func $high (param $ends i64) (result i32)
    (i32.wrap_i64 (i64.shr_u (local.get $ends) (i64.const 32))))

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable))
