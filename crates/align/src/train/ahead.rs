//! Pictures of the batches that come next, read and decoded while the model computes.

use std::sync::mpsc::{Receiver, sync_channel};

use bifocal_data::transform::PreprocessError;
use bifocal_data::{Augment, ImageSource, Limits, LoadedImages, Preprocess, load_images, load_images_augmented};
use bifocal_nn::trace;

/// Batches that wait at most, besides the one that is being read: each has tens of megabytes.
const WAITING: usize = 1;

/// The pictures of a batch, and what is made of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub images: Vec<ImageSource>,
    pub preprocess: Preprocess,
    /// Random changes, and a seed for each picture.
    pub augment: Option<(Augment, Vec<u64>)>,
}

type Loaded = Result<LoadedImages, PreprocessError>;

impl Wanted {
    fn load(&self) -> Loaded {
        let limits = Limits::default();
        match &self.augment {
            Some((augment, seeds)) => load_images_augmented(&self.images, &self.preprocess, &limits, augment, seeds),
            None => load_images(&self.images, &self.preprocess, &limits),
        }
    }
}

/// What is on its way.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Option<Receiver<(Wanted, Loaded)>>);

impl Ahead {
    /// Begins to read these batches, one after the other, on a thread of its own; what was on its way before is given up.
    pub fn begin(&mut self, batches: Vec<Wanted>) {
        let (send, made) = sync_channel(WAITING);
        self.0 = Some(made);
        std::thread::spawn(move || {
            for wanted in batches {
                let span = trace::beside("reading pictures");
                let loaded = wanted.load();
                drop(span);
                // nobody waits for it any more
                if send.send((wanted, loaded)).is_err() {
                    break;
                }
            }
        });
    }

    /// A batch's pictures: those on their way if they are the wanted ones, or else read now.
    pub fn take(&self, wanted: &Wanted) -> Loaded {
        match self.0.as_ref().and_then(|made| made.recv().ok()) {
            Some((made, loaded)) if made == *wanted => loaded,
            _ => wanted.load(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_ahead_is_what_would_be_read_now() {
        let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/photos");
        let mut files: Vec<_> = std::fs::read_dir(samples.join("images"))
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect();
        files.sort();
        let wanted = |range: std::ops::Range<usize>| Wanted {
            images: files[range]
                .iter()
                .map(|path| ImageSource::from(path.clone()))
                .collect(),
            preprocess: Preprocess::clip(32),
            augment: None,
        };
        let mut ahead = Ahead::default();
        ahead.begin(vec![wanted(0..2), wanted(2..3)]);
        for range in [0..2, 2..3, 3..4] {
            // the last one was never begun
            assert_eq!(ahead.take(&wanted(range.clone())), wanted(range).load());
        }
        // other pictures than those on their way
        ahead.begin(vec![wanted(0..2)]);
        assert_eq!(ahead.take(&wanted(1..2)), wanted(1..2).load());
    }
}
