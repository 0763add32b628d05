//! A look at a text before the parser sees it.
//!
//! Promises: linear, without recursion. Refuses what would make the parser or the validator recurse
//! deeply: they follow every bracket and every link of a chain, and at some thousand of either the
//! stack ends, and the process with it.

use std::{iter::Peekable, str::Chars};

/// Brackets and prefixes within each other.
pub(crate) const DEPTH_MAX: usize = 32;

/// Words, literals and marks of one policy: a chain is at most half as long. The longest of ours has
/// 170.
pub const TOKENS_MAX: usize = 500;

/// Why a text is not given to the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMuch {
    #[error("nested deeper than {DEPTH_MAX}")]
    Depth,
    #[error("one policy must be at most {TOKENS_MAX} words and marks: make two of it")]
    Tokens,
}

struct Scanner<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

impl Scanner<'_> {
    /// The first character of the next token, the rest of which is skipped.
    fn token(&mut self) -> Option<(usize, char)> {
        loop {
            let char = self.chars.next()?;
            let line = self.line;
            match char {
                '\n' => self.line += 1,
                '"' => {
                    self.string();
                    return Some((line, char));
                }
                '/' if self.chars.peek() == Some(&'/') => {
                    while self.chars.next_if(|next| *next != '\n').is_some() {}
                }
                _ if char.is_whitespace() => {}
                _ if is_word(char) => {
                    while self.chars.next_if(|next| is_word(*next)).is_some() {}
                    return Some((line, char));
                }
                _ => return Some((line, char)),
            }
        }
    }

    fn string(&mut self) {
        while let Some(char) = self.chars.next() {
            match char {
                '"' => return,
                '\n' => self.line += 1,
                // What is escaped does not end the string.
                '\\' if self.chars.next() == Some('\n') => self.line += 1,
                _ => {}
            }
        }
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The line on which each policy begins.
///
/// # Errors
/// The line where it is too much.
pub(crate) fn starts(text: &str) -> Result<Vec<usize>, (usize, TooMuch)> {
    let mut scanner = Scanner { chars: text.chars().peekable(), line: 1 };
    let (mut lines, mut depth, mut prefixes, mut tokens) = (Vec::new(), 0_usize, 0_usize, 0_usize);
    while let Some((line, char)) = scanner.token() {
        if tokens == 0 {
            lines.push(line);
        }
        match char {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        prefixes = if matches!(char, '!' | '-') { prefixes + 1 } else { 0 };
        tokens = if char == ';' { 0 } else { tokens + 1 };
        if depth > DEPTH_MAX || prefixes > DEPTH_MAX {
            return Err((line, TooMuch::Depth));
        }
        if tokens > TOKENS_MAX {
            return Err((line, TooMuch::Tokens));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_has_its_line_whatever_strings_and_comments_hold() {
        let text = "// a;\n@id(\"x;\\\"\n;\") permit\n;\n\n  // ;\n  forbid; permit;\n";
        assert_eq!(starts(text), Ok(vec![2, 7, 7]));
        assert_eq!(starts(""), Ok(vec![]));
        assert_eq!(starts("\"\\"), Ok(vec![1]));
    }

    #[test]
    fn the_limits_are_of_each_policy() {
        let words = |count: usize| "a ".repeat(count);
        assert_eq!(starts(&format!("{0};\n{0};", words(TOKENS_MAX))), Ok(vec![1, 2]));
        assert_eq!(starts(&format!("a;\n{};", words(TOKENS_MAX + 1))), Err((2, TooMuch::Tokens)));
        assert_eq!(starts(&"(".repeat(DEPTH_MAX)), Ok(vec![1]));
        assert_eq!(starts(&"([{".repeat(DEPTH_MAX)), Err((1, TooMuch::Depth)));
    }
}
