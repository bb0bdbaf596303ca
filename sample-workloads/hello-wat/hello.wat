;; A wasi:http server in WebAssembly text: it answers every request with the same line.
(module
  (import "wasi:http/types@0.2.0" "[resource-drop]incoming-request" (func $drop-request (param i32)))
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response"
    (func $response (param $headers i32) (result i32)))
  ;; Both write their result at $at: a byte (0 = ok), then, four bytes on, the handle.
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.body"
    (func $response-body (param $response i32) (param $at i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write"
    (func $body-write (param $body i32) (param $at i32)))
  (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish"
    (func $body-finish (param $body i32) (param $has-trailers i32) (param $trailers i32) (param $at i32)))
  ;; After the out-parameter comes a result: 0 and the response's handle, or 1 and an error-code with its payload.
  (import "wasi:http/types@0.2.0" "[static]response-outparam.set"
    (func $answer (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
    (func $write (param $stream i32) (param $text i32) (param $length i32) (param $at i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-stream (param i32)))

  (memory (export "memory") 1)
  (data (i32.const 1024) "Hello from WebAssembly text!\n")

  ;; Where imported functions leave their results.
  (global $at i32 (i32.const 64))

  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $request i32) (param $out i32)
    (local $response i32) (local $body i32) (local $stream i32)
    (call $drop-request (local.get $request))
    (local.set $response (call $response (call $fields)))
    (call $response-body (local.get $response) (global.get $at))
    (local.set $body (call $taken))
    (call $answer (local.get $out) (i32.const 0) (local.get $response)
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $body-write (local.get $body) (global.get $at))
    (local.set $stream (call $taken))
    (call $write (local.get $stream) (i32.const 1024) (i32.const 29) (global.get $at))
    (call $drop-stream (local.get $stream))
    (call $body-finish (local.get $body) (i32.const 0) (i32.const 0) (global.get $at)))

  ;; The handle just left at $at; a trap if it was an error instead.
  (func $taken (result i32)
    (if (i32.load8_u (global.get $at)) (then unreachable))
    (i32.load offset=4 (global.get $at)))

  ;; Nothing that is called gives back a string or a list, so nobody needs memory from here.
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable))
