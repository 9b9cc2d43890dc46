//! `report.html`: the matrix and what stands behind it, in one file that needs no other.

mod parts;
mod suite;

use std::path::Path;

use anyhow::Result;
use bifocal_eval::page::whole;

use super::export::{in_order, put};
use super::results::Outcome;

pub use parts::{Scale, heat};

/// Name of the page.
const FILE: &str = "report.html";

/// What tables of numbers look like.
pub const STYLE: &str = include_str!("style.css");

/// Writes the page.
///
/// # Errors
/// When it cannot be written.
pub fn write(out: &Path, outcomes: &[Outcome]) -> Result<()> {
    put(&out.join(FILE), &html(outcomes))
}

/// The page of some results.
fn html(outcomes: &[Outcome]) -> String {
    let all = All::of(outcomes);
    let mut main = String::new();
    parts::facts(&mut main, &all);
    parts::matrix(&mut main, &all);
    for column in all.clean() {
        suite::section(&mut main, &all, &column);
    }
    whole("Evaluation", STYLE, &main, "")
}

/// Results by model and benchmark.
pub(super) struct All<'a> {
    outcomes: &'a [Outcome],
    /// Names of models, in order.
    pub models: Vec<String>,
    /// Benchmarks with their corruptions, in order.
    pub columns: Vec<String>,
}

impl<'a> All<'a> {
    fn of(outcomes: &'a [Outcome]) -> Self {
        Self {
            outcomes,
            models: in_order(outcomes.iter().map(|o| o.what.model.clone())),
            columns: in_order(outcomes.iter().map(Outcome::column)),
        }
    }

    /// One result.
    pub fn get(&self, model: &str, column: &str) -> Option<&'a Outcome> {
        self.outcomes
            .iter()
            .find(|o| o.what.model == model && o.column() == column)
    }

    /// The results of a benchmark, in the models' order.
    pub fn of_column(&self, column: &str) -> Vec<&'a Outcome> {
        self.models.iter().filter_map(|model| self.get(model, column)).collect()
    }

    /// Benchmarks that are not corrupted; one that was only measured with corruptions is shown by the first of them.
    pub fn clean(&self) -> Vec<String> {
        let suites = in_order(self.outcomes.iter().map(|o| o.what.suite.clone()));
        let column = |suite: &String| match self.columns.contains(suite) {
            true => Some(suite.clone()),
            false => self
                .columns
                .iter()
                .find(|c| c.starts_with(&format!("{suite}+")))
                .cloned(),
        };
        suites.iter().filter_map(column).collect()
    }

    /// The model that does best on a benchmark.
    pub fn best(&self, column: &str) -> Option<&'a Outcome> {
        let value = |o: &Outcome| {
            o.main()
                .map_or(f64::MIN, |m| if m.unit.rises() { m.value } else { -m.value })
        };
        let best = |a: &'a Outcome, b: &'a Outcome| if value(b) > value(a) { b } else { a };
        self.of_column(column).into_iter().reduce(best)
    }
}

#[cfg(test)]
mod tests {
    use super::super::export::tests::outcome;
    use super::super::results::{Answer, Confused, Example};
    use super::*;

    fn page() -> String {
        let mut named = outcome("<b>one</b>", "cifar10", "classification", &[("top1", "en", 0.75)]);
        named.confused.push(Confused {
            right: "cat & dog".to_owned(),
            taken: "<script>".to_owned(),
            pictures: 7,
        });
        named.examples.push(Example {
            right: false,
            text: "cat".to_owned(),
            picture: Some("data:image/jpeg;base64,/9j/4AAQ".to_owned()),
            answers: vec![Answer {
                right: false,
                score: 0.5,
                text: "dog".to_owned(),
                picture: Some("https://tracker.example/x.png\" onerror=\"alert(1)".to_owned()),
            }],
        });
        let mut blurred = outcome("two", "cifar10", "classification", &[("top1", "en", 0.25)]);
        blurred.what.corruption = Some("blur-3".to_owned());
        let languages: Vec<(String, f64)> = ["de", "en", "fr", "zh"].map(|l| (l.to_owned(), 0.25)).into();
        let metrics: Vec<(&str, &str, f64)> = [("t2i_r1", "", 0.3)]
            .into_iter()
            .chain(languages.iter().map(|(l, v)| ("t2i_r1", l.as_str(), *v)))
            .collect();
        html(&[
            named,
            outcome("two", "cifar10", "classification", &[("top1", "en", 0.5)]),
            blurred,
            outcome("two", "xm3600", "retrieval", &metrics),
        ])
    }

    #[test]
    fn every_number_has_its_protocol_and_nothing_is_markup() {
        let html = page();
        assert!(html.contains("&lt;b&gt;one&lt;/b&gt;") && !html.contains("<b>one"));
        assert!(html.contains("cat &amp; dog") && html.contains("&lt;script&gt;"));
        // two benchmarks, and the corruptions of one
        assert_eq!(html.matches("class=protocol").count(), 3);
        assert!(html.contains("the protocol of xm3600"));
        // a gap where a model was not measured
        assert!(html.contains("<td>–"), "{html}");
    }

    #[test]
    fn pictures_are_only_those_inside_the_page() {
        let html = page();
        assert!(html.contains("src=\"data:image/jpeg;base64,/9j/4AAQ\""));
        assert!(!html.contains("tracker.example"));
    }

    #[test]
    fn languages_and_corruptions_have_maps_of_their_own() {
        let html = page();
        assert!(html.contains("Languages") && html.contains("<th>zh"));
        assert!(html.contains("Robustness") && html.contains("<th>blur-3"));
    }

    #[test]
    fn nothing_is_a_page_too() {
        assert!(html(&[]).contains("No results yet"));
    }
}
