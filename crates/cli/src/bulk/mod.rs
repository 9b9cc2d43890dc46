//! Embeddings of millions of items into a folder, part by part. A run that was killed goes on at the batch where it was, and ends with the
//! same bytes as one that was not; what failed is in a ledger, and the next call tries only that again. `docs/embed.md` is for users.

mod folder;
pub mod input;
mod journal;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bifocal_align::train::collective::{Ranks, Wait};
use bifocal_data::ahead;
use bifocal_kernels::trace;
use bifocal_models::bundle::Model;

use crate::indexing::summary::by_cause;
use crate::output::progress::Progress;
use folder::{Folder, Manifest, Outcome, open_failures};
use input::{Content, Failed, Input, Loaded};
use journal::{Frame, Journal};

/// Items of a part when nothing else is asked for.
const PART: usize = 10_000;
/// After so many items the share of failures means something.
const ENOUGH: usize = 100;

/// How to embed, besides what.
pub struct Settings {
    pub normalized: bool,
    /// Items of a part.
    pub part_items: Option<usize>,
    /// The share of failures that ends the run.
    pub max_failed: f64,
}

/// A run, as one rank sees it.
struct Run<'a> {
    model: &'a Model,
    input: &'a Input,
    folder: &'a Folder,
    settings: &'a Settings,
    progress: Progress,
    done: usize,
    failed: usize,
    /// All of it has failed before.
    is_again: bool,
}

/// Some items, in one pair of files.
struct Part {
    number: usize,
    items: Vec<usize>,
    /// Of items that have failed before.
    is_again: bool,
}

/// Embeds everything that is not in the folder yet; when all of it is, what failed is tried again.
pub fn run(
    dir: &Path,
    model: &Model,
    input: &Input,
    unusable: &[Failed],
    settings: &Settings,
    ranks: &dyn Ranks,
) -> Result<()> {
    let folder = Folder::new(dir);
    let _lock = if ranks.first() { Some(folder.take()?) } else { None };
    ranks.barrier(Wait::Work)?;
    let mut manifest = Manifest::new(model, settings.normalized);
    let begun = folder.manifest()?;
    let as_begun = begun.map_or(PART, |m| m.part_items);
    manifest.part_items = settings.part_items.unwrap_or(as_begun);
    manifest.kind = input.kind().to_owned();
    manifest.items = input.len();
    manifest.input = input.hash();
    ranks.barrier(Wait::Work)?;
    if ranks.first() {
        folder.settle(&manifest)?;
    }
    ranks.barrier(Wait::Work)?;
    // The others check for themselves that they see what the first one sees.
    folder.settle(&manifest)?;

    let outcomes = folder.outcomes()?;
    let parts = open_parts(&manifest, &outcomes, input.batch());
    ranks.barrier(Wait::Work)?;
    let own: Vec<&Part> = parts.iter().skip(ranks.rank()).step_by(ranks.size()).collect();
    let items = own.iter().map(|p| p.items.len()).sum::<usize>();
    let mut run = Run {
        model,
        input,
        folder: &folder,
        settings,
        progress: Progress::new(&format!("embedding {}", input.kind()), items as u64),
        done: 0,
        failed: 0,
        is_again: parts.iter().all(|part| part.is_again),
    };
    let outcome = own.iter().try_for_each(|part| run.part(part));
    let outcome = outcome.and_then(|()| run.tolerate());
    run.progress.finish();
    // An error of one rank ends all of them.
    if outcome.is_ok() {
        ranks.barrier(Wait::Work)?;
    }
    if ranks.first() {
        report(dir, &folder, unusable, model.dim())?;
    }
    outcome
}

/// What has to be done: parts that are not finished, or else those of what failed.
fn open_parts(manifest: &Manifest, outcomes: &BTreeMap<usize, Outcome>, batch: usize) -> Vec<Part> {
    let size = manifest.part_items.next_multiple_of(batch);
    let planned = manifest.items.div_ceil(size);
    let open: Vec<Part> = (0..planned)
        .filter(|number| !outcomes.contains_key(number))
        .map(|number| Part {
            number,
            items: (number * size..manifest.items.min((number + 1) * size)).collect(),
            is_again: false,
        })
        .collect();
    if !open.is_empty() {
        return open;
    }
    let failed: Vec<usize> = open_failures(outcomes).into_keys().collect();
    let next = outcomes.last_key_value().map_or(0, |(&last, _)| last + 1);
    failed
        .chunks(size)
        .zip(next..)
        .map(|(items, number)| Part {
            number,
            items: items.to_vec(),
            is_again: true,
        })
        .collect()
}

impl Run<'_> {
    fn part(&mut self, part: &Part) -> Result<()> {
        let path = self.folder.journal(part.number);
        let told = || format!("writing {}", path.display());
        let (mut journal, frames) = Journal::open(&path, self.model.dim()).with_context(told)?;
        let batches = part.items.chunks(self.input.batch()).skip(frames.len());
        let mut all = Frame::default();
        for frame in frames {
            self.count(&frame);
            add(&mut all, frame);
        }
        let input = self.input;
        ahead(
            batches,
            |items| {
                let _span = trace::beside("reading pictures");
                input.load(items)
            },
            |loaded| -> Result<()> {
                let frame = self.embed(loaded?)?;
                journal.add(&frame).with_context(told)?;
                self.count(&frame);
                add(&mut all, frame);
                if self.done < ENOUGH { Ok(()) } else { self.tolerate() }
            },
        )?;
        drop(journal);
        let outcome = Outcome {
            rows: all.good.len(),
            recovered: match part.is_again {
                true => all.good.iter().map(|known| known.index).collect(),
                false => Vec::new(),
            },
            failed: all.bad,
        };
        let is_news = !part.is_again || !all.good.is_empty();
        self.folder.finish(
            part.number,
            &all.good,
            &all.rows,
            self.model.dim(),
            is_news.then_some(&outcome),
        )
    }

    fn embed(&self, loaded: Loaded) -> Result<Frame> {
        let rows = match (&loaded.content, self.settings.normalized) {
            (Content::Pixels(pixels), true) => self.model.embed_images(pixels, loaded.good.len())?,
            (Content::Pixels(pixels), false) => self.model.embed_images_raw(pixels, loaded.good.len())?,
            (Content::Texts(texts), normalized) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                match normalized {
                    true => self.model.embed_texts(&texts)?,
                    false => self.model.embed_texts_raw(&texts)?,
                }
            }
        };
        for bad in &loaded.bad {
            eprintln!("left out {}: {}", bad.key, bad.reason);
        }
        Ok(Frame {
            good: loaded.good,
            bad: loaded.bad,
            rows,
        })
    }

    /// # Errors
    /// More failures than are tolerated; what has failed before may fail again.
    fn tolerate(&self) -> Result<()> {
        let (failed, done, share) = (self.failed, self.done, self.settings.max_failed);
        if self.is_again || failed as f64 <= share * done as f64 {
            return Ok(());
        }
        bail!(
            "{failed} of {done} items could not be embedded, more than the share of {share} that --max-failed tolerates; ledger.jsonl says \
             why. What was embedded is kept: the same call goes on, with a larger --max-failed if these failures are expected"
        )
    }

    fn count(&mut self, frame: &Frame) {
        self.done += frame.good.len() + frame.bad.len();
        self.failed += frame.bad.len();
        self.progress.update(self.done as u64, "");
    }
}

fn add(all: &mut Frame, frame: Frame) {
    all.good.extend(frame.good);
    all.bad.extend(frame.bad);
    all.rows.extend(frame.rows);
}

/// Writes the ledger and tells what there is.
fn report(dir: &Path, folder: &Folder, unusable: &[Failed], dim: usize) -> Result<()> {
    let outcomes = folder.outcomes()?;
    let open = open_failures(&outcomes);
    let journals = folder.unfinished(dim, &outcomes)?;
    let failed = || {
        let begun = journals.iter().flat_map(|frame| &frame.bad);
        open.values().copied().chain(begun).chain(unusable)
    };
    folder.write_ledger(failed())?;
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    for one in failed() {
        *causes.entry(one.cause.clone()).or_default() += 1;
    }
    let rows: usize = outcomes.values().map(|o| o.rows).sum();
    let parts = outcomes.values().filter(|o| o.rows > 0).count();
    eprint!("{}: {rows} rows of {dim} in {parts} parts", dir.display());
    if !causes.is_empty() {
        eprint!(
            "; {} left out ({}): {} says why, and the same call tries them again",
            causes.values().sum::<usize>(),
            by_cause(&causes),
            folder.ledger().display()
        );
    }
    eprintln!();
    Ok(())
}
