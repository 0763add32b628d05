//! The keys of one bucket in order, in memory: what listing needs and a hashed layout on disk
//! does not give.
//!
//! Pure. Rebuilt from the disk at start; a read of an object never trusts it. An entry takes about
//! 200 bytes plus its key, so a million objects are some 300 MB: right for one machine.

use std::collections::BTreeMap;
use std::ops::Bound;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Most entries of one answer, as S3 has it (`max-keys`, `ListObjectsV2`).
pub(crate) const LIST_KEYS_MAX: usize = 1000;

/// What a listing says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) modified_unix_ms: u64,
}

/// The question.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) delimiter: Option<&'a str>,
    /// Continue after this token, from [`Page::next`].
    pub(crate) token: Option<&'a str>,
    /// Continue after this key, when there is no token.
    pub(crate) start_after: Option<&'a str>,
    pub(crate) keys_max: usize,
}

/// The answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) objects: Vec<(String, Entry)>,
    pub(crate) common_prefixes: Vec<String>,
    /// Where the next page starts, when there is one.
    pub(crate) next: Option<String>,
}

/// The token is not one of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadToken;

/// Keys in order.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: BTreeMap<String, Entry>,
}

impl Index {
    pub(crate) fn insert(&mut self, key: String, entry: Entry) {
        self.entries.insert(key, entry);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// One page; each common prefix is jumped over, so its cost is the page, not the bucket.
    pub(crate) fn list(&self, query: &Query<'_>) -> Result<Page, BadToken> {
        let mut page = Page::default();
        let mut from = start(query)?;
        // S3 answers `max-keys=0` with an empty page that is not truncated.
        let keys_max = query.keys_max.min(LIST_KEYS_MAX);
        let mut last = None;
        if keys_max == 0 {
            return Ok(page);
        }
        loop {
            let range = (from.as_ref().map(String::as_str), Bound::Unbounded);
            let Some((key, entry)) = self.entries.range::<str, _>(range).next() else { break };
            let Some(rest) = key.strip_prefix(query.prefix) else { break };
            if page.objects.len() + page.common_prefixes.len() == keys_max {
                page.next = last;
                break;
            }
            let cut = query.delimiter.filter(|d| !d.is_empty()).and_then(|d| rest.split_once(d));
            if let Some((head, _)) = cut {
                let common = [query.prefix, head, query.delimiter.unwrap_or_default()].concat();
                last = Some(token('p', &common));
                let next = after_prefix(&common);
                page.common_prefixes.push(common);
                let Some(next) = next else { break };
                from = Bound::Included(next);
            } else {
                last = Some(token('k', key));
                from = Bound::Excluded(key.clone());
                page.objects.push((key.clone(), entry.clone()));
            }
        }
        Ok(page)
    }
}

fn start(query: &Query<'_>) -> Result<Bound<String>, BadToken> {
    let prefix = Bound::Included(query.prefix.to_owned());
    let after = match (query.token, query.start_after) {
        (Some(token), _) => {
            let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadToken)?;
            let text = String::from_utf8(bytes).map_err(|_| BadToken)?;
            match (text.strip_prefix('k'), text.strip_prefix('p')) {
                (Some(key), _) => Bound::Excluded(key.to_owned()),
                (_, Some(common)) => Bound::Included(after_prefix(common).ok_or(BadToken)?),
                (None, None) => return Err(BadToken),
            }
        }
        (None, Some(key)) => Bound::Excluded(key.to_owned()),
        (None, None) => return Ok(prefix),
    };
    let value = |bound: &Bound<String>| match bound {
        Bound::Included(text) | Bound::Excluded(text) => text.clone(),
        Bound::Unbounded => String::new(),
    };
    Ok(if value(&after).as_str() < query.prefix { prefix } else { after })
}

fn token(kind: char, text: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{kind}{text}"))
}

/// The least string above every string that starts with the prefix; none when there is no such.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The scalar after U+D7FF is U+E000: surrogates are not characters.
        let next =
            if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{BadToken, Entry, Index, Query, after_prefix};

    fn index(keys: &[&str]) -> Index {
        let mut index = Index::default();
        for key in keys {
            let entry = Entry { size: 1, sha256: String::new(), modified_unix_ms: 0 };
            index.insert((*key).to_owned(), entry);
        }
        index
    }

    /// All pages, as one line: objects as they are, common prefixes in brackets.
    fn check(keys: &[&str], prefix: &str, delimiter: &str, keys_max: usize, expect: &str) {
        let index = index(keys);
        let (mut seen, mut token) = (Vec::new(), None::<String>);
        for _ in 0..100 {
            let query = Query {
                prefix,
                delimiter: Some(delimiter),
                token: token.as_deref(),
                start_after: None,
                keys_max,
            };
            let page = index.list(&query).expect("our own token");
            assert!(page.objects.len() + page.common_prefixes.len() <= keys_max);
            let mut here: Vec<_> = page.objects.iter().map(|(key, _)| key.clone()).collect();
            here.extend(page.common_prefixes.iter().map(|common| format!("[{common}]")));
            here.sort_by_key(|text| text.trim_matches(['[', ']']).to_owned());
            seen.append(&mut here);
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen.join(" "), expect);
    }

    #[test]
    fn pages_cover_everything_once() {
        let keys = ["a", "a-b", "a/b", "a/c/d", "a/c/e", "a0", "b/x", "é/y"];
        for keys_max in 1..10 {
            check(&keys, "", "", keys_max, "a a-b a/b a/c/d a/c/e a0 b/x é/y");
            check(&keys, "", "/", keys_max, "a a-b [a/] a0 [b/] [é/]");
            check(&keys, "a/", "/", keys_max, "a/b [a/c/]");
            check(&keys, "a", "", keys_max, "a a-b a/b a/c/d a/c/e a0");
            check(&keys, "zz", "/", keys_max, "");
        }
    }

    #[test]
    fn zero_keys_start_after_and_tokens() {
        let index = index(&["a", "b", "c"]);
        let list = |query: Query<'_>| index.list(&query);
        assert_eq!(list(Query::default()).map(|page| page.next), Ok(None));
        let after = Query { start_after: Some("a"), keys_max: 9, ..Query::default() };
        assert_eq!(list(after).map(|page| page.objects.len()), Ok(2));
        let bad = Query { token: Some("???"), keys_max: 9, ..Query::default() };
        assert_eq!(list(bad), Err(BadToken));
        // A start before the prefix does not widen the listing.
        let early = Query { prefix: "b", start_after: Some("a"), keys_max: 9, ..Query::default() };
        assert_eq!(list(early).map(|page| page.objects.len()), Ok(1));
    }

    #[test]
    fn the_string_after_a_prefix() {
        assert_eq!(after_prefix("a/").as_deref(), Some("a0"));
        assert_eq!(after_prefix("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{D7FF}").as_deref(), Some("\u{E000}"));
        assert_eq!(after_prefix("\u{10FFFF}"), None);
        assert_eq!(after_prefix(""), None);
    }
}
