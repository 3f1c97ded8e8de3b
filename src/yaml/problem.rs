//! What is wrong with a file, where, and what to do about it.
//!
//! One problem is one line (`policies.yaml:31:7: rules[2].targt: unknown key; did you mean
//! `target`?`) or a snippet with a caret. Invariant: no snippet shows what stands under a key that
//! holds secrets, nor the value of a key that looks as if it did.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::check::with_meant;
use super::parse::first_line;
use super::{Entry, Location, Node, SECRET_KEYS, Source, did_you_mean, join_key};

/// The most problems shown with their snippets; who has more fixes these first.
const MAX_SHOWN: usize = 100;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but is probably not what was meant.
    Warning,
}

/// One thing that is wrong, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// The name of the source.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The key path, for example `rules[2].targt`; empty for the text as a whole.
    pub path: String,
    /// What is wrong, lowercase, without a final period.
    pub message: String,
    /// What to do about it; the first line belongs into the one-line form.
    pub help: Option<String>,
    location: Location,
    values_hidden: bool,
}

impl Problem {
    /// The problem on one line: `file:line:column: path: message; help`.
    pub fn line(&self) -> String {
        let mut text = format!("{}:{}:{}: ", self.file, self.line, self.column);
        if !self.path.is_empty() {
            text.push_str(&self.path);
            text.push_str(": ");
        }
        text.push_str(&self.message);
        if let Some(first) = self.help.as_ref().and_then(|help| help.lines().next()) {
            text.push_str("; ");
            text.push_str(first);
        }
        text
    }
}

/// Bytes of a source that no snippet shows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mask {
    source: Arc<Source>,
    bytes: Range<usize>,
}

/// All problems found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    masks: Vec<Mask>,
}

impl Problems {
    /// No problems yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports an error at a node. `path` is the key path to show.
    pub fn error_at(&mut self, node: &Node, path: &str, message: impl Into<String>, help: Option<String>) {
        self.error(&node.location, path, message, help);
    }

    /// Reports a warning at a node.
    pub fn warning_at(&mut self, node: &Node, path: &str, message: impl Into<String>, help: Option<String>) {
        self.warning(&node.location, path, message, help);
    }

    /// Reports an error at a place, for example a key's.
    pub fn error(
        &mut self,
        location: &Location,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let problem = problem(location, path, message.into(), help);
        self.list.push(problem);
    }

    /// Reports a warning at a place.
    pub fn warning(
        &mut self,
        location: &Location,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let mut problem = problem(location, path, message.into(), help);
        problem.severity = Severity::Warning;
        self.list.push(problem);
    }

    /// Reports a key that is not among those known here, with the one probably meant.
    pub fn unknown_key(&mut self, path: &str, entry: &Entry, known: &[&str]) {
        let meant = did_you_mean(&entry.key, known.iter().copied());
        let help = match known {
            [] => "this takes no keys".to_owned(),
            _ => with_meant(meant, format!("keys here: {}", known.join(", "))),
        };
        let path = join_key(path, &entry.key);
        self.error(&entry.key_location, &path, "unknown key", Some(help));
    }

    /// Keeps what stands in `node` out of every snippet. Keys stay visible.
    pub fn mask(&mut self, node: &Node) {
        for item in node.items() {
            self.mask(item);
        }
        for entry in node.entries() {
            self.mask(&entry.value);
        }
        if node.items().is_empty() && node.entries().is_empty() && !node.extent.is_empty() {
            self.masks.push(Mask { source: Arc::clone(&node.location.source), bytes: node.extent.clone() });
        }
    }

    /// Keeps every value out of the snippets of the problems so far: without a tree nobody knows
    /// which of them are secret.
    pub(super) fn hide_values(&mut self) {
        for problem in &mut self.list {
            problem.values_hidden = true;
        }
    }

    /// Takes over the problems of another part.
    pub fn append(&mut self, other: Problems) {
        self.list.extend(other.list);
        self.masks.extend(other.masks);
    }

    /// Whether there is no problem at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether any of them makes the file unusable.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|p| p.severity == Severity::Error)
    }

    /// The number of errors, warnings not counted.
    pub fn errors(&self) -> usize {
        let errors = self.list.iter().filter(|p| p.severity == Severity::Error);
        errors.count()
    }

    /// The problems by file, line and column.
    pub fn sorted(&self) -> Vec<&Problem> {
        let mut sorted: Vec<&Problem> = self.list.iter().collect();
        sorted.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        sorted
    }

    /// Every problem in its one-line form, by file, line and column.
    pub fn lines(&self) -> Vec<String> {
        self.sorted().into_iter().map(Problem::line).collect()
    }

    /// `value` if nothing found makes the file unusable; all problems otherwise.
    ///
    /// # Errors
    /// The problems themselves.
    pub fn into_result<T>(self, value: Option<T>) -> Result<(T, Problems), Problems> {
        match value {
            Some(value) if !self.has_errors() => Ok((value, self)),
            _ => Err(self),
        }
    }

    fn render(&self, problem: &Problem) -> String {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let source = &problem.location.source;
        let mut group = Group::with_title(level.primary_title(&problem.message));
        if source.text.trim().is_empty() {
            let origin = Origin::path(&problem.file).line(problem.line as usize);
            group = group.element(origin.char_column(problem.column as usize));
        } else {
            let bytes = first_line(&source.text, &problem.location.bytes);
            let (begin, line) = line_around(&source.text, bytes.start);
            let mut hidden = self.hidden(source);
            if let Some(colon) = line.find(':').filter(|_| problem.values_hidden) {
                let is_key = source.text[bytes.end..].trim_start().starts_with(':');
                let kept = if is_key { bytes.clone() } else { begin..begin };
                hidden.push(begin + colon + 1..kept.start.max(begin + colon + 1));
                hidden.push(kept.end.max(begin + colon + 1)..begin + line.len());
            }
            let shown = masked(begin, line, hidden);
            let from = shown_column(&shown, line, bytes.start - begin);
            let to = shown_column(&shown, line, bytes.end - begin).max(from);
            let snippet = Snippet::source(shown)
                .line_start(problem.line as usize)
                .path(&problem.file)
                .annotation(AnnotationKind::Primary.span(from..to));
            group = group.element(snippet);
        }
        if !problem.path.is_empty() {
            group = group.element(Level::NOTE.with_name("at").message(&problem.path));
        }
        for help in problem.help.iter().flat_map(|help| help.lines()) {
            group = group.element(Level::HELP.message(help));
        }
        Renderer::plain().render(&[group])
    }

    fn hidden(&self, source: &Arc<Source>) -> Vec<Range<usize>> {
        let masks = self.masks.iter().filter(|mask| Arc::ptr_eq(&mask.source, source));
        masks.map(|mask| mask.bytes.clone()).collect()
    }
}

/// The line with `*` for every character that must not be shown.
fn masked(begin: usize, line: &str, mut hidden: Vec<Range<usize>>) -> String {
    let secrets = secret_looking(line).into_iter().chain(credentials(line));
    hidden.extend(secrets.map(|r| r.start + begin..r.end + begin));
    let hide = |at: usize| hidden.iter().any(|range| range.contains(&at));
    line.char_indices()
        .map(|(at, c)| match c {
            ' ' | '\t' => c,
            _ if hide(begin + at) => '*',
            _ => c,
        })
        .collect()
}

fn problem(location: &Location, path: &str, message: String, help: Option<String>) -> Problem {
    Problem {
        severity: Severity::Error,
        file: location.file().to_owned(),
        line: location.line,
        column: location.column,
        path: path.to_owned(),
        message,
        help,
        location: location.clone(),
        values_hidden: false,
    }
}

/// The line that holds the byte `at`, and where it begins.
fn line_around(text: &str, at: usize) -> (usize, &str) {
    let begin = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    (begin, text[begin..end].trim_end_matches('\r'))
}

/// The byte in `shown` (which has the characters of `line`, some masked) that byte `at` of `line`
/// became.
fn shown_column(shown: &str, line: &str, at: usize) -> usize {
    let characters = line.char_indices().take_while(|(byte, _)| *byte < at);
    let mut positions = shown.char_indices().map(|(byte, _)| byte);
    positions.nth(characters.count()).unwrap_or(shown.len())
}

/// What follows the colon on a line whose key looks like a secret's.
fn secret_looking(line: &str) -> Option<Range<usize>> {
    let colon = line.find(':')?;
    let key = line[..colon].to_ascii_lowercase();
    let secret = SECRET_KEYS.iter().any(|word| key.contains(word));
    secret.then_some(colon + 1..line.len())
}

/// What stands before the host of each URL on a line.
fn credentials(line: &str) -> impl Iterator<Item = Range<usize>> {
    line.match_indices("://").filter_map(|(at, slashes)| {
        let begin = at + slashes.len();
        let authority = line[begin..].split(['/', '"', '\'', ' ', ',', '}', ']']).next()?;
        authority.rfind('@').map(|end| begin..begin + end)
    })
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.sorted().into_iter().take(MAX_SHOWN) {
            writeln!(f, "{}\n", self.render(problem))?;
        }
        if self.len() > MAX_SHOWN {
            writeln!(f, "… and {} more\n", self.len() - MAX_SHOWN)?;
        }
        let errors = self.errors();
        let warnings = self.len() - errors;
        match (errors, warnings) {
            (0, 0) => Ok(()),
            (0, _) => write!(f, "{}", counted(warnings, "warning")),
            (_, 0) => write!(f, "{}", counted(errors, "error")),
            _ => write!(f, "{}, {}", counted(errors, "error"), counted(warnings, "warning")),
        }
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

impl std::error::Error for Problems {}
