//! The page about a run: from files as a run leaves them, whole or damaged, to HTML that shows texts as texts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use bifocal_align::train::metrics::{Metrics, Timing};
use bifocal_align::train::watch::report::{Curve, Found, Histogram, Report, Retrieval};
use bifocal_align::train::watch::{Best, Evaluation, Similarities};

const HOSTILE: &str =
    "</script></style><script>alert(1)</script><img src=x onerror=alert(1)>\" ' & {{main}} \u{202e}\u{0}";

fn metrics(step: u64) -> Metrics {
    let wave = (step as f32 * 0.7).sin();
    Metrics {
        step,
        loss: 2.0 + wave,
        terms: BTreeMap::from([("contrast".to_owned(), 1.5), ("distil".to_owned(), 0.5 + wave)]),
        lr: 1e-3 / step as f64,
        grad_norm: f64::from(wave).exp(),
        logit_scale: 14.0,
        logit_bias: Some(-10.0),
        samples: step * 32,
        skipped: false,
    }
}

fn write_lines<T: serde::Serialize>(path: &Path, lines: impl Iterator<Item = T>) {
    let mut out = std::io::BufWriter::new(fs::File::create(path).unwrap());
    for line in lines {
        serde_json::to_writer(&mut out, &line).unwrap();
        out.write_all(b"\n").unwrap();
    }
    out.flush().unwrap();
}

fn write_run(dir: &Path, steps: u64) {
    let recipe = "method = \"sail\"\nembed_dim = 8\n[vision]\nmodel = \"a\"\n[[data.sources]]\npath = \"x\"\nlanguages = [\"en\", \"it\"]\n";
    fs::write(dir.join("recipe.toml"), recipe).unwrap();
    write_lines(&dir.join("metrics.jsonl"), (1..=steps).map(metrics));
}

fn html(report: &Report, dir: &Path) -> String {
    let path = report.write(dir).unwrap();
    assert_eq!(path, dir.join("report.html"));
    let html = fs::read_to_string(path).unwrap();
    assert_eq!(html, report.html());
    html
}

#[test]
fn a_long_run_has_a_small_page_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let steps = 100_000;
    write_run(dir, steps);
    let timing = |step| Timing {
        step,
        seconds: 0.25,
        samples_per_second: 128.0,
    };
    write_lines(&dir.join("timings.jsonl"), (1..=steps).map(timing));
    let evaluation = |step: u64| Evaluation {
        step,
        metrics: BTreeMap::from([
            ("t2i_r1".to_owned(), step as f64 / 2e5),
            ("t2i_r10".to_owned(), step as f64 / 1e5),
            ("t2i_r5".to_owned(), f64::NAN),
            ("t2i_median_rank".to_owned(), 7.0),
        ]),
        similarities: Some(Similarities {
            positive: (0..40).collect(),
            negative: (0..40).rev().collect(),
            margin: Some(0.125),
            not_finite: 0,
        }),
    };
    write_lines(
        &dir.join("evaluations.jsonl"),
        (1..=10).map(|i| evaluation(i * steps / 10)),
    );
    let mut best = Best::new("t2i_r1");
    assert!(best.consider(90_000, &evaluation(90_000).metrics));
    fs::write(dir.join("best.json"), serde_json::to_vec(&best).unwrap()).unwrap();

    let report = Report::of_run(dir).unwrap();
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let fact = |value: &str| report.facts.iter().any(|(_, v)| v == value);
    assert!(
        fact("100,000") && fact("3,200,000") && fact("0.45") && fact("6 h 56 min"),
        "{:?}",
        report.facts
    );
    let names: Vec<(&str, &str)> = report
        .curves
        .iter()
        .map(|c| (c.chart.as_str(), c.name.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("Loss", "loss"),
            ("Evaluation: text → image", "t2i_r1"),
            ("Evaluation: text → image", "t2i_r5"),
            ("Evaluation: text → image", "t2i_r10"),
            ("Evaluation: rank", "t2i_median_rank"),
            ("Loss terms", "contrast"),
            ("Loss terms", "distil"),
            ("Gradient norm", "gradient norm"),
            ("Learning rate", "learning rate"),
            ("Temperature", "logit scale"),
            ("Logit bias", "logit bias"),
            ("Throughput", "throughput"),
        ]
    );
    assert!(
        report
            .curves
            .iter()
            .all(|c| c.points.len() as u64 == if c.chart.starts_with("Eval") { 10 } else { steps })
    );
    assert_eq!(report.histograms.len(), 2);
    let recipe = [
        ("embed_dim", "8"),
        ("method", "\"sail\""),
        ("data.sources[1].languages", "[\"en\", \"it\"]"),
        ("data.sources[1].path", "\"x\""),
        ("vision.model", "\"a\""),
    ];
    let mut found = report.recipe.clone();
    found.sort();
    let mut expected: Vec<_> = recipe.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
    expected.sort();
    assert_eq!(found, expected);

    let html = html(&report, dir);
    assert!(html.len() < 600_000, "{} bytes", html.len());
    for text in [
        "100,000",
        "Similarities after step 10,000",
        "mean margin 0.125",
        "t2i_r10",
        "pictures/s",
    ] {
        assert!(html.contains(text), "{text}");
    }
    assert!(!html.contains("NaN") && !html.contains(">inf"));
}

#[test]
fn texts_stay_texts_and_nothing_is_requested() {
    let text = || HOSTILE.to_owned();
    let png = [&[0x89, b'P', b'N', b'G'][..], b"<script>"].concat();
    let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"alert(1)\"/>".to_vec();
    let found = |thumbnail: &[u8], correct| Found {
        thumbnail: thumbnail.to_vec(),
        score: 0.25,
        correct,
    };
    let report = Report {
        title: text(),
        facts: vec![(text(), text())],
        notes: vec![text()],
        recipe: vec![(text(), text())],
        freeze_table: text(),
        curves: vec![Curve {
            chart: text(),
            name: text(),
            unit: text(),
            points: (1..=100).map(|i| (i, i as f64)).collect(),
            log: true,
            smooth: true,
        }],
        histograms: vec![Histogram {
            title: text(),
            caption: text(),
            low: -1.0,
            high: 1.0,
            series: vec![(text(), vec![1, 2, 3])],
        }],
        retrievals: vec![Retrieval {
            query: text(),
            shown: vec![
                found(&png, true),
                found(&[0xff, 0xd8, 0xff, 0xe0], false),
                found(&svg, false),
            ],
        }],
    };
    let page = report.html();
    let empty = Report::default().html();
    // no elements but those of the page itself, the numbers of one chart and two pictures
    for (what, more) in [
        ("<script>", 0),
        ("<script type=", 1),
        ("</script>", 1),
        ("<style", 0),
        ("<img", 2),
    ] {
        let (with, without) = (page.matches(what).count(), empty.matches(what).count());
        assert_eq!(with, without + more, "{what}");
    }
    assert!(!page.contains("<img src=x") && !page.contains('\u{202e}') && !page.contains('\0'));
    assert!(page.contains("src=\"data:image/png;base64,iVBOR") && page.contains("src=\"data:image/jpeg;base64,/9j/"));
    assert!(!page.contains("svg+xml") && page.contains("no picture"));
    for outside in ["http:", "https:", "url(", "@import", "<link", "<iframe", "href="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn what_is_damaged_is_named_and_the_rest_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let error = Report::of_run(dir).unwrap_err().to_string();
    assert!(error.contains("recipe.toml"), "{error}");
    fs::write(dir.join("recipe.toml"), "= broken").unwrap();
    let error = Report::of_run(dir).unwrap_err().to_string();
    assert!(error.contains("recipe.toml") && error.contains("--resume"), "{error}");
    fs::write(dir.join("recipe.toml"), "method = \"clip\"").unwrap();
    let error = Report::of_run(dir).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl"), "{error}");

    // a run that was only begun
    write_run(dir, 0);
    let report = Report::of_run(dir).unwrap();
    assert!(html(&report, dir).contains("no values yet"));

    // killed in the middle of a line; a step that was left out
    write_run(dir, 5);
    let path = dir.join("metrics.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    let left_out = Metrics {
        loss: f32::NAN,
        grad_norm: f64::NAN,
        terms: BTreeMap::new(),
        skipped: true,
        ..metrics(6)
    };
    let line = serde_json::to_string(&left_out).unwrap();
    fs::write(&path, format!("{whole}{line}\n{{\"step\":7,\"lo")).unwrap();
    let report = Report::of_run(dir).unwrap();
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
    assert!(report.notes[0].starts_with("1 step was left out"), "{:?}", report.notes);
    assert_eq!(report.curves[0].points.len(), 6);
    assert!(!html(&report, dir).contains("NaN"));

    // damaged in the middle, steps that go back, endless lines
    let long = "x".repeat(3 << 20);
    for (bad, after) in [
        ("nonsense", 5),
        (&whole[..whole.find('\n').unwrap()], 5),
        (&long, 5),
        ("", 5),
    ] {
        fs::write(&path, format!("{whole}{bad}\n{line}\n")).unwrap();
        let report = Report::of_run(dir).unwrap();
        assert_eq!(report.curves[0].points.len(), after);
        assert_eq!(report.notes.len(), 1);
        assert!(
            report.notes[0].contains("metrics.jsonl is damaged from line 6 on"),
            "{:?}",
            report.notes
        );
    }
    fs::write(
        dir.join("evaluations.jsonl"),
        "{\"step\":1,\"metrics\":{\"a\":null}}\n[]\n",
    )
    .unwrap();
    let report = Report::of_run(dir).unwrap();
    assert!(
        report
            .notes
            .iter()
            .any(|n| n.contains("evaluations.jsonl is damaged from line 2 on"))
    );
}

#[test]
fn any_numbers_have_a_page() {
    let awkward = [f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 0.0, -0.0, 1e-310, 5.0, 5.0];
    let curve = |points: Vec<(u64, f64)>, log| Curve {
        chart: format!("{} {log}", points.len()),
        name: "name".to_owned(),
        unit: String::new(),
        points,
        log,
        smooth: true,
    };
    let mut report = Report::default();
    for log in [true, false] {
        report.curves.push(curve(Vec::new(), log));
        report.curves.push(curve(vec![(u64::MAX, 1.0)], log));
        report.curves.push(curve(vec![(0, f64::NAN), (1, f64::INFINITY)], log));
        report.curves.push(curve((0..).zip(awkward).collect(), log));
        report.curves.push(curve((0..).zip(awkward.repeat(100)).collect(), log));
        // steps that go back are the caller's fault, and no reason to fall
        report
            .curves
            .push(curve((0..2000).rev().map(|i| (i, 1.0)).collect(), log));
    }
    let histogram = |low, high, counts: Vec<u64>| Histogram {
        title: "title".to_owned(),
        caption: String::new(),
        low,
        high,
        series: vec![("name".to_owned(), counts), ("none".to_owned(), Vec::new())],
    };
    report.histograms = vec![
        histogram(0.0, 0.0, vec![1]),
        histogram(1.0, -1.0, vec![1, 2]),
        histogram(f64::NAN, f64::MAX, vec![u64::MAX, u64::MAX]),
        histogram(-1.0, 1.0, vec![0; 5]),
        histogram(-1.0, 1.0, vec![1; 100_000]),
    ];
    let page = report.html();
    // in drawings; a text may well say what a value is
    for bad in ["NaN", "inf ", "inf\"", "infh"] {
        assert!(!page.contains(bad), "{bad}");
    }
}
