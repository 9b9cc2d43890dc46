//! Which answer belongs to which question.

use std::collections::HashMap;

use super::error::AnswersError;
use super::report::Counts;

/// For each question the text of its answer.
pub(super) struct Joined<'a> {
    pub(super) texts: Vec<Option<&'a str>>,
    pub(super) counts: Counts,
}

/// Joins by key. Keys of questions are given with the name of their file.
pub(super) fn join<'a>(
    questions: impl Iterator<Item = (String, &'a str)>,
    answers: impl Iterator<Item = (String, &'a str)>,
) -> Result<Joined<'a>, AnswersError> {
    let mut places = HashMap::new();
    let mut first = String::new();
    for (at, (key, file)) in questions.enumerate() {
        if at == 0 {
            first.clone_from(&key);
        }
        if places.insert(key.clone(), at).is_some() {
            return Err(AnswersError::Twice {
                file: file.to_owned(),
                id: shown(&key),
            });
        }
    }
    let mut texts = vec![None; places.len()];
    let mut counts = Counts {
        questions: places.len(),
        ..Counts::default()
    };
    let (mut all, mut stranger) = (0, None);
    for (key, text) in answers {
        all += 1;
        match places.get(&key) {
            Some(&at) => counts.double += usize::from(texts[at].replace(text).is_some()),
            None => {
                counts.unknown += 1;
                stranger.get_or_insert(key);
            }
        }
    }
    if let Some(key) = stranger.filter(|_| counts.unknown == all) {
        return Err(AnswersError::Strangers {
            answers: all,
            questions: places.len(),
            answer: shown(&key),
            question: shown(&first),
        });
    }
    counts.missing = texts.iter().filter(|t| t.is_none()).count();
    Ok(Joined { texts, counts })
}

/// Parts of a key that is made of several.
pub(super) fn key(parts: &[&str]) -> String {
    parts.join("\u{1f}")
}

fn shown(key: &str) -> String {
    key.replace('\u{1f}', " ")
}
