//! Pictures that are named by URL: only from allowed hosts, only from the public internet, with limits of time and size.
//!
//! The guard resolves a host once and connects to what it resolved: a name that changes its address between check and
//! connection cannot lead inside. Redirects are followed here, so that each is checked as the first was.

use std::sync::Arc;

use crate::app::App;
use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item, Picture};

/// Fetches the pictures of a request that are named by URL.
///
/// # Errors
/// 422 when URLs are off or one of them is refused or gives no picture.
pub(crate) async fn fetch_all(app: &Arc<App>, mut inputs: Inputs) -> Answer<Inputs> {
    inputs.check(app.limits.inputs)?;
    for (at, item) in inputs.items.iter_mut().enumerate() {
        if let Item::Picture(Picture::Url(url)) = item {
            let bytes = fetch(app, std::mem::take(url), format!("input[{at}]")).await?;
            *item = Item::Picture(Picture::Bytes(bytes));
        }
    }
    Ok(inputs)
}

#[cfg(not(feature = "urls"))]
async fn fetch(_: &Arc<App>, _: String, param: String) -> Answer<bytes::Bytes> {
    Err(ApiError::field(
        param,
        "this server was built without fetching URLs; send the picture as a data URI",
    ))
}

#[cfg(feature = "urls")]
async fn fetch(app: &Arc<App>, url: String, param: String) -> Answer<bytes::Bytes> {
    let Some(hosts) = app.hosts.clone() else {
        let message = "this server does not fetch URLs; send the picture as a data URI (data:image/jpeg;base64,…)";
        return Err(ApiError::field(param, message));
    };
    let most = app.limits.picture.bytes;
    let fetched =
        tokio::task::spawn_blocking(move || super::guarded::get(&url, &hosts, super::guarded::system(), most, &param));
    fetched.await.unwrap_or_else(|_| Err(ApiError::lost()))
}
