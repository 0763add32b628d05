//! Delays between tries: the one file that uses the `backoff` crate (its last release is of 2021;
//! `backon` is the replacement, and only this file would change).

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};
use std::{future::Future, time::Duration};

/// How often and how long to try.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// First delay, in milliseconds.
    pub delay_ms_min: u64,
    /// Longest delay, in milliseconds.
    pub delay_ms_max: u64,
    /// Total time after which the last error stands, in milliseconds.
    pub elapsed_ms_max: u64,
}

impl Policy {
    /// For one request inside a handler: a broker that restarts is back within ten seconds.
    pub const REQUEST: Self = Self { delay_ms_min: 50, delay_ms_max: 1000, elapsed_ms_max: 10_000 };
    /// For the first connection of a process: the broker may still be starting.
    pub const CONNECT: Self = Self { delay_ms_min: 50, delay_ms_max: 1000, elapsed_ms_max: 15_000 };
    /// For loops that never give up: a day, then the process ends and is started again.
    pub const FOREVER: Self =
        Self { delay_ms_min: 100, delay_ms_max: 5000, elapsed_ms_max: 86_400_000 };

    /// The delays, with 50 % jitter, until the total is spent.
    #[must_use]
    pub fn delays(self) -> Delays {
        Delays(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(Duration::from_millis(self.delay_ms_min))
                .with_max_interval(Duration::from_millis(self.delay_ms_max))
                .with_max_elapsed_time(Some(Duration::from_millis(self.elapsed_ms_max)))
                .build(),
        )
    }
}

/// The delays of a [`Policy`].
#[derive(Debug)]
pub struct Delays(ExponentialBackoff);

impl Iterator for Delays {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        self.0.next_backoff()
    }
}

/// Runs `attempt` until it succeeds, fails for good, or the policy's time is spent.
///
/// # Errors
/// The last error of `attempt`.
pub async fn retry<T, E, F, Fut>(
    policy: Policy,
    is_transient: impl Fn(&E) -> bool,
    mut attempt: F,
) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut delays = policy.delays();
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !is_transient(&error) {
            return Err(error);
        }
        let Some(delay) = delays.next() else { return Err(error) };
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn delays_grow_within_their_bounds_and_end() {
        let policy = Policy { delay_ms_min: 100, delay_ms_max: 400, elapsed_ms_max: 50 };
        let mut delays = policy.delays();
        for _ in 0..8 {
            if let Some(delay) = delays.next() {
                assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_millis(600));
            }
        }
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(delays.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_error_is_tried_again_and_another_is_not() {
        let tries = Cell::new(0);
        let attempt = |fatal_at: u32| {
            let tries = &tries;
            move || async move {
                tries.set(tries.get() + 1);
                if tries.get() == fatal_at { Err("fatal") } else { Err::<(), _>("transient") }
            }
        };
        let result = retry(Policy::REQUEST, |e| *e == "transient", attempt(3)).await;
        assert_eq!((result, tries.get()), (Err("fatal"), 3));
    }
}
