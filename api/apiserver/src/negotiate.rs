//! What the client wants back: the Accept header (apimachinery's content negotiation).
use crate::query::Query;
use http::HeaderMap;
use machinery::status::Status;
use machinery::table::IncludeObject;

/// How an object or list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    /// Indented JSON, for people (`?pretty=true`).
    Pretty,
    Yaml,
}

/// Into what an object is turned first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    AsIs,
    /// meta.k8s.io Table of this version.
    Table(&'static str, IncludeObject),
    /// PartialObjectMetadata, or its list.
    Metadata,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
}

impl Output {
    pub(crate) const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::AsIs };

    /// Whether stored bytes can be sent as they are.
    pub(crate) fn is_plain(self) -> bool {
        self == Self::JSON
    }
    pub(crate) fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Yaml => "application/yaml",
            Encoding::Json | Encoding::Pretty => "application/json",
        }
    }
}

/// One media range of an Accept header.
pub(crate) struct MediaRange<'a> {
    pub(crate) kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> MediaRange<'a> {
    pub(crate) fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }
}

/// The ranges of the Accept header, the most wanted first.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let mut ranges: Vec<MediaRange<'_>> = headers
        .get_all(http::header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().filter(|k| !k.is_empty())?;
            let parameters: Vec<_> = parts.filter_map(|p| p.split_once('=')).collect();
            let quality =
                parameters.iter().find(|(k, _)| *k == "q").and_then(|(_, q)| q.parse().ok()).unwrap_or(1.0);
            Some(MediaRange { kind, parameters, quality })
        })
        .collect();
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    ranges
}

const SERVED: &[&str] = &["application/json", "application/yaml"];

/// What to answer an object request with.
pub(crate) fn output(headers: &HeaderMap, query: &Query) -> Result<Output, Status> {
    let json = if query.flag("pretty") { Encoding::Pretty } else { Encoding::Json };
    let ranges = accepted(headers);
    if ranges.is_empty() {
        return Ok(Output { encoding: json, shape: Shape::AsIs });
    }
    for range in &ranges {
        let encoding = match range.kind {
            "application/json" | "*/*" | "application/*" => json,
            "application/yaml" | "text/yaml" | "application/x-yaml" => Encoding::Yaml,
            _ => continue,
        };
        let meta = range.parameter("g") == Some("meta.k8s.io");
        let shape = match (range.parameter("as"), range.parameter("v")) {
            (None, _) => Shape::AsIs,
            (Some("Table"), Some("v1")) if meta => Shape::Table("v1", include(query)?),
            (Some("Table"), Some("v1beta1")) if meta => Shape::Table("v1beta1", include(query)?),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) if meta => {
                Shape::Metadata
            }
            // A form we do not know; the client names others after it.
            _ => continue,
        };
        return Ok(Output { encoding, shape });
    }
    Err(Status::not_acceptable(SERVED))
}

fn include(query: &Query) -> Result<IncludeObject, Status> {
    match query.get("includeObject") {
        None | Some("Metadata") => Ok(IncludeObject::Metadata),
        Some("Object") => Ok(IncludeObject::Object),
        Some("None") => Ok(IncludeObject::None),
        Some(other) => Err(Status::bad_request(format!(
            "includeObject: {other:?} is none of \"Metadata\", \"None\", \"Object\""
        ))),
    }
}

/// Whether the client takes gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(http::header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).any(|v| {
        v.split(',').any(|e| {
            let mut parts = e.split(';').map(str::trim);
            parts.next() == Some("gzip") && parts.all(|p| p != "q=0")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Result<Output, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ACCEPT, accept.parse().unwrap());
        output(&headers, &Query::default())
    }

    #[test]
    fn kubectl_gets_tables_and_typed_clients_that_prefer_protobuf_get_json() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl).unwrap().shape, Shape::Table("v1", IncludeObject::Metadata));
        assert_eq!(of("application/vnd.kubernetes.protobuf,application/json").unwrap(), Output::JSON);
        assert_eq!(of("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        assert_eq!(of("application/yaml").unwrap().encoding, Encoding::Yaml);
        assert_eq!(of("application/json;q=0.1,application/yaml").unwrap().encoding, Encoding::Yaml);
        let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(of(metadata).unwrap().shape, Shape::Metadata);
    }
}
