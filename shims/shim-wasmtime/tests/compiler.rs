//! The compiler process on its own.
fn main() -> std::process::ExitCode {
    shim_wasmtime::compile_main(std::env::args_os().skip(1))
}
