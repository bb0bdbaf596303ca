//! Buckets in a Redis.
//!
//! Invariant: a Redis is reached under the guest's own policy (an address that the guest may not reach, its host does
//! not reach for it either), and no answer of it can make this process hold more than one call may. Redis gone means
//! errors; Redis back means answers, without a restart of anybody.
use super::{Bucket, Page, Refused};
use crate::dial::try_each;
use crate::executor::Owned;
use crate::limits::{CONNECT_TIMEOUT, MAX_BATCH_BYTES, MAX_VALUE_BYTES, PAGE_KEYS, REDIS_TIMEOUT};
use crate::outbound::Outbound;
use crate::reach::Refused as Why;
use async_trait::async_trait;
use hyper::rt::Executor;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline, RedisConnectionInfo,
    RedisError,
};
use std::sync::Arc;

/// Values that are asked for at once: each may be as long as a value may be.
const READ_AHEAD: usize = 4;

pub(super) struct RedisBucket {
    /// The bucket's name, for messages; the URL may hold a password.
    name: String,
    host: String,
    port: u16,
    settings: RedisConnectionInfo,
    outbound: Arc<Outbound>,
    executor: Owned,
    connection: tokio::sync::Mutex<Option<MultiplexedConnection>>,
}

pub(super) fn too_much() -> Refused {
    Refused::Other(format!("the values asked for in one call are more than {MAX_BATCH_BYTES} bytes"))
}

fn one_command(name: &str) -> Pipeline {
    let mut pipe = redis::pipe();
    pipe.cmd(name);
    pipe
}

impl RedisBucket {
    pub(super) fn new(
        name: &str,
        url: &str,
        outbound: Arc<Outbound>,
        executor: Owned,
    ) -> Result<Self, String> {
        let wrong = || {
            format!(
                "the URL of bucket {name} is not redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], the only kind served"
            )
        };
        if !url.starts_with("redis://") {
            return Err(wrong());
        }
        let info = url.into_connection_info().map_err(|_| wrong())?;
        let ConnectionAddr::Tcp(host, port) = info.addr().clone() else { return Err(wrong()) };
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let connection = tokio::sync::Mutex::default();
        Ok(Self { name: name.to_owned(), host, port, settings, outbound, executor, connection })
    }

    fn failed(&self, why: impl std::fmt::Display) -> Refused {
        Refused::Other(format!("the Redis of bucket {}: {why}", self.name))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Refused> {
        let reach = self.outbound.reach();
        let ways = reach.backend(&self.host, self.port).await.map_err(|why| match why {
            Why::Unknown => self.failed(format_args!("{} is not found", self.host)),
            Why::NoEndpoint => self.failed(format_args!("the service {} has no endpoint", self.host)),
            Why::Host | Why::Address => {
                self.failed(format_args!("{} has no address that guests may reach", self.host))
            }
        })?;
        let stream = try_each(reach, &ways)
            .await
            .map_err(|e| self.failed(format_args!("connecting to {}:{}: {e}", self.host, self.port)))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(REDIS_TIMEOUT));
        let (connection, driver) = MultiplexedConnection::new_with_config(&self.settings, stream, config)
            .await
            .map_err(|e| self.failed(e))?;
        self.executor.execute(driver);
        Ok(connection)
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Refused> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let connection = connecting.unwrap_or_else(|_| {
            Err(self.failed(format_args!("it did not answer within {} s", CONNECT_TIMEOUT.as_secs())))
        })?;
        Ok(held.insert(connection).clone())
    }

    async fn ask<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, RedisOrRefused> {
        let mut connection = self.connection().await.map_err(RedisOrRefused::Refused)?;
        let answer = pipe.query_async(&mut connection).await;
        if answer.as_ref().is_err_and(is_lost) {
            *self.connection.lock().await = None;
        }
        answer.map_err(RedisOrRefused::Redis)
    }

    /// For what may be done twice: once more when the connection turns out to be lost.
    async fn query<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, Refused> {
        match self.ask(pipe).await {
            Err(RedisOrRefused::Redis(e)) if is_lost(&e) && !e.is_timeout() => self.query_once(pipe).await,
            other => self.explain(other),
        }
    }

    async fn query_once<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, Refused> {
        self.explain(self.ask(pipe).await)
    }

    fn explain<T>(&self, answer: Result<T, RedisOrRefused>) -> Result<T, Refused> {
        answer.map_err(|e| match e {
            RedisOrRefused::Refused(refused) => refused,
            RedisOrRefused::Redis(e) => self.failed(e),
        })
    }
}

enum RedisOrRefused {
    Redis(RedisError),
    Refused(Refused),
}

fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout()
}

#[async_trait]
impl Bucket for RedisBucket {
    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, Refused> {
        let mut values = Vec::with_capacity(keys.len());
        let mut total = 0;
        for some in keys.chunks(READ_AHEAD) {
            let mut pipe = redis::pipe();
            pipe.atomic();
            for key in some {
                // A value may be half a gigabyte: no more is fetched than shows that it is too long.
                pipe.cmd("EXISTS").arg(key).cmd("GETRANGE").arg(key).arg(0).arg(MAX_VALUE_BYTES);
            }
            let answers: Vec<redis::Value> = self.query(&pipe).await?;
            for pair in answers.chunks_exact(2) {
                let exists = bool::from_redis_value_ref(&pair[0]).map_err(|e| self.failed(e))?;
                let value = Vec::<u8>::from_redis_value_ref(&pair[1]).map_err(|e| self.failed(e))?;
                if value.len() > MAX_VALUE_BYTES {
                    return Err(self.failed(format_args!("a value is longer than {MAX_VALUE_BYTES} bytes")));
                }
                total += value.len();
                if total > MAX_BATCH_BYTES {
                    return Err(too_much());
                }
                values.push(exists.then_some(value));
            }
        }
        Ok(values)
    }

    async fn exists(&self, key: String) -> Result<bool, Refused> {
        let mut pipe = one_command("EXISTS");
        pipe.arg(key);
        let (found,): (bool,) = self.query(&pipe).await?;
        Ok(found)
    }

    async fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), Refused> {
        if pairs.is_empty() {
            return Ok(());
        }
        let mut pipe = one_command("MSET");
        for (key, value) in &pairs {
            pipe.arg(key).arg(value.as_slice());
        }
        let ((),) = self.query(&pipe).await?;
        Ok(())
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), Refused> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut pipe = one_command("DEL");
        pipe.arg(keys);
        let (_,): (u64,) = self.query(&pipe).await?;
        Ok(())
    }

    async fn increment(&self, key: String, delta: i64) -> Result<i64, Refused> {
        let mut pipe = one_command("INCRBY");
        pipe.arg(key).arg(delta);
        // Not twice: the first may have been done before the connection broke.
        let (sum,): (i64,) = self.query_once(&pipe).await?;
        Ok(sum)
    }

    async fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Result<bool, Refused> {
        // WATCH would need a connection of its own, this one is shared; a script is atomic by itself.
        const SCRIPT: &str = "local held = redis.call('GET', KEYS[1]) \
            if (ARGV[1] == '0' and held == false) or (ARGV[1] == '1' and held == ARGV[2]) then \
            redis.call('SET', KEYS[1], ARGV[3]) return 1 end return 0";
        let mut pipe = one_command("EVAL");
        pipe.arg(SCRIPT).arg(1).arg(key);
        pipe.arg(i32::from(expected.is_some())).arg(expected.unwrap_or_default()).arg(value);
        let (swapped,): (bool,) = self.query_once(&pipe).await?;
        Ok(swapped)
    }

    async fn list(&self, cursor: u64) -> Result<Page, Refused> {
        let mut pipe = one_command("SCAN");
        pipe.arg(cursor).arg("COUNT").arg(PAGE_KEYS);
        let ((next, keys),): ((u64, Vec<Vec<u8>>),) = self.query(&pipe).await?;
        // Keys that are no text were not set by a guest, and no guest can name them.
        let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect();
        Ok((keys, (next != 0).then_some(next)))
    }
}
