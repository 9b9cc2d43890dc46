//! The page around the charts.

use std::fmt::Write;

use super::chart::{self, LINES};
use super::numbers::number;
use super::{Curve, Report, Retrieval};

/// The page with gaps `{{…}}`, its style and its script.
const TEMPLATE: &str = include_str!("report.html");

/// Makes text of what might be markup.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // what a terminal or a browser might act on
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            // marks that turn the direction of what follows
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn render(report: &Report) -> String {
    let title = escape(&report.title);
    let main = main(report);
    let mut out = String::with_capacity(TEMPLATE.len() + main.len() + 2 * title.len());
    let mut rest = TEMPLATE;
    // filled in one pass: what is put in is never looked at again
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(if name == "title" { &title } else { &main });
        rest = after;
    }
    out.push_str(rest);
    out
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
        match mime(&found.thumbnail) {
            Some(mime) => {
                let alt = if found.correct {
                    "the picture of this text"
                } else {
                    "another picture"
                };
                let data = base64(&found.thumbnail);
                let _ = write!(out, "<img alt=\"{alt}\" src=\"data:{mime};base64,{data}\">");
            }
            None => out.push_str("<div class=none>no picture</div>"),
        }
        let _ = write!(out, "<figcaption>{mark}{}</figcaption></figure>", number(found.score));
    }
    out.push_str("</div></section>\n");
}

/// Only what is certainly a picture without scripts.
fn mime(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        _ => None,
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .enumerate()
            .fold(0, |n, (i, b)| n | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= three.len() { digit as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (bytes, text) in pairs {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

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
