//! Puts messages back into stream order. Pure.
//!
//! Promises: what it hands out follows the log's last sequence without a hole. After a crash the
//! broker goes on with new messages and offers the unacknowledged ones only when their ack wait is
//! over, so the later ones must wait here. Refuses: to grow past its limits (the latest messages go
//! back to the broker), and to call a hole final; the caller decides that.

use std::collections::BTreeMap;

/// Messages held. One batch is 256, and the broker has at most 8192 unacknowledged.
pub const HELD_MAX: usize = 4096;
/// Bytes of bodies held: one batch of the log at its limit.
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// The log has it already: it can be acknowledged.
    Known(T),
    /// It is held.
    Held,
    /// The window is full: this one, the latest of all, must be offered again later.
    Later(T),
}

/// What the broker says of the consumer, and how long a hole has been there.
#[derive(Debug, Clone, Copy)]
pub struct Consumer {
    /// Last stream sequence that it delivered.
    pub delivered: u64,
    /// Messages delivered and not acknowledged.
    pub unacked: usize,
    /// Seconds after which it offers one again.
    pub ack_wait_secs: u64,
    /// Seconds since the hole was first seen.
    pub hole_secs: u64,
}

/// Messages that wait for those before them.
#[derive(Debug)]
pub struct Window<T> {
    next: u64,
    held: BTreeMap<u64, (usize, T)>,
    bytes: usize,
}

impl<T> Window<T> {
    /// An empty window after `last_seq`.
    #[must_use]
    pub fn after(last_seq: u64) -> Self {
        Self { next: last_seq.saturating_add(1), held: BTreeMap::new(), bytes: 0 }
    }

    /// Takes a message of `bytes` bytes in; a repeat replaces the earlier one.
    pub fn offer(&mut self, seq: u64, bytes: usize, message: T) -> Offer<T> {
        if seq < self.next {
            return Offer::Known(message);
        }
        self.bytes += bytes;
        if let Some((before, _)) = self.held.insert(seq, (bytes, message)) {
            self.bytes -= before;
        }
        if self.held.len() <= HELD_MAX && self.bytes <= HELD_BYTES_MAX {
            return Offer::Held;
        }
        let (_, (bytes, latest)) = self.held.pop_last().expect("a message was put in above");
        self.bytes -= bytes;
        Offer::Later(latest)
    }

    /// The messages that follow the log without a hole, at most `max`.
    pub fn ready(&self, max: usize) -> impl Iterator<Item = &T> {
        let in_order = (self.next..).zip(&self.held).take_while(|(next, (seq, _))| next == *seq);
        in_order.map(|(_, (_, (_, message)))| message).take(max)
    }

    /// Whether at least `count` messages are ready.
    #[must_use]
    pub fn has_ready(&self, count: usize) -> bool {
        self.ready(count).count() == count
    }

    /// Messages held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The log has everything up to `last_seq`: hands out those messages, to be acknowledged.
    pub fn advance(&mut self, last_seq: u64) -> Vec<T> {
        self.next = self.next.max(last_seq.saturating_add(1));
        let after = self.held.split_off(&self.next);
        let done = std::mem::replace(&mut self.held, after);
        let done = done.into_values().map(|(bytes, message)| {
            self.bytes -= bytes;
            message
        });
        done.collect()
    }

    /// The hole before the first message held.
    #[must_use]
    pub fn hole(&self) -> Option<(u64, u64)> {
        let (&first, _) = self.held.first_key_value()?;
        (first > self.next).then(|| (self.next, first - 1))
    }

    /// Whether the broker will never offer what is in the hole: it delivered all that is held, has
    /// nothing unacknowledged besides, and has had the time to offer everything twice. A consumer
    /// that a crash of the broker set back has not delivered what is held.
    #[must_use]
    pub fn is_hole_final(&self, consumer: Consumer) -> bool {
        let latest = self.held.last_key_value().map_or(0, |(seq, _)| *seq);
        self.hole().is_some()
            && consumer.delivered >= latest
            && consumer.unacked <= self.held.len()
            && consumer.hole_secs >= consumer.ack_wait_secs.saturating_mul(2)
    }

    /// Goes on after the hole: see [`Self::is_hole_final`].
    pub fn skip_hole(&mut self) {
        if let Some((_, last)) = self.hole() {
            self.next = last + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(window: &Window<u64>) -> Vec<u64> {
        window.ready(100).copied().collect()
    }

    #[test]
    fn later_messages_wait_for_earlier_ones() {
        let mut window = Window::after(10);
        assert_eq!(window.offer(10, 1, 10), Offer::Known(10));
        for seq in [13, 12, 15] {
            assert_eq!(window.offer(seq, 1, seq), Offer::Held);
        }
        assert_eq!((ready(&window), window.hole()), (vec![], Some((11, 11))));
        assert_eq!(window.offer(11, 1, 11), Offer::Held);
        assert_eq!((ready(&window), window.hole()), (vec![11, 12, 13], None));
        assert!(window.has_ready(3) && !window.has_ready(4));
        assert_eq!(window.advance(12), [11, 12]);
        assert_eq!((ready(&window), window.len()), (vec![13], 2));
        assert_eq!(window.advance(13), [13]);
        assert_eq!(window.hole(), Some((14, 14)));
        window.skip_hole();
        assert_eq!(ready(&window), [15]);
        assert_eq!(window.advance(15), [15]);
        assert!(window.is_empty() && window.hole().is_none());
        assert_eq!(window.bytes, 0);
    }

    #[test]
    fn a_hole_is_final_only_when_nothing_can_fill_it() {
        let mut window = Window::after(3);
        for seq in 5..=10 {
            assert_eq!(window.offer(seq, 1, seq), Offer::Held);
        }
        let gone = Consumer { delivered: 10, unacked: 6, ack_wait_secs: 60, hole_secs: 120 };
        assert!(window.is_hole_final(gone));
        // A process that died holds it; the broker was set back; it is too early to tell.
        assert!(!window.is_hole_final(Consumer { unacked: 7, ..gone }));
        assert!(!window.is_hole_final(Consumer { delivered: 4, unacked: 1, ..gone }));
        assert!(!window.is_hole_final(Consumer { hole_secs: 119, ..gone }));
        window.skip_hole();
        assert!(!window.is_hole_final(gone));
    }

    #[test]
    fn a_repeat_replaces_and_the_window_is_bounded() {
        let mut window = Window::after(0);
        for seq in 2..=HELD_MAX as u64 + 1 {
            assert_eq!(window.offer(seq, 1, seq), Offer::Held);
            assert_eq!(window.offer(seq, 1, seq), Offer::Held);
        }
        let last = HELD_MAX as u64 + 1;
        assert_eq!(window.offer(last + 1, 1, last + 1), Offer::Later(last + 1));
        // What fills the hole is kept, and the latest gives way.
        assert_eq!(window.offer(1, 1, 1), Offer::Later(last));
        assert!(window.has_ready(HELD_MAX));
        assert_eq!((window.len(), window.bytes), (HELD_MAX, HELD_MAX));
        assert_eq!(window.offer(9, HELD_BYTES_MAX, 9), Offer::Later(last - 1));
    }
}
