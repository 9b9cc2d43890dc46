//! Reports: a plain table for the terminal and the same content as JSON.
//!
//! Every table carries its protocol and its chance level, and marks which rows are baselines, so that a number can't travel
//! without what it has to be compared with.

use serde::{Deserialize, Serialize};

use crate::retrieval::{Chance, Direction, RetrievalReport};

/// What a row of a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The model in question.
    Model,
    /// What it has to beat, for example ridge regression.
    Baseline,
}

/// One evaluated system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is called.
    pub name: String,
    /// Model or baseline.
    pub role: Role,
    /// Its numbers.
    pub report: RetrievalReport,
}

/// Systems that were evaluated on the same pictures and captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What was evaluated, for example `flickr8k, en`.
    pub title: String,
    /// The systems, in the order to show them.
    pub rows: Vec<Row>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            rows: Vec::new(),
        }
    }

    /// Adds a system.
    pub fn push(&mut self, name: &str, role: Role, report: RetrievalReport) -> &mut Self {
        self.rows.push(Row {
            name: name.to_owned(),
            role,
            report,
        });
        self
    }

    /// The table as indented JSON, fractions as they are (0 to 1).
    ///
    /// # Errors
    /// None of its own; what the JSON writer reports is passed on.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// The table as plain text, recall in percent.
    pub fn to_text(&self) -> String {
        let mut cells = vec![header()];
        let mut protocols: Vec<String> = Vec::new();
        let mut previous: Option<&RetrievalReport> = None;
        for row in &self.rows {
            let name = match row.role {
                Role::Model => row.name.clone(),
                Role::Baseline => format!("{} (baseline)", row.name),
            };
            cells.push(line(name, &row.report.text_to_image, &row.report.image_to_text));
            // Rows on the same data share one chance row, after the last of them.
            let protocol = protocol(&row.report);
            if !protocols.contains(&protocol) {
                protocols.push(protocol);
            }
            previous = Some(&row.report);
        }
        if let Some(report) = previous {
            cells.push(chance_line(&report.text_to_image.chance, &report.image_to_text.chance));
        }
        let mut out = format!("{}\n", self.title);
        for protocol in protocols {
            out.push_str(&protocol);
            out.push('\n');
        }
        out.push('\n');
        align(&cells, &mut out);
        out
    }
}

/// The numbers' conditions in one line.
fn protocol(report: &RetrievalReport) -> String {
    let (t, i) = (&report.text_to_image, &report.image_to_text);
    let mut line = format!(
        "{} pictures, {} captions ({:.1} per captioned picture); image → text counts any own caption; {}",
        report.images,
        report.texts,
        report.texts as f64 / i.queries.max(1) as f64,
        report.ties,
    );
    if t.tied + i.tied > 0 {
        line.push_str(&format!(
            "; decided by a tie: {} of {} texts, {} of {} pictures",
            t.tied, t.queries, i.tied, i.queries
        ));
    }
    line
}

fn header() -> Vec<String> {
    [
        "",
        "T→I R@1",
        "R@5",
        "R@10",
        "median",
        "I→T R@1",
        "R@5",
        "R@10",
        "median",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn line(name: String, text: &Direction, image: &Direction) -> Vec<String> {
    let mut cells = vec![name];
    for d in [text, image] {
        cells.extend([percent(d.r1), percent(d.r5), percent(d.r10), place(d.median_rank)]);
    }
    cells
}

fn chance_line(text: &Chance, image: &Chance) -> Vec<String> {
    let mut cells = vec!["chance".to_owned()];
    for c in [text, image] {
        cells.extend([percent(c.r1), percent(c.r5), percent(c.r10), place(c.median_rank)]);
    }
    cells
}

fn percent(fraction: f64) -> String {
    // Chance levels of large sets need the second digit.
    if fraction > 0.0 && fraction < 0.01 {
        format!("{:.2}", fraction * 100.0)
    } else {
        format!("{:.1}", fraction * 100.0)
    }
}

fn place(rank: f64) -> String {
    if rank.fract() == 0.0 {
        format!("{rank:.0}")
    } else {
        format!("{rank:.1}")
    }
}

/// Pads cells to columns: names to the left, numbers to the right.
fn align(cells: &[Vec<String>], out: &mut String) {
    let width = |column: usize| {
        cells
            .iter()
            .filter_map(|r| r.get(column))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..cells.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    for row in cells {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let space = " ".repeat(width - cell.chars().count());
            match column {
                0 => out.extend([cell.as_str(), &space]),
                // A wider gap before the second direction.
                5 => out.extend(["    ", &space, cell]),
                _ => out.extend(["  ", &space, cell]),
            }
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieval::retrieval;

    fn table() -> Table {
        let images = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0];
        let texts = [1.0, 0.1, 0.1, 1.0, 0.0, 1.0, -1.0, 0.0];
        let good = retrieval(&images, &texts, 2, &[0, 1, 1, 2]).unwrap();
        let same = [1.0; 8];
        let flat = retrieval(&same[..6], &same, 2, &[0, 1, 1, 2]).unwrap();
        let mut table = Table::new("three pictures");
        table
            .push("ours", Role::Model, good)
            .push("all alike", Role::Baseline, flat);
        table
    }

    #[test]
    fn the_text_shows_models_baselines_chance_and_protocol() {
        let expected = "\
three pictures
3 pictures, 4 captions (1.3 per captioned picture); image → text counts any own caption; ties: lower index first
3 pictures, 4 captions (1.3 per captioned picture); image → text counts any own caption; ties: lower index first; \
decided by a tie: 4 of 4 texts, 3 of 3 pictures

                      T→I R@1    R@5   R@10  median    I→T R@1    R@5   R@10  median
ours                    100.0  100.0  100.0       1      100.0  100.0  100.0       1
all alike (baseline)     25.0  100.0  100.0       2       33.3  100.0  100.0       2
chance                   33.3  100.0  100.0       2       33.3  100.0  100.0       2
";
        assert_eq!(table().to_text(), expected);
    }

    #[test]
    fn json_gives_back_the_same_table() {
        let table = table();
        assert_eq!(serde_json::from_str::<Table>(&table.to_json().unwrap()).unwrap(), table);
    }
}
