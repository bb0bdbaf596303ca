//! The way of one process to the API server: a network that loses, delays and breaks, and a witness of every answer.
//!
//! A request that got through is carried out by a task of the server's, so it goes on when its sender dies.
use crate::answers;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::observer::Observer;
use crate::rng::Rng;
use crate::server::Server;
use crate::watches;
use crate::weather::Sky;
use apiserver::UserInfo;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What all doors share.
pub struct Net {
    pub server: Server,
    pub sky: Sky,
    pub rng: Rng,
    pub observer: Arc<Observer>,
    pub journal: Arc<Journal>,
}

#[derive(Clone)]
pub struct Door {
    pub net: Arc<Net>,
    pub user: UserInfo,
    pub gate: Gate,
    /// While true nothing gets through.
    pub cut_off: Arc<AtomicBool>,
}

/// A request as its witnesses need it.
#[derive(Clone)]
pub struct Asked {
    pub user: String,
    pub method: Method,
    pub path: String,
    pub query: String,
    pub body: Bytes,
}

impl Asked {
    pub fn changes(&self) -> bool {
        self.method != Method::GET
    }
    pub fn watches(&self) -> bool {
        self.query.split('&').any(|p| matches!(p, "watch=true" | "watch=1" | "watch"))
    }
}

fn broken(why: &str) -> BoxError {
    Box::new(Error::new(ErrorKind::ConnectionReset, why.to_owned()))
}

impl Door {
    async fn send(self, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        let uri = request.uri().clone();
        let asked = Asked {
            user: self.user.name.clone(),
            method: request.method().clone(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or("").to_owned(),
            body: request.body().clone(),
        };
        let what = format!("{} {}", asked.method, asked.path);
        let side = self.gate.pass(&what).await;
        let answer = self.through(request, &asked, &what).await;
        self.gate.came_back(side, &what).await;
        answer
    }

    async fn through(
        &self,
        request: Request<Bytes>,
        asked: &Asked,
        what: &str,
    ) -> Result<Response<Body>, BoxError> {
        let (net, rng) = (&self.net, &self.net.rng);
        let weather = net.sky.is();
        // Every request takes a moment, each a different one: answers overtake each other.
        tokio::time::sleep(rng.millis(1, 4)).await;
        if self.cut_off.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err(broken("no route to host"));
        }
        if weather.slow > 0 && rng.chance(weather.slow) {
            tokio::time::sleep(rng.millis(100, 5000)).await;
        }
        let who = self.gate.name();
        if rng.chance(weather.refused) {
            net.journal.note(format_args!("fault {who}: {what} is refused"));
            return Err(broken("connection refused"));
        }
        if rng.chance(weather.error) {
            let code = *rng.pick(&[429u16, 500, 503]);
            net.journal.note(format_args!("fault {who}: {what} is answered with {code}"));
            return Ok(status(code));
        }
        answers::note_force(&net.observer, asked);
        let under_way = self.gate.under_way();
        let Some(answer) =
            net.server.carry_out(self.user.clone(), request, asked.clone(), self.net.clone(), under_way)
        else {
            return Err(broken("connection refused"));
        };
        let answer = answer.await;
        let code = answer.as_ref().map_or(0, |a| a.status().as_u16());
        if asked.changes() {
            net.journal.note(format_args!("answer {who}: {what} {code}"));
        }
        let lost = rng.chance(weather.lost);
        if lost || code == 0 || code >= 500 || self.gate.is_dead() {
            answers::unknown(&net.observer, asked);
        }
        if lost {
            net.journal.note(format_args!("fault {who}: the answer to {what} is lost"));
            return Err(broken("connection reset"));
        }
        let answer = answer.map_err(|_| broken("connection reset by the server's end"))?;
        if asked.watches() && code == 200 {
            return Ok(
                answer.map(|body| watches::broken_as_the_weather_is(body, self.clone(), asked.clone()))
            );
        }
        Ok(answer)
    }
}

fn status(code: u16) -> Response<Body> {
    let reason = match code {
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": "injected fault",
    });
    let mut response = Response::new(full(value.to_string().into()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

impl<B> tower::Service<Request<B>> for Door
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            door.send(Request::from_parts(parts, body)).await
        })
    }
}
