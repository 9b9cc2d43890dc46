//! What is embedded: pictures, lines of a text file, or the captions of a dataset; any of it by its number.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_data::source::{ImageSource, Sample, Skipped};
use bifocal_data::{Limits, Preprocess, load_images_and};
use serde::{Deserialize, Serialize};

use crate::pictures;

/// Texts that are embedded at a time.
const TEXTS: usize = 512;
/// Bytes of a text.
const MAX_TEXT: usize = 1 << 20;

/// Everything that one run embeds, in a fixed order.
pub enum Input {
    /// Pictures with what is known of them.
    Images(Vec<Sample>, Preprocess),
    /// A caption of a sample: its number there.
    Captions(Vec<Sample>, Vec<Caption>),
    /// A text file, of which only places are in memory.
    Lines(Lines),
}

/// Which caption of which sample.
pub struct Caption {
    sample: usize,
    group: String,
    number: usize,
}

/// An item without its embedding, as tables have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub index: usize,
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<i64>,
}

/// An item that cannot be embedded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub index: usize,
    pub key: String,
    /// A short word, to count by.
    pub cause: String,
    /// What happened, for people.
    pub reason: String,
    /// Seconds since 1970.
    pub when: i64,
}

/// Some items, read and decoded.
pub struct Loaded {
    pub good: Vec<Known>,
    pub bad: Vec<Failed>,
    pub content: Content,
}

/// What the model gets of the good items.
pub enum Content {
    Pixels(Vec<f32>),
    Texts(Vec<String>),
}

impl Input {
    /// All captions of samples, in the order of samples, groups and captions.
    pub fn captions(samples: Vec<Sample>) -> Self {
        let mut all = Vec::new();
        for (at, sample) in samples.iter().enumerate() {
            for (group, texts) in &sample.captions {
                all.extend((0..texts.len()).map(|number| Caption {
                    sample: at,
                    group: group.clone(),
                    number,
                }));
            }
        }
        Self::Captions(samples, all)
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Images(samples, _) => samples.len(),
            Self::Captions(_, captions) => captions.len(),
            Self::Lines(lines) => lines.count,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Images(..) => "images",
            Self::Captions(..) => "captions",
            Self::Lines(_) => "texts",
        }
    }

    /// Items that are embedded at a time.
    pub fn batch(&self) -> usize {
        match self {
            Self::Images(..) => pictures::BATCH,
            _ => TEXTS,
        }
    }

    /// Tells this input from others: names, texts, and how large the shards are.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        match self {
            Self::Images(samples, _) => {
                let mut last = None;
                for sample in samples {
                    add(sample.image.to_string().as_bytes());
                    let shard = sample.image.container().filter(|_| sample.image.file().is_none());
                    if shard != last {
                        last = shard;
                        let bytes = shard
                            .and_then(|path| std::fs::metadata(path).ok())
                            .map_or(0, |m| m.len());
                        add(&bytes.to_le_bytes());
                    }
                }
            }
            Self::Captions(samples, captions) => {
                for caption in captions {
                    add(samples[caption.sample].key.as_bytes());
                    add(caption.group.as_bytes());
                    add(text_of(samples, caption).as_bytes());
                }
            }
            Self::Lines(lines) => add(lines.hash.as_bytes()),
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Reads and decodes some items.
    ///
    /// # Errors
    /// A text file that cannot be read any more; items that cannot be read are told.
    pub fn load(&self, items: &[usize]) -> Result<Loaded> {
        match self {
            Self::Images(samples, preprocess) => load_pictures(samples, preprocess, items),
            Self::Captions(samples, captions) => Ok(load_captions(samples, captions, items)),
            Self::Lines(lines) => lines.load(items),
        }
    }
}

/// What of a dataset could not be used at all, for the ledger.
pub fn unusable(skipped: &[Skipped]) -> Vec<Failed> {
    let one = |s: &Skipped| Failed {
        index: usize::MAX,
        key: s
            .line
            .map_or_else(|| s.what.clone(), |line| format!("{}: line {line}", s.what)),
        cause: "unusable".to_owned(),
        reason: s.reason.clone(),
        when: crate::indexing::seconds_now(),
    };
    skipped.iter().map(one).collect()
}

fn failed(index: usize, key: String, cause: &str, reason: String) -> Failed {
    Failed {
        index,
        key,
        cause: cause.to_owned(),
        reason,
        when: crate::indexing::seconds_now(),
    }
}

fn load_pictures(samples: &[Sample], preprocess: &Preprocess, items: &[usize]) -> Result<Loaded> {
    let images: Vec<&ImageSource> = items.iter().map(|&i| &samples[i].image).collect();
    let (loaded, sizes) = load_images_and(&images, preprocess, &Limits::default(), |picture| {
        (picture.width(), picture.height())
    })?;
    let good = loaded.good.iter().zip(sizes).map(|(&at, (width, height))| {
        let sample = &samples[items[at]];
        let captions = (!sample.captions.is_empty()).then(|| serde_json::json!(sample.captions).to_string());
        Known {
            index: items[at],
            key: sample.image.to_string(),
            text: sample.captions.values().flatten().next().cloned(),
            label: sample.label.clone(),
            captions,
            width: Some(width.into()),
            height: Some(height.into()),
            ..Known::default()
        }
    });
    let bad = loaded.bad.iter().map(|bad| {
        failed(
            items[bad.index],
            bad.image.to_string(),
            bad.error.cause(),
            bad.error.to_string(),
        )
    });
    Ok(Loaded {
        good: good.collect(),
        bad: bad.collect(),
        content: Content::Pixels(loaded.pixels),
    })
}

fn text_of<'a>(samples: &'a [Sample], caption: &Caption) -> &'a str {
    let texts = samples[caption.sample].captions.get(&caption.group);
    texts.and_then(|t| t.get(caption.number)).map_or("", String::as_str)
}

fn load_captions(samples: &[Sample], captions: &[Caption], items: &[usize]) -> Loaded {
    let texts: Vec<String> = items
        .iter()
        .map(|&i| text_of(samples, &captions[i]).to_owned())
        .collect();
    let known = items.iter().zip(&texts).map(|(&index, text)| Known {
        index,
        key: samples[captions[index].sample].key.clone(),
        text: Some(text.clone()),
        group: Some(captions[index].group.clone()),
        ..Known::default()
    });
    Loaded {
        good: known.collect(),
        bad: Vec::new(),
        content: Content::Texts(texts),
    }
}

/// The lines of a file: nothing is trimmed, blank lines count, only the newline at the very end is not a line.
pub struct Lines {
    path: PathBuf,
    count: usize,
    hash: String,
    /// Where every `TEXTS`-th line begins.
    places: Vec<u64>,
}

impl Lines {
    /// Reads the file once through.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = || format!("reading {}", path.display());
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path).with_context(failed)?);
        let mut hasher = blake3::Hasher::new();
        let (mut count, mut at, mut begins) = (0usize, 0u64, true);
        let mut places = Vec::new();
        loop {
            let bytes = reader.fill_buf().with_context(failed)?;
            if bytes.is_empty() {
                break;
            }
            hasher.update(bytes);
            let mut rest = bytes;
            while !rest.is_empty() {
                if begins {
                    if count.is_multiple_of(TEXTS) {
                        places.push(at);
                    }
                    count += 1;
                }
                let newline = rest.iter().position(|&b| b == b'\n');
                let taken = newline.map_or(rest.len(), |n| n + 1);
                begins = newline.is_some();
                at += taken as u64;
                rest = &rest[taken..];
            }
            let used = bytes.len();
            reader.consume(used);
        }
        Ok(Self {
            path: path.to_owned(),
            count,
            hash: hasher.finalize().to_hex().to_string(),
            places,
        })
    }

    fn load(&self, items: &[usize]) -> Result<Loaded> {
        let failing = || {
            format!(
                "reading {}; it must not change while it is embedded",
                self.path.display()
            )
        };
        let mut reader = BufReader::new(File::open(&self.path).with_context(failing)?);
        let mut next = usize::MAX;
        let (mut good, mut bad, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for &index in items {
            let stride = index / TEXTS;
            if next > index || next < stride * TEXTS {
                let place = self.places.get(stride).copied().unwrap_or(0);
                reader.seek(SeekFrom::Start(place)).with_context(failing)?;
                next = stride * TEXTS;
            }
            while next < index {
                read_line(&mut reader).with_context(failing)?;
                next += 1;
            }
            next += 1;
            let key = (index + 1).to_string();
            match read_line(&mut reader).with_context(failing)? {
                Line::Text(text) => {
                    good.push(Known {
                        index,
                        key,
                        text: Some(text.clone()),
                        ..Known::default()
                    });
                    texts.push(text);
                }
                Line::NotUtf8 => bad.push(failed(index, key, "not-utf8", "the line is not UTF-8".to_owned())),
                Line::Long(bytes) => {
                    let reason = format!("the line has {bytes} bytes, at most {MAX_TEXT} are read");
                    bad.push(failed(index, key, "over-limit", reason));
                }
            }
        }
        Ok(Loaded {
            good,
            bad,
            content: Content::Texts(texts),
        })
    }
}

enum Line {
    Text(String),
    NotUtf8,
    Long(usize),
}

/// The next line without its newline; of one beyond the limit only the length is kept.
fn read_line(reader: &mut impl BufRead) -> io::Result<Line> {
    let (mut line, mut length) = (Vec::new(), 0);
    loop {
        let bytes = reader.fill_buf()?;
        let newline = bytes.iter().position(|&b| b == b'\n');
        let text = &bytes[..newline.unwrap_or(bytes.len())];
        length += text.len();
        if length <= MAX_TEXT {
            line.extend_from_slice(text);
        }
        let (used, is_end) = (text.len() + usize::from(newline.is_some()), bytes.is_empty());
        reader.consume(used);
        if newline.is_some() || is_end {
            break;
        }
    }
    if length > MAX_TEXT {
        return Ok(Line::Long(length));
    }
    Ok(String::from_utf8(line).map_or(Line::NotUtf8, Line::Text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_file_wherever_reading_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts");
        for ending in ["", "\n", "\n\n", "\nä"] {
            let mut text: String = (0..1500)
                .map(|i| format!(" line {i}\r\n{}", ["", "\n"][i % 2]))
                .collect();
            text.push_str(ending);
            std::fs::write(&path, &text).unwrap();
            let expected = bifocal_data::source::texts(&path).unwrap();
            let lines = Lines::open(&path).unwrap();
            assert_eq!(lines.count, expected.len());
            let all: Vec<usize> = (0..expected.len()).collect();
            for items in [&all[..], &all[511..1030], &[7, 600, 601, 3, 2000]] {
                let Content::Texts(texts) = lines.load(items).unwrap().content else {
                    panic!("texts")
                };
                let wanted: Vec<&str> = items.iter().map(|&i| expected[i].as_str()).collect();
                assert_eq!(texts, wanted, "{ending:?}");
            }
        }
    }

    #[test]
    fn bad_lines_are_told_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts");
        let long = "x".repeat(MAX_TEXT + 1);
        let bytes = [b"one\n\xff\n".as_slice(), long.as_bytes(), b"\ntwo\n"].concat();
        std::fs::write(&path, bytes).unwrap();
        let lines = Lines::open(&path).unwrap();
        let loaded = lines.load(&[0, 1, 2, 3]).unwrap();
        let keys: Vec<&str> = loaded.good.iter().map(|k| k.key.as_str()).collect();
        let causes: Vec<&str> = loaded.bad.iter().map(|b| b.cause.as_str()).collect();
        assert_eq!((keys, causes), (vec!["1", "4"], vec!["not-utf8", "over-limit"]));
        std::fs::write(&path, "").unwrap();
        assert_eq!(Lines::open(&path).unwrap().count, 0);
    }
}
