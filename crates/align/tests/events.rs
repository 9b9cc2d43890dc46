//! Event files, read by a reader that shares nothing with the writer, and compared with the bytes of TensorBoard's own writer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bifocal_align::train::metrics::Metrics;
use bifocal_align::train::watch::events::PREFIX;
use bifocal_align::train::watch::{Evaluation, EventLog, Similarities};

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Scalar(f32),
    /// min, max, num, sum, sum of squares; limits; counts
    Histogram([f64; 5], Vec<f64>, Vec<f64>),
}

#[derive(Clone, Debug, PartialEq)]
struct Event {
    wall_time: f64,
    step: u64,
    version: String,
    values: Vec<(String, Value)>,
}

/// A field's number and its content: a varint, or raw bytes.
type Field = (u64, u64, Vec<u8>);

/// The checksum bit by bit, from its polynomial alone.
fn masked(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        for bit in 0..8 {
            let carry = (crc ^ u32::from(byte >> bit)) & 1;
            crc >>= 1;
            crc ^= 0x82F6_3B78 * carry;
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            return value;
        }
    }
}

fn fields(bytes: &[u8]) -> Vec<Field> {
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let key = varint(bytes, &mut at);
        let length = match key % 8 {
            0 => {
                found.push((key / 8, varint(bytes, &mut at), Vec::new()));
                continue;
            }
            1 => 8,
            2 => varint(bytes, &mut at) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        found.push((key / 8, 0, bytes[at..at + length].to_vec()));
        at += length;
    }
    found
}

fn double(bytes: &[u8]) -> f64 {
    f64::from_le_bytes(bytes.try_into().unwrap())
}

fn value(bytes: &[u8]) -> (String, Value) {
    let (mut tag, mut value) = (String::new(), None);
    for (number, _, content) in fields(bytes) {
        match number {
            1 => tag = String::from_utf8(content).unwrap(),
            2 => {
                value = Some(Value::Scalar(f32::from_le_bytes(
                    content.as_slice().try_into().unwrap(),
                )))
            }
            5 => {
                let (mut moments, mut limits, mut counts) = ([0.0; 5], Vec::new(), Vec::new());
                for (number, _, content) in fields(&content) {
                    match number {
                        1..=5 => moments[number as usize - 1] = double(&content),
                        6 => limits.extend(content.chunks(8).map(double)),
                        7 => counts.extend(content.chunks(8).map(double)),
                        other => panic!("field {other} of a histogram"),
                    }
                }
                value = Some(Value::Histogram(moments, limits, counts));
            }
            other => panic!("field {other} of a value"),
        }
    }
    (tag, value.unwrap())
}

/// All records as bytes with their framing; checks every checksum.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let crc = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(crc(8), masked(&bytes[..8]));
        assert_eq!(crc(12 + length), masked(&bytes[12..12 + length]));
        all.push(bytes[..16 + length].to_vec());
        bytes = &bytes[16 + length..];
    }
    all
}

fn event(record: &[u8]) -> Event {
    let mut event = Event {
        wall_time: 0.0,
        step: 0,
        version: String::new(),
        values: Vec::new(),
    };
    for (number, int, content) in fields(&record[12..record.len() - 4]) {
        match number {
            1 => event.wall_time = double(&content),
            2 => event.step = int,
            3 => event.version = String::from_utf8(content).unwrap(),
            5 => {
                for (number, _, content) in fields(&content) {
                    assert_eq!(number, 1);
                    event.values.push(value(&content));
                }
            }
            10 => {} // who wrote the file
            other => panic!("field {other} of an event"),
        }
    }
    event
}

fn read(path: &Path) -> Vec<Event> {
    records(&fs::read(path).unwrap()).iter().map(|r| event(r)).collect()
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name),
    )
    .unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// What a run writes about a step, at a time that is its own.
fn write_step(log: &mut EventLog, step: u64, clock: f64) {
    log.scalars(
        step,
        clock + step as f64,
        &[("loss", 1.0 / step as f32), ("grad_norm", 0.0)],
    )
    .unwrap();
    if step.is_multiple_of(2) {
        let values: Vec<f32> = (0..100).map(|i| (i as f32 * step as f32).sin()).collect();
        log.histogram(step, clock + step as f64, "similarity/positive", &values)
            .unwrap();
    }
}

#[test]
fn what_tensorboard_writes_is_written_again_to_the_byte() {
    let theirs = records(&fixture("tensorboard.events"));
    let json: serde_json::Value = serde_json::from_slice(&fixture("tensorboard.json")).unwrap();
    let values: Vec<f32> = serde_json::from_value(json["histogram"].clone()).unwrap();
    let events: Vec<Event> = theirs.iter().map(|r| event(r)).collect();
    assert_eq!(events.len(), 5);
    assert_eq!(events[0].version, "brain.Event:2");
    assert_eq!(
        events[2].values,
        [
            ("loss".to_owned(), Value::Scalar(2.5)),
            ("terms/ö".to_owned(), Value::Scalar(-0.1))
        ]
    );
    let dir = tempfile::tempdir().unwrap();
    let mut log = EventLog::open(dir.path(), 0, events[0].wall_time).unwrap();
    for event in &events[1..] {
        match &event.values[..] {
            [(tag, Value::Histogram(..))] => log.histogram(event.step, event.wall_time, tag, &values).unwrap(),
            all => {
                let scalar = |(tag, value): &(String, Value)| match value {
                    Value::Scalar(v) => (tag.clone(), *v),
                    Value::Histogram(..) => panic!("a histogram among scalars"),
                };
                let all: Vec<(String, f32)> = all.iter().map(scalar).collect();
                let all: Vec<(&str, f32)> = all.iter().map(|(tag, v)| (tag.as_str(), *v)).collect();
                log.scalars(event.step, event.wall_time, &all).unwrap();
            }
        }
    }
    log.flush().unwrap();
    let ours = records(&fs::read(log.path()).unwrap());
    // the first record of theirs also names the program
    assert_eq!(event(&ours[0]), events[0]);
    assert_eq!(ours[1..], theirs[1..]);
}

#[test]
fn a_run_that_is_interrupted_anywhere_leaves_the_events_of_an_unbroken_one() {
    let unbroken = tempfile::tempdir().unwrap();
    let mut log = EventLog::open(unbroken.path(), 0, 1000.0).unwrap();
    (1..=8).for_each(|step| write_step(&mut log, step, 1000.0));
    log.sync().unwrap();
    let expected = read(log.path());
    assert_eq!(expected.len(), 1 + 8 + 4);
    let name = log.path().file_name().unwrap().to_str().unwrap();
    assert!(
        name.starts_with(&format!("{PREFIX}0000001000.")) && name.ends_with(".bifocal"),
        "{name}"
    );
    let whole = fs::read(log.path()).unwrap();
    let ends: Vec<usize> = records(&whole)
        .iter()
        .scan(0, |end, r| {
            *end += r.len();
            Some(*end)
        })
        .collect();
    let without_time = |events: &[Event]| -> Vec<Event> {
        let zero = |e: &Event| Event {
            wall_time: 0.0,
            ..e.clone()
        };
        events.iter().map(zero).collect()
    };
    for step in [1, 3, 4, 7, 8] {
        let checkpoint = expected.iter().filter(|e| e.step <= step).count();
        for killed in [
            ends[checkpoint - 1],
            ends[checkpoint - 1] + 5,
            whole.len() - 3,
            whole.len(),
        ] {
            let killed = killed.min(whole.len());
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), &whole[..killed]).unwrap();
            // the clock has been set back meanwhile; files of others stay
            fs::write(dir.path().join("events.out.tfevents.1700000000.host.1.0"), "not ours").unwrap();
            let mut log = EventLog::open(dir.path(), step, 500.0).unwrap();
            let same = log.path().file_name().unwrap() == name;
            assert_eq!(same, killed == ends[checkpoint - 1], "step {step}, {killed} bytes");
            (step + 1..=8).for_each(|s| write_step(&mut log, s, 2000.0));
            log.flush().unwrap();
            let got = read(log.path());
            let kept = got.len().min(checkpoint);
            if killed >= ends[checkpoint - 1] {
                assert_eq!(got[..kept], expected[..kept]);
                assert_eq!(
                    without_time(&got),
                    without_time(&expected),
                    "step {step}, {killed} bytes"
                );
            }
            assert_eq!(files(dir.path()).len(), 2, "the file that was copied is gone");
        }
    }
}

#[test]
fn a_new_run_starts_anew_and_damage_ends_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = EventLog::open(dir.path(), 0, 10.0).unwrap();
    (1..=4).for_each(|step| write_step(&mut log, step, 10.0));
    log.flush().unwrap();
    let path = log.path().to_owned();
    drop(log);
    // a bit of the second record
    let mut bytes = fs::read(&path).unwrap();
    let first = records(&bytes)[0].len();
    bytes[first + 20] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let log = EventLog::open(dir.path(), 4, 20.0).unwrap();
    assert_eq!(read(log.path()).len(), 1);
    assert_ne!(log.path(), path);
    // nothing that is sound at all
    fs::write(log.path(), b"\xff\xff\xff\xff").unwrap();
    let log = EventLog::open(dir.path(), 4, 30.0).unwrap();
    assert_eq!(read(log.path()), [header(30.0)]);
    let log = EventLog::open(dir.path(), 0, 31.0).unwrap();
    assert_eq!(read(log.path()), [header(31.0)]);
    assert_eq!(files(dir.path()), [log.path().to_owned()]);
    assert!(EventLog::open(&dir.path().join("absent"), 0, 0.0).is_err());
}

fn header(wall_time: f64) -> Event {
    Event {
        wall_time,
        step: 0,
        version: "brain.Event:2".to_owned(),
        values: Vec::new(),
    }
}

#[test]
fn awkward_histograms() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = EventLog::open(dir.path(), 0, 0.0).unwrap();
    log.histogram(1, 0.0, "none", &[]).unwrap();
    log.histogram(1, 0.0, "nothing finite", &[f32::NAN, f32::INFINITY])
        .unwrap();
    log.histogram(1, 0.0, "one value", &[2.0, f32::NAN, 2.0]).unwrap();
    log.histogram(1, 0.0, "all there is", &[f32::MIN, 0.0, f32::MAX, f32::MIN_POSITIVE])
        .unwrap();
    log.flush().unwrap();
    let events = read(log.path());
    assert_eq!(events.len(), 3);
    let one = Value::Histogram([2.0, 2.0, 2.0, 4.0, 8.0], vec![2.0], vec![2.0]);
    assert_eq!(events[1].values, [("one value".to_owned(), one)]);
    let Value::Histogram(_, limits, counts) = &events[2].values[0].1 else {
        panic!("a scalar")
    };
    assert_eq!((limits.len(), counts.iter().sum::<f64>()), (30, 4.0));
    assert_eq!((counts[0], counts[15], counts[29]), (1.0, 2.0, 1.0));
}

#[test]
fn steps_and_evaluations_under_their_tags() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = EventLog::open(dir.path(), 0, 0.0).unwrap();
    let metrics = Metrics {
        step: 3,
        loss: 2.0,
        terms: BTreeMap::from([("contrast".to_owned(), 1.5)]),
        lr: 0.25,
        grad_norm: 0.5,
        logit_scale: 14.0,
        logit_bias: None,
        samples: 96,
        skipped: false,
    };
    log.metrics(&metrics, 7.0).unwrap();
    let counts = |at: [usize; 2]| (0..40).map(|i| u64::from(at.contains(&i))).collect::<Vec<_>>();
    let evaluation = Evaluation {
        step: 3,
        metrics: BTreeMap::from([("t2i_r1".to_owned(), 0.125)]),
        similarities: Some(Similarities {
            positive: counts([20, 39]),
            negative: counts([0, 19]),
            margin: None,
            not_finite: 0,
        }),
    };
    log.evaluation(&evaluation, 8.0).unwrap();
    log.flush().unwrap();
    let events = read(log.path());
    let scalar = |tag: &str, v| (tag.to_owned(), Value::Scalar(v));
    let step = [
        scalar("loss", 2.0),
        scalar("terms/contrast", 1.5),
        scalar("lr", 0.25),
        scalar("grad_norm", 0.5),
        scalar("logit_scale", 14.0),
    ];
    assert_eq!((events[1].step, events[1].wall_time), (3, 7.0));
    assert_eq!(events[1].values, step);
    assert_eq!(events[2].values, [scalar("eval/t2i_r1", 0.125)]);
    let (tag, Value::Histogram(moments, limits, own)) = &events[3].values[0] else {
        panic!("a scalar")
    };
    assert_eq!(tag, "similarity/own");
    assert_eq!(moments[..3], [-1.0, 1.0, 2.0]);
    // the middles of both bins: 0.025 and 0.975
    assert!((moments[3] - 1.0).abs() < 1e-12 && (moments[4] - 0.95125).abs() < 1e-12);
    assert_eq!((limits.len(), limits[19].abs() < 1e-12, limits[39]), (40, true, 1.0));
    assert_eq!((own[20], own[39], own[0]), (1.0, 1.0, 0.0));
    assert_eq!(events[4].values[0].0, "similarity/other");
}
