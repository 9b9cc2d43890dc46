//! ScienceQA (Lu et al. 2022): one of two to five options, with or without a picture; what is usually given is the figure for those with one (IMG).
//!
//! The letter is read as LLaVA's evaluation does: the answer is a letter; or begins with a letter, a period and a blank; or says `The answer is X` once. Nothing else is
//! looked at: a letter with a blank before it is no answer.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::error::AnswersError;
use super::join::join;
use super::read::{Answer, Source};
use super::report::{Report, Unit, groups, mean};

const RULE: &str = "the letter of the right option, read as LLaVA's evaluation does; test split";
const EXPECTED: &str = r#"an object of problems as problems.json, like {"4": {"question": "Which?", "choices": ["a", "b"], "answer": 0, "image": "image.png", "split": "test"}}; pid_splits.json beside it chooses by its list "test""#;
const LETTERS: [char; 5] = ['A', 'B', 'C', 'D', 'E'];

#[derive(Deserialize)]
struct Problem {
    choices: Vec<String>,
    answer: usize,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    split: Option<String>,
    #[serde(default)]
    subject: String,
}

/// The letter that an answer gives, if it gives one the way that counts.
#[must_use]
pub fn letter(answer: &str) -> Option<char> {
    let mut chars = answer.chars();
    let first = chars.next()?;
    let rest = chars.as_str();
    if LETTERS.contains(&first) && (rest.is_empty() || rest.starts_with(". ")) {
        return Some(first);
    }
    const SAYS: &str = "The answer is ";
    let (mut said, mut rest) = (Vec::new(), answer);
    while let Some(at) = rest.find(SAYS) {
        let after = &rest[at + SAYS.len()..];
        let mut chars = after.chars();
        match (chars.next(), chars.next()) {
            // any one character follows the letter, but not the end of a line
            (Some(letter @ 'A'..='Z'), Some(next)) if next != '\n' => {
                said.push(letter);
                rest = chars.as_str();
            }
            _ => rest = after,
        }
    }
    match said[..] {
        [letter] => Some(letter),
        _ => None,
    }
}

/// Scores answers; `questions`: `problems.json`, of which the test split is scored; or `problems.json` and `pid_splits.json`.
///
/// # Errors
/// Files that look otherwise.
pub fn score(questions: &[Source], answers: &[Answer]) -> Result<Report, AnswersError> {
    let (mut problems, mut listed) = (Vec::new(), None);
    for source in questions {
        let file: BTreeMap<String, Value> = source.json(EXPECTED)?;
        if file.values().all(Value::is_array) {
            let test = file
                .get("test")
                .cloned()
                .ok_or_else(|| source.wrong(None, "it has no list \"test\"", EXPECTED))?;
            let ids: Vec<String> =
                serde_json::from_value(test).map_err(|e| source.wrong(None, e.to_string(), EXPECTED))?;
            listed = Some(ids.into_iter().collect::<std::collections::HashSet<_>>());
            continue;
        }
        for (id, value) in file {
            let wrong = |why: String| source.wrong(None, format!("problem {id:?}: {why}"), EXPECTED);
            let problem: Problem = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
            if problem.answer >= problem.choices.len().min(LETTERS.len()) {
                return Err(wrong(format!(
                    "the answer is number {} of {} choices",
                    problem.answer,
                    problem.choices.len()
                )));
            }
            problems.push((id, problem, source.name));
        }
    }
    problems.retain(|(id, problem, _)| match &listed {
        Some(ids) => ids.contains(id),
        None => problem.split.as_deref().is_none_or(|split| split == "test"),
    });
    if problems.is_empty() {
        let first = questions.first().copied().unwrap_or(Source::new("the questions", ""));
        return Err(first.wrong(None, "no problem is of the test split", EXPECTED));
    }
    let joined = join(
        problems.iter().map(|(id, _, file)| (id.clone(), *file)),
        answers.iter().map(|a| (a.id.clone(), a.text.as_str())),
    )?;
    let right = |problem: &Problem, text: &str| {
        let at = letter(text).and_then(|letter| LETTERS.iter().position(|l| *l == letter));
        at == Some(problem.answer)
    };
    let scores: Vec<f64> = problems
        .iter()
        .zip(&joined.texts)
        .map(|((_, p, _), text)| f64::from(u8::from(text.is_some_and(|text| right(p, text)))))
        .collect();
    let of = |shown: bool| -> Vec<f64> {
        let pictured = |p: &Problem| p.image.as_deref().is_some_and(|image| !image.is_empty());
        problems
            .iter()
            .zip(&scores)
            .filter(|((_, p, _), _)| pictured(p) == shown)
            .map(|(_, &score)| score)
            .collect()
    };
    let mut report = Report::new("scienceqa", RULE, joined.counts, Unit::Fraction, &["accuracy"]);
    for (name, scores) in [
        ("with a picture (IMG)", of(true)),
        ("without a picture", of(false)),
        ("all", scores.clone()),
    ] {
        report.push(name, scores.len(), vec![mean(&scores)]);
    }
    let mut subjects = groups(
        problems
            .iter()
            .map(|(_, p, _)| p.subject.as_str())
            .zip(scores.iter().copied()),
    );
    subjects.sort_unstable_by(|a, b| a.0.cmp(b.0));
    for (name, scores) in subjects.into_iter().filter(|(name, _)| !name.is_empty()) {
        report.push(name, scores.len(), vec![mean(&scores)]);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::letter;

    #[test]
    fn three_ways_to_give_a_letter() {
        for answer in [
            "B",
            "B. the dog",
            "I think. The answer is B.",
            "The answer is B!",
            "The answer is A\nThe answer is B.",
        ] {
            assert_eq!(letter(answer), Some('B'), "{answer:?}");
        }
        for answer in [
            "",
            "b",
            " B",
            "B.",
            "B) dog",
            "F",
            "The answer is B",
            "The answer is A. The answer is B.",
            "B dog",
        ] {
            assert_eq!(letter(answer), None, "{answer:?}");
        }
    }
}
