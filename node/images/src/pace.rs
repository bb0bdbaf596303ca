//! A download that goes on, but so slowly that it will never end, is given up: it would keep its place for ever.
use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Sleep;

/// How long a download may be too slow. As long as a registry may be silent ([`crate::registry`]'s read timeout).
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// What must come in each window. At 32 KiB/s, half an ISDN line of old, a common layer of 100 MB takes an hour.
pub(crate) const MIN_BYTES: u64 = 32 * 1024 * WINDOW.as_secs();

/// Why a paced stream ended before its time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooSlow;

struct Paced<S> {
    stream: S,
    /// `None` before the first piece is asked for.
    window: Option<Pin<Box<Sleep>>>,
    /// What came in this window.
    bytes: u64,
    ended: bool,
}

/// The same pieces; ends with [`TooSlow`] after a window in which less than [`MIN_BYTES`] came.
pub(crate) fn paced<S, E>(stream: S) -> impl Stream<Item = Result<Result<Bytes, E>, TooSlow>> + Unpin
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let paced = Paced { stream, window: None, bytes: 0, ended: false };
    Box::pin(futures::stream::unfold(paced, |mut paced| async move {
        if paced.ended {
            return None;
        }
        loop {
            let window = paced.window.get_or_insert_with(|| Box::pin(tokio::time::sleep(WINDOW)));
            tokio::select! {
                biased;
                piece = paced.stream.next() => {
                    let piece = piece?;
                    paced.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
                    return Some((Ok(piece), paced));
                }
                () = window => {
                    if paced.bytes < MIN_BYTES {
                        paced.ended = true;
                        return Some((Err(TooSlow), paced));
                    }
                    (paced.window, paced.bytes) = (None, 0);
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// `count` pieces of `size` bytes, one every `every`.
    fn trickle(
        count: usize,
        size: usize,
        every: Duration,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
        Box::pin(futures::stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok(Bytes::from(vec![0; size]))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_that_trickles_is_given_up_after_a_window_and_one_that_is_merely_slow_goes_on() {
        // A byte every fifty seconds satisfies each timeout for silence.
        let pieces: Vec<_> = paced(trickle(1000, 1, Duration::from_secs(50))).collect().await;
        assert_eq!(pieces.last(), Some(&Err(TooSlow)));
        assert_eq!(pieces.len(), 2, "it went on");

        let slow = trickle(300, 40 * 1024, Duration::from_secs(1));
        let pieces: Vec<_> = paced(slow).collect().await;
        assert!(pieces.len() == 300 && pieces.iter().all(Result::is_ok));

        // Fast at first, to be slow for ever after.
        let tricked =
            trickle(100, 1 << 20, Duration::from_millis(1)).chain(trickle(1000, 1, Duration::from_secs(50)));
        let pieces: Vec<_> = paced(tricked).collect().await;
        assert_eq!(pieces.last(), Some(&Err(TooSlow)));
        assert!(pieces.len() < 105, "{}", pieces.len());
    }
}
