//! `2:beach + sunset - 0.5:people` to texts with weights.

use serde::{Deserialize, Serialize};

/// A text of a query and how much it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// Its weight; negative leads away from it.
    pub weight: f32,
    /// The text, without weight and quotes around it.
    pub text: String,
}

/// Terms of one query.
const MAX_TERMS: usize = 64;

/// Text that is no query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// A sign without a text.
    #[error("the query has no text {place} its {sign:?}; write \"…\" around it if the sign belongs to the text")]
    Bare {
        /// Before or behind.
        place: &'static str,
        /// The sign.
        sign: char,
    },
    /// No text at all.
    #[error("the query is empty; give a text such as \"a dog on the beach\"")]
    Empty,
    /// Too many terms.
    #[error("the query has more than {} terms; leave some out", MAX_TERMS)]
    TooMany,
}

/// Splits a query at each `+` and `-` that stands between spaces (or a `-` that begins the query); `2:` before a term is its weight.
/// Everything else belongs to the texts: hyphens inside of words, `16:9`, and whatever stands in quotes that enclose a whole term.
///
/// # Errors
/// A query or term without text, and too many terms.
pub fn parse(query: &str) -> Result<Vec<Term>, QueryError> {
    let mut terms = Vec::new();
    let mut rest = query.trim();
    if rest.is_empty() {
        return Err(QueryError::Empty);
    }
    let mut sign = '+';
    if let Some((first, behind)) = leading(rest) {
        (sign, rest) = (first, behind.trim_start());
    }
    loop {
        if leading(rest).is_some() {
            return Err(QueryError::Bare { place: "behind", sign });
        }
        let (amount, text) = weighted(rest);
        let (text, next) = match quoted(text) {
            Some((text, behind)) => (text, operator(behind)),
            None => {
                // Where words end.
                let mut before = ' ';
                let ends = text.char_indices().filter(|&(_, c)| {
                    let is_end = c.is_whitespace() && !before.is_whitespace();
                    before = c;
                    is_end
                });
                let end = ends
                    .map(|(i, _)| i)
                    .find_map(|i| operator(&text[i..]).map(|next| (i, next)));
                let (end, next) = end.map_or((text.len(), None), |(end, next)| (end, Some(next)));
                (text[..end].trim(), next)
            }
        };
        if text.trim().is_empty() {
            let (place, sign) = match (terms.is_empty(), next) {
                (true, Some((next, _))) => ("before", next),
                _ => ("behind", sign),
            };
            return Err(QueryError::Bare { place, sign });
        }
        if terms.len() == MAX_TERMS {
            return Err(QueryError::TooMany);
        }
        terms.push(Term {
            weight: if sign == '-' { -amount } else { amount },
            text: text.to_owned(),
        });
        match next {
            Some((next, behind)) => (sign, rest) = (next, behind.trim_start()),
            None => return Ok(terms),
        }
    }
}

/// The weight before a term and what it weighs: `2:beach`. A digit behind the colon makes it a time or a ratio, which are text.
pub fn weighted(term: &str) -> (f32, &str) {
    let parsed = term.split_once(':').and_then(|(number, rest)| {
        let is_number = number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let weight: f32 = number.parse().ok().filter(|w: &f32| is_number && w.is_finite())?;
        let is_text = rest.starts_with(|c: char| !c.is_ascii_digit() && !c.is_whitespace());
        is_text.then_some((weight, rest))
    });
    parsed.unwrap_or((1.0, term))
}

/// Text in quotes and what follows them, if that is the end or an operator.
fn quoted(term: &str) -> Option<(&str, &str)> {
    let (text, behind) = term.strip_prefix('"')?.split_once('"')?;
    (behind.trim().is_empty() || operator(behind).is_some()).then_some((text, behind))
}

/// The sign at the beginning of `text`, between spaces, and what follows it.
fn operator(text: &str) -> Option<(char, &str)> {
    leading(text.strip_prefix(char::is_whitespace)?.trim_start())
}

/// The same without the space before it.
fn leading(text: &str) -> Option<(char, &str)> {
    let sign = text.chars().next().filter(|c| matches!(c, '+' | '-'))?;
    let rest = &text[1..];
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then_some((sign, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terms(query: &str) -> Vec<(f32, String)> {
        let terms = parse(query).unwrap_or_else(|e| panic!("{query}: {e}"));
        terms.into_iter().map(|t| (t.weight, t.text)).collect()
    }

    #[test]
    fn signs_between_spaces_split_and_weights_weigh() {
        for (query, expected) in [
            ("red car - truck", &[(1.0, "red car"), (-1.0, "truck")][..]),
            ("beach + sunset", &[(1.0, "beach"), (1.0, "sunset")]),
            ("2:beach - 0.5:people", &[(2.0, "beach"), (-0.5, "people")]),
            ("  a   +  b  -  c ", &[(1.0, "a"), (1.0, "b"), (-1.0, "c")]),
            ("- people", &[(-1.0, "people")]),
            ("\"a - b\" + c", &[(1.0, "a - b"), (1.0, "c")]),
            ("2:\"a + b\"", &[(2.0, "a + b")]),
            (".5:a", &[(0.5, "a")]),
            ("Größe - ティーポット", &[(1.0, "Größe"), (-1.0, "ティーポット")]),
        ] {
            let expected: Vec<(f32, String)> = expected.iter().map(|&(w, t)| (w, t.to_owned())).collect();
            assert_eq!(terms(query), expected, "{query}");
        }
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for query in [
            "a black-and-white photo of a well-known bridge",
            "a photo in 16:9 at 10:30",
            "note: a dog",
            "3: a list of things",
            "a 5\" pipe and a 3\" pipe",
            "he said \"a - b",
            "C++ and a-b -c +d e- f+",
            "ein Hund – am Strand — heute",
            "1.2.3:x",
            "-people",
        ] {
            let expected = if query.contains("\"a - b") {
                vec![(1.0, "he said \"a".to_owned()), (-1.0, "b".to_owned())]
            } else {
                vec![(1.0, query.to_owned())]
            };
            assert_eq!(terms(query), expected, "{query}");
        }
    }

    #[test]
    fn what_is_no_query_is_told() {
        let bare = |place, sign| Err(QueryError::Bare { place, sign });
        assert_eq!(parse(""), Err(QueryError::Empty));
        assert_eq!(parse(" \t "), Err(QueryError::Empty));
        assert_eq!(parse("a + "), bare("behind", '+'));
        assert_eq!(parse("-"), bare("behind", '-'));
        assert_eq!(parse("- - a"), bare("behind", '-'));
        assert_eq!(parse("a + - b"), bare("behind", '+'));
        assert_eq!(parse("\"\" - b"), bare("before", '-'));
        assert_eq!(parse("a - \" \""), bare("behind", '-'));
        assert_eq!(parse(&vec!["a"; 65].join(" + ")), Err(QueryError::TooMany));
        assert_eq!(parse(&vec!["a"; 64].join(" + ")).map(|t| t.len()), Ok(64));
    }

    proptest! {
        #[test]
        fn no_query_panics_and_terms_are_never_empty(query in "[ab\"+:2.\\- \u{3000}ö-]{0,24}") {
            if let Ok(terms) = parse(&query) {
                prop_assert!(terms.iter().all(|t| !t.text.trim().is_empty() && t.weight.is_finite()));
            }
        }
    }
}
