//! gzip of large answers, for clients that take it.
use crate::body::Body;
use crate::respond::Answer;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use std::io::Write;

/// Upstream's threshold: below it, compressing costs more than the bytes saved.
const MIN_BYTES: usize = 128 * 1024;
/// Above this, compressing (about 100 MB/s at the fastest level) would hold a thread for over 10 ms.
const MAX_INLINE_BYTES: usize = 1024 * 1024;

pub(crate) async fn gzip(answer: Answer) -> Answer {
    let Some(bytes) = answer.body().bytes().filter(|b| b.len() > MIN_BYTES).cloned() else { return answer };
    if answer.headers().contains_key(CONTENT_ENCODING) {
        return answer;
    }
    let compress = move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
        encoder.write_all(&bytes).and_then(|()| encoder.finish()).ok()
    };
    let small = answer.body().bytes().is_some_and(|b| b.len() <= MAX_INLINE_BYTES);
    let compressed =
        if small { compress() } else { tokio::task::spawn_blocking(compress).await.ok().flatten() };
    let Some(compressed) = compressed else { return answer };
    let (mut parts, _) = answer.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    http::Response::from_parts(parts, Body::from(compressed))
}
