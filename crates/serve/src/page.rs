//! The web page: a few files inside the binary.

use std::collections::HashMap;
use std::io::Write;
use std::sync::OnceLock;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

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
    file!("talk.js", JS),
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

/// All files by name, as gzip: a third of their size.
fn packed() -> &'static HashMap<&'static str, Vec<u8>> {
    static PACKED: OnceLock<HashMap<&str, Vec<u8>>> = OnceLock::new();
    PACKED.get_or_init(|| {
        let pack = |asset: &Asset| {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
            let done = gzip.write_all(asset.2).and_then(|()| gzip.finish());
            // writing to memory cannot fail
            done.ok().map(|bytes| (asset.0, bytes))
        };
        ASSETS.iter().chain([&INDEX]).filter_map(pack).collect()
    })
}

/// Whether the client reads gzip.
fn reads_gzip(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::ACCEPT_ENCODING).iter();
    kinds.any(|kinds| {
        let mut each = kinds.to_str().unwrap_or_default().split(',');
        each.any(|kind| {
            let (name, rest) = kind.split_once(';').unwrap_or((kind, ""));
            let weight = rest.trim().strip_prefix("q=").unwrap_or("1");
            name.trim().eq_ignore_ascii_case("gzip") && weight.parse().is_ok_and(|weight: f32| weight > 0.0)
        })
    })
}

fn answer(asset: &Asset, headers: &HeaderMap) -> Response {
    let gzip = packed().get(asset.0).filter(|_| reads_gzip(headers));
    let content = gzip.map_or(asset.2, Vec::as_slice);
    let tag = format!("\"{}\"", &blake3::hash(content).to_hex()[..16]);
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        content.into_response()
    };
    if gzip.is_some() && !known {
        let value = HeaderValue::from_static("gzip");
        response.headers_mut().insert(header::CONTENT_ENCODING, value);
    }
    let fixed = [
        (header::CONTENT_TYPE, asset.1),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::VARY, "accept-encoding"),
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
    fn the_page_is_packed_for_those_who_can_unpack_it() {
        use std::io::Read;
        let (mut whole, mut small) = (0, 0);
        for (name, _, content) in ASSETS.iter().chain([&INDEX]) {
            let mut unpacked = Vec::new();
            let gzip = &packed()[name];
            flate2::read::GzDecoder::new(gzip.as_slice())
                .read_to_end(&mut unpacked)
                .unwrap();
            assert_eq!(&unpacked, content, "{name}");
            (whole, small) = (whole + content.len(), small + gzip.len());
        }
        assert!(small * 5 < whole * 2, "{small} of {whole}");
        for (accepted, expected) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("br, gzip;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
            let answer = answer(&INDEX, &headers);
            assert_eq!(
                answer.headers().contains_key(header::CONTENT_ENCODING),
                expected,
                "{accepted}"
            );
            // asked again with what was given
            headers.insert(header::IF_NONE_MATCH, answer.headers()[header::ETAG].clone());
            assert_eq!(super::answer(&INDEX, &headers).status(), StatusCode::NOT_MODIFIED);
        }
        assert!(!reads_gzip(&HeaderMap::new()));
    }

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
