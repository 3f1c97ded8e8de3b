//! Globs: `*` is any text, `?` one character, `\` takes the next character as it is.
//!
//! They match whole texts, in time linear to text times pattern. Not here: what is matched.

/// A compiled glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Box<[Token]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    One,
    Any,
}

/// The pattern cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadGlob {
    /// `\` at the end.
    #[error("the pattern ends in `\\`; write `\\\\` for a backslash")]
    LoneEscape,
    /// Nothing to match.
    #[error("the pattern is empty; write {{exists: false}} for a missing value")]
    Empty,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`BadGlob`]: the file is refused.
    pub fn new(pattern: &str) -> Result<Self, BadGlob> {
        let mut tokens = Vec::new();
        let mut characters = pattern.chars();
        while let Some(c) = characters.next() {
            tokens.push(match c {
                '\\' => Token::Literal(characters.next().ok_or(BadGlob::LoneEscape)?),
                '?' => Token::One,
                '*' if tokens.last() == Some(&Token::Any) => continue,
                '*' => Token::Any,
                _ => Token::Literal(c),
            });
        }
        if tokens.is_empty() { Err(BadGlob::Empty) } else { Ok(Self { tokens: tokens.into() }) }
    }

    /// The one text it matches, if it has no wildcard.
    pub fn literal(&self) -> Option<String> {
        let character = |token: &Token| match token {
            Token::Literal(c) => Some(*c),
            _ => None,
        };
        self.tokens.iter().map(character).collect()
    }

    /// How many characters are fixed: the more, the more specific.
    pub fn literal_characters(&self) -> usize {
        self.tokens.iter().filter(|token| matches!(token, Token::Literal(_))).count()
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        let (mut at, mut rest) = (0, text.chars());
        // Where to go on after the last `*`, which then takes one character more.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let mut next = rest.clone();
            match (self.tokens.get(at), next.next()) {
                (None, None) => return true,
                (Some(Token::Any), _) => {
                    at += 1;
                    if at == self.tokens.len() {
                        return true;
                    }
                    retry = Some((at, rest.clone()));
                    continue;
                }
                (Some(Token::One), Some(_)) => {
                    (at, rest) = (at + 1, next);
                    continue;
                }
                (Some(Token::Literal(literal)), Some(c)) if *literal == c => {
                    (at, rest) = (at + 1, next);
                    continue;
                }
                _ => {}
            }
            let Some((token, from)) = &mut retry else { return false };
            if from.next().is_none() {
                return false;
            }
            (at, rest) = (*token, from.clone());
        }
    }

    /// Whether some text matches both.
    pub fn overlaps(&self, other: &Glob) -> bool {
        let (a, b) = (&self.tokens, &other.tokens);
        // reachable[i][j]: the first i tokens of one and the first j of the other can end together.
        let mut reachable = vec![vec![false; b.len() + 1]; a.len() + 1];
        reachable[0][0] = true;
        for i in 0..=a.len() {
            for j in 0..=b.len() {
                if !reachable[i][j] {
                    continue;
                }
                let (left, right) = (a.get(i).copied(), b.get(j).copied());
                if left == Some(Token::Any) {
                    reachable[i + 1][j] = true;
                    if j < b.len() {
                        reachable[i][j + 1] = true;
                    }
                }
                if right == Some(Token::Any) {
                    reachable[i][j + 1] = true;
                    if i < a.len() {
                        reachable[i + 1][j] = true;
                    }
                }
                if let (Some(left), Some(right)) = (left, right) {
                    let same = match (left, right) {
                        (Token::Literal(left), Token::Literal(right)) => left == right,
                        (Token::Any, _) | (_, Token::Any) => false,
                        _ => true,
                    };
                    reachable[i + 1][j + 1] |= same;
                }
            }
        }
        reachable[a.len()][b.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_texts() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(Glob::new(pattern).unwrap().matches(text), expected, "{pattern:?} {text:?}");
        };
        check("abc", "abc", true);
        check("abc", "abcd", false);
        check("*", "", true);
        check("a*", "abc", true);
        check("*c", "abcc", true);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXbYbZ", false);
        check("a?c", "aéc", true);
        check("a?c", "ac", false);
        check("trial-*", "trial-1", true);
        check("**a", "bba", true);
        check(r"a\*", "a*", true);
        check(r"a\*", "ab", false);
        check(r"\\", r"\", true);
        check("7.0.0-rc.*", "7.0.0-rc.2", true);
        check("*aaaaaaaaaaaaaaab", &"a".repeat(5000), false);
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert_eq!(Glob::new(r"a\"), Err(BadGlob::LoneEscape));
        assert_eq!(Glob::new(""), Err(BadGlob::Empty));
    }

    #[test]
    fn literals_and_rank_are_known() {
        assert_eq!(Glob::new(r"a\*b").unwrap().literal(), Some("a*b".to_owned()));
        assert_eq!(Glob::new("a*").unwrap().literal(), None);
        assert_eq!(Glob::new(r"tr?al-\**").unwrap().literal_characters(), 6);
    }

    #[test]
    fn overlap_is_found() {
        let check = |a: &str, b: &str, expected: bool| {
            let (left, right) = (Glob::new(a).unwrap(), Glob::new(b).unwrap());
            assert_eq!((left.overlaps(&right), right.overlaps(&left)), (expected, expected), "{a} {b}");
        };
        check("ab*", "*cd", true);
        check("ab*", "cd*", false);
        check("a?", "?b", true);
        check("a*b", "a?b", true);
        check("a", "b", false);
        check("*", "x", true);
        check("ab", "a", false);
    }
}
