//! `wasi:logging/logging`: lines of the container's log, on standard error, with their level before them, and before that
//! the trace of the request that is being served, where it is known.
//!
//! It needs no permission. `logging.dhow.dev/<container>: warn` leaves out what is below that level.
use super::{Access, Capability, Granted, HasAccess, Wanted};
use crate::guest::ComponentState;
use crate::limits::OUTPUT_CHUNK;
use crate::traces::label;
use bindings::wasi::logging::logging::{self, Level};
use shim::Error;
use wasmtime::component::Linker;

mod bindings {
    wasmtime::component::bindgen!({
        inline: r#"
            package dhow:logging;
            world imports { import wasi:logging/logging@0.1.0-draft; }
            package wasi:logging@0.1.0-draft {
                interface logging {
                    enum level { trace, debug, info, warn, error, critical }
                    log: func(level: level, context: string, message: string);
                }
            }
        "#,
        world: "dhow:logging/imports",
        imports: { default: async | trappable },
    });
}

/// From the lowest to the highest, as annotations and lines name them.
const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "critical"];

pub(crate) struct Logging;

/// The lowest level that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Threshold(usize);

impl Capability for Logging {
    fn imports(&self) -> &'static [&'static str] {
        &["wasi:logging/logging@0.1.0-draft"]
    }

    fn link(&self, linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
        logging::add_to_linker::<_, HasAccess>(linker, ComponentState::access)
    }

    fn grant(&self, wanted: &Wanted<'_>, granted: &mut Granted) -> Result<(), Error> {
        let (key, value) = wanted.annotation("logging");
        let threshold = match value {
            None => Some(0),
            Some(value) => LEVELS.iter().position(|level| *level == value),
        };
        let threshold = threshold.ok_or_else(|| {
            let levels = LEVELS.join(", ");
            wanted.invalid(format_args!(
                "annotation {key}: {:?} is none of {levels}",
                value.unwrap_or_default()
            ))
        })?;
        granted.logging = Some(Threshold(threshold));
        Ok(())
    }
}

fn number(level: Level) -> usize {
    match level {
        Level::Trace => 0,
        Level::Debug => 1,
        Level::Info => 2,
        Level::Warn => 3,
        Level::Error => 4,
        Level::Critical => 5,
    }
}

/// Every line carries the level, so that no message can look like several.
fn lines(trace: &str, level: usize, context: &str, message: &str) -> String {
    let level = LEVELS[level].to_uppercase();
    let context = context.replace(['\n', '\r'], " ");
    let context = if context.is_empty() { String::new() } else { format!("{context}: ") };
    let mut text = String::new();
    for line in message.split('\n') {
        text.push_str(&format!("{trace}{level} {context}{line}\n"));
    }
    text
}

impl logging::Host for Access<'_> {
    async fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = number(level);
        if self.granted.logging.unwrap_or_default().0 > level {
            return Ok(());
        }
        let trace = self.serving.map(label).unwrap_or_default();
        for chunk in lines(&trace, level, &context, &message).as_bytes().chunks(OUTPUT_CHUNK) {
            self.stderr.write_paced(chunk).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_its_level_and_context() {
        assert_eq!(lines("", 3, "shop", "one\ntwo"), "WARN shop: one\nWARN shop: two\n");
        assert_eq!(lines("", 0, "", "x"), "TRACE x\n");
        assert_eq!(lines("", 5, "a\nERROR b", "x"), "CRITICAL a ERROR b: x\n");
        assert_eq!(lines("trace_id=1 ", 3, "", "one\ntwo"), "trace_id=1 WARN one\ntrace_id=1 WARN two\n");
    }
}
