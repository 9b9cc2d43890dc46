//! Charts: a picture that stretches with the page, around it labels that do not.

use std::fmt::Write;

use super::numbers::{Axis, number};
use super::thin::{Point, sample, smooth, thin};
use super::{Curve, Histogram};
use bifocal_eval::page::escape;

/// Lines in a chart; there are as many colours.
pub(super) const LINES: usize = 6;
/// Size of a chart's picture in its own units; it is stretched to what room there is.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 400.0;
/// Bins of a histogram that are drawn at most.
const BINS: usize = 1000;

/// A chart of at most [`LINES`] curves, from the first to the last of `steps`. What stands above, each curve's name with its last value, is its legend.
pub(super) fn lines(title: &str, curves: &[&Curve], steps: (u64, u64), wide: bool) -> String {
    let finite = || curves.iter().flat_map(|c| &c.points).filter(|(_, v)| v.is_finite());
    if finite().next().is_none() {
        return figure(title, wide, "", "<p class=none>no values yet</p>");
    }
    let low = finite().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = finite().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let log = low > 0.0 && curves.iter().any(|c| c.log);
    let y = Axis::around(low, high, log);
    let drawn: Vec<Line> = curves.iter().map(|curve| Line::new(curve, log)).collect();
    let x = Axis::steps(steps.0, steps.1);

    let mut picture = grid(&x, &y);
    // means lie above everything that is not one
    for class in ["raw", "mean", "dots"] {
        for (i, line) in drawn.iter().enumerate() {
            let points = match class {
                "raw" if line.mean.is_empty() => continue,
                "raw" => &line.raw,
                "mean" if line.mean.is_empty() => &line.raw,
                "mean" => &line.mean,
                _ => &line.dots,
            };
            let path = path(points, &x, &y, class == "dots");
            if !path.is_empty() {
                // so many points that what is between them must not shine through where the chart is wide
                let dense = if class == "raw" && points.len() > 600 {
                    " dense"
                } else {
                    ""
                };
                let _ = write!(picture, "<path class=\"{class} c{i}{dense}\" d=\"{path}\"/>");
            }
        }
    }
    let mut legend = String::new();
    if let Some(unit) = curves.iter().map(|c| &c.unit).find(|u| !u.is_empty()) {
        let _ = write!(legend, "<span class=unit>{}</span>", escape(unit));
    }
    for (i, (curve, line)) in curves.iter().zip(&drawn).enumerate() {
        let last = line.last.map_or_else(|| "–".to_owned(), |(_, v)| number(v));
        let _ = write!(
            legend,
            "<span class=key><i class=c{i}></i>{} <b>{last}</b></span>",
            escape(&curve.name)
        );
    }
    let ends = ends(&drawn, &y);
    let body = frame(&x, &y, &picture, &ends, &format!("{title}, {} lines", curves.len()));
    figure(title, wide, &legend, &format!("{body}{}", readout(&drawn, &x)))
}

/// What is drawn of a curve.
struct Line {
    /// As it is, thinned.
    raw: Vec<Point>,
    /// Its running mean, thinned; empty for a short curve.
    mean: Vec<Point>,
    /// Points that are marked: those of a short curve.
    dots: Vec<Point>,
    /// For reading off: (step, value).
    samples: Vec<Point>,
    /// Last value, of the mean where there is one.
    last: Option<Point>,
}

impl Line {
    fn new(curve: &Curve, log: bool) -> Self {
        let points = &curve.points;
        let mean = match curve.smooth && points.len() >= 60 {
            true => mean(points, log),
            false => Vec::new(),
        };
        let shown = if mean.is_empty() { points } else { &mean };
        let last = shown.iter().rev().find(|(_, v)| v.is_finite()).copied();
        Self {
            raw: thin(points, 600),
            dots: if points.len() <= 40 { points.clone() } else { Vec::new() },
            samples: sample(shown, 250),
            last,
            mean: thin(&mean, 300),
        }
    }
}

/// The running mean; on a logarithmic axis that of logarithms, so that single peaks do not lift it off the line.
fn mean(points: &[Point], log: bool) -> Vec<Point> {
    if !log {
        return smooth(points);
    }
    let logs: Vec<Point> = points.iter().map(|&(step, v)| (step, v.ln())).collect();
    smooth(&logs).into_iter().map(|(step, v)| (step, v.exp())).collect()
}

/// The way of a line; points that are not finite end one and begin another.
fn path(points: &[Point], x: &Axis, y: &Axis, dots: bool) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for (step, v) in points {
        if !v.is_finite() {
            drawing = false;
            continue;
        }
        let (px, py) = (x.place(*step as f64) * WIDTH, (1.0 - y.place(*v)) * HEIGHT);
        let move_to = dots || !drawing;
        let _ = write!(path, "{}{px:.0} {py:.0}", if move_to { 'M' } else { ' ' });
        if dots {
            // a line without length has round ends and nothing else
            path.push_str("h0");
        }
        drawing = true;
    }
    path
}

fn grid(x: &Axis, y: &Axis) -> String {
    let mut d = String::new();
    for (at, _) in &y.ticks {
        let _ = write!(d, "M0 {:.0}H{WIDTH}", (1.0 - at) * HEIGHT);
    }
    for (at, _) in &x.ticks {
        let _ = write!(d, "M{:.0} 0V{HEIGHT}", at * WIDTH);
    }
    format!("<path class=grid d=\"{d}\"/>")
}

/// The last value of each line at the height of its end, moved apart where they would lie on each other.
fn ends(lines: &[Line], y: &Axis) -> Vec<(usize, f64, String)> {
    /// Height of a label, as a share of the chart.
    const APART: f64 = 0.075;
    let ends = lines.iter().enumerate();
    let mut ends: Vec<(usize, f64, String)> = ends
        .filter_map(|(i, l)| l.last.map(|(_, v)| (i, 1.0 - y.place(v), number(v))))
        .collect();
    ends.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut free = 0.0f64;
    for (_, at, _) in &mut ends {
        *at = at.max(free);
        free = *at + APART;
    }
    let mut free = 1.0f64;
    for (_, at, _) in ends.iter_mut().rev() {
        *at = at.min(free);
        free = *at - APART;
    }
    ends
}

/// Axes' labels around a picture.
fn frame(x: &Axis, y: &Axis, picture: &str, ends: &[(usize, f64, String)], label: &str) -> String {
    let widest = |labels: &mut dyn Iterator<Item = usize>| labels.max().unwrap_or(0);
    let left = widest(&mut y.ticks.iter().map(|(_, t)| t.chars().count()));
    let right = widest(&mut ends.iter().map(|(_, _, t)| t.chars().count()));
    let mut out = format!("<div class=plot style=\"--l:{left}ch;--r:{right}ch\"><div class=y>");
    for (at, text) in &y.ticks {
        let _ = write!(
            out,
            "<span style=\"top:{:.1}%\">{}</span>",
            (1.0 - at) * 100.0,
            escape(text)
        );
    }
    let _ = write!(
        out,
        "</div><div class=area><svg role=img aria-label=\"{}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=none>{picture}</svg>\
         </div><div class=ends>",
        escape(label)
    );
    for (i, at, text) in ends {
        let _ = write!(
            out,
            "<span class=c{i} style=\"top:{:.1}%\">{}</span>",
            at * 100.0,
            escape(text)
        );
    }
    out.push_str("</div><div class=x>");
    for (at, text) in &x.ticks {
        let _ = write!(out, "<span style=\"left:{:.1}%\">{}</span>", at * 100.0, escape(text));
    }
    out.push_str("</div></div>");
    out
}

/// Numbers for the script that shows values under the pointer: `[first, last]` step of the axis, then per line its steps and values.
fn readout(lines: &[Line], x: &Axis) -> String {
    let (low, high) = x.ends();
    let mut out = format!("<script type=\"application/json\">[[{low},{high}]");
    for line in lines {
        let list = |each: &dyn Fn(&Point) -> String| line.samples.iter().map(each).collect::<Vec<_>>().join(",");
        let steps = list(&|p| p.0.to_string());
        let values = list(&|p| match p.1.is_finite() {
            true => compact(p.1),
            false => "null".to_owned(),
        });
        let _ = write!(out, ",[[{steps}],[{values}]]");
    }
    out.push_str("]</script>");
    out
}

/// Four digits, in the shorter of both ways of writing them.
fn compact(v: f64) -> String {
    let exponent = format!("{v:.3e}");
    match exponent.parse::<f64>().map(|v| v.to_string()) {
        Ok(plain) if plain.len() <= exponent.len() => plain,
        _ => exponent,
    }
}

/// A chart of distributions; empty bins at both ends are left out.
pub(super) fn histogram(h: &Histogram) -> String {
    let bins = h
        .series
        .iter()
        .map(|(_, counts)| counts.len())
        .max()
        .unwrap_or(0)
        .min(BINS);
    let shares: Vec<Vec<f64>> = h
        .series
        .iter()
        .take(LINES)
        .map(|(_, counts)| {
            let total: f64 = counts.iter().map(|c| *c as f64).sum();
            let share = |i: usize| counts.get(i).map_or(0.0, |c| *c as f64 / total.max(1.0));
            (0..bins).map(share).collect()
        })
        .collect();
    let filled = |i: &usize| shares.iter().any(|s| s[*i] > 0.0);
    let (Some(first), Some(last)) = ((0..bins).find(filled), (0..bins).rev().find(filled)) else {
        return figure(&h.title, false, "", "<p class=none>no values yet</p>");
    };
    let (first, end) = (first.saturating_sub(1), (last + 2).min(bins));
    let limit = |i: usize| h.low + (h.high - h.low) * i as f64 / bins as f64;
    let x = Axis::between(limit(first), limit(end));
    let high = shares.iter().flatten().copied().fold(0.0, f64::max);
    let y = Axis::around(0.0, high * 100.0, false);
    let mut picture = grid(&x, &y);
    for class in ["fill", "mean"] {
        for (s, share) in shares.iter().enumerate() {
            let mut d = format!("M{:.0} {HEIGHT}", x.place(limit(first)) * WIDTH);
            for i in first..end {
                let top = (1.0 - y.place(share[i] * 100.0)) * HEIGHT;
                let _ = write!(d, "V{top:.0}H{:.0}", x.place(limit(i + 1)) * WIDTH);
            }
            let _ = write!(picture, "<path class=\"{class} c{s}\" d=\"{d}V{HEIGHT}\"/>");
        }
    }
    let mut legend = format!("<span class=unit>{}</span>", escape(&h.caption));
    for (s, (name, _)) in h.series.iter().take(LINES).enumerate() {
        let _ = write!(legend, "<span class=key><i class=c{s}></i>{}</span>", escape(name));
    }
    figure(&h.title, false, &legend, &frame(&x, &y, &picture, &[], &h.title))
}

fn figure(title: &str, wide: bool, legend: &str, body: &str) -> String {
    let class = if wide { "chart wide" } else { "chart" };
    let title = escape(title);
    format!(
        "<figure class=\"{class}\"><figcaption><h3>{title}</h3><div class=legend>{legend}</div></figcaption>{body}</figure>\n"
    )
}
