//! A caller's terminal, where there is none in the container: a function is called from one all the same.
//!
//! The caller's terminal is raw then: nobody there makes a new line of an end of line, or an interrupt of Ctrl-C.
use shim::{Input, Output, Room, Stream};
use std::sync::Arc;
use tokio::io::AsyncReadExt;

/// The code of a call that was interrupted: 128 and SIGINT, as a shell has it.
pub(crate) const INTERRUPTED: i32 = 130;
const CTRL_C: u8 = 3;

/// Both outputs as one, with line ends that a raw terminal understands.
pub(crate) struct RawTerminal(pub(crate) Arc<dyn Output>);

impl Output for RawTerminal {
    fn write(&self, _: Stream, bytes: &[u8]) {
        let mut out = Vec::with_capacity(bytes.len() + 16);
        for byte in bytes {
            if *byte == b'\n' {
                out.push(b'\r');
            }
            out.push(*byte);
        }
        self.0.write(Stream::Stdout, &out);
    }

    fn room(&self) -> Option<Room> {
        self.0.room()
    }
}

/// Resolves when Ctrl-C is typed; what else is typed is for nobody.
pub(crate) async fn interrupt(typed: Option<Input>) {
    if let Some(mut typed) = typed {
        let mut keys = [0; 64];
        while let Ok(n @ 1..) = typed.read(&mut keys).await {
            if keys[..n].contains(&CTRL_C) {
                return;
            }
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use shim::fake::Captured;

    #[tokio::test]
    async fn lines_end_as_a_raw_terminal_wants_them_and_ctrl_c_interrupts() {
        let captured = Arc::new(Captured::default());
        let terminal = RawTerminal(captured.clone());
        terminal.write(Stream::Stdout, b"3\n");
        terminal.write(Stream::Stderr, b"a\nb");
        assert_eq!((captured.stdout().as_str(), captured.stderr().as_str()), ("3\r\na\r\nb", ""));
        interrupt(Some(Box::new(&b"abc\x03"[..]))).await;
    }
}
