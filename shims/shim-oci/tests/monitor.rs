//! The supervisor process on its own.
fn main() -> std::process::ExitCode {
    shim_oci::monitor_main(std::env::args_os().skip(1))
}
