//! JPEG files that are in memory become what a tower reads, on one thread.

use std::path::{Path, PathBuf};

use bifocal_data::decode::decode_with;
use bifocal_data::{Conventions, Limits, Preprocess};

use crate::{Outcome, Side, dump};

/// Commands: `exact` (the bits of Pillow), `reduced` (decoded at half the size where that suffices), `dump` writes the exact ones to `photos.out`, `dump-reduced` the others.
pub struct Photos {
    folder: PathBuf,
    files: Vec<Vec<u8>>,
    preprocess: Preprocess,
}

impl Photos {
    /// The files that `photos.txt` lists.
    pub fn open(folder: &str) -> Outcome<Self> {
        let folder = PathBuf::from(folder);
        let list = std::fs::read_to_string(folder.join("photos.txt"))?;
        let files = list
            .lines()
            .map(|path| std::fs::read(Path::new(path)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            folder,
            files,
            preprocess: Preprocess::clip(224),
        })
    }

    fn all(&self, conventions: Conventions, out: &mut [f32]) -> Outcome<()> {
        let values = self.preprocess.values();
        for (at, file) in self.files.iter().enumerate() {
            let image = decode_with(file, &Limits::default(), conventions)?;
            // one place for all when they are only measured
            let at = at * values % out.len();
            self.preprocess.apply_into(&image, &mut out[at..at + values])?;
        }
        Ok(())
    }
}

impl Side for Photos {
    fn answer(&mut self, command: &str) -> Outcome<Option<f32>> {
        let exact = Conventions::default();
        let reduced = Conventions {
            reduce_to: Some(self.preprocess.size),
            ..exact
        };
        let (kept, conventions) = match command {
            "exact" => (1, exact),
            "reduced" => (1, reduced),
            "dump" => (self.files.len(), exact),
            "dump-reduced" => (self.files.len(), reduced),
            _ => return Ok(None),
        };
        let mut out = vec![0.0; kept * self.preprocess.values()];
        self.all(conventions, &mut out)?;
        if kept > 1 {
            dump(&self.folder.join("photos.out"), &out)?;
        }
        Ok(Some(out[0]))
    }
}
