//! MMBench (Liu et al. 2023), English and Chinese: one of up to 26 options, asked once for each rotation of them.
//!
//! A question is right only if it is right in **all** rotations. The file holds them as rows of their own: row `n · 1,000,000 + i` is a rotation of row i. A file
//! with one row for a question can be asked in rounds instead, as LLaVA's script does with `--all-rounds`: in round r the option shown as A is number r.
//!
//! Which option an answer means is read as the benchmark's own kit does without the help of a language model: a letter that stands by itself, else the one
//! option whose text is in the answer. What neither finds is wrong.

use std::collections::HashMap;

use super::error::AnswersError;
use super::join::{Joined, join, key};
use super::normalise::is_space;
use super::read::{Answer, Source, table};
use super::report::{Report, Unit, groups, mean, ratio};

const RULE: &str = "circular: right only if right in all rotations of the options; single: the first rotation; a letter, or the text of one option";
const EXPECTED: &str = "a table with tabs as mmbench_dev_20230712.tsv, whose first line names the columns, among them index, question, A, B and answer";
/// Rows of one question have the same index up to this.
const ROTATION: u64 = 1_000_000;
/// What pandas, through which the benchmark is read, takes for an empty cell.
const EMPTY: &str = "#N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a nan null";
/// Answers that refuse: no letter in them counts.
const REFUSALS: [&str; 4] = [
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
];

/// A row of the table.
struct Asked<'a> {
    file: &'a str,
    index: u64,
    options: Vec<(char, String)>,
    answer: char,
    category: String,
    area: String,
}

/// The letter of the option that an answer means, if one can be read. `options`: letter and text.
#[must_use]
pub fn option(answer: &str, options: &[(char, String)]) -> Option<char> {
    if answer.contains("Failed to obtain answer via API") {
        return by_text(answer, options);
    }
    if REFUSALS.iter().any(|refusal| answer.contains(refusal)) {
        return None;
    }
    let plain: String = answer
        .chars()
        .map(|c| if ".()[],:;!*#{}".contains(c) { ' ' } else { c })
        .collect();
    let words: Vec<&str> = plain.split(is_space).filter(|word| !word.is_empty()).collect();
    let place = |letter: char| {
        let mut buffer = [0; 4];
        let letter: &str = letter.encode_utf8(&mut buffer);
        words.iter().position(|word| *word == letter)
    };
    let found: Vec<(char, usize)> = options
        .iter()
        .filter_map(|&(letter, _)| Some((letter, place(letter)?)))
        .collect();
    match found[..] {
        // at the beginning of a long sentence it is more likely an article
        [(letter, at)] if at + 5 > words.len() => Some(letter),
        [] if place('Z').is_some() => None,
        _ => by_text(answer, options),
    }
}

/// The only option whose text is in the answer, unless the answer is much longer than the options.
fn by_text(answer: &str, options: &[(char, String)]) -> Option<char> {
    let answer = answer.to_lowercase();
    let length: usize = options.iter().map(|(_, text)| text.chars().count()).sum();
    if answer.chars().count() > 2 * length {
        return None;
    }
    let mut found = options.iter().filter(|(_, text)| answer.contains(&text.to_lowercase()));
    match (found.next(), found.next()) {
        (Some(&(letter, _)), None) => Some(letter),
        _ => None,
    }
}

/// Scores answers; `questions`: the table of a split that has answers (dev).
///
/// # Errors
/// Tables that look otherwise, rows without an answer, rotations without their first row.
pub fn score(questions: &[Source], answers: &[Answer], benchmark: &'static str) -> Result<Report, AnswersError> {
    let mut rows = Vec::new();
    for source in questions {
        read(source, &mut rows)?;
    }
    // (row, round) that have to be right
    let in_rounds = answers.iter().any(|a| a.round > 0);
    let rounds = |row: &Asked| if in_rounds { row.options.len() } else { 1 };
    let asked: Vec<(usize, usize)> = rows
        .iter()
        .enumerate()
        .flat_map(|(at, row)| (0..rounds(row)).map(move |r| (at, r)))
        .collect();
    let Joined { texts, counts } = join(
        asked
            .iter()
            .map(|&(at, r)| (key(&[&rows[at].index.to_string(), &r.to_string()]), rows[at].file)),
        answers
            .iter()
            .map(|a| (key(&[&a.id, &a.round.to_string()]), a.text.as_str())),
    )?;
    let right: Vec<bool> = asked
        .iter()
        .zip(&texts)
        .map(|(&(at, r), text)| text.is_some_and(|text| hits(&rows[at], r, text)))
        .collect();
    let mut circular: HashMap<u64, bool> = HashMap::new();
    for (&(at, _), &right) in asked.iter().zip(&right) {
        *circular.entry(rows[at].index % ROTATION).or_insert(true) &= right;
    }
    let first: Vec<(&Asked, bool)> = asked
        .iter()
        .zip(&right)
        .filter(|((at, r), _)| rows[*at].index < ROTATION && *r == 0)
        .map(|((at, _), &right)| (&rows[*at], right))
        .collect();
    let both = |row: &Asked, single: bool| (f64::from(u8::from(circular[&row.index])), f64::from(u8::from(single)));
    let (all, single): (Vec<f64>, Vec<f64>) = first.iter().map(|&(row, right)| both(row, right)).unzip();
    let mut report = Report::new(benchmark, RULE, counts, Unit::Fraction, &["circular", "single"]);
    report.push("all", first.len(), vec![mean(&all), mean(&single)]);
    report.push(
        "all rotations, each by itself",
        right.len(),
        vec![None, ratio(right.iter().filter(|r| **r).count(), right.len())],
    );
    for (prefix, areas) in [("", true), ("  ", false)] {
        let names = || {
            first.iter().map(|(row, _)| {
                if areas {
                    row.area.as_str()
                } else {
                    row.category.as_str()
                }
            })
        };
        let mut parts: Vec<_> = groups(names().zip(all.iter().copied()))
            .into_iter()
            .zip(groups(names().zip(single.iter().copied())))
            .collect();
        parts.sort_unstable_by(|a, b| a.0.0.cmp(b.0.0));
        for ((name, circular), (_, single)) in parts.into_iter().filter(|((name, _), _)| !name.is_empty()) {
            report.push(
                format!("{prefix}{name}"),
                circular.len(),
                vec![mean(&circular), mean(&single)],
            );
        }
    }
    Ok(report)
}

/// Whether an answer in a round means the right option.
fn hits(row: &Asked, round: usize, text: &str) -> bool {
    let n = row.options.len();
    let shown: Vec<(char, String)> = (0..n)
        .map(|at| (row.options[at].0, row.options[(at + round) % n].1.clone()))
        .collect();
    let meant = option(text, &shown).and_then(|letter| shown.iter().position(|(l, _)| *l == letter));
    meant.is_some_and(|at| row.options[(at + round) % n].0 == row.answer)
}

fn read<'a>(source: &Source<'a>, rows: &mut Vec<Asked<'a>>) -> Result<(), AnswersError> {
    let wrong = |line, why: String| source.wrong(line, why, EXPECTED);
    let records = table(source.text).map_err(|line| wrong(Some(line), "a quote that is never closed".to_owned()))?;
    let Some(((_, names), records)) = records.split_first() else {
        return Err(wrong(None, "it is empty".to_owned()));
    };
    let column = |name: &str| names.iter().position(|n| n.eq_ignore_ascii_case(name));
    let needed = |name: &str| column(name).ok_or_else(|| wrong(Some(1), format!("there is no column {name}")));
    let (index, answer) = (needed("index")?, needed("answer")?);
    needed("A")?;
    let letters: Vec<(char, usize)> = ('A'..='Z')
        .filter_map(|c| Some((c, names.iter().position(|n| n.len() == 1 && n.starts_with(c))?)))
        .collect();
    let (category, area) = (column("category"), column("l2-category"));
    let begins = rows.len();
    for (line, record) in records {
        let cell = |at: usize| record.get(at).map_or("", |c| c.as_ref());
        let text = |at: Option<usize>| at.map_or("", cell).to_owned();
        let number = cell(index)
            .parse()
            .map_err(|_| wrong(Some(*line), format!("the index is {:?}", cell(index))))?;
        let options: Vec<(char, String)> = letters
            .iter()
            .filter(|(_, at)| !empty(cell(*at)))
            .map(|&(c, at)| (c, cell(at).to_owned()))
            .collect();
        let truth = cell(answer).trim();
        let found = options.iter().find(|(c, _)| truth.len() == 1 && truth.starts_with(*c));
        let &(answer, _) = found.ok_or_else(|| {
            let hint = if truth.is_empty() {
                " (the test split is scored by its server only)"
            } else {
                ""
            };
            wrong(
                Some(*line),
                format!(
                    "the answer is {truth:?}{hint}, which is none of its {} options",
                    options.len()
                ),
            )
        })?;
        rows.push(Asked {
            file: source.name,
            index: number,
            options,
            answer,
            category: text(category),
            area: text(area),
        });
    }
    let firsts: std::collections::HashSet<u64> = rows[begins..]
        .iter()
        .map(|r| r.index)
        .filter(|&i| i < ROTATION)
        .collect();
    match rows[begins..].iter().find(|r| !firsts.contains(&(r.index % ROTATION))) {
        _ if rows.len() == begins => Err(wrong(None, "it holds no questions".to_owned())),
        Some(row) => Err(wrong(
            None,
            format!(
                "row {} is a rotation of row {}, which is not there",
                row.index,
                row.index % ROTATION
            ),
        )),
        None => Ok(()),
    }
}

fn empty(cell: &str) -> bool {
    cell.is_empty() || cell == "#N/A N/A" || EMPTY.split(' ').any(|known| known == cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(texts: &[&str]) -> Vec<(char, String)> {
        ('A'..='Z').zip(texts.iter().map(|t| (*t).to_owned())).collect()
    }

    #[test]
    fn letters_stand_by_themselves() {
        let options = options(&["a red car", "a dog", "two birds"]);
        for (answer, meant) in [
            ("B", Some('B')),
            ("(B).", Some('B')),
            ("The answer is B", Some('B')),
            ("B. a dog", Some('B')),
            ("b", None),
        ] {
            assert_eq!(option(answer, &options), meant, "{answer}");
        }
        // two letters, a letter that is an article, an option that is not there, an option by its text
        assert_eq!(option("A or B", &options), None);
        assert_eq!(option("A man is walking down the street", &options), None);
        assert_eq!(option("D", &options), None);
        assert_eq!(option("It shows two birds", &options), Some('C'));
    }

    #[test]
    fn rounds_shift_letters() {
        let row = Asked {
            file: "",
            index: 1,
            options: options(&["x1", "y1", "z1"]),
            answer: 'C',
            category: String::new(),
            area: String::new(),
        };
        assert!(hits(&row, 0, "C") && hits(&row, 1, "B") && hits(&row, 2, "A"));
        assert!(!hits(&row, 1, "C") && hits(&row, 1, "z1"));
    }
}
