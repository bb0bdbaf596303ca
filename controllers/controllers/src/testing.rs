//! A controller's hands and eyes over an API server in memory.
use crate::Config;
use crate::context::Context;
use client::fake_api::{FakeApi, ambient};
use client::{Informers, Recorder};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A context over `api`. Must be made inside a runtime.
pub(crate) fn context(api: &FakeApi) -> Context {
    let (client, shutdown, ambient) = (api.client(), CancellationToken::new(), ambient());
    let informers = Informers::new(client.clone(), shutdown.clone());
    let recorder = Recorder::new(client.clone(), ambient.clone(), "test", "", shutdown.clone());
    Context { config: Arc::new(Config::default()), client, informers, ambient, recorder, shutdown }
}
