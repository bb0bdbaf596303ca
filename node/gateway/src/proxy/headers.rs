//! What a request's head must be, and what of it goes on to the backend. Pure.
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

/// Headers of one hop, not of the message (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Other proxies' words for the same, which programs believe as well.
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Why a request is answered by the gateway itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) StatusCode, pub(crate) &'static str);

const fn bad(text: &'static str) -> Refused {
    Refused(StatusCode::BAD_REQUEST, text)
}

/// The host a request is for, as it is passed on; or why the request is not served.
pub(crate) fn check(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<HeaderValue, Refused> {
    if method == Method::CONNECT {
        // A success would turn the connection into a tunnel.
        return Err(Refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "the gateway is no proxy: CONNECT is not served",
        ));
    }
    let mut named = headers.get_all(HOST).iter();
    let first = named.next();
    // RFC 9112 section 3.2: who stands in front may have read the other one.
    if named.next().is_some() {
        return Err(bad("the request names more than one host"));
    }
    let host = match (uri.authority(), first) {
        (Some(authority), Some(host)) if version == Version::HTTP_2 && host != authority.as_str() => {
            return Err(bad("the request names more than one host"));
        }
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).ok(),
        (None, host) => host.cloned(),
    };
    let host = host.filter(|host| !host.is_empty()).ok_or(bad("the request names no host"))?;
    if !host.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]*%".contains(b)) {
        return Err(bad("the request's host is not one"));
    }
    // RFC 9112 section 6.1: somebody on the way may have believed the other one.
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(bad("the request has both Content-Length and Transfer-Encoding"));
    }
    if headers.get_all(EXPECT).iter().any(|v| !v.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refused(
            StatusCode::EXPECTATION_FAILED,
            "the only expectation the gateway meets is 100-continue",
        ));
    }
    Ok(host)
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// The protocol a request wants its connection to become, if the gateway passes that on. HTTP/2 is not one: it would
/// be a second connection that nobody checks.
pub(crate) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    let asked = version == Version::HTTP_11
        && tokens(headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let is_http2 = |t: &str| t.len() >= 2 && t.as_bytes()[..2].eq_ignore_ascii_case(b"h2");
    (asked && !tokens(headers, &UPGRADE).any(is_http2)).then(|| upgrade.clone())
}

/// Whether this is gRPC, which is HTTP/2 all the way.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| {
        kind.strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || matches!(rest[0], b'+' | b';' | b' '))
    })
}

/// Takes away what was meant for this hop alone.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> =
            tokens(headers, &CONNECTION).filter_map(|name| name.parse().ok()).collect();
        for name in &named {
            // Host and the length are the message's, whatever a client says of them.
            if *name != HOST && *name != CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// What goes on to the backend: nothing of this hop, and where the request came from. A client's own words about
/// that are not passed on: nothing trustworthy stands in front of the gateway.
pub(crate) fn prepare(headers: &mut HeaderMap, host: &HeaderValue, peer: &HeaderValue, https: bool) {
    // Only `trailers` may be said of a next hop (RFC 9113 section 8.2.2); gRPC programs insist on it.
    let trailers =
        headers.contains_key(TE) && tokens(headers, &TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    strip_hop_by_hop(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // The gateway meets the expectation itself, once the backend takes the body.
    headers.remove(EXPECT);
    for name in [FORWARDED, REAL_IP, FORWARDED_PORT] {
        headers.remove(name);
    }
    headers.insert(FORWARDED_FOR, peer.clone());
    headers.insert(FORWARDED_HOST, host.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if https { "https" } else { "http" }));
    headers.insert(HOST, host.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn checked(uri: &'static str, list: &[(&'static str, &'static str)]) -> Result<String, u16> {
        check(&Method::GET, &Uri::from_static(uri), Version::HTTP_11, &headers(list))
            .map(|host| host.to_str().expect("text").to_owned())
            .map_err(|refused| refused.0.as_u16())
    }

    #[test]
    fn a_request_names_one_host_and_one_length() {
        assert_eq!(checked("/", &[("host", "a.example:80")]), Ok("a.example:80".into()));
        assert_eq!(checked("http://b.example/x", &[("host", "a.example")]), Ok("b.example".into()));
        assert_eq!(checked("/", &[("host", "[::1]:80")]), Ok("[::1]:80".into()));
        assert_eq!(checked("/", &[]), Err(400));
        assert_eq!(checked("/", &[("host", "")]), Err(400));
        assert_eq!(checked("/", &[("host", "a"), ("host", "b")]), Err(400));
        assert_eq!(checked("/", &[("host", "a/b")]), Err(400));
        assert_eq!(checked("http://user@b.example/", &[]), Err(400));
        assert_eq!(
            checked("/", &[("host", "a"), ("content-length", "3"), ("transfer-encoding", "chunked")]),
            Err(400)
        );
        assert_eq!(checked("/", &[("host", "a"), ("expect", "100-Continue")]), Ok("a".into()));
        assert_eq!(checked("/", &[("host", "a"), ("expect", "cake")]), Err(417));
        let connect = check(&Method::CONNECT, &Uri::from_static("a:80"), Version::HTTP_11, &HeaderMap::new());
        assert_eq!(connect.map_err(|refused| refused.0), Err(StatusCode::METHOD_NOT_ALLOWED));
        let two =
            check(&Method::GET, &Uri::from_static("http://a/"), Version::HTTP_2, &headers(&[("host", "b")]));
        assert!(two.is_err());
    }

    #[test]
    fn what_is_of_this_hop_does_not_go_on() {
        let mut h = headers(&[
            ("connection", "close, X-Private, host, content-length"),
            ("x-private", "1"),
            ("host", "a"),
            ("content-length", "3"),
            ("keep-alive", "5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x-own", "kept"),
        ]);
        let (host, peer) = (HeaderValue::from_static("a"), HeaderValue::from_static("127.0.0.1"));
        prepare(&mut h, &host, &peer, true);
        let mut left: Vec<String> =
            h.iter().map(|(n, v)| format!("{n}: {}", v.to_str().expect("text"))).collect();
        left.sort();
        assert_eq!(
            left,
            [
                "content-length: 3",
                "host: a",
                "te: trailers",
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-host: a",
                "x-forwarded-proto: https",
                "x-own: kept"
            ]
        );
    }

    #[test]
    fn an_upgrade_is_asked_for_in_both_headers_and_is_never_http2() {
        let up = |list| upgrade(Version::HTTP_11, &headers(list)).is_some();
        assert!(up(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(!up(&[("connection", "keep-alive"), ("upgrade", "websocket")]));
        assert!(!up(&[("connection", "upgrade")]));
        assert!(!up(&[("connection", "upgrade"), ("upgrade", "h2c")]));
        assert!(!up(&[("connection", "upgrade"), ("upgrade", "websocket, H2C")]));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            assert_eq!(is_grpc(&headers(&[("content-type", kind)])), grpc, "{kind}");
        }
    }
}
