//! A benchmark: its protocol, bars with intervals, languages, robustness, what is confused, typical successes and failures, all numbers.

use std::fmt::Write;

use bifocal_eval::page::escape;

use super::super::export::in_order;
use super::super::results::{Example, Metric, Outcome};
use super::All;
use super::parts::{Scale, anchor, heat, metric_name};

/// From so many languages or categories on they have a map.
const GROUPS: usize = 2;
/// Confusions that are shown.
const CONFUSED: usize = 10;

/// The section of a benchmark.
pub fn section(out: &mut String, all: &All<'_>, column: &str) {
    let outcomes = all.of_column(column);
    let Some(first) = outcomes.first() else { return };
    let _ = writeln!(out, "<h2 id=\"{}\">{}</h2>", anchor(column), escape(column));
    for protocol in in_order(outcomes.iter().map(|o| o.what.protocol.clone())) {
        let _ = writeln!(out, "<p class=protocol>{}</p>", escape(&protocol));
    }
    let left_out: Vec<String> = outcomes
        .iter()
        .filter(|o| o.counts.left_out > 0)
        .map(|o| format!("{}: {}", o.what.model, o.counts.left_out))
        .collect();
    if !left_out.is_empty() {
        let reason = outcomes
            .iter()
            .find_map(|o| o.counts.reasons.first())
            .map_or("", String::as_str);
        let _ = writeln!(
            out,
            "<p class=note>Left out ({}), for example: {}</p>",
            escape(&left_out.join("; ")),
            escape(reason)
        );
    }
    let mut shown = vec![first.headline.as_str()];
    shown.extend((first.headline == "t2i_r1").then_some("i2t_r1"));
    let also = ["linear_probe", "knn"]
        .into_iter()
        .filter(|name| first.metrics.iter().any(|m| m.name == *name));
    shown.extend(also);
    out.push_str("<div class=panels>\n");
    for name in shown {
        bars(out, name, &outcomes);
    }
    out.push_str("</div>\n");
    groups(out, all, column, first);
    robustness(out, all, &first.what.suite);
    if let Some(best) = all.best(column) {
        confusions(out, best);
        examples(out, best);
    }
    numbers(out, &outcomes);
}

/// The number of the whole benchmark.
fn overall<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a Metric> {
    outcome
        .metric(name, "")
        .or_else(|| outcome.metrics.iter().find(|m| m.name == name))
}

fn bars(out: &mut String, name: &str, outcomes: &[&Outcome]) {
    let values: Vec<(&str, &Metric)> = outcomes
        .iter()
        .filter_map(|o| Some((o.what.model.as_str(), overall(o, name)?)))
        .collect();
    let top = values
        .iter()
        .map(|(_, m)| m.high.unwrap_or(m.value).max(m.chance.unwrap_or(0.0)))
        .fold(0.0, f64::max);
    // a rank has no upper end that means anything
    let scale = if top > 0.0 { 100.0 / top } else { 0.0 };
    let _ = writeln!(out, "<section class=panel><h3>{}</h3>", escape(&metric_name(name)));
    for (model, m) in values {
        let at = |v: f64| (v * scale).clamp(0.0, 100.0);
        let _ = write!(
            out,
            "<div class=bar><span>{}</span><span class=track><i style=\"width:{:.2}%\"></i>",
            escape(model),
            at(m.value)
        );
        if let (Some(low), Some(high)) = (m.low, m.high) {
            let _ = write!(
                out,
                "<u style=\"left:{:.2}%;width:{:.2}%\"></u>",
                at(low),
                (at(high) - at(low)).max(0.3)
            );
        }
        if let Some(chance) = m.chance {
            let _ = write!(
                out,
                "<b style=\"left:{:.2}%\" title=\"chance {}\"></b>",
                at(chance),
                m.unit.show(chance)
            );
        }
        let _ = writeln!(out, "</span><span>{}</span></div>", m.unit.show(m.value));
    }
    out.push_str("</section>\n");
}

/// Languages or categories.
fn groups(out: &mut String, all: &All<'_>, column: &str, first: &Outcome) {
    let names = in_order(
        all.of_column(column)
            .iter()
            .flat_map(|o| {
                o.metrics
                    .iter()
                    .filter(|m| m.name == o.headline && !m.group.is_empty())
                    .map(|m| m.group.clone())
            })
            .collect::<Vec<_>>()
            .into_iter(),
    );
    if names.len() < GROUPS {
        return;
    }
    let title = if first.what.task == "composition" {
        "Categories"
    } else {
        "Languages"
    };
    let _ = writeln!(out, "<h3>{title}: {}</h3>", escape(&metric_name(&first.headline)));
    let heads: Vec<(String, String)> = names.iter().map(|name| (escape(name), String::new())).collect();
    let value = |model: &str, group: usize| all.get(model, column)?.metric(&first.headline, &names[group]);
    let chance = |group: usize| {
        let m = first.metric(&first.headline, &names[group])?;
        Some(m.unit.show(m.chance?))
    };
    heat(out, Scale::Whole, &heads, &all.models, value, chance);
}

/// The same benchmark with corrupted pictures.
fn robustness(out: &mut String, all: &All<'_>, suite: &str) {
    let prefix = format!("{suite}+");
    let corrupted: Vec<&String> = all.columns.iter().filter(|c| c.starts_with(&prefix)).collect();
    if corrupted.is_empty() {
        return;
    }
    let own = suite.to_owned();
    let columns: Vec<&String> = std::iter::once(&own)
        .filter(|own| all.columns.contains(own))
        .chain(corrupted)
        .collect();
    let heads: Vec<(String, String)> = columns
        .iter()
        .map(|column| match column.strip_prefix(&prefix) {
            Some(corruption) => (escape(corruption), String::new()),
            None => ("clean".to_owned(), String::new()),
        })
        .collect();
    out.push_str("<h3>Robustness</h3>\n");
    let value = |model: &str, column: usize| all.get(model, columns[column]).and_then(Outcome::main);
    // those that were measured with corruptions
    let rows: Vec<String> = all
        .models
        .iter()
        .filter(|model| (1..columns.len()).any(|c| value(model, c).is_some()))
        .cloned()
        .collect();
    heat(out, Scale::Whole, &heads, &rows, value, |_| None);
    for protocol in in_order(columns.iter().filter_map(|c| {
        c.strip_prefix(&prefix)
            .and_then(|_| all.of_column(c).first().map(|o| o.what.protocol.clone()))
    }))
    .iter()
    .take(1)
    {
        let _ = writeln!(
            out,
            "<p class=protocol>{} (and the other kinds and levels alike)</p>",
            escape(protocol)
        );
    }
}

fn confusions(out: &mut String, best: &Outcome) {
    let Some(most) = best.confused.first().map(|c| c.pictures.max(1)) else {
        return;
    };
    let _ = writeln!(
        out,
        "<h3>Taken for each other most ({})</h3><div class=panels><section class=panel>",
        escape(&best.what.model)
    );
    for c in best.confused.iter().take(CONFUSED) {
        let _ = writeln!(
            out,
            "<div class=bar><span>{} → {}</span><span class=track><i style=\"width:{:.1}%\"></i></span><span>{}</span></div>",
            escape(&c.right),
            escape(&c.taken),
            100.0 * c.pictures as f64 / most as f64,
            c.pictures
        );
    }
    out.push_str("</section></div>\n");
}

fn examples(out: &mut String, best: &Outcome) {
    if best.examples.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<h3>Typical successes and failures ({})</h3><div class=asks>",
        escape(&best.what.model)
    );
    best.examples.iter().for_each(|e| example(out, e));
    out.push_str("</div>\n");
}

fn example(out: &mut String, e: &Example) {
    let class = if e.right { "yes" } else { "no" };
    let _ = write!(
        out,
        "<section class=\"ask {class}\"><h4 dir=auto>{}</h4>",
        escape(&e.text)
    );
    if let Some(uri) = e.picture.as_deref().filter(|uri| inside(uri)) {
        let _ = write!(out, "<img alt=\"the picture\" loading=lazy src=\"{uri}\">");
    }
    match e.answers.iter().any(|a| a.picture.is_some()) {
        true => {
            out.push_str("<div class=found>");
            for a in &e.answers {
                let (class, mark) = if a.right { ("right", "✓ ") } else { ("wrong", "") };
                let _ = write!(out, "<figure class={class}>");
                match a.picture.as_deref().filter(|uri| inside(uri)) {
                    Some(uri) => {
                        let alt = if a.right {
                            "the picture of this text"
                        } else {
                            "another picture"
                        };
                        let _ = write!(out, "<img alt=\"{alt}\" loading=lazy src=\"{uri}\">");
                    }
                    None => out.push_str("<div class=none>no picture</div>"),
                }
                let _ = write!(out, "<figcaption>{mark}{:.3}</figcaption></figure>", a.score);
            }
            out.push_str("</div>");
        }
        false => {
            out.push_str("<ol>");
            for a in &e.answers {
                let class = if a.right { " class=right" } else { "" };
                let _ = write!(
                    out,
                    "<li{class} dir=auto><span>{}</span><span>{:.3}</span></li>",
                    escape(&a.text),
                    a.score
                );
            }
            out.push_str("</ol>");
        }
    }
    out.push_str("</section>\n");
}

/// Whether a picture is part of the page: a result file may have been changed since it was written.
fn inside(uri: &str) -> bool {
    let data = ["data:image/jpeg;base64,", "data:image/png;base64,"]
        .into_iter()
        .find_map(|kind| uri.strip_prefix(kind));
    data.is_some_and(|data| data.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)))
}

/// Everything that was measured.
fn numbers(out: &mut String, outcomes: &[&Outcome]) {
    let keys = in_order(
        outcomes
            .iter()
            .flat_map(|o| o.metrics.iter().map(|m| format!("{}\n{}", m.name, m.group))),
    );
    out.push_str("<details><summary>All numbers</summary><div class=scroll tabindex=0><table><thead><tr><th></th>");
    for o in outcomes {
        let _ = write!(
            out,
            "<th>{}<small>{}</small></th>",
            escape(&o.what.model),
            escape(&o.what.fingerprint.chars().take(12).collect::<String>())
        );
    }
    out.push_str("<th>chance</th></tr></thead><tbody>\n");
    for key in &keys {
        let (name, group) = key.split_once('\n').unwrap_or((key, ""));
        let _ = write!(
            out,
            "<tr><th>{}{}</th>",
            escape(&metric_name(name)),
            match group {
                "" => String::new(),
                group => format!(", {}", escape(group)),
            }
        );
        let of = |o: &&Outcome| o.metric(name, group).cloned();
        for m in outcomes.iter().map(of) {
            let _ = write!(
                out,
                "<td>{}</td>",
                m.map_or_else(|| "–".to_owned(), |m| m.unit.show(m.value))
            );
        }
        let chance = outcomes
            .iter()
            .filter_map(of)
            .find_map(|m| Some(m.unit.show(m.chance?)));
        let _ = writeln!(out, "<td>{}</td></tr>", chance.unwrap_or_else(|| "–".to_owned()));
    }
    out.push_str("</tbody></table></div></details>\n");
}
