//! FFmpeg's `-progress` lines, made into thousandths of the work. The writer is presumed hostile:
//! the answer never goes back, and stays below 1000 until the end is announced.

/// The end.
const DONE: u16 = 1000;

/// What grows while an encode gets on: time encoded, frames encoded, bytes written. The last two
/// also where the first is unknown or comes late, as with a long look-ahead.
const GROWING: [&str; 3] = ["out_time_us", "frame", "total_size"];

/// How far an encode has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    duration_us: Option<u64>,
    permille: Option<u16>,
    furthest: [u64; GROWING.len()],
}

impl Progress {
    /// No line read yet. Without a duration only the end is known.
    pub(crate) fn new(duration_ms: Option<u64>) -> Self {
        let duration_us = duration_ms.filter(|ms| *ms > 0).map(|ms| ms.saturating_mul(1000));
        Self { duration_us, permille: None, furthest: [0; GROWING.len()] }
    }

    /// Takes one line; the thousandths known after it.
    pub(crate) fn line(&mut self, line: &str) -> Option<u16> {
        let seen = match line.trim().split_once('=') {
            Some(("progress", "end")) => Some(DONE),
            // `out_time_ms` is not read: FFmpeg prints microseconds there too.
            Some(("out_time_us", text)) => self.part(text),
            Some(_) | None => None,
        };
        self.permille = self.permille.max(seen);
        self.permille
    }

    /// Whether one line shows more of anything than every line before it.
    pub(crate) fn advances(&mut self, line: &str) -> bool {
        let Some((name, text)) = line.trim().split_once('=') else { return false };
        let Ok(now) = text.trim().parse::<u64>() else { return false };
        let mut all = GROWING.iter().zip(&mut self.furthest);
        let Some((_, furthest)) = all.find(|(known, _)| **known == name) else { return false };
        let further = now > *furthest;
        *furthest = now.max(*furthest);
        further
    }

    fn part(&self, text: &str) -> Option<u16> {
        let (done, all) = (u128::from(text.parse::<u64>().ok()?), u128::from(self.duration_us?));
        u16::try_from((done * u128::from(DONE) / all).min(u128::from(DONE - 1))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(duration_ms: Option<u64>, lines: &[&str], expect: Option<u16>) {
        let mut progress = Progress::new(duration_ms);
        let last = lines.iter().fold(None, |_, line| progress.line(line));
        assert_eq!(last, expect, "{lines:?}");
    }

    #[test]
    fn lines() {
        check(Some(10_000), &[], None);
        check(Some(10_000), &["frame=1", "fps=0.0"], None);
        check(Some(10_000), &["out_time_us=2500000"], Some(250));
        check(Some(10_000), &["out_time_us=2500000\n", "progress=continue\n"], Some(250));
        check(Some(10_000), &["out_time_us=5000000", "out_time_us=100"], Some(500));
        check(Some(10_000), &["out_time_us=99999999999"], Some(999));
        check(Some(10_000), &["out_time_us=18446744073709551615"], Some(999));
        check(Some(10_000), &["out_time_us=99999999999", "progress=end"], Some(1000));
        check(Some(10_000), &["out_time_us=-9223372036854775807"], None);
        check(Some(10_000), &["out_time_us=N/A"], None);
        check(Some(10_000), &["out_time_ms=5000000"], None);
        check(None, &["out_time_us=5000000"], None);
        check(None, &["out_time_us=5000000", "progress=end"], Some(1000));
        check(Some(0), &["out_time_us=5"], None);
    }

    #[test]
    fn brk_07_only_more_is_progress() {
        let mut progress = Progress::new(None);
        let mut check = |line: &str, expect| assert_eq!(progress.advances(line), expect, "{line}");
        check("frame=0", false);
        check("frame= 1\n", true);
        check("frame=1", false);
        check("out_time_us=40000", true);
        check("out_time_us=30000", false);
        check("out_time_us=N/A", false);
        check("total_size=1", true);
        check("fps=25", false);
        check("progress=continue", false);
        check("speed=2", false);
        check("frame=2", true);
        check("", false);
    }

    proptest! {
        #[test]
        fn never_back_never_over(
            duration: Option<u64>,
            lines in prop::collection::vec(
                "(out_time_us=[0-9N/A-]{1,20}|progress=(end|continue)|.*)", 0..40,
            ),
        ) {
            let mut progress = Progress::new(duration);
            let mut last = None;
            for line in lines {
                let now = progress.line(&line);
                prop_assert!(now >= last && now <= Some(DONE));
                last = now;
            }
        }
    }
}
