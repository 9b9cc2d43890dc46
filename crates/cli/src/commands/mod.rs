//! One file per command.

pub mod cache;
pub mod chat;
pub mod classify;
pub mod completions;
pub mod convert;
pub mod doctor;
pub mod embed;
pub mod eval;
pub mod index;
pub mod info;
pub mod lab;
pub mod man;
pub mod score;
pub mod search;
pub mod serve;
pub mod tokenize;
pub mod train;
