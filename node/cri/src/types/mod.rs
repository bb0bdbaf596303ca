//! The messages of CRI v1 (`runtime.v1`), as far as a Linux kubelet uses them.
//!
//! Names and tags are those of the Container Runtime Interface; they are written out here instead of being
//! generated, so that building needs no protoc. Fields left out (Windows, swap accounting by pressure, devices by
//! CDI) are skipped when they arrive, as protobuf does with what it does not know.
mod container;
mod extension;
mod image;
mod sandbox;
mod stats;
mod status;

pub use container::*;
pub use extension::*;
pub use image::*;
pub use sandbox::*;
pub use stats::*;
pub use status::*;

impl Signal {
    /// The kernel's number on Linux; `None` is the runtime's default.
    pub fn number(self) -> Option<i32> {
        use Signal::*;
        let real_time_min = 34;
        let real_time_max = 64;
        let tag = self as i32;
        Some(match self {
            RuntimeDefault => return None,
            Sigabrt | Sigiot => 6,
            Sigalrm => 14,
            Sigbus => 7,
            Sigchld | Sigcld => 17,
            Sigcont => 18,
            Sigfpe => 8,
            Sighup => 1,
            Sigill => 4,
            Sigint => 2,
            Sigio | Sigpoll => 29,
            Sigkill => 9,
            Sigpipe => 13,
            Sigprof => 27,
            Sigpwr => 30,
            Sigquit => 3,
            Sigsegv => 11,
            Sigstkflt => 16,
            Sigstop => 19,
            Sigsys => 31,
            Sigterm => 15,
            Sigtrap => 5,
            Sigtstp => 20,
            Sigttin => 21,
            Sigttou => 22,
            Sigurg => 23,
            Sigusr1 => 10,
            Sigusr2 => 12,
            Sigvtalrm => 26,
            Sigwinch => 28,
            Sigxcpu => 24,
            Sigxfsz => 25,
            _ if tag <= Sigrtminplus15 as i32 => real_time_min + (tag - Sigrtmin as i32),
            _ => real_time_max - (Sigrtmax as i32 - tag),
        })
    }
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn signals_carry_the_kernels_numbers() {
        assert_eq!(Signal::RuntimeDefault.number(), None);
        assert_eq!(Signal::Sigterm.number(), Some(15));
        assert_eq!(Signal::Sigrtmin.number(), Some(34));
        assert_eq!(Signal::Sigrtminplus15.number(), Some(49));
        assert_eq!(Signal::Sigrtmaxminus14.number(), Some(50));
        assert_eq!(Signal::Sigrtmax.number(), Some(64));
    }

    #[test]
    fn a_password_never_shows_in_debug_output() {
        let request = PullImageRequest {
            auth: Some(AuthConfig { username: "u".into(), password: "secret".into(), ..Default::default() }),
            ..Default::default()
        };
        let shown = format!("{request:?}");
        assert!(shown.contains("\"u\"") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn the_wire_form_is_that_of_the_interface() {
        // Field 1 of RunPodSandboxRequest is the config (length-delimited), field 2 the handler.
        let request = RunPodSandboxRequest {
            config: Some(PodSandboxConfig { hostname: "h".into(), ..Default::default() }),
            runtime_handler: "runc".into(),
        };
        assert_eq!(request.encode_to_vec(), b"\x0a\x03\x12\x01h\x12\x04runc");
        // An unknown field (99, varint) is skipped.
        let decoded = VersionRequest::decode(&b"\x98\x06\x01\x0a\x02v1"[..]).unwrap();
        assert_eq!(decoded.version, "v1");
    }
}
