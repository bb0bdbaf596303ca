//! An HTTP component for Spin, written against its SDK: dhow runs it as Spin does.
use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::http_component;

#[http_component]
fn hello(request: Request) -> impl IntoResponse {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    Response::builder()
        .status(200)
        .header("content-type", "text/plain; charset=utf-8")
        .body(format!("{greeting} from a Spin component: you asked for {}\n", request.path_and_query().unwrap_or("/")))
        .build()
}
