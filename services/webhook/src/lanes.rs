//! How many attempts are in flight for each endpoint or tenant: a slow one fills its own lane and
//! nobody else's.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Notify, futures::Notified};

/// Lanes of one width. Holds only the keys that have something in flight.
#[derive(Debug)]
pub(crate) struct Lanes<K> {
    width: usize,
    in_flight: Mutex<HashMap<K, usize>>,
    freed: Notify,
}

/// A place in a lane; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Lane<K: Eq + Hash> {
    lanes: Arc<Lanes<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Lanes<K> {
    /// Lanes that take `width` at once.
    #[must_use]
    pub(crate) fn new(width: usize) -> Arc<Self> {
        Arc::new(Self { width, in_flight: Mutex::default(), freed: Notify::new() })
    }

    /// Whether the lane of `key` has a place at this moment.
    #[must_use]
    pub(crate) fn has_place(&self, key: &K) -> bool {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.get(key).is_none_or(|count| *count < self.width)
    }

    /// A place in the lane of `key`; `None` when it is full.
    #[must_use]
    pub(crate) fn enter(self: &Arc<Self>, key: &K) -> Option<Lane<K>> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let count = in_flight.get(key).copied().unwrap_or(0);
        if count >= self.width {
            return None;
        }
        in_flight.insert(key.clone(), count + 1);
        Some(Lane { lanes: Arc::clone(self), key: key.clone() })
    }
}

impl<K: Eq + Hash> Lanes<K> {
    /// Ends when any place has been left since this was called: look again then.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl<K: Eq + Hash> Drop for Lane<K> {
    fn drop(&mut self) {
        let mut in_flight = self.lanes.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let left = in_flight.get_mut(&self.key).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            in_flight.remove(&self.key);
        }
        drop(in_flight);
        self.lanes.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brk_54_a_full_lane_is_its_own_problem() {
        let lanes = Lanes::new(2);
        let (first, second) = (lanes.enter(&"slow"), lanes.enter(&"slow"));
        assert!(first.is_some() && second.is_some() && lanes.enter(&"slow").is_none());
        assert!(lanes.enter(&"other").is_some());
        drop(first);
        assert!(lanes.enter(&"slow").is_some());
        drop(second);
        assert!(lanes.in_flight.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_waits_hears_of_a_place() {
        let lanes = Lanes::new(1);
        let held = lanes.enter(&"burst");
        let freed = lanes.freed();
        assert!(!lanes.has_place(&"burst") && lanes.enter(&"burst").is_none());
        drop(held);
        freed.await;
        assert!(lanes.has_place(&"burst") && lanes.enter(&"burst").is_some());
    }
}
