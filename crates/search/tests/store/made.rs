//! Made-up items, vectors and queries.

use bifocal_search::{ContentHash, Entry, FileFacts, Item, Metadata, ModelId, SearchOptions};

/// Width of the vectors.
pub const DIM: usize = 8;

pub fn model() -> ModelId {
    ModelId {
        fingerprint: "0123456789abcdef".to_owned(),
        dim: DIM,
        name: "test model".to_owned(),
    }
}

/// A small generator: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn vector(&mut self) -> Vec<f32> {
        (0..DIM)
            .map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            .collect()
    }
}

pub fn entry(key: &str, vector: &[f32]) -> Entry {
    let file = FileFacts {
        key: key.to_owned(),
        size: key.len() as u64,
        modified_ns: -5,
        hash: ContentHash::of_bytes(key.as_bytes()),
    };
    let item = Item {
        file,
        metadata: Metadata::new(),
        thumbnail: None,
    };
    Entry::new(item, vector.to_vec())
}

pub fn limit(k: usize) -> SearchOptions {
    SearchOptions {
        k,
        ..SearchOptions::default()
    }
}

/// The vector that a store gives back: normalised and rounded to f16.
pub fn stored(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    vector
        .iter()
        .map(|&v| half::f16::from_f64(f64::from(v) / length).to_f32())
        .collect()
}
