//! What is learnt from: the recipe's sources as one list of rows over one list of distinct texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path};
use std::sync::Arc;

use bifocal_data::split::{HoldOut, split};
use bifocal_data::{CaptionMix, Dataset, ImageSource, Sample};
use bifocal_models::chat::Dialogue;
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::draw::Share;
use crate::random::{TAKE, mix};
use crate::recipe::{SourceKind, SourceSpec};

/// Largest list of class names that is read, in bytes.
const MAX_CLASS_FILE: u64 = 256 << 20;
/// LLaVA 1.5's 665 thousand dialogues are 1 GB.
const MAX_DIALOGUE_FILE: u64 = 4 << 30;

/// Which pictures are held out does not depend on a run's seed: runs with different seeds are compared on the same ones.
pub(crate) const HOLDOUT_SEED: u64 = 0;

/// What stands on the picture's side of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Picture {
    /// A picture of a dataset.
    File(ImageSource),
    /// A row of the vision tower's classifier.
    Class(usize),
    /// There is none: the row is texts alone.
    None,
}

/// A picture and its texts.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// For messages: where it is from.
    pub key: String,
    pub picture: Picture,
    /// Into [`Corpus::texts`].
    pub texts: Vec<u32>,
    /// Texts that are near the picture's own and wrong; into [`Corpus::texts`].
    pub negatives: Vec<u32>,
    /// How captions are drawn, when not all are alike.
    pub mixed: Option<Mixed>,
}

/// Groups of a row's texts, in their order, and how often each is drawn.
#[derive(Clone, Debug)]
pub(crate) struct Mixed {
    pub mix: Arc<CaptionMix>,
    pub groups: Vec<(Arc<str>, usize)>,
}

/// A picture that is kept out of training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct HeldOut {
    pub source: String,
    pub image: String,
}

/// All sources together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Corpus {
    pub rows: Vec<Row>,
    pub shares: Vec<Share>,
    pub texts: Vec<String>,
    pub held_out: Vec<HeldOut>,
    /// Held-out pictures with captions as they are searched for.
    pub held: Vec<(ImageSource, Vec<String>)>,
    pub unusable: Vec<String>,
    /// Texts that are dialogues, as JSON.
    pub dialogues: BTreeSet<u32>,
    known: HashMap<String, u32>,
    /// Sentences that each caption is put into.
    facets: Vec<String>,
}

/// A row of LLaVA's data; it has an `id` too, which says nothing.
#[derive(Deserialize)]
struct Talk {
    image: Option<String>,
    conversations: serde_json::Value,
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
    /// Opens all sources; `seed` decides which rows are taken where a source does not take all.
    pub fn open(sources: &[SourceSpec], facets: &[String], seed: u64) -> Result<Self, TrainError> {
        let mut corpus = Self {
            facets: facets.to_vec(),
            ..Self::default()
        };
        for source in sources {
            let first = corpus.rows.len();
            match source.kind {
                SourceKind::Captions => corpus.add_captions(source, seed)?,
                SourceKind::Classifier => corpus.add_classes(source)?,
                SourceKind::Dialogues => corpus.add_dialogues(source)?,
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

    fn add_captions(&mut self, spec: &SourceSpec, seed: u64) -> Result<(), TrainError> {
        let path = Path::new(&spec.path);
        let mix = mix_of(spec);
        let dataset = self.dataset(path)?;
        if !spec.test.is_empty() {
            for sample in self.dataset(Path::new(&spec.test))?.samples {
                self.hold_out(sample, &spec.test, spec);
            }
        }
        let keys: Vec<&str> = dataset.samples.iter().map(|s| s.key.as_str()).collect();
        let how = if spec.holdout < 1.0 {
            HoldOut::Fraction(spec.holdout)
        } else {
            HoldOut::Count(spec.holdout as usize)
        };
        let held: BTreeSet<usize> = split(&keys, HOLDOUT_SEED, how).held_out.into_iter().collect();
        let left = left_out(&dataset.samples, &held, spec, seed);
        for (i, sample) in dataset.samples.into_iter().enumerate() {
            if left.contains(&i) {
                continue;
            }
            if held.contains(&i) {
                self.hold_out(sample, &spec.path, spec);
                continue;
            }
            let (texts, groups) = self.fill_groups(&sample.captions, spec);
            let negatives = sample.captions.get(&spec.negatives).into_iter().flatten();
            let negatives = negatives.map(|text| self.number(text.clone())).collect();
            if !texts.is_empty() {
                self.rows.push(Row {
                    key: format!("{}/{}", spec.path.trim_end_matches('/'), sample.key),
                    picture: match sample.image.is_none() {
                        true => Picture::None,
                        false => Picture::File(sample.image),
                    },
                    texts,
                    negatives,
                    mixed: mix.clone().map(|mix| Mixed { mix, groups }),
                });
            }
        }
        Ok(())
    }

    fn dataset(&mut self, path: &Path) -> Result<Dataset, TrainError> {
        let dataset = Dataset::open(path)?;
        let told = dataset
            .skipped
            .iter()
            .map(|skipped| format!("{}: {skipped}", path.display()));
        self.unusable.extend(told);
        Ok(dataset)
    }

    fn hold_out(&mut self, sample: Sample, source: &str, spec: &SourceSpec) {
        let captions = wanted(&sample.captions, spec).into_iter();
        let captions = captions.flat_map(|(_, captions)| captions).cloned().collect();
        self.held.push((sample.image, captions));
        self.held_out.push(HeldOut {
            source: source.to_owned(),
            image: sample.key,
        });
    }

    fn add_classes(&mut self, spec: &SourceSpec) -> Result<(), TrainError> {
        let path = Path::new(&spec.path);
        let mix = mix_of(spec);
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
            let (texts, groups) = self.fill_groups(&names, spec);
            if !texts.is_empty() {
                self.rows.push(Row {
                    key: format!("{}, class {class}", spec.path),
                    picture: Picture::Class(class),
                    texts,
                    negatives: Vec::new(),
                    mixed: mix.clone().map(|mix| Mixed { mix, groups }),
                });
            }
        }
        Ok(())
    }

    /// Dialogues of LLaVA's layout, each with its picture.
    fn add_dialogues(&mut self, spec: &SourceSpec) -> Result<(), TrainError> {
        let path = Path::new(&spec.path);
        let fail = |message: String| TrainError::Data {
            path: path.to_owned(),
            message,
        };
        let length = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
        if length > MAX_DIALOGUE_FILE {
            return Err(fail(format!(
                "{length} bytes of dialogues are too many for one file; divide it"
            )));
        }
        let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let rows: Vec<Talk> = serde_json::from_slice(&bytes).map_err(|e| {
            fail(format!(
                "{e}; a row looks like {{\"image\": \"a.jpg\", \"conversations\": [{{\"from\": \"human\", \"value\": \"…\"}}, …]}}"
            ))
        })?;
        let folder = match spec.images.as_str() {
            "" => path.parent().unwrap_or(Path::new("")),
            folder => Path::new(folder),
        };
        for (i, talk) in rows.into_iter().enumerate() {
            let key = format!("{}, dialogue {i}", spec.path);
            if let Err(error) = Dialogue::from_json(&talk.conversations) {
                self.unusable.push(format!("{key}: {error}"));
                continue;
            }
            let inside = |name: &str| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
            let picture = match talk.image {
                Some(name) if inside(&name) => Picture::File(ImageSource::File(folder.join(name))),
                Some(name) => {
                    self.unusable
                        .push(format!("{key}: {name:?} is no name of a picture below the folder"));
                    continue;
                }
                None => Picture::None,
            };
            let text = self.number(talk.conversations.to_string());
            self.dialogues.insert(text);
            self.rows.push(Row {
                key,
                picture,
                texts: vec![text],
                negatives: Vec::new(),
                mixed: None,
            });
        }
        Ok(())
    }

    /// The texts of a row, group after group, and how many each has.
    fn fill_groups(
        &mut self,
        captions: &BTreeMap<String, Vec<String>>,
        spec: &SourceSpec,
    ) -> (Vec<u32>, Vec<(Arc<str>, usize)>) {
        let (mut texts, mut groups) = (Vec::new(), Vec::new());
        for (group, captions) in wanted(captions, spec) {
            let before = texts.len();
            for caption in captions {
                texts.extend(self.fill(caption, spec));
            }
            groups.push((group.into(), texts.len() - before));
        }
        (texts, groups)
    }

    /// A caption in each of the source's templates, and that in each facet, as numbers of texts.
    fn fill(&mut self, caption: &str, spec: &SourceSpec) -> Vec<u32> {
        let mut texts = each_of(&spec.templates, vec![caption.to_owned()]);
        texts = each_of(&self.facets, texts);
        texts.into_iter().map(|text| self.number(text)).collect()
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

    /// The first row that is texts alone, if there is one.
    pub fn without_picture(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.picture == Picture::None)
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
            row.texts.iter().chain(&row.negatives).for_each(|t| {
                hasher.update(&t.to_le_bytes());
            });
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Each text in each of some sentences; as it is when there are none.
fn each_of(sentences: &[String], texts: Vec<String>) -> Vec<String> {
    if sentences.is_empty() {
        return texts;
    }
    let within = |text: &String| sentences.iter().map(|s| s.replace("{}", text)).collect::<Vec<_>>();
    texts.iter().flat_map(within).collect()
}

/// Groups of captions that a source uses; a group that is never drawn is not among them.
fn wanted<'a>(captions: &'a BTreeMap<String, Vec<String>>, spec: &'a SourceSpec) -> Vec<(&'a str, &'a [String])> {
    let used = |group: &&String| **group != spec.negatives && spec.mix.uses(group);
    let of = |group: &'a String| Some((group.as_str(), captions.get(group)?.as_slice()));
    if spec.languages.is_empty() {
        captions.keys().filter(used).filter_map(of).collect()
    } else {
        spec.languages.iter().filter(used).filter_map(of).collect()
    }
}

/// The rows for training that a source does not take: what is held out was chosen before, so that it is the same whatever is taken.
fn left_out(samples: &[Sample], held: &BTreeSet<usize>, spec: &SourceSpec, seed: u64) -> BTreeSet<usize> {
    if spec.take == 0.0 {
        return BTreeSet::new();
    }
    let speaks = |sample: &Sample| wanted(&sample.captions, spec).iter().any(|(_, all)| !all.is_empty());
    let rows: Vec<usize> = (0..samples.len())
        .filter(|i| !held.contains(i) && speaks(&samples[*i]))
        .collect();
    let keys: Vec<&str> = rows.iter().map(|&i| samples[i].key.as_str()).collect();
    let count = match spec.take {
        share if share < 1.0 => ((share * rows.len() as f64).round() as usize).max(1),
        count => count as usize,
    };
    let drawn = split(&keys, mix(seed, TAKE, 0), HoldOut::Count(count));
    drawn.train.into_iter().map(|i| rows[i]).collect()
}

fn mix_of(spec: &SourceSpec) -> Option<Arc<CaptionMix>> {
    (!spec.mix.weights().is_empty()).then(|| Arc::new(spec.mix.clone()))
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
        let corpus = Corpus::open(&[source], &[], 0).expect("open");
        let pictures: Vec<_> = corpus.rows.iter().map(|r| r.picture.clone()).collect();
        assert_eq!(pictures, [Picture::Class(0), Picture::Class(7)]);
        assert_eq!(corpus.rows[0].texts, [0, 1]);
        assert_eq!(corpus.rows[1].texts, [2, 3, 4, 5, 0, 1]);
        assert_eq!(corpus.texts[1], "a photo of a tench.");
    }

    /// Keys of the rows and of what is held out of a source of the fifty photos.
    fn opened(seed: u64, source: SourceSpec) -> (BTreeSet<String>, Vec<HeldOut>, usize) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/photos");
        let source = SourceSpec {
            path: path.display().to_string(),
            languages: vec!["en".to_owned()],
            ..source
        };
        let corpus = Corpus::open(&[source], &[], seed).expect("open");
        let keys: BTreeSet<String> = corpus.rows.iter().map(|row| row.key.clone()).collect();
        assert_eq!(keys.len(), corpus.rows.len());
        assert!(
            corpus
                .rows
                .iter()
                .flat_map(|row| &row.texts)
                .all(|&t| (t as usize) < corpus.texts.len())
        );
        (keys, corpus.held_out, corpus.texts.len())
    }

    #[test]
    fn what_is_taken_is_drawn_after_what_is_held_out() {
        let take = |seed, take| {
            let source = SourceSpec {
                holdout: 10.0,
                take,
                ..SourceSpec::default()
            };
            opened(seed, source)
        };
        let (all, held, texts) = take(1, 0.0);
        assert_eq!((all.len(), held.len()), (40, 10));
        for (share, count) in [(0.25, 10), (0.001, 1), (7.0, 7), (1.0, 1), (40.0, 40), (1000.0, 40)] {
            let (rows, still_held, fewer) = take(1, share);
            assert_eq!(rows.len(), count, "{share}");
            assert!(rows.is_subset(&all));
            assert_eq!(still_held, held, "{share}");
            // nothing is computed of texts that nobody learns from
            assert_eq!(fewer < texts, count < 40, "{share}");
        }
        assert_eq!(take(1, 7.0), take(1, 7.0));
        assert_ne!(take(1, 7.0).0, take(2, 7.0).0);
        assert_eq!(take(1, 7.0).1, take(2, 7.0).1);
        assert!(
            take(1, 7.0).0.is_subset(&take(1, 8.0).0),
            "more are added to those there are"
        );
    }

    /// Photos of the samples, some of them in a folder of their own.
    #[test]
    fn a_folder_for_testing_is_held_out_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let row = |name: &str| {
            format!("{{\"image\": \"{name}\", \"captions\": {{\"en\": [\"{name}\"], \"de\": [\"ein {name}\"]}}}}\n")
        };
        for (folder, names) in [("train", ["a.png", "b.png"]), ("test", ["c.png", "d.png"])] {
            std::fs::create_dir(dir.path().join(folder)).expect("create");
            let rows: String = names.map(row).concat();
            std::fs::write(dir.path().join(folder).join("captions.jsonl"), rows).expect("write");
            for name in names {
                std::fs::write(dir.path().join(folder).join(name), b"never read").expect("write");
            }
        }
        let at = |name: &str| dir.path().join(name).display().to_string();
        let source = SourceSpec {
            path: at("train"),
            test: at("test"),
            languages: vec!["en".to_owned()],
            ..SourceSpec::default()
        };
        let corpus = Corpus::open(&[source], &[], 1).expect("open");
        assert_eq!(corpus.texts, ["a.png", "b.png"]);
        let held: Vec<(&str, &str)> = corpus
            .held_out
            .iter()
            .map(|h| (h.source.as_str(), h.image.as_str()))
            .collect();
        assert_eq!(held, [(at("test").as_str(), "c.png"), (at("test").as_str(), "d.png")]);
        assert_eq!(corpus.held[1].1, ["d.png"]);
    }
}
