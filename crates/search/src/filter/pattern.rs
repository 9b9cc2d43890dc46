//! Patterns for text: `like` with `%` and `_`, `~` with `*`, `**` and `?`.

use std::fmt;

use super::ast::quoted;

/// Which signs a pattern has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// SQL's: `%` any text, `_` one character.
    Like,
    /// Of shells: `*` anything but `/`, `**` anything, `?` one character but `/`.
    Glob,
}

/// Part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// This character, in lower case.
    Char(char),
    /// Any one character.
    One,
    /// Any one character but `/`.
    OneInFolder,
    /// Any text.
    Any,
    /// Any text without `/`.
    AnyInFolder,
}

/// A pattern for whole texts; case is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    style: Style,
    text: String,
    pieces: Vec<Piece>,
    /// The same below any folder; none for `like` and for what begins with `/`.
    below: Option<Vec<Piece>>,
}

impl Pattern {
    /// Reads a pattern; every text is one.
    pub fn new(style: Style, text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let piece = match (style, c) {
                (Style::Like, '%') => Piece::Any,
                (Style::Like, '_') => Piece::One,
                (Style::Glob, '*') if chars.next_if_eq(&'*').is_some() => Piece::Any,
                (Style::Glob, '*') => Piece::AnyInFolder,
                (Style::Glob, '?') => Piece::OneInFolder,
                _ => {
                    let c = if c == '\\' { chars.next().unwrap_or(c) } else { c };
                    pieces.extend(c.to_lowercase().map(Piece::Char));
                    continue;
                }
            };
            pieces.push(piece);
        }
        let is_open = style == Style::Glob && pieces.first() != Some(&Piece::Char('/'));
        let below = is_open.then(|| [&[Piece::Any, Piece::Char('/')], &pieces[..]].concat());
        Self {
            style,
            text: text.to_owned(),
            pieces,
            below,
        }
    }

    /// Which signs it has.
    pub fn style(&self) -> Style {
        self.style
    }

    /// What it consists of.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether the whole text fits.
    pub fn fits(&self, text: &str) -> bool {
        fits(&self.pieces, &lower(text))
    }

    /// Whether a path fits: as a whole, or, for a glob that does not begin with `/`, what follows any of its `/`.
    pub fn fits_path(&self, path: &str) -> bool {
        let path = lower(path);
        fits(&self.pieces, &path) || self.below.as_ref().is_some_and(|below| fits(below, &path))
    }
}

/// What a wildcard has taken so far.
struct Taken {
    /// The piece after it.
    next: usize,
    /// Where in the text it ends.
    end: usize,
}

/// Goes back to the last `AnyInFolder`, and where that one may not take a `/`, to the last `Any`: what either of them has
/// passed by is never looked at by an earlier one, so that time is at most the product of both lengths.
fn fits(pieces: &[Piece], text: &[char]) -> bool {
    let (mut at, mut p) = (0, 0);
    let mut any: Option<Taken> = None;
    let mut in_folder: Option<Taken> = None;
    loop {
        let fits = match (pieces.get(p), text.get(at)) {
            (Some(Piece::Any), _) => {
                any = Some(Taken { next: p + 1, end: at });
                in_folder = None;
                p += 1;
                continue;
            }
            (Some(Piece::AnyInFolder), _) => {
                in_folder = Some(Taken { next: p + 1, end: at });
                p += 1;
                continue;
            }
            (None, None) => return true,
            (Some(Piece::Char(wanted)), Some(c)) => wanted == c,
            (Some(Piece::One), Some(_)) => true,
            (Some(Piece::OneInFolder), Some(c)) => *c != '/',
            _ => false,
        };
        if fits {
            (at, p) = (at + 1, p + 1);
            continue;
        }
        let takes = |wild: &Taken, all: bool| text.get(wild.end).is_some_and(|&c| all || c != '/');
        if let Some(wild) = in_folder.as_mut().filter(|w| takes(w, false)) {
            wild.end += 1;
            (p, at) = (wild.next, wild.end);
        } else if let Some(wild) = any.as_mut().filter(|w| takes(w, true)) {
            wild.end += 1;
            (p, at) = (wild.next, wild.end);
            in_folder = None;
        } else {
            return false;
        }
    }
}

fn lower(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self.style {
            Style::Like => "like ",
            Style::Glob => "~ ",
        })?;
        quoted(f, &self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let style = if pattern.contains('%') || pattern.contains('_') {
            Style::Like
        } else {
            Style::Glob
        };
        Pattern::new(style, pattern).fits(text)
    }

    #[test]
    fn signs_stand_for_what_they_should() {
        for (pattern, text) in [
            ("%dog%", "A DOG on the street"),
            ("_at", "Cat"),
            ("50\\%%", "50% off"),
            ("größe%", "GRÖSSE".to_lowercase().replace("ss", "ß").as_str()),
            ("*.JPG", "a.jpg"),
            ("**.jpg", "a/b.jpg"),
            ("a*b*c", "aXbYbZc"),
            ("**/x*/y", "a/b/x1/y"),
            ("a\\*", "a*"),
            ("", ""),
            ("*", ""),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("_at", "at"),
            ("*.jpg", "a/b.jpg"),
            ("?", "/"),
            ("a\\*", "ab"),
            ("", "a"),
            ("a**c/d*", "abd"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_path_fits_below_any_folder() {
        let path = |pattern| Pattern::new(Style::Glob, pattern).fits_path("/home/me/Photos/2024/a.jpg");
        assert!(path("2024/*") && path("photos/**") && path("*.jpg") && path("/home/**"));
        assert!(!path("photos/*") && !path("/2024/*") && !path("024/*"));
        assert!(!Pattern::new(Style::Like, "2024/%").fits_path("/home/2024/a"));
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = Pattern::new(Style::Glob, &"*a**a".repeat(300));
        assert!(!pattern.fits(&"a/".repeat(1500)));
    }

    /// The definition, without any thought of time.
    fn slow(pieces: &[Piece], text: &[char]) -> bool {
        match (pieces.first(), text.first()) {
            (None, _) => text.is_empty(),
            (Some(Piece::Any), c) => slow(&pieces[1..], text) || c.is_some() && slow(pieces, &text[1..]),
            (Some(Piece::AnyInFolder), c) => {
                slow(&pieces[1..], text) || c.is_some_and(|&c| c != '/') && slow(pieces, &text[1..])
            }
            (Some(_), None) => false,
            (Some(Piece::Char(wanted)), Some(c)) => wanted == c && slow(&pieces[1..], &text[1..]),
            (Some(Piece::One), Some(_)) => slow(&pieces[1..], &text[1..]),
            (Some(Piece::OneInFolder), Some(c)) => *c != '/' && slow(&pieces[1..], &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn fast_and_slow_agree(pattern in "[ab/*?]{0,10}", text in "[ab/]{0,10}") {
            let pattern = Pattern::new(Style::Glob, &pattern);
            prop_assert_eq!(pattern.fits(&text), slow(pattern.pieces(), &lower(&text)));
        }
    }
}
