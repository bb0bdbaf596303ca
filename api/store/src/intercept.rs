//! A store around a store: what stands between, and lets all through that it does not change.
use crate::{Committed, Error, Events, Expect, Kv, Op, Page, Revision, Store};
use async_trait::async_trait;
use std::sync::Arc;

/// Stands between a caller and a store. Every method's default lets the call through.
#[async_trait]
pub trait Intercept: Send + Sync + 'static {
    /// Before every read, also before a watch is opened. An error is the read's answer.
    async fn before_read(&self) -> Result<(), Error> {
        Ok(())
    }

    /// In place of a commit.
    async fn commit(&self, inner: &dyn Store, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        inner.commit(key, expect, op).await
    }

    /// The events that a watch of `prefix` delivers, in place of the store's own.
    fn events(&self, _prefix: &str, events: Events) -> Events {
        events
    }
}

#[async_trait]
impl<I: Intercept> Intercept for Arc<I> {
    async fn before_read(&self) -> Result<(), Error> {
        (**self).before_read().await
    }

    async fn commit(&self, inner: &dyn Store, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        (**self).commit(inner, key, expect, op).await
    }

    fn events(&self, prefix: &str, events: Events) -> Events {
        (**self).events(prefix, events)
    }
}

/// The store that a caller sees.
pub struct Intercepted<I> {
    inner: Arc<dyn Store>,
    by: I,
}

impl<I: Intercept> Intercepted<I> {
    pub fn new(inner: Arc<dyn Store>, by: I) -> Self {
        Self { inner, by }
    }

    /// Who stands between.
    pub fn by(&self) -> &I {
        &self.by
    }
}

#[async_trait]
impl<I: Intercept> Store for Intercepted<I> {
    async fn head(&self) -> Result<Revision, Error> {
        self.by.before_read().await?;
        self.inner.head().await
    }

    async fn compacted(&self) -> Result<Revision, Error> {
        self.by.before_read().await?;
        self.inner.compacted().await
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<Kv>, Revision), Error> {
        self.by.before_read().await?;
        self.inner.get(key, at).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        self.by.before_read().await?;
        self.inner.list(prefix, start_after, limit, at).await
    }

    async fn commit(&self, key: &str, expect: Expect, op: Op) -> Result<Committed, Error> {
        self.by.commit(&*self.inner, key, expect, op).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Events, Error> {
        self.by.before_read().await?;
        Ok(self.by.events(prefix, self.inner.watch(prefix, after).await?))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.by.before_read().await?;
        self.inner.compact(revision).await
    }
}
