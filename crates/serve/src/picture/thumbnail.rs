//! Small pictures for display: those of the store, or made from the file and kept in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use bifocal_data::thumbnail::jpeg;
use bifocal_data::{DecodeError, Limits, decode};
use bytes::Bytes;

/// Thumbnails by what they were made of; the oldest make room.
#[derive(Debug)]
pub(crate) struct Thumbnails {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: usize,
    by_name: HashMap<String, Bytes>,
    order: VecDeque<String>,
}

impl Thumbnails {
    pub(crate) fn new(most: usize) -> Self {
        let kept = Mutex::default();
        Self { most, kept }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_name.get(name).cloned()
    }

    pub(crate) fn keep(&self, name: &str, jpeg: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if jpeg.len() > self.most || kept.by_name.contains_key(name) {
            return;
        }
        kept.bytes += jpeg.len();
        kept.by_name.insert(name.to_owned(), jpeg);
        kept.order.push_back(name.to_owned());
        while kept.bytes > self.most {
            let Some(oldest) = kept.order.pop_front() else {
                break;
            };
            if let Some(jpeg) = kept.by_name.remove(&oldest) {
                kept.bytes -= jpeg.len();
            }
        }
    }
}

/// A small JPEG of a picture.
///
/// # Errors
/// What [`decode`] says of the picture.
pub(crate) fn make(bytes: &[u8], limits: &Limits) -> Result<Bytes, DecodeError> {
    let small = jpeg(&decode(bytes, limits)?).ok_or_else(|| DecodeError::Unsupported {
        what: "writing a small picture".to_owned(),
    })?;
    Ok(small.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let kept = Thumbnails::new(100);
        for name in ["a", "b", "c", "d"] {
            kept.keep(name, Bytes::from(vec![0; 30]));
        }
        kept.keep("huge", Bytes::from(vec![0; 101]));
        let has = ["a", "b", "c", "d", "huge"].map(|name| kept.get(name).is_some());
        assert_eq!(has, [false, true, true, true, false]);
    }
}
