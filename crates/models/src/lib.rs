//! Towers, tokenizers and the file formats that weights come in.

pub mod weights;
