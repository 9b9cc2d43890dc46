//! Pictures in requests and answers: data URIs, base64, URLs, thumbnails.

mod address;
pub(crate) mod allow;
mod fetch;
#[cfg(feature = "urls")]
mod guarded;
pub(crate) mod text;
pub(crate) mod thumbnail;

pub use allow::{AllowError, AllowedHosts};
pub(crate) use fetch::fetch_all;
