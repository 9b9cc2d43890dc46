//! POPE (Li et al. 2023): is an object in the picture? Three splits that differ in how the absent objects were chosen.
//!
//! An answer is cut at its first period and freed of commas; it is *no* if one of its words (split at blanks) is `No`, `no` or `not`, and *yes* otherwise.
//! Yes is the positive class. A missing answer is wrong: it is in the divisors of accuracy and, where the label is yes, of recall, and nowhere else.

use serde::Deserialize;

use super::error::AnswersError;
use super::join::{join, key};
use super::read::{Answer, Id, Source};
use super::report::{Report, Unit, mean, ratio};

const RULE: &str = "yes or no by POPE's rule; positive is yes";
const EXPECTED: &str = r#"one question a line as in coco_pope_random.json, like {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"}, or as LLaVA asks them, with "category" and without "label""#;

#[derive(Deserialize)]
struct Line {
    question_id: Id,
    text: String,
    label: Option<String>,
    category: Option<String>,
}

struct Question<'a> {
    split: String,
    id: String,
    text: String,
    yes: Option<bool>,
    file: &'a str,
}

/// Whether an answer says yes.
#[must_use]
pub fn says_yes(answer: &str) -> bool {
    let sentence = answer.split('.').next().unwrap_or(answer).replace(',', "");
    !sentence.split(' ').any(|word| matches!(word, "No" | "no" | "not"))
}

/// Scores answers. `questions`: the official files, one for a split; with LLaVA's own list of questions beside them, answers go by its numbers.
///
/// # Errors
/// Files that look otherwise, labels other than yes and no, numbers that several splits share where the answers do not say their split, lists
/// that do not ask the same questions.
pub fn score(questions: &[Source], answers: &[Answer]) -> Result<Report, AnswersError> {
    let (labelled, by_split) = questions_of(questions, answers)?;
    let key_of = |split: &str, id: &str| if by_split { key(&[split, id]) } else { id.to_owned() };
    let joined = join(
        labelled.iter().map(|q| (key_of(&q.split, &q.id), q.file)),
        answers
            .iter()
            .map(|a| (key_of(a.category.as_deref().unwrap_or(""), &a.id), a.text.as_str())),
    )?;
    let columns = ["accuracy", "precision", "recall", "F1", "yes ratio"];
    let mut report = Report::new("pope", RULE, joined.counts, Unit::Fraction, &columns);
    let mut splits: Vec<&str> = Vec::new();
    for q in &labelled {
        if !splits.contains(&q.split.as_str()) {
            splits.push(&q.split);
        }
    }
    for split in splits {
        let of_split = labelled.iter().zip(&joined.texts).filter(|(q, _)| q.split == split);
        let (items, values) = figures(of_split.filter_map(|(q, text)| Some((q.yes?, text.map(says_yes)))));
        report.push(split, items, values);
    }
    if report.rows.len() > 1 {
        let column = |at: usize| mean(&report.rows.iter().filter_map(|r| r.values[at]).collect::<Vec<_>>());
        let whole = |at: usize| {
            report
                .rows
                .iter()
                .all(|r| r.values[at].is_some())
                .then(|| column(at))
                .flatten()
        };
        let values = (0..columns.len()).map(whole).collect();
        let items = labelled.len();
        report.rows.insert(
            0,
            super::report::Row {
                name: "mean of splits".to_owned(),
                items,
                values,
            },
        );
    }
    Ok(report)
}

/// Items, and accuracy, precision, recall, F1 and the ratio of yes among what was answered; `(label, answer)`.
fn figures(items: impl Iterator<Item = (bool, Option<bool>)>) -> (usize, Vec<Option<f64>>) {
    let (mut all, mut positives, mut answered, mut yes, mut hits, mut right) = (0, 0, 0, 0, 0, 0);
    for (label, answer) in items {
        all += 1;
        positives += usize::from(label);
        answered += usize::from(answer.is_some());
        yes += usize::from(answer == Some(true));
        hits += usize::from(label && answer == Some(true));
        right += usize::from(answer == Some(label));
    }
    let (precision, recall) = (ratio(hits, yes), ratio(hits, positives));
    let f1 = precision
        .zip(recall)
        .filter(|(p, r)| p + r > 0.0)
        .map(|(p, r)| 2.0 * p * r / (p + r));
    (
        all,
        vec![ratio(right, all), precision, recall, f1, ratio(yes, answered)],
    )
}

/// Questions with labels, and whether answers are found by split and number (or by number alone).
fn questions_of<'a>(sources: &[Source<'a>], answers: &[Answer]) -> Result<(Vec<Question<'a>>, bool), AnswersError> {
    let (mut labelled, mut asked) = (Vec::new(), Vec::new());
    for source in sources {
        let stem = source.stem();
        let of_file = stem.rsplit_once("pope_").map_or(stem, |(_, split)| split);
        for (line, row) in source.rows::<Line>(EXPECTED)? {
            let yes = match row.label.as_deref().map(str::trim) {
                None => None,
                Some(label) if label.eq_ignore_ascii_case("yes") => Some(true),
                Some(label) if label.eq_ignore_ascii_case("no") => Some(false),
                Some(label) => return Err(source.wrong(line, format!("the label is {label:?}"), EXPECTED)),
            };
            let split = row.category.unwrap_or_else(|| of_file.to_owned());
            let list = if yes.is_some() { &mut labelled } else { &mut asked };
            list.push(Question {
                split,
                id: row.question_id.0,
                text: row.text,
                yes,
                file: source.name,
            });
        }
    }
    let file = sources.first().map_or("the questions", |s| s.name);
    let wrong = |why: String| AnswersError::File {
        file: file.to_owned(),
        line: None,
        why,
        expected: EXPECTED,
    };
    if labelled.is_empty() {
        return Err(wrong("no question has a label".to_owned()));
    }
    if !asked.is_empty() {
        return Ok((renamed(labelled, asked, wrong)?, false));
    }
    let mut ids: Vec<&str> = labelled.iter().map(|q| q.id.as_str()).collect();
    ids.sort_unstable();
    if ids.windows(2).all(|pair| pair[0] != pair[1]) {
        return Ok((labelled, false));
    }
    if answers.iter().all(|a| a.category.is_some()) {
        return Ok((labelled, true));
    }
    let why = "questions of several splits have the same numbers: score one split at a time, or give the list of questions that was asked, or answers with \"category\"";
    Err(wrong(why.to_owned()))
}

/// Labels in the order in which a list asks: within each split the n-th question of one is the n-th of the other.
fn renamed<'a>(
    labelled: Vec<Question<'a>>,
    asked: Vec<Question<'a>>,
    wrong: impl Fn(String) -> AnswersError,
) -> Result<Vec<Question<'a>>, AnswersError> {
    let mut by_split: std::collections::HashMap<String, std::collections::VecDeque<Question>> =
        std::collections::HashMap::new();
    for q in labelled {
        by_split.entry(q.split.clone()).or_default().push_back(q);
    }
    // splits that no label file was given for are not scored
    let asked = asked
        .into_iter()
        .filter(|q| by_split.contains_key(&q.split))
        .collect::<Vec<_>>();
    let mut out = Vec::with_capacity(asked.len());
    for q in asked {
        let label = by_split
            .get_mut(&q.split)
            .and_then(std::collections::VecDeque::pop_front);
        let label = label.ok_or_else(|| wrong(format!("split {:?} has more questions than labels", q.split)))?;
        let first = |text: &str| text.lines().next().unwrap_or("").trim().to_owned();
        if first(&q.text) != first(&label.text) {
            let (asked, labelled) = (first(&q.text), first(&label.text));
            return Err(wrong(format!(
                "question {:?} of split {:?} asks {asked:?}, its label is for {labelled:?}",
                q.id, q.split
            )));
        }
        out.push(Question { yes: label.yes, ..q });
    }
    match by_split.iter().find(|(_, left)| !left.is_empty()) {
        Some((split, _)) => Err(wrong(format!("split {split:?} has more labels than questions"))),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_of_the_first_sentence_say_no() {
        for no in [
            "No",
            "no, there is",
            "There is not, I think",
            "Well, No.",
            "no.",
            "a  no",
        ] {
            assert!(!says_yes(no), "{no}");
        }
        // another case, another sentence, a part of a word, a line's end instead of a blank
        for yes in [
            "Yes.", "NO", "Yes. No.", "nothing", "", ".no", "Yes\nno", "isn't", "none",
        ] {
            assert!(says_yes(yes), "{yes}");
        }
    }

    #[test]
    fn ratios_without_a_divisor_are_left_out() {
        let (items, values) = figures([(true, Some(false)), (false, None)].into_iter());
        assert_eq!((items, values), (2, vec![Some(0.0), None, Some(0.0), None, Some(0.0)]));
    }
}
