//! Features of frozen towers: computed once, kept for later runs.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::slice;
use std::time::{Duration, Instant};

use bifocal_data::cache::{Computed, Dtype, FeatureSpec, FeatureStore, FillError, FillOptions, ItemKey, fill};
use bifocal_data::{ImageSource, Limits, load_images};
use bifocal_models::bundle::Model;
use bifocal_models::chat::{ChatError, Dialogue, Sequence};
use bifocal_models::connector::Tap;
use bifocal_models::open::{TextEncoder, VisionEncoder};
use bifocal_models::text::TokenBatch;
use bifocal_models::tokenizer::Encoding;
use bifocal_models::unified::{look_width, looks};
use bifocal_nn::engine::{self, values};
use bifocal_nn::init::Rng;
use bifocal_nn::precision::{self, Precision};

use super::classes::classifier;
use super::collective::{Ranks, Wait};
use super::corpus::{Corpus, Picture};
use super::feed::Table;
use super::reading::Reading;
use super::{Progress, TrainError};
use crate::methods::DialogueNeeds;
use crate::recipe::ClassRows;

/// Pictures that are decoded and embedded at once.
const IMAGES: usize = 64;
/// Texts that are embedded at once; the encoder sorts them by length.
const TEXTS: usize = 256;
/// A network's file system shows what another machine has written after a minute at the latest, as a rule.
const LATE_FILES: Duration = Duration::from_secs(120);

/// Tells features of another device from those of the CPU: they differ by rounding.
pub(crate) fn there(spec: FeatureSpec) -> FeatureSpec {
    match engine::device() == engine::cpu() {
        true => spec,
        false => spec.with("device", "gpu"),
    }
}

/// Where features come from.
pub(crate) struct Features<'a> {
    cache: &'a Path,
    prompt: Option<&'a str>,
    precision: Precision,
    pub ranks: &'a dyn Ranks,
    /// Whether rows are noise in place of what a tower would give.
    pub made_up: bool,
}

impl<'a> Features<'a> {
    /// Ranks share what has to be computed; each writes its own shards of the cache, which all have to see.
    pub fn new(
        cache: &'a Path,
        prompt: Option<&'a str>,
        precision: impl Into<Precision>,
        ranks: &'a dyn Ranks,
    ) -> Self {
        Self {
            cache,
            prompt,
            precision: precision.into(),
            ranks,
            made_up: false,
        }
    }

    /// What tells features apart, with the precision that they are computed in, and where.
    pub fn spec(&self) -> FeatureSpec {
        let spec = match self.precision {
            Precision::F32 => FeatureSpec::new(),
            other => FeatureSpec::new().with("precision", other.name()),
        };
        there(spec)
    }

    fn precisely<R>(&self, compute: impl FnOnce() -> R) -> R {
        precision::scope(self.precision, compute)
    }

    /// A row for each row of the corpus; rows whose picture cannot be read are taken out of the corpus.
    pub fn images(
        &self,
        encoder: &VisionEncoder,
        corpus: &mut Corpus,
        class_rows: ClassRows,
        progress: &mut dyn Progress,
    ) -> Result<Table, TrainError> {
        if self.made_up {
            return Ok(noise(corpus.rows.len(), encoder.tower.dim()));
        }
        let mut paths: Vec<ImageSource> = Vec::new();
        for row in &corpus.rows {
            if let Picture::File(path) = &row.picture {
                paths.push(path.clone());
            }
        }
        let dim = encoder.tower.dim();
        let pictures = self.pictures(encoder, Reading::Whole, dim, &paths, progress)?;
        let classes = if corpus.has_classes() {
            Some(classifier(encoder, &pictures, class_rows)?)
        } else {
            None
        };
        let (mut kept, mut values) = (Vec::new(), Vec::with_capacity(corpus.rows.len() * dim));
        let mut pictures = pictures.into_iter();
        for row in &corpus.rows {
            let features = match &row.picture {
                Picture::File(_) => pictures.next().flatten(),
                Picture::Class(class) => classes.as_ref().and_then(|c| c.get(*class).cloned()),
                Picture::None => None,
            };
            if let (None, Picture::Class(class)) = (&features, &row.picture) {
                progress.warning(&format!(
                    "{}: the vision tower's classifier has no class {class}",
                    row.key
                ));
            }
            kept.push(features.is_some());
            values.extend(features.into_iter().flatten());
        }
        corpus.retain(&kept);
        Ok(Table { dim, values })
    }

    /// A row for each of some pictures, all of which can be read.
    pub fn held(
        &self,
        encoder: &VisionEncoder,
        pictures: &[ImageSource],
        progress: &mut dyn Progress,
    ) -> Result<Table, TrainError> {
        let dim = encoder.tower.dim();
        let rows = self.pictures(encoder, Reading::Whole, dim, pictures, progress)?;
        let zeros = || vec![0.0; dim];
        Ok(Table {
            dim,
            values: rows.into_iter().flat_map(|row| row.unwrap_or_else(zeros)).collect(),
        })
    }

    /// The patches of each row's picture, one after the other, and how many a picture has; rows whose picture cannot be read are taken out of the corpus.
    pub fn patches(
        &self,
        encoder: &VisionEncoder,
        tap: &Tap,
        corpus: &mut Corpus,
        progress: &mut dyn Progress,
    ) -> Result<(Table, usize), TrainError> {
        let side = encoder.preprocess.size as usize;
        let each = tap.tokens(&encoder.tower, side).filter(|&each| each > 0);
        let sizes = each.zip(encoder.tower.patch_width());
        let (each, width) = sizes.ok_or_else(|| TrainError::Features {
            what: "pictures".to_owned(),
            message: format!(
                "{} has no patches; take a vision transformer or an EfficientNet",
                encoder.name
            ),
        })?;
        let table = self.of_rows(encoder, Reading::Patches(tap), each * width, corpus, progress)?;
        Ok((table, each))
    }

    /// The codes of each row's picture, one after the other, each followed by what is read of it, and how many a picture has; rows whose picture cannot be
    /// read are taken out of the corpus. The cache has the codes, which cost far more than what a token encoder makes of them.
    pub fn drawn(
        &self,
        encoder: &VisionEncoder,
        corpus: &mut Corpus,
        progress: &mut dyn Progress,
    ) -> Result<(Table, usize), TrainError> {
        let tower = encoder.tower.token_encoder();
        let sizes = tower.and_then(|tower| Some((tower.tokens_of_a_picture(), look_width(tower)?)));
        let (each, width) = sizes.ok_or_else(|| TrainError::Features {
            what: "pictures".to_owned(),
            message: format!("{} reads no codes; take a TokLIP tower", encoder.name),
        })?;
        let codes = self.of_rows(encoder, Reading::Codes, each, corpus, progress)?;
        // they are whole numbers, and out of a file
        let codes = codes.values.into_iter().map(|code| code as u32).collect();
        let values = match self.made_up {
            true => noise(corpus.rows.len(), each * (1 + width)).values,
            false => self.precisely(|| with_looks(encoder, codes, each))?,
        };
        let dim = each * (1 + width);
        Ok((Table { dim, values }, each))
    }

    /// What is kept of each row's picture, `dim` values; rows whose picture cannot be read are taken out of the corpus.
    pub fn of_rows(
        &self,
        encoder: &VisionEncoder,
        reading: Reading<'_>,
        dim: usize,
        corpus: &mut Corpus,
        progress: &mut dyn Progress,
    ) -> Result<Table, TrainError> {
        if self.made_up {
            let mut table = noise(corpus.rows.len(), dim);
            if let Reading::Codes = reading {
                table.values.fill(0.0);
            }
            return Ok(table);
        }
        let paths: Vec<ImageSource> = corpus
            .rows
            .iter()
            .map(|row| match &row.picture {
                Picture::File(path) => path.clone(),
                Picture::Class(_) | Picture::None => ImageSource::None,
            })
            .collect();
        let found = self.pictures(encoder, reading, dim, &paths, progress)?;
        let kept: Vec<bool> = found.iter().map(Option::is_some).collect();
        corpus.retain(&kept);
        let values = found.into_iter().flatten().flatten().collect();
        Ok(Table { dim, values })
    }

    /// What is kept of picture files; `None` for one that cannot be read, which is told.
    fn pictures(
        &self,
        encoder: &VisionEncoder,
        reading: Reading<'_>,
        dim: usize,
        paths: &[ImageSource],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Option<Vec<f32>>>, TrainError> {
        let spec = reading.spec(self, encoder);
        let mut store = FeatureStore::open(self.cache, &spec, dim, Dtype::F32)?;
        let mut readable = Vec::with_capacity(paths.len());
        let mut keys = Vec::with_capacity(paths.len());
        let mut warnings = Vec::new();
        for (i, key) in ItemKey::of_images(paths, &Limits::default()).into_iter().enumerate() {
            match key {
                Ok(key) => {
                    readable.push(i);
                    keys.push(key);
                }
                Err(error) => warnings.push(format!("{} is left out: {error}", paths[i])),
            }
        }
        let own = dealt(&keys, self.ranks);
        let own_keys: Vec<ItemKey> = own.iter().map(|&k| keys[k]).collect();
        let progress = RefCell::new(progress);
        let compute = |wanted: &[usize]| {
            go_on(&progress, "pictures", self.ranks)?;
            let files: Vec<&ImageSource> = wanted.iter().map(|&k| &paths[readable[own[k]]]).collect();
            let loaded =
                load_images(&files, &encoder.preprocess, &Limits::default()).map_err(|error| TrainError::Features {
                    what: "pictures".to_owned(),
                    message: error.to_string(),
                })?;
            for bad in &loaded.bad {
                warnings.push(format!("{} is left out: {}", bad.image, bad.error));
            }
            Ok::<_, TrainError>(Computed {
                rows: self.precisely(|| reading.rows(encoder, &loaded.pixels, loaded.good.len()))?,
                failed: loaded.bad.into_iter().map(|bad| bad.index).collect(),
            })
        };
        let tell = |done, total| progress.borrow_mut().features("pictures", done, total);
        fill(&mut store, &own_keys, &FillOptions::batch(IMAGES), compute, tell).map_err(stopped)?;
        let progress = progress.into_inner();
        let warnings = self.ranks.tell("pictures that cannot be read", &warnings, Wait::Work)?;
        let mut told = BTreeSet::new();
        let new = warnings.iter().flatten().filter(|warning| told.insert(*warning));
        new.for_each(|warning| progress.warning(warning));
        let missing = seen_by_all(&mut store, &keys, self.ranks)?;
        let mut missing = missing.into_iter().peekable();
        let mut out = vec![None; paths.len()];
        let mut there = Vec::new();
        for (k, &i) in readable.iter().enumerate() {
            if missing.next_if_eq(&k).is_none() {
                there.push((i, keys[k]));
            }
        }
        let present: Vec<ItemKey> = there.iter().map(|(_, key)| *key).collect();
        let rows = store.gather(&present)?;
        for ((i, _), row) in there.into_iter().zip(rows.chunks_exact(dim.max(1))) {
            out[i] = Some(row.to_vec());
        }
        Ok(out)
    }

    /// A row for each text.
    pub fn texts(
        &self,
        encoder: &TextEncoder,
        texts: &[String],
        progress: &mut dyn Progress,
    ) -> Result<Table, TrainError> {
        let dim = encoder.tower.dim();
        if self.made_up {
            return Ok(noise(texts.len(), dim));
        }
        let spec = self
            .spec()
            .with("tower", &encoder.fingerprint)
            .with("pooling", format!("{:?}", encoder.pooling))
            .with("attention", format!("{:?}", encoder.attention))
            .with("max_tokens", encoder.max_tokens.to_string());
        let mut store = FeatureStore::open(self.cache, &spec, dim, Dtype::F32)?;
        let texts = self.prompted(texts);
        let compute = |batch: &[&str]| Ok(self.precisely(|| encoder.embed(batch))?.0);
        filled(&mut store, &texts, "texts", compute, progress, self.ranks)
    }

    /// A row for each text as a teacher embeds it, of unit length.
    pub fn teacher_texts(
        &self,
        teacher: &Model,
        texts: &[String],
        progress: &mut dyn Progress,
    ) -> Result<Table, TrainError> {
        if self.made_up {
            return Ok(noise(texts.len(), teacher.dim()));
        }
        let spec = self.spec().with("teacher", teacher.fingerprint());
        let mut store = FeatureStore::open(self.cache, &spec, teacher.dim(), Dtype::F32)?;
        let compute = |batch: &[&str]| Ok(self.precisely(|| teacher.embed_texts(batch))?);
        filled(&mut store, texts, "texts by the teacher", compute, progress, self.ranks)
    }

    /// Texts in the prompt.
    fn prompted(&self, texts: &[String]) -> Vec<String> {
        match self.prompt {
            Some(prompt) => texts.iter().map(|text| prompt.replace("{}", text)).collect(),
            None => texts.to_vec(),
        }
    }

    /// Each text of a corpus as a dialogue: those that are, and captions as answers to one of the questions. What cannot be learnt of them is told.
    pub fn dialogues(
        &self,
        encoder: &TextEncoder,
        needs: &DialogueNeeds,
        corpus: &Corpus,
        each: usize,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Sequence>, TrainError> {
        let trouble = |error: ChatError| TrainError::Features {
            what: "dialogues".to_owned(),
            message: error.to_string(),
        };
        let most = needs.max_tokens.min(encoder.tower.max_tokens());
        let (mut mismatches, mut empty) = (0, 0);
        let mut all = Vec::with_capacity(corpus.texts.len());
        for (number, text) in corpus.texts.iter().enumerate() {
            // texts are numbered in 32 bits
            let dialogue = match corpus.dialogues.contains(&(number as u32)) {
                true => serde_json::from_str(text)
                    .map_err(|error| ChatError::Dialogue {
                        what: error.to_string(),
                    })
                    .and_then(|value| Dialogue::from_json(&value))
                    .map_err(trouble)?,
                false => Dialogue::pair(true, &needs.questions[number % needs.questions.len().max(1)], text),
            };
            let mut sequence = Sequence::new(&needs.template, &encoder.tokenizer, &dialogue).map_err(trouble)?;
            mismatches += usize::from(sequence.mismatch);
            sequence.cut(most, each);
            let tokens = TokenBatch::pack(slice::from_ref(&sequence.ids));
            encoder.tower.check(&tokens).map_err(|error| TrainError::Features {
                what: "dialogues".to_owned(),
                message: format!("{error}: is the tokenizer the language model's own?"),
            })?;
            empty += usize::from(!sequence.mismatch && !sequence.learnt.contains(&true));
            all.push(sequence);
        }
        if mismatches > 0 {
            progress.warning(&format!(
                "{mismatches} of {} dialogues are not learnt from: their turns cannot be told apart in tokens",
                all.len()
            ));
        }
        if empty > 0 {
            progress.warning(&format!(
                "{empty} of {} dialogues are not learnt from: cut to {most} tokens no answer is left; raise chat.max_tokens",
                all.len()
            ));
        }
        Ok(all)
    }

    /// Tokens of each text, for a tower that learns; after an instruction where there is one.
    pub fn tokens(
        &self,
        encoder: &TextEncoder,
        texts: &[String],
        instruction: Option<&str>,
    ) -> Result<Vec<Encoding>, TrainError> {
        let texts = self.prompted(texts);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Ok(match instruction {
            Some(instruction) => encoder.tokenize_after(instruction, &texts)?,
            None => encoder.tokenize(&texts)?,
        })
    }

    /// Tokens of each text for a Q-Former; of one that is longer the first, and the last, which ends it.
    pub fn tokens_up_to(
        &self,
        encoder: &TextEncoder,
        texts: &[String],
        most: usize,
    ) -> Result<Vec<Encoding>, TrainError> {
        let mut all = self.tokens(encoder, texts, None)?;
        for encoding in all.iter_mut().filter(|encoding| encoding.ids.len() > most) {
            let last = encoding.ids.len() - 1;
            encoding.cut += encoding.ids.len() - most;
            encoding.ids.swap(most - 1, last);
            encoding.ids.truncate(most);
        }
        Ok(all)
    }
}

/// What a text tower makes of texts, out of the cache that runs keep (`run.cache` of a recipe) as far as it has them.
///
/// # Shapes
/// → `[texts, width of the tower]`.
///
/// # Errors
/// A cache that cannot be used, a text that the tower does not take.
pub fn text_features(
    cache: &Path,
    encoder: &TextEncoder,
    prompt: Option<&str>,
    precision: impl Into<Precision>,
    texts: &[String],
    progress: &mut dyn Progress,
    ranks: &dyn Ranks,
) -> Result<Vec<f32>, TrainError> {
    Ok(Features::new(cache, prompt, precision, ranks)
        .texts(encoder, texts, progress)?
        .values)
}

/// Features of texts out of a store, after computing those that it lacks.
fn filled(
    store: &mut FeatureStore,
    texts: &[String],
    what: &str,
    compute: impl Fn(&[&str]) -> Result<Vec<f32>, TrainError>,
    progress: &mut dyn Progress,
    ranks: &dyn Ranks,
) -> Result<Table, TrainError> {
    let keys: Vec<ItemKey> = texts.iter().map(|text| ItemKey::of_text(text)).collect();
    // Long texts cost more: in order of length, each batch holds texts that fit together.
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| texts[i].len());
    let sorted: Vec<ItemKey> = order.iter().map(|&i| keys[i]).collect();
    let own = dealt(&sorted, ranks);
    let own_keys: Vec<ItemKey> = own.iter().map(|&k| sorted[k]).collect();
    let progress = RefCell::new(progress);
    let compute = |wanted: &[usize]| {
        go_on(&progress, what, ranks)?;
        let batch: Vec<&str> = wanted.iter().map(|&k| texts[order[own[k]]].as_str()).collect();
        compute(&batch)
    };
    let tell = |done, total| progress.borrow_mut().features(what, done, total);
    fill(store, &own_keys, &FillOptions::batch(TEXTS), compute, tell).map_err(stopped)?;
    ranks.barrier(Wait::Work)?;
    seen_by_all(store, &keys, ranks)?;
    Ok(Table {
        dim: store.dim(),
        values: store.gather(&keys)?,
    })
}

/// Codes with what is read of each after it; `each` codes are a picture.
fn with_looks(encoder: &VisionEncoder, codes: Vec<u32>, each: usize) -> Result<Vec<f32>, TrainError> {
    let failed = |message: String| TrainError::Features {
        what: "codes".to_owned(),
        message,
    };
    let tower = encoder.tower.token_encoder();
    let tower = tower.ok_or_else(|| failed(format!("{} reads none", encoder.name)))?;
    let mut out = Vec::new();
    for part in codes.chunks(IMAGES * each) {
        let rows = looks(tower, &part.into()).map_err(|error| failed(error.to_string()))?;
        let [_, width] = rows.dims();
        for (&code, row) in part.iter().zip(values(rows).chunks_exact(width)) {
            out.push(code as f32);
            out.extend_from_slice(row);
        }
    }
    Ok(out)
}

fn noise(rows: usize, dim: usize) -> Table {
    let mut rng = Rng::new(0);
    Table {
        dim,
        values: (0..rows * dim).map(|_| rng.unit() - 0.5).collect(),
    }
}

/// An error when the run is asked to end. One of several ranks goes on: the others would wait for it.
fn go_on(progress: &RefCell<&mut dyn Progress>, what: &str, ranks: &dyn Ranks) -> Result<(), TrainError> {
    match ranks.size() == 1 && progress.borrow_mut().stop() {
        true => Err(TrainError::Stopped { what: what.to_owned() }),
        false => Ok(()),
    }
}

/// Places of the different items that this rank computes if they are missing: every so-manieth of them, so that ranks get equally long texts,
/// whatever is there already.
pub fn dealt(items: &[ItemKey], ranks: &dyn Ranks) -> Vec<usize> {
    let mut seen = HashSet::new();
    let unique = (0..items.len()).filter(|&i| seen.insert(items[i]));
    unique.skip(ranks.rank()).step_by(ranks.size().max(1)).collect()
}

/// The items without features, when all ranks have stored theirs. A folder on another machine may show a new file late, so that ranks look again until they see
/// the same.
///
/// # Errors
/// Ranks that do not see the same files in time; a cache that cannot be used.
pub fn seen_by_all(store: &mut FeatureStore, items: &[ItemKey], ranks: &dyn Ranks) -> Result<Vec<usize>, TrainError> {
    let began = Instant::now();
    loop {
        if ranks.size() > 1 {
            store.refresh()?;
        }
        let missing = store.missing(items);
        let all = ranks.tell("missing features", &missing, Wait::Work)?;
        if all.iter().all(|other| *other == missing) {
            return Ok(missing);
        }
        if ranks.any(began.elapsed() > LATE_FILES)? {
            return Err(TrainError::Features {
                what: "the corpus".to_owned(),
                message: format!(
                    "ranks do not see the same files in {} after {} s; put run.cache where all machines see it",
                    store.path().display(),
                    LATE_FILES.as_secs()
                ),
            });
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn stopped(error: FillError<TrainError>) -> TrainError {
    match error {
        FillError::Cache(error) => error.into(),
        FillError::Compute(error) => error,
    }
}
