//! Asks another server and passes on what it said: `GET /http://web:8080/path` asks `http://web:8080/path`.
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

struct Fetch;

/// The most that is passed on: an answer is kept whole before it is.
const MAX_ANSWER: usize = 1 << 20;

/// What the server at `url` said, or why it said nothing.
fn ask(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").ok_or("ask for /http://HOST/PATH")?;
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    let request = OutgoingRequest::new(Fields::new());
    let bad = |()| format!("{url} is no URL");
    request.set_scheme(Some(&Scheme::Http)).map_err(bad)?;
    request.set_authority(Some(authority)).map_err(bad)?;
    request.set_path_with_query(Some(&path)).map_err(bad)?;
    let answer = outgoing_handler::handle(request, None).map_err(|code| format!("{code:?}"))?;
    answer.subscribe().block();
    let response = match answer.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(code))) => return Err(format!("{code:?}")),
        Some(Err(())) | None => return Err("no answer".to_owned()),
    };
    let body = response.consume().map_err(|()| "the answer has no body")?;
    let stream = body.stream().map_err(|()| "the answer has no body")?;
    let mut text = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) if text.len() + bytes.len() <= MAX_ANSWER => text.extend(bytes),
            Ok(_) => return Err("the answer is too long".to_owned()),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
    Ok(format!("{}: {}", response.status(), String::from_utf8_lossy(&text)))
}

impl wasip2::exports::http::incoming_handler::Guest for Fetch {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (status, text) = match path.trim_start_matches('/') {
            url if !url.starts_with("http://") => (400, "ask for /http://HOST/PATH\n".to_owned()),
            url => match ask(url) {
                Ok(text) => (200, text),
                Err(why) => (502, format!("{why}\n")),
            },
        };
        let response = OutgoingResponse::new(Fields::new());
        let _ = response.set_status_code(status);
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(out, Ok(response));
        if let Ok(stream) = body.write() {
            for piece in text.as_bytes().chunks(4096) {
                if stream.blocking_write_and_flush(piece).is_err() {
                    return;
                }
            }
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Fetch);
