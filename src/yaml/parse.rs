//! Text to tree: strict YAML with limits.
//!
//! One document, string keys, no duplicate keys, no unknown tags; at most [`MAX_BYTES`],
//! [`MAX_DEPTH`] and [`MAX_NODES`] (fewer where aliases are expanded). The scanner is
//! serde-saphyr's; nothing outside this file knows it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StructureStyle, Tag};

use super::scalar::resolve_plain;
use super::{Entry, Location, Node, Problems, Source, Value};

/// The longest text read, in bytes: a file of 100,000 tenants has about half of it.
pub const MAX_BYTES: usize = 32 << 20;
/// The deepest nesting; deeper than any sensible file, shallow enough for any stack.
pub const MAX_DEPTH: usize = 64;
/// The most nodes in one tree without aliases: a file of 100,000 tenants has about half of it.
pub const MAX_NODES: usize = 2_000_000;
/// The most nodes in one tree where aliases are expanded, these counted as often as they are used.
const MAX_ALIASED_NODES: usize = 100_000;

/// Reads one YAML document; anchors and aliases are refused. An empty text is a null.
///
/// # Errors
/// Everything that is wrong with the text; the caller shows it and goes on without the file.
pub fn parse(source: &Source) -> Result<Node, Problems> {
    Builder::new(source, Aliases::Refused).build()
}

/// As [`parse`], with anchors, aliases and `<<` as in a Collector's file.
///
/// # Errors
/// As [`parse`].
pub fn parse_with_aliases(source: &Source) -> Result<Node, Problems> {
    Builder::new(source, Aliases::Expanded).build()
}

#[derive(Clone, Copy, PartialEq)]
enum Aliases {
    Refused,
    Expanded,
}

/// A collection that is not complete yet.
enum Open {
    Seq(Vec<Node>),
    Map(OpenMap),
}

/// A map under way: its entries, the line of every key, and the key that waits for its value.
#[derive(Default)]
struct OpenMap {
    entries: Vec<Entry>,
    lines: HashMap<String, u32>,
    pending: Option<(String, Location)>,
}

struct Frame {
    open: Open,
    location: Location,
    start: usize,
    anchor: usize,
}

struct Builder {
    source: Arc<Source>,
    aliases: Aliases,
    problems: Problems,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

/// The text cannot be read any further.
struct Stop;

impl Builder {
    fn new(source: &Source, aliases: Aliases) -> Self {
        Self {
            source: Arc::new(source.clone()),
            aliases,
            problems: Problems::new(),
            frames: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            root: None,
        }
    }

    fn build(mut self) -> Result<Node, Problems> {
        let source = Arc::clone(&self.source);
        let start = Location::start_of(Arc::clone(&source));
        if source.text.len() > MAX_BYTES {
            self.error(&start, format!("the text is longer than {MAX_BYTES} bytes"));
            return Err(self.problems);
        }
        let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
        for event in Parser::new_from_str(text) {
            let done = match event {
                Ok((event, span)) => self.take(event, span),
                Err(error) => {
                    let location = self.locate(*error.marker(), *error.marker());
                    self.error(&location, format!("not YAML: {}", error.info()));
                    Err(Stop)
                }
            };
            if done.is_err() {
                break;
            }
        }
        if self.problems.has_errors() {
            self.problems.hide_values();
            return Err(self.problems);
        }
        Ok(self.root.unwrap_or_else(|| Node::new(Value::Null, start)))
    }

    fn error(&mut self, location: &Location, message: impl Into<String>) {
        self.problems.error(location, "", message, None);
    }

    /// Where a mark is in the text. Marks of errors may lack a byte offset; lines and columns they have.
    fn offset(&self, mark: Marker) -> usize {
        let text = &self.source.text;
        let bom = text.len() - text.trim_start_matches('\u{feff}').len();
        let known = mark.byte_offset().map(|offset| offset + bom);
        known.filter(|offset| text.is_char_boundary(*offset)).unwrap_or_else(|| {
            let mut lines = text.split_inclusive('\n');
            let before: usize = lines.by_ref().take(mark.line().saturating_sub(1)).map(str::len).sum();
            let line = lines.next().unwrap_or_default();
            let column = line.char_indices().nth(mark.col()).map_or(line.len(), |(at, _)| at);
            before + column
        })
    }

    fn locate(&self, start: Marker, end: Marker) -> Location {
        let clip = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let from = self.offset(start);
        Location {
            line: clip(start.line().max(1)),
            column: clip(start.col() + 1),
            source: Arc::clone(&self.source),
            bytes: from..self.offset(end).max(from),
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                let location = self.locate(span.start, span.end);
                self.error(&location, "a second document; one file holds one document");
                Err(Stop)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(&text, style, span, (anchor, tag.as_deref()))
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.open(Open::Seq(Vec::new()), style, span, (anchor, tag.as_deref()))
            }
            Event::MappingStart(style, anchor, tag) => {
                let open = Open::Map(OpenMap::default());
                self.open(open, style, span, (anchor, tag.as_deref()))
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        span: Span,
        (anchor, tag): (usize, Option<&Tag>),
    ) -> Result<(), Stop> {
        let location = self.locate(span.start, span.end);
        if self.awaits_key() {
            return self.key(text.to_owned(), location);
        }
        let value = match tag.map(Tag::to_string).as_deref() {
            None if style == ScalarStyle::Plain => resolve_plain(text),
            None | Some("!!str" | "!" | "tag:yaml.org,2002:str") => Value::Str(text.to_owned()),
            Some(_) if tag.is_some_and(Tag::is_yaml_core_schema) => resolve_plain(text),
            Some(_) => return self.refuse_tag(&location),
        };
        let extent = location.bytes.clone();
        let place = match self.pending_key() {
            Some(key) if extent.is_empty() => key.clone(),
            _ => location,
        };
        let node = Node { value, location: place, text: None, extent };
        self.anchored(anchor, &node)?;
        self.put(node)
    }

    fn refuse_tag(&mut self, location: &Location) -> Result<(), Stop> {
        self.error(location, "tags other than those of the core schema are not supported");
        Err(Stop)
    }

    fn open(
        &mut self,
        open: Open,
        style: StructureStyle,
        span: Span,
        (anchor, tag): (usize, Option<&Tag>),
    ) -> Result<(), Stop> {
        let location = self.locate(span.start, span.end);
        if self.awaits_key() {
            self.error(&location, "a key must be text, not a list or a map");
            return Err(Stop);
        }
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema()) {
            return self.refuse_tag(&location);
        }
        if self.frames.len() >= MAX_DEPTH {
            self.error(&location, format!("nested deeper than {MAX_DEPTH} levels"));
            return Err(Stop);
        }
        let start = location.bytes.start;
        let location = match self.pending_key() {
            Some(key) if style == StructureStyle::Block => key.clone(),
            _ => location,
        };
        self.frames.push(Frame { open, location, start, anchor });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), Stop> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let end = self.offset(span.end).max(frame.start);
        let (value, merges) = match frame.open {
            Open::Seq(items) => (Value::Seq(items), false),
            Open::Map(map) => {
                let merges = map.lines.contains_key("<<");
                (Value::Map(map.entries), merges)
            }
        };
        let mut node = Node { value, location: frame.location, text: None, extent: frame.start..end };
        if merges && self.aliases == Aliases::Expanded {
            self.merge_keys(&mut node)?;
        }
        self.anchored(frame.anchor, &node)?;
        self.put(node)
    }

    /// Puts the entries of `<<` values in, where the map does not have the key itself.
    fn merge_keys(&mut self, node: &mut Node) -> Result<(), Stop> {
        let Value::Map(entries) = &mut node.value else {
            return Ok(());
        };
        let Some(at) = entries.iter().position(|entry| entry.key == "<<") else {
            return Ok(());
        };
        let merged = entries.remove(at);
        let maps = match merged.value.value {
            Value::Seq(items) => items,
            _ => vec![merged.value],
        };
        for map in maps {
            let Value::Map(more) = map.value else {
                self.error(&merged.key_location, "`<<` takes a map or a list of maps");
                return Err(Stop);
            };
            for entry in more {
                if entries.iter().all(|known| known.key != entry.key) {
                    entries.push(entry);
                }
            }
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Stop> {
        let location = self.locate(span.start, span.end);
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            let message = match self.aliases {
                Aliases::Refused => "anchors and aliases are not supported here",
                Aliases::Expanded => "an alias to an anchor that is not complete",
            };
            self.error(&location, message);
            return Err(Stop);
        };
        if self.frames.len() + depth(&node) > MAX_DEPTH {
            self.error(&location, format!("nested deeper than {MAX_DEPTH} levels"));
            return Err(Stop);
        }
        self.nodes += count(&node);
        if self.awaits_key() {
            self.error(&location, "an alias cannot be a key");
            return Err(Stop);
        }
        self.put(node)
    }

    fn anchored(&mut self, anchor: usize, node: &Node) -> Result<(), Stop> {
        if anchor == 0 {
            return Ok(());
        }
        if self.aliases == Aliases::Refused {
            let location = node.location.clone();
            self.error(&location, "anchors and aliases are not supported here");
            return Err(Stop);
        }
        self.anchors.insert(anchor, node.clone());
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        match self.frames.last().map(|frame| &frame.open) {
            Some(Open::Map(map)) => map.pending.is_none(),
            _ => false,
        }
    }

    fn pending_key(&self) -> Option<&Location> {
        match self.frames.last().map(|frame| &frame.open) {
            Some(Open::Map(map)) => map.pending.as_ref().map(|(_, location)| location),
            _ => None,
        }
    }

    fn key(&mut self, text: String, location: Location) -> Result<(), Stop> {
        let Some(Open::Map(map)) = self.frames.last_mut().map(|frame| &mut frame.open) else {
            return Ok(());
        };
        let first = map.lines.insert(text.clone(), location.line);
        map.pending = Some((text, location.clone()));
        if let Some(line) = first {
            let help = format!("the first one is on line {line}");
            let message = "a key that is already there";
            self.problems.error(&location, "", message, Some(help));
        }
        Ok(())
    }

    fn put(&mut self, node: Node) -> Result<(), Stop> {
        self.nodes += 1;
        let most = match self.aliases {
            Aliases::Refused => MAX_NODES,
            Aliases::Expanded => MAX_ALIASED_NODES,
        };
        if self.nodes > most {
            let location = node.location.clone();
            self.error(&location, format!("more than {most} values"));
            return Err(Stop);
        }
        match self.frames.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::Seq(items)) => items.push(node),
            Some(Open::Map(map)) => {
                if let Some((key, key_location)) = map.pending.take() {
                    map.entries.push(Entry { key, key_location, value: node });
                }
            }
        }
        Ok(())
    }
}

/// The levels of collections in a tree.
fn depth(node: &Node) -> usize {
    let below = node.items().iter().chain(node.entries().iter().map(|entry| &entry.value));
    match node.value {
        Value::Seq(_) | Value::Map(_) => 1 + below.map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn count(node: &Node) -> usize {
    let below: usize = match &node.value {
        Value::Seq(items) => items.iter().map(count).sum(),
        Value::Map(entries) => entries.iter().map(|entry| count(&entry.value)).sum(),
        _ => 0,
    };
    1 + below
}

/// The part of `bytes` on the line where it begins: carets mark one line only.
pub(super) fn first_line(text: &str, bytes: &Range<usize>) -> Range<usize> {
    let end = text[bytes.start..bytes.end].find(['\n', '\r']).map_or(bytes.end, |at| bytes.start + at);
    bytes.start..end
}
