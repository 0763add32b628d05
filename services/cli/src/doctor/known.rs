//! Which published weaknesses an FFmpeg has: its version and its components against
//! `tools/ffmpeg-cves.json`.
//!
//! Promises: pure. A version that cannot be read is never called safe. Refuses to guess: what a
//! source does not say of a branch is not claimed, and what is not in the list is not known here.

use serde::Deserialize;
use std::collections::BTreeSet;

/// The list, as of the build of this program.
const LIST: &str = include_str!("../../../../tools/ffmpeg-cves.json");

/// A list that was not looked at for this long, in days, says little: FFmpeg publishes some
/// weakness every month.
pub(crate) const AGE_DAYS_MAX: u64 = 180;

/// The file's content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    #[serde(rename = "about")]
    _about: Vec<String>,
    /// Day of the last look, as `2026-11-22`.
    pub(crate) date: String,
    /// One for each weakness.
    pub(crate) entries: Vec<Entry>,
}

/// One weakness; `tools/ffmpeg-cves.json` says what each field means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// CVE id.
    pub(crate) id: String,
    /// In a few words.
    pub(crate) what: String,
    components: Vec<String>,
    affected: Vec<Range>,
    #[serde(default)]
    fixed: Vec<String>,
    #[serde(default)]
    debian: Vec<String>,
    /// Why no plan can reach it.
    pub(crate) out_of_reach: Option<String>,
    /// Where it is published.
    pub(crate) source: Vec<String>,
    #[serde(rename = "checked")]
    _checked: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: String,
    before: Option<String>,
    through: Option<String>,
}

/// A version of FFmpeg: upstream's numbers, and those of Debian's package where there are some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    numbers: Vec<u64>,
    /// `deb12` and all numbers of `5.1.9-0+deb12u1`.
    debian: Option<(String, Vec<u64>)>,
}

/// What the list says of one FFmpeg.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// It has them.
    pub(crate) present: Vec<Entry>,
    /// It has the code, and no plan reaches it.
    pub(crate) out_of_reach: Vec<Entry>,
    /// Its version has them, and it was built without the code.
    pub(crate) not_built: Vec<Entry>,
}

impl List {
    /// The list.
    pub(crate) fn read() -> Self {
        serde_json::from_str(LIST).expect("the list is checked by this file's tests")
    }

    /// Days from the list's date to `today`, both counted from 1970; 0 for a date to come.
    pub(crate) fn age_days(&self, today: u64) -> u64 {
        today.saturating_sub(day(&self.date).unwrap_or(0))
    }

    /// The components to ask this version for, as `decoder:h264`.
    pub(crate) fn wanted(&self, version: &Version) -> BTreeSet<String> {
        let entries = self.entries.iter().filter(|entry| entry.concerns(version));
        let names = entries.flat_map(|entry| entry.components.iter());
        names.filter(|name| *name != "core").cloned().collect()
    }

    /// Compares. `components` as `decoder:h264`.
    pub(crate) fn judge(&self, version: &Version, components: &BTreeSet<String>) -> Verdict {
        let mut verdict = Verdict::default();
        for entry in self.entries.iter().filter(|entry| entry.concerns(version)) {
            let there = |name: &String| name == "core" || components.contains(name);
            let into = match (entry.components.iter().any(there), &entry.out_of_reach) {
                (false, _) => &mut verdict.not_built,
                (true, Some(_)) => &mut verdict.out_of_reach,
                (true, None) => &mut verdict.present,
            };
            into.push(entry.clone());
        }
        verdict
    }
}

impl Entry {
    fn concerns(&self, version: &Version) -> bool {
        self.affected.iter().any(|range| range.holds(&version.numbers))
            && !self.fixed.iter().any(|fixed| repaired(&numbers(fixed), &version.numbers))
            && !self.debian.iter().any(|fixed| match (debian(fixed), &version.debian) {
                (Some((release, fixed)), Some((own, have))) => release == *own && *have >= fixed,
                _ => false,
            })
    }
}

impl Range {
    fn holds(&self, version: &[u64]) -> bool {
        // `through 9.0.2` holds 9.0.2 itself.
        version >= numbers(&self.from).as_slice()
            && self.before.as_ref().is_none_or(|end| version < numbers(end).as_slice())
            && self.through.as_ref().is_none_or(|end| version <= numbers(end).as_slice())
    }
}

/// On the same branch (the first two numbers), and not older.
fn repaired(fixed: &[u64], version: &[u64]) -> bool {
    fixed.get(..2).is_some() && fixed.get(..2) == version.get(..2) && version >= fixed
}

impl Version {
    /// From the first line of `ffmpeg -version`. `None` for snapshots of the source
    /// (`N-113007-g8d24a28d06`) and what else has no release's number.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let word = line.strip_prefix("ffmpeg version ")?.split_whitespace().next()?;
        let word = word.strip_prefix('n').unwrap_or(word);
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let (upstream, _) = word.split_at(end);
        let numbers = numbers(upstream);
        (numbers.len() >= 2).then(|| Self { numbers, debian: debian(word) })
    }
}

/// The numbers in a text, in order.
fn numbers(text: &str) -> Vec<u64> {
    let words = text.split(|c: char| !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// `deb12` and the numbers of a version that Debian gave: `5.1.9-0+deb12u1`.
fn debian(text: &str) -> Option<(String, Vec<u64>)> {
    let (front, back) = text.split_once("+deb")?;
    let release: String = back.chars().take_while(char::is_ascii_digit).collect();
    let (_, revision) = back.split_once('u').unwrap_or(("", ""));
    let own: String = revision.chars().take_while(char::is_ascii_digit).collect();
    let mut all = numbers(front);
    all.extend(own.parse::<u64>());
    (!release.is_empty()).then(|| (format!("deb{release}"), all))
}

/// Days from 1970-01-01 to a date as `2026-11-22`.
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn day(date: &str) -> Option<u64> {
    let parts: Vec<u64> = date.split('-').map_while(|part| part.parse().ok()).collect();
    let &[year, month, day] = parts.as_slice() else { return None };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Option<Version> {
        Version::parse(&format!("ffmpeg version {text} Copyright (c) 2000-2026"))
    }

    #[test]
    fn versions() {
        let check = |text: &str, expect: &[u64]| {
            assert_eq!(version(text).unwrap().numbers, expect, "{text}");
        };
        check("5.1.9-0+deb12u1+hotcell", &[5, 1, 9]);
        check("5.1.9-0+deb12u1", &[5, 1, 9]);
        check("n8.1.2", &[8, 1, 2]);
        check("7.1", &[7, 1]);
        check("6.1.1-3ubuntu5", &[6, 1, 1]);
        check("7.0.2-static", &[7, 0, 2]);
        for unknown in ["N-113007-g8d24a28d06", "git-2020-01-01", "8", "", "master"] {
            assert_eq!(version(unknown), None, "{unknown}");
        }
        assert_eq!(Version::parse("avconv 12.3"), None);
        let of_debian = version("5.1.9-0+deb12u1+hotcell").unwrap().debian;
        assert_eq!(of_debian, Some(("deb12".to_owned(), vec![5, 1, 9, 0, 1])));
    }

    #[test]
    fn dates() {
        assert_eq!(day("1970-01-01"), Some(0));
        assert_eq!(day("2000-03-01"), Some(11_017));
        assert_eq!(day("2026-11-22"), Some(20_779));
        for bad in ["", "2026", "2026-13-01", "22.11.2026", "2026-00-10"] {
            assert_eq!(day(bad), None, "{bad}");
        }
    }

    fn entry(json: &str) -> Entry {
        let text = format!(
            r#"{{"id":"CVE-1","what":"","components":["decoder:x"],"source":[],"checked":"",{json}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn ranges_branches_and_packages() {
        let ranged = entry(
            r#""affected":[{"from":"4.1","before":"8.1.3"},{"from":"9.0","through":"9.0.2"}],
            "fixed":["7.1.5","5.1.10"],"debian":["5.1.9-0+deb12u2"]"#,
        );
        let check = |text: &str, expect| {
            assert_eq!(ranged.concerns(&version(text).unwrap()), expect, "{text}");
        };
        for affected in ["4.1", "5.1.9", "5.1.9-0+deb12u1", "7.1.4", "8.1.2", "9.0", "9.0.2"] {
            check(affected, true);
        }
        // Repaired on its branch, by its package, above every range, or too old to have it.
        for good in ["5.1.10", "7.1.5", "5.1.9-0+deb12u2", "8.1.3", "9.0.3", "9.1", "4.0.9"] {
            check(good, false);
        }
        // Another release's package proves nothing, and 7.1.5 nothing of 7.0.
        check("5.1.9-0+deb11u3", true);
        check("7.0.9", true);
    }

    #[test]
    fn only_what_is_built_in_and_within_reach_counts() {
        let all = r#""affected":[{"from":"0"}]"#;
        let mut far = entry(all);
        far.out_of_reach = Some("no plan".to_owned());
        let mut core = entry(all);
        core.components = vec!["core".to_owned()];
        let list =
            List { _about: Vec::new(), date: String::new(), entries: vec![entry(all), far, core] };
        let count = |components: &[&str]| {
            let components = components.iter().map(|&name| name.to_owned()).collect();
            let verdict = list.judge(&version("5.1").unwrap(), &components);
            (verdict.present.len(), verdict.out_of_reach.len(), verdict.not_built.len())
        };
        assert_eq!(count(&["decoder:x"]), (2, 1, 0));
        assert_eq!(count(&["decoder:y"]), (1, 0, 2));
    }

    /// Every entry can be judged, says where it is from, and is there once.
    #[test]
    fn the_list_is_in_order() {
        let list = List::read();
        assert!(day(&list.date).is_some());
        let mut seen = BTreeSet::new();
        let kinds = ["demuxer", "decoder", "encoder", "muxer", "filter", "bsf"];
        for entry in &list.entries {
            assert!(entry.id.starts_with("CVE-") && seen.insert(&entry.id), "{}", entry.id);
            assert!(!entry.what.is_empty() && !entry.affected.is_empty(), "{}", entry.id);
            assert!(!entry.components.is_empty(), "{}", entry.id);
            for component in &entry.components {
                let kind = component.split_once(':').map(|(kind, _)| kind);
                assert!(component == "core" || kinds.contains(&kind.unwrap()), "{component}");
            }
            for range in &entry.affected {
                let ends = [&range.before, &range.through].into_iter().flatten();
                assert_eq!(ends.count(), 1, "{}: one end", entry.id);
            }
            assert!(entry.source.iter().all(|url| url.starts_with("https://")), "{}", entry.id);
            assert!(!entry.source.is_empty(), "{}", entry.id);
            assert!(entry.debian.iter().all(|fixed| debian(fixed).is_some()), "{}", entry.id);
        }
    }

    /// An old FFmpeg is told from a repaired one by the list as it is.
    #[test]
    fn known_versions_are_judged_as_published() {
        let list = List::read();
        let all: BTreeSet<String> =
            list.entries.iter().flat_map(|entry| entry.components.clone()).collect();
        let present = |text: &str| -> Vec<String> {
            let verdict = list.judge(&version(text).unwrap(), &all);
            verdict.present.iter().map(|entry| entry.id.clone()).collect()
        };
        let has = |text: &str, id: &str| present(text).iter().any(|found| found == id);
        assert!(has("5.1.6-0+deb12u1", "CVE-2025-0518") && !has("5.1.7", "CVE-2025-0518"));
        assert!(has("5.1.9-0+deb12u1", "CVE-2026-8461") && !has("5.1.10", "CVE-2026-8461"));
        assert!(has("8.1.1", "CVE-2026-8461") && !has("8.1.2", "CVE-2026-8461"));
        assert!(has("9.0.1", "CVE-2026-125267") && !has("9.0.2", "CVE-2026-125267"));
    }
}
