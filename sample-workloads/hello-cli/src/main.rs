//! Shows what a command gets from its pod: arguments, environment, a mounted file, standard input.
//!
//! `--exit N` ends with that code, `--cat FILE` prints a file, `--stdin` prints what comes in, `--spin` never ends,
//! `--eat MIB` asks for that much memory, `--trap` does what no program may; every other argument is greeted.
use std::io::Read;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut code = 0;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--exit" => code = args.next().and_then(|n| n.parse().ok()).unwrap_or(2),
            "--cat" => {
                let path = args.next().unwrap_or_default();
                match std::fs::read_to_string(&path) {
                    Ok(text) => print!("{text}"),
                    Err(e) => {
                        eprintln!("{path}: {e}");
                        std::process::exit(1);
                    }
                }
            }
            "--stdin" => {
                let mut text = String::new();
                if std::io::stdin().read_to_string(&mut text).is_ok() {
                    print!("{text}");
                }
            }
            "--spin" => loop {
                std::hint::spin_loop();
            },
            "--eat" => {
                let mib: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(1);
                let eaten = vec![1u8; mib << 20];
                println!("ate {} MiB", eaten.len() >> 20);
            }
            "--trap" => std::arch::wasm32::unreachable(),
            name => println!("Hello, {name}!"),
        }
    }
    if let Ok(greeting) = std::env::var("GREETING") {
        println!("{greeting}");
    }
    std::process::exit(code);
}
