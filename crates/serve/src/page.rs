//! The web page: a few files inside the binary.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// A file of the page: name, content type, content.
type Asset = (&'static str, &'static str, &'static [u8]);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! file {
    ($name:literal, $kind:ident) => {
        ($name, $kind, include_bytes!(concat!("../page/", $name)))
    };
}

const INDEX: Asset = file!("index.html", HTML);

/// What `/assets/{name}` has.
const ASSETS: &[Asset] = &[
    file!("api.js", JS),
    file!("app.js", JS),
    file!("detail.js", JS),
    file!("dom.js", JS),
    file!("filters.js", JS),
    file!("grid.js", JS),
    file!("icon.svg", SVG),
    file!("keyboard.js", JS),
    file!("map.js", JS),
    file!("search.js", JS),
    file!("style.css", CSS),
    file!("theme.js", JS),
];

/// Nothing from elsewhere, no script and no style in the page itself; `blob:` and `data:` are pictures that the user dropped.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
                      font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`.
pub(crate) async fn index(headers: HeaderMap) -> Response {
    answer(&INDEX, &headers)
}

/// `GET /assets/{name}`.
pub(crate) async fn asset(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    match ASSETS.iter().find(|asset| asset.0 == name) {
        Some(asset) => answer(asset, &headers),
        None => ApiError::missing("the page has no such file").into_response(),
    }
}

fn answer(asset: &Asset, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", &blake3::hash(asset.2).to_hex()[..16]);
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        asset.2.into_response()
    };
    let fixed = [
        (header::CONTENT_TYPE, asset.1),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // asked for again each time, answered with 304 until the binary changes
        (header::CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_served_and_every_name_in_it_is_a_file() {
        let mut there: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/page"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != INDEX.0)
            .collect();
        there.sort();
        let served: Vec<&str> = ASSETS.iter().map(|asset| asset.0).collect();
        assert_eq!(served, there);
        let mut named = 0;
        for (file, _, content) in ASSETS.iter().chain([&INDEX]) {
            let text = std::str::from_utf8(content).unwrap();
            for begin in ["'./", "=assets/"] {
                for (at, _) in text.match_indices(begin) {
                    let rest = &text[at + begin.len()..];
                    let name = &rest[..rest.find(['\'', ' ', '>']).unwrap()];
                    assert!(served.contains(&name), "{file} names {name}");
                    named += 1;
                }
            }
        }
        assert!(named > 15, "{named}");
    }
}
