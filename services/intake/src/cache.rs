//! A small cache of what was true a moment ago. Promises: no answer older than [`LIFE_MS`], so a
//! revoked key or a changed tenant is seen within a second; at most [`ENTRIES_MAX`] entries.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Life of an entry, in milliseconds: half of the second after which a revoked key must open nothing
/// on any replica; the other half is for a broker that is slow.
pub const LIFE_MS: u64 = 500;

/// Entries at most: active keys within half a second on a machine that serves some thousand requests.
pub const ENTRIES_MAX: usize = 8192;

/// The cache.
#[derive(Debug)]
pub struct Cache<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// The value of `key`, when it was put less than [`LIFE_MS`] before `now`.
    pub fn get(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, value) = entries.get(key)?;
        (now.duration_since(*at) < Duration::from_millis(LIFE_MS)).then(|| value.clone())
    }

    /// Keeps `value` from `now` on. `now` must be read before the value was, so that the value is
    /// never older than it looks.
    pub fn put(&self, key: K, value: V, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, (at, _)| now.duration_since(*at) < Duration::from_millis(LIFE_MS));
        }
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(key, (now, value));
    }

    /// Forgets `key`: this process has changed it.
    pub fn remove(&self, key: &K) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_lives_half_a_second() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.put("a", 1, now);
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!(cache.get(&"a", at(LIFE_MS - 1)), Some(1));
        assert_eq!(cache.get(&"a", at(LIFE_MS)), None);
        assert_eq!(cache.get(&"b", now), None);
    }

    #[test]
    fn it_never_grows_past_its_bound() {
        let (cache, now) = (Cache::default(), Instant::now());
        for key in 0..3 * ENTRIES_MAX {
            cache.put(key, (), now);
            assert!(cache.entries.lock().unwrap().len() <= ENTRIES_MAX);
        }
    }
}
