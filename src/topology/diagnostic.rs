//! What is wrong with a topology file, where, and what to do about it.
//!
//! ```text
//! error: unknown key `replicaof` in `[[node]]`
//!  --> chain.toml:7:1
//!   |
//! 7 | replicaof = "n1"
//!   | ^^^^^^^^^
//!   = hint: did you mean `replica-of`?
//! ```

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// As many errors of one file are kept as somebody may want to read.
const SHOWN_ERRORS_MAX: usize = 20;

/// One error in a topology file, or about the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// A lower-case sentence without a full stop.
    pub message: String,
    /// What the user may do about it.
    pub hint: Option<String>,
    /// Where it is; `None` if it is about the file as a whole.
    pub position: Option<Position>,
    span: Option<Range<usize>>,
    related: Option<(Range<usize>, &'static str)>,
}

/// A place in a file, counted as editors do: from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Diagnostic {
    pub(super) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::of_file(message) }
    }

    pub(super) fn of_file(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, position: None, span: None, related: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Points at a second place, which the first one contradicts.
    pub(super) fn related(mut self, span: Range<usize>, label: &'static str) -> Self {
        self.related = Some((span, label));
        self
    }

    /// Whether both complain about the same place.
    pub(super) fn is_at_place_of(&self, other: &Diagnostic) -> bool {
        self.start() == other.start()
    }

    /// Where it starts in the text; before everything else if it is about the file as a whole.
    fn start(&self) -> Option<usize> {
        self.span.as_ref().map(|span| span.start)
    }
}

/// Everything that is wrong with one topology file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyError {
    path: PathBuf,
    text: String,
    diagnostics: Vec<Diagnostic>,
    omitted: usize,
}

impl TopologyError {
    /// Orders the errors as they stand in the file and finds their lines.
    pub(super) fn new(path: &Path, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        debug_assert!(!diagnostics.is_empty(), "an error says what is wrong");
        diagnostics.sort_by_key(Diagnostic::start);
        let omitted = diagnostics.len().saturating_sub(SHOWN_ERRORS_MAX);
        diagnostics.truncate(SHOWN_ERRORS_MAX);
        for diagnostic in &mut diagnostics {
            diagnostic.span = diagnostic.span.take().map(|span| within_its_line(text, span));
            diagnostic.related = diagnostic.related.take().map(|(span, label)| (within_its_line(text, span), label));
            diagnostic.position = diagnostic.start().map(|start| position(text, start));
        }
        // Terminals obey these control characters, and annotate-snippets shows only the ASCII ones as pictures. The
        // dot has the same length in bytes, so that spans stay right.
        let text = text.replace(|char| ('\u{80}'..='\u{9f}').contains(&char), "·");
        Self { path: path.to_owned(), text, diagnostics, omitted }
    }

    /// One error about a file of which no line is to blame.
    pub(super) fn of_file(path: &Path, message: impl Into<String>) -> Self {
        Self::new(path, "", vec![Diagnostic::of_file(message)])
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The errors in the order of their places, at least one and at most twenty.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// How many errors beyond [`TopologyError::diagnostics`] the file has.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// The errors with their lines of the file, as a compiler shows them, with ANSI colours if `colored`.
    pub fn render(&self, colored: bool) -> String {
        let renderer = if colored { Renderer::styled() } else { Renderer::plain() };
        let shown: Vec<String> = self.diagnostics.iter().map(|one| self.render_one(&renderer, one)).collect();
        let mut text = shown.join("\n\n");
        if self.omitted > 0 {
            text += &format!("\n\n… and {} more", self.omitted);
        }
        text
    }

    fn render_one(&self, renderer: &Renderer, diagnostic: &Diagnostic) -> String {
        let path = self.path.display().to_string().replace(char::is_control, "·");
        let Some(span) = &diagnostic.span else {
            let title = Level::ERROR.primary_title(format!("{path}: {}", diagnostic.message));
            return renderer.render(&[title.elements(hint(diagnostic))]);
        };
        let related = diagnostic.related.iter();
        let related = related.map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(*label));
        let snippet = Snippet::source(&self.text)
            .path(path)
            .annotation(AnnotationKind::Primary.span(span.clone()))
            .annotations(related);
        renderer.render(&[Level::ERROR.primary_title(&diagnostic.message).element(snippet).elements(hint(diagnostic))])
    }
}

fn hint(diagnostic: &Diagnostic) -> Option<annotate_snippets::Message<'_>> {
    diagnostic.hint.as_ref().map(|hint| Level::HELP.with_name("hint").message(hint))
}

/// One line per error, `FILE:LINE:COLUMN: message`, as editors and other tools read it.
impl fmt::Display for TopologyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(out, "{line_end}{}:", self.path.display())?;
            if let Some(Position { line, column }) = diagnostic.position {
                write!(out, "{line}:{column}:")?;
            }
            write!(out, " {}", diagnostic.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for TopologyError {}

/// The part of a span on its first line, on character boundaries inside the text.
fn within_its_line(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
    start..text.ceil_char_boundary(span.end).clamp(start, line_end)
}

fn position(text: &str, offset: usize) -> Position {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

/// Text of the file inside a message: in backquotes, without control characters, cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    if text.is_empty() {
        return "an empty string".to_owned();
    }
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    // Quotes inside backquotes need no escape.
    format!("`{}`", shown.replace("\\\"", "\"").replace("\\'", "'"))
}

/// The valid name that the user most likely meant: a few letters away, or the same but for its end.
pub(super) fn nearest<'a>(wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const COMPARED_BYTES_MAX: usize = 128;
    if wrong.is_empty() || wrong.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let wrong = wrong.to_lowercase();
    let distance = |name: &str| strsim::osa_distance(&wrong, &name.to_lowercase());
    let is_near = |name: &str| {
        let differs_at_its_end = name.starts_with(&wrong) || wrong.starts_with(name);
        differs_at_its_end || distance(name) <= (name.chars().count() / 3).max(1)
    };
    valid.into_iter().filter(|name| is_near(name)).min_by_key(|name| distance(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "ä = 1\nöö = 2\n";
        assert_eq!(position(text, 0), Position { line: 1, column: 1 });
        assert_eq!(position(text, text.find("= 2").unwrap()), Position { line: 2, column: 4 });
        assert_eq!(position(text, text.len()), Position { line: 3, column: 1 });
    }

    #[test]
    fn spans_stay_inside_their_line_and_on_character_boundaries() {
        assert_eq!(within_its_line("ab\ncd", 1..5), 1..2);
        assert_eq!(within_its_line("ab", 2..2), 2..2);
        assert_eq!(within_its_line("ab", 7..9), 2..2);
        assert_eq!(within_its_line("äö", 1..3), 0..4);
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let names = ["replica-of", "priority", "port"];
        assert_eq!(nearest("replicaof", names), Some("replica-of"));
        assert_eq!(nearest("prot", names), Some("port"));
        assert_eq!(nearest("PORT", names), Some("port"));
        assert_eq!(nearest("prio", names), Some("priority"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), names), None);
    }

    #[test]
    fn text_of_the_file_cannot_steer_the_terminal() {
        assert_eq!(quoted("a\x1b[2Jb\n"), "`a\\u{1b}[2Jb\\n`");
        assert_eq!(quoted("say \"it's\""), "`say \"it's\"`");
        assert!(quoted(&"x".repeat(500)).len() < 100);
    }
}
