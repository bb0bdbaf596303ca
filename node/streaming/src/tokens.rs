//! URLs that were given out: each works once, for a minute.
use crate::handler::Request;
use crate::limits::{MAX_TOKENS, TOKEN_LIFETIME};
use std::collections::HashMap;
use tokio::time::Instant;

/// Too many URLs wait for their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_TOKENS} commands wait for their clients already; try again in a minute")]
pub struct Full;

/// What each token stands for. Time is handed in.
#[derive(Default)]
pub(crate) struct Tokens(HashMap<String, (Request, Instant)>);

impl Tokens {
    pub(crate) fn insert(&mut self, token: String, request: Request, now: Instant) -> Result<(), Full> {
        self.expire(now);
        if self.0.len() >= MAX_TOKENS {
            return Err(Full);
        }
        self.0.insert(token, (request, now));
        Ok(())
    }

    /// What a token stands for, once.
    pub(crate) fn take(&mut self, token: &str, now: Instant) -> Option<Request> {
        self.expire(now);
        self.0.remove(token).map(|(request, _)| request)
    }

    fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (_, made)| now.saturating_duration_since(*made) < TOKEN_LIFETIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::{Streams, Target};
    use std::time::Duration;

    fn request(container: &str) -> Request {
        Request { container_id: container.into(), target: Target::Attach, streams: Streams::default() }
    }

    #[tokio::test]
    async fn a_token_works_once_and_for_a_minute() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        tokens.insert("a".into(), request("1"), now).unwrap();
        tokens.insert("b".into(), request("2"), now).unwrap();
        assert_eq!(tokens.take("a", now), Some(request("1")));
        assert_eq!(tokens.take("a", now), None);
        assert_eq!(tokens.take("c", now), None);
        assert_eq!(tokens.take("b", now + TOKEN_LIFETIME), None);
    }

    #[tokio::test]
    async fn only_so_many_wait_and_time_makes_room() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        for n in 0..MAX_TOKENS {
            tokens.insert(n.to_string(), request("1"), now).unwrap();
        }
        assert_eq!(tokens.insert("more".into(), request("1"), now), Err(Full));
        let later = now + TOKEN_LIFETIME + Duration::from_secs(1);
        tokens.insert("more".into(), request("1"), later).unwrap();
        assert_eq!(tokens.0.len(), 1);
    }
}
