//! The page around the charts.

use std::fmt::Write;

use bifocal_eval::page::{self, data_uri, escape};

use super::chart::{self, LINES};
use super::numbers::number;
use super::{Curve, Report, Retrieval};

pub(super) fn render(report: &Report) -> String {
    let (style, script) = (include_str!("charts.css"), include_str!("charts.js"));
    page::whole(&report.title, style, &main(report), script)
}

fn main(report: &Report) -> String {
    let mut out = String::new();
    if !report.facts.is_empty() {
        out.push_str("<dl class=facts>");
        for (what, value) in &report.facts {
            let _ = write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escape(what), escape(value));
        }
        out.push_str("</dl>\n");
    }
    for note in &report.notes {
        let _ = writeln!(out, "<p class=note>{}</p>", escape(note));
    }
    curves(&mut out, &report.curves);
    if !report.histograms.is_empty() {
        out.push_str("<h2>Similarities</h2><div class=charts>\n");
        report
            .histograms
            .iter()
            .for_each(|h| out.push_str(&chart::histogram(h)));
        out.push_str("</div>\n");
    }
    if !report.retrievals.is_empty() {
        out.push_str("<h2>What is found</h2><div class=retrievals>\n");
        report.retrievals.iter().for_each(|r| retrieval(&mut out, r));
        out.push_str("</div>\n");
    }
    if !report.freeze_table.trim().is_empty() {
        let table = escape(report.freeze_table.trim_matches('\n'));
        let _ = writeln!(out, "<h2>What learns</h2><pre tabindex=0>{table}</pre>");
    }
    if !report.recipe.is_empty() {
        out.push_str("<h2>Recipe</h2><table>\n");
        for (key, value) in &report.recipe {
            let _ = writeln!(out, "<tr><th>{}</th><td>{}</td></tr>", escape(key), escape(value));
        }
        out.push_str("</table>\n");
    }
    out
}

/// Charts in the order of their first curves; the first one is wide.
fn curves(out: &mut String, curves: &[Curve]) {
    let mut charts: Vec<(&str, Vec<&Curve>)> = Vec::new();
    for curve in curves {
        match charts.iter_mut().find(|(name, _)| *name == curve.chart) {
            Some((_, all)) => all.push(curve),
            None => charts.push((&curve.chart, vec![curve])),
        }
    }
    if charts.is_empty() {
        return;
    }
    // one range of steps for all, so that charts can be compared
    let ends = || {
        curves
            .iter()
            .flat_map(|c| [c.points.first(), c.points.last()])
            .flatten()
            .map(|p| p.0)
    };
    let steps = (ends().min().unwrap_or(0), ends().max().unwrap_or(0));
    out.push_str("<div class=charts>\n");
    for (i, (name, all)) in charts.iter().enumerate() {
        let parts = all.len().div_ceil(LINES);
        for (part, some) in all.chunks(LINES).enumerate() {
            let title = match parts {
                1 => (*name).to_owned(),
                _ => format!("{name} ({} of {parts})", part + 1),
            };
            out.push_str(&chart::lines(&title, some, steps, i == 0));
        }
    }
    out.push_str("</div>\n");
}

fn retrieval(out: &mut String, r: &Retrieval) {
    let _ = write!(out, "<section><h3 dir=auto>{}</h3><div class=found>", escape(&r.query));
    for found in &r.shown {
        let (class, mark) = if found.correct {
            ("right", "✓ ")
        } else {
            ("wrong", "")
        };
        let _ = write!(out, "<figure class={class}>");
        match data_uri(&found.thumbnail) {
            Some(uri) => {
                let alt = if found.correct {
                    "the picture of this text"
                } else {
                    "another picture"
                };
                let _ = write!(out, "<img alt=\"{alt}\" src=\"{uri}\">");
            }
            None => out.push_str("<div class=none>no picture</div>"),
        }
        let _ = write!(out, "<figcaption>{mark}{}</figcaption></figure>", number(found.score));
    }
    out.push_str("</div></section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_and_what_fills_them_is_left_alone() {
        let report = Report {
            title: "{{main}} & {{title}}".to_owned(),
            recipe: vec![(
                "{{".to_owned(),
                "}}</td><script>alert(1)</script>\u{202e}\u{1b}".to_owned(),
            )],
            ..Report::default()
        };
        let html = render(&report);
        assert_eq!(html.matches("{{main}} &amp; {{title}}").count(), 2);
        assert!(
            html.contains("<th>{{</th><td>}}&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;\u{fffd}\u{fffd}</td>")
        );
    }
}
