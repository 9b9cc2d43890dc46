//! What is learnt from: the recipe's sources as one list of rows over one list of distinct texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use bifocal_data::split::{HoldOut, split};
use bifocal_data::{Dataset, ImageSource};
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::draw::Share;
use crate::recipe::{DataSpec, SourceKind, SourceSpec};

/// Largest list of class names that is read, in bytes.
const MAX_CLASS_FILE: u64 = 256 << 20;

/// Which pictures are held out does not depend on a run's seed: runs with different seeds are compared on the same ones.
const HOLDOUT_SEED: u64 = 0;

/// What stands on the picture's side of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Picture {
    /// A picture of a dataset.
    File(ImageSource),
    /// A row of the vision tower's classifier.
    Class(usize),
}

/// A picture and its texts.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// For messages: where it is from.
    pub key: String,
    pub picture: Picture,
    /// Into [`Corpus::texts`].
    pub texts: Vec<u32>,
}

/// A picture that is kept out of training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct HeldOut {
    pub source: String,
    pub image: String,
}

/// All sources together.
#[derive(Debug, Default)]
pub(crate) struct Corpus {
    pub rows: Vec<Row>,
    pub shares: Vec<Share>,
    pub texts: Vec<String>,
    pub held_out: Vec<HeldOut>,
    pub unusable: Vec<String>,
    known: HashMap<String, u32>,
}

#[derive(Deserialize)]
struct Class {
    class: usize,
    names: BTreeMap<String, Names>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

impl Corpus {
    /// Opens all sources.
    pub fn open(spec: &DataSpec) -> Result<Self, TrainError> {
        let mut corpus = Self::default();
        for source in &spec.sources {
            let first = corpus.rows.len();
            match source.kind {
                SourceKind::Captions => corpus.add_captions(source)?,
                SourceKind::Classifier => corpus.add_classes(source)?,
            }
            if corpus.rows.len() == first {
                return Err(TrainError::Data {
                    path: source.path.clone().into(),
                    message: "no row is left to learn from; check languages and holdout".to_owned(),
                });
            }
            corpus.shares.push(Share {
                rows: (first..corpus.rows.len()).collect(),
                weight: source.weight,
            });
        }
        Ok(corpus)
    }

    fn add_captions(&mut self, spec: &SourceSpec) -> Result<(), TrainError> {
        let path = Path::new(&spec.path);
        let dataset = Dataset::open(path)?;
        for skipped in &dataset.skipped {
            self.unusable.push(format!("{}: {skipped}", spec.path));
        }
        let keys: Vec<&str> = dataset.samples.iter().map(|s| s.key.as_str()).collect();
        let how = if spec.holdout < 1.0 {
            HoldOut::Fraction(spec.holdout)
        } else {
            HoldOut::Count(spec.holdout as usize)
        };
        let held: BTreeSet<usize> = split(&keys, HOLDOUT_SEED, how).held_out.into_iter().collect();
        for (i, sample) in dataset.samples.into_iter().enumerate() {
            let held = held.contains(&i);
            let captions = wanted(&sample.captions, spec);
            let texts: Vec<u32> = captions.iter().flat_map(|c| self.fill(c, spec)).collect();
            if held {
                self.held_out.push(HeldOut {
                    source: spec.path.clone(),
                    image: sample.key,
                });
            } else if !texts.is_empty() {
                self.rows.push(Row {
                    key: format!("{}/{}", spec.path.trim_end_matches('/'), sample.key),
                    picture: Picture::File(sample.image),
                    texts,
                });
            }
        }
        Ok(())
    }

    fn add_classes(&mut self, spec: &SourceSpec) -> Result<(), TrainError> {
        let path = Path::new(&spec.path);
        let fail = |message: String| TrainError::Data {
            path: path.to_owned(),
            message,
        };
        let length = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
        if length > MAX_CLASS_FILE {
            return Err(fail(format!("{length} bytes are not a list of class names")));
        }
        let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let classes: Vec<Class> = serde_json::from_slice(&bytes).map_err(|e| {
            fail(format!(
                "{e}; a class looks like {{\"class\": 0, \"names\": {{\"en\": \"tench\"}}}}"
            ))
        })?;
        for Class { class, names } in classes {
            let names: BTreeMap<String, Vec<String>> = names
                .into_iter()
                .map(|(language, names)| match names {
                    Names::One(name) => (language, vec![name]),
                    Names::Several(names) => (language, names),
                })
                .collect();
            let names = wanted(&names, spec);
            let texts: Vec<u32> = names.iter().flat_map(|n| self.fill(n, spec)).collect();
            if !texts.is_empty() {
                self.rows.push(Row {
                    key: format!("{}, class {class}", spec.path),
                    picture: Picture::Class(class),
                    texts,
                });
            }
        }
        Ok(())
    }

    /// A caption in each of the source's templates, as numbers of texts.
    fn fill(&mut self, caption: &str, spec: &SourceSpec) -> Vec<u32> {
        if spec.templates.is_empty() {
            return vec![self.number(caption.to_owned())];
        }
        let fill = |template: &String| self.number(template.replace("{}", caption));
        spec.templates.iter().map(fill).collect()
    }

    fn number(&mut self, text: String) -> u32 {
        if let Some(&number) = self.known.get(&text) {
            return number;
        }
        // more than 2³² texts would not fit into memory long before
        let number = self.texts.len() as u32;
        self.texts.push(text.clone());
        self.known.insert(text, number);
        number
    }

    /// Whether there are rows without a picture of their own.
    pub fn has_classes(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.picture, Picture::Class(_)))
    }

    /// Takes rows out.
    pub fn retain(&mut self, kept: &[bool]) {
        let mut next = 0;
        let renumbered: Vec<Option<usize>> = kept
            .iter()
            .map(|&keep| {
                next += usize::from(keep);
                keep.then(|| next - 1)
            })
            .collect();
        let renumber = |row: &usize| renumbered.get(*row).copied().flatten();
        for share in &mut self.shares {
            share.rows = share.rows.iter().filter_map(renumber).collect();
        }
        let mut kept = kept.iter();
        self.rows.retain(|_| kept.next().is_some_and(|&keep| keep));
    }

    /// A hash of everything that is learnt from, except what the files of pictures hold.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for text in &self.texts {
            hasher.update(blake3::hash(text.as_bytes()).as_bytes());
        }
        for row in &self.rows {
            hasher.update(blake3::hash(row.key.as_bytes()).as_bytes());
            row.texts.iter().for_each(|t| {
                hasher.update(&t.to_le_bytes());
            });
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Captions of the languages that a source uses.
fn wanted(captions: &BTreeMap<String, Vec<String>>, spec: &SourceSpec) -> Vec<String> {
    let of = |language: &String| captions.get(language).into_iter().flatten().cloned();
    if spec.languages.is_empty() {
        captions.keys().flat_map(of).collect()
    } else {
        spec.languages.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_become_rows_over_distinct_texts() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("classes.json");
        let json = r#"[{"class": 0, "names": {"en": "tench", "it": "una tinca"}},
                       {"class": 7, "names": {"en": ["cock", "rooster"], "de": "tench"}}, {"class": 9, "names": {"fr": "x"}}]"#;
        std::fs::write(&path, json).expect("write");
        let source = SourceSpec {
            path: path.display().to_string(),
            kind: SourceKind::Classifier,
            languages: vec!["en".to_owned(), "de".to_owned()],
            templates: vec!["{}".to_owned(), "a photo of a {}.".to_owned()],
            ..SourceSpec::default()
        };
        let spec = DataSpec {
            batch: 2,
            class_rows: crate::recipe::ClassRows::Weights,
            sources: vec![source],
        };
        let corpus = Corpus::open(&spec).expect("open");
        let pictures: Vec<_> = corpus.rows.iter().map(|r| r.picture.clone()).collect();
        assert_eq!(pictures, [Picture::Class(0), Picture::Class(7)]);
        assert_eq!(corpus.rows[0].texts, [0, 1]);
        assert_eq!(corpus.rows[1].texts, [2, 3, 4, 5, 0, 1]);
        assert_eq!(corpus.texts[1], "a photo of a tench.");
    }
}
