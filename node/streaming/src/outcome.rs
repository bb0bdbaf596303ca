//! How it ended, as the error stream tells it: a Status (protocol v4 of Kubernetes' remotecommand).
use bytes::Bytes;
use serde_json::json;

/// How a command, or being attached, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command's code, 0–255. Being attached ends with 0.
    Exited(i32),
    /// It could not be run, or not to its end: a sentence for the user.
    Failed(String),
}

impl Outcome {
    /// The Status that goes over the error stream.
    pub(crate) fn status(&self) -> Bytes {
        let mut status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {} });
        match self {
            Self::Exited(0) => status["status"] = json!("Success"),
            Self::Exited(code) => {
                // One byte is all a client takes.
                let code = (code & 0xff).to_string();
                status["status"] = json!("Failure");
                status["reason"] = json!("NonZeroExitCode");
                status["message"] = json!(format!("command terminated with non-zero exit code: {code}"));
                status["details"] = json!({ "causes": [{ "reason": "ExitCode", "message": code }] });
            }
            Self::Failed(message) => {
                status["status"] = json!("Failure");
                status["reason"] = json!("InternalError");
                status["message"] = json!(message);
                status["code"] = json!(500);
            }
        }
        // A Value always serialises: its keys are strings and its numbers finite.
        serde_json::to_vec(&status).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_told_as_a_cause() {
        let told = |outcome: Outcome| String::from_utf8(outcome.status().to_vec()).unwrap();
        assert!(told(Outcome::Exited(0)).contains(r#""status":"Success""#));
        let seven = told(Outcome::Exited(7));
        assert!(seven.contains(r#""causes":[{"message":"7","reason":"ExitCode"}]"#), "{seven}");
        assert!(seven.contains(r#""reason":"NonZeroExitCode""#), "{seven}");
        let failed = told(Outcome::Failed("no \"sh\" here".into()));
        assert!(failed.contains(r#""message":"no \"sh\" here""#) && failed.contains("500"), "{failed}");
    }
}
