//! Where traces go, of what flags and environment say. Pure.
use http::Uri;

/// The path of OTLP over HTTP below a collector's address (OTLP specification, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";
/// The port at which collectors speak gRPC.
const GRPC_PORT: u16 = 4317;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Grpc,
    HttpProtobuf,
}

impl Transport {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err(format!("{text} is not spoken; use grpc or http/protobuf")),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) url: String,
    pub(super) transport: Transport,
}

/// Flags before the environment, and what is meant for traces before what is meant for all signals, as OpenTelemetry's
/// specification of exporters has it. `variable` looks a variable up; an empty one counts as none.
///
/// # Errors
///
/// A sentence, when something is there that cannot be read.
pub(super) fn compute_destination(
    endpoint: Option<&str>,
    transport: Option<Transport>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Destination>, String> {
    let off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    // The one for traces is taken as it stands; the others name the collector.
    let (text, whole) = match (endpoint, variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")) {
        (Some(flag), _) => (flag.to_owned(), false),
        (None, Some(url)) if !off => (url, true),
        (None, _) => match variable("OTEL_EXPORTER_OTLP_ENDPOINT") {
            Some(url) if !off => (url, false),
            _ => return Ok(None),
        },
    };
    let wrong = || format!("{text:?} is not the URL of a collector; write it like http://127.0.0.1:4318");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    if uri.host().is_none_or(str::is_empty) || !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong());
    }
    let named =
        variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    let transport = match (transport, named) {
        (Some(flag), _) => flag,
        (None, Some(name)) => Transport::parse(&name)?,
        (None, None) if uri.port_u16() == Some(GRPC_PORT) => Transport::Grpc,
        (None, None) => Transport::HttpProtobuf,
    };
    let url = if transport == Transport::Grpc || whole || uri.path().ends_with(PATH) {
        text
    } else {
        format!("{}{PATH}", text.trim_end_matches('/'))
    };
    Ok(Some(Destination { url, transport }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(
        flag: Option<&str>,
        transport: Option<Transport>,
        variables: &[(&str, &str)],
    ) -> Result<Option<Destination>, String> {
        compute_destination(flag, transport, &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn url(flag: Option<&str>, variables: &[(&str, &str)]) -> Option<(String, Transport)> {
        found(flag, None, variables).expect("readable").map(|d| (d.url, d.transport))
    }

    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/");
    const TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/own");

    #[test]
    fn the_flag_comes_before_the_environment_and_traces_before_all() {
        use Transport::HttpProtobuf as Http;
        assert_eq!(url(None, &[]), None);
        assert_eq!(url(None, &[ALL]), Some(("http://all:4318/v1/traces".into(), Http)));
        assert_eq!(url(None, &[ALL, TRACES]), Some(("http://traces:4318/own".into(), Http)));
        assert_eq!(url(Some("http://flag"), &[ALL, TRACES]), Some(("http://flag/v1/traces".into(), Http)));
        assert_eq!(url(Some("http://flag/v1/traces"), &[]), Some(("http://flag/v1/traces".into(), Http)));
        for off in [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(url(None, &[ALL, TRACES, off]), None);
        }
    }

    #[test]
    fn the_port_of_grpc_is_spoken_to_in_grpc_unless_something_else_is_said() {
        assert_eq!(url(Some("http://c:4317"), &[]), Some(("http://c:4317".into(), Transport::Grpc)));
        let said = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        assert_eq!(url(Some("http://c:4317"), &[said]).map(|(_, t)| t), Some(Transport::HttpProtobuf));
        let flag = found(Some("http://c:1"), Some(Transport::Grpc), &[said]).expect("readable");
        assert_eq!(flag.map(|d| d.transport), Some(Transport::Grpc));
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_said_with_one_that_can() {
        for bad in ["4318", "127.0.0.1:4318", "ftp://c", "http://", "/v1/traces", "http://a b"] {
            let error = found(Some(bad), None, &[]).expect_err(bad);
            assert!(error.contains("http://127.0.0.1:4318"), "{error}");
        }
        assert!(found(Some("http://c"), None, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]).is_err());
    }
}
