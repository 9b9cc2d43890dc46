//! `/openapi.json`: the document that describes all routes. It is written by hand, and a test holds it against the routes.

use axum::http::header;
use axum::response::IntoResponse;

pub(crate) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page is for people; it is no part of the interface.
    const PAGE: [&str; 2] = ["/", "/assets/{name}"];

    #[test]
    fn every_route_is_described_and_nothing_else() {
        // axum does not tell its routes, so that they are read where they are written
        let routes: BTreeSet<(String, String)> = include_str!("../app.rs")
            .split(".route(\"")
            .skip(1)
            .filter_map(|rest| {
                let (path, rest) = rest.split_once("\", ")?;
                Some((path.to_owned(), rest.split('(').next()?.to_owned()))
            })
            .filter(|(path, _)| !PAGE.contains(&path.as_str()))
            .collect();
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(|method| (path.clone(), method.clone()))
            })
            .collect();
        assert!(routes.len() >= 14, "{routes:?}");
        assert_eq!(routes, described);
    }

    #[test]
    fn references_lead_somewhere() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let parts: Vec<&str> = DOCUMENT.split("\"$ref\": \"#").skip(1).collect();
        assert!(parts.len() > 20);
        for part in parts {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
