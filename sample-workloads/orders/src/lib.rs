//! Works off the messages of a queue trigger: writes a line for each, and fails for those that contain `fail`.
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

struct Orders;

/// The whole body: what the trigger sends is 1 MiB at most, or JSON of it.
fn body(request: &IncomingRequest) -> Result<Vec<u8>, ()> {
    let body = request.consume()?;
    let stream = body.stream()?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(piece) => bytes.extend(piece),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(_)) => return Err(()),
        }
    }
}

impl wasip2::exports::http::incoming_handler::Guest for Orders {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let headers = request.headers();
        let header = |name: &str| {
            let values = headers.get(name);
            String::from_utf8_lossy(values.first().map_or(b"-", |value| value)).into_owned()
        };
        let response = OutgoingResponse::new(Fields::new());
        let status = match body(&request) {
            Ok(bytes) => {
                let order = String::from_utf8_lossy(&bytes);
                println!("order {order}, message {}, attempt {}", header("ce-id"), header("ce-attempt"));
                if order.contains("fail") { 500 } else { 204 }
            }
            Err(()) => 400,
        };
        let _ = response.set_status_code(status);
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(out, Ok(response));
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Orders);
