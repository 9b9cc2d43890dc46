//! Who may ask: the API key, and the host names that the service answers to.

use std::net::SocketAddr;

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Answer, ApiError};

/// A key that requests have to show. Only its hash is kept, and hashes are compared in constant time.
#[derive(Debug, Clone)]
pub struct ApiKey(blake3::Hash);

impl ApiKey {
    /// `None` for a key that is empty (white space around it is not part of it).
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        let key = key.trim();
        (!key.is_empty()).then(|| Self(blake3::hash(key.as_bytes())))
    }

    /// The comparison of BLAKE3 hashes takes the same time whatever differs.
    fn fits(&self, key: &str) -> bool {
        self.0 == blake3::hash(key.as_bytes())
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    key: Option<ApiKey>,
    /// Whether only names of this machine, and `names`, are answered to.
    local: bool,
    names: Vec<String>,
}

impl Access {
    /// A service on the loopback without a key is open to every program of this machine, browsers included: a page of another site could reach
    /// it under a name that it resolves to 127.0.0.1. Such a request carries that name, and is refused.
    pub(crate) fn new(key: Option<ApiKey>, listen: SocketAddr, names: Vec<String>) -> Self {
        let local = key.is_none() && listen.ip().is_loopback();
        Self { key, local, names }
    }

    pub(crate) fn check(&self, headers: &HeaderMap) -> Answer<()> {
        if self.local && !self.knows(headers) {
            let message =
                "the service answers to this machine's own names only; start it with --host NAME, or with an API key";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "unknown_host", message));
        }
        match &self.key {
            Some(key) if !shown(headers).is_some_and(|shown| key.fits(&shown)) => {
                let message = "the API key is missing or wrong: send it as `Authorization: Bearer KEY`";
                Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message))
            }
            _ => Ok(()),
        }
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(host) = headers.get(header::HOST) else {
            return true; // HTTP/1.0, which no browser speaks
        };
        let host = host.to_str().unwrap_or_default();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let literal = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>();
        literal.is_ok_and(|address| address.is_loopback())
            || name.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The key that a request shows: as a bearer's, as a password, or in the header that some clients use.
fn shown(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(key) = text("x-api-key").or_else(|| text("api-key")) {
        return Some(key.to_owned());
    }
    let (scheme, value) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
        return Some(pair.split_once(':')?.1.to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_key_is_asked_for_in_every_way_that_clients_send_it() {
        let access = Access::new(ApiKey::new(" s3cret\n"), "127.0.0.1:80".parse().unwrap(), vec![]);
        for good in [
            ("authorization", "Bearer s3cret"),
            ("authorization", "bearer s3cret"),
            ("authorization", "Basic eDpzM2NyZXQ="),
            ("x-api-key", "s3cret"),
            ("api-key", "s3cret"),
        ] {
            assert_eq!(access.check(&headers(&[good])), Ok(()), "{good:?}");
        }
        for bad in [
            ("authorization", "Bearer s3cre"),
            ("authorization", "Bearer "),
            ("authorization", "s3cret"),
            ("authorization", "Basic ???"),
            ("authorization", "Basic czNjcmV0"),
            ("x-api-key", ""),
            ("accept", "s3cret"),
        ] {
            let error = access.check(&headers(&[bad])).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (401, "invalid_api_key"), "{bad:?}");
        }
        assert!(ApiKey::new(" \n").is_none());
    }

    #[test]
    fn on_the_loopback_only_its_own_names_are_answered_to() {
        let names = vec!["photos.example".to_owned()];
        let access = Access::new(None, "[::1]:80".parse().unwrap(), names);
        for good in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "Photos.example:443",
        ] {
            assert_eq!(access.check(&headers(&[("host", good)])), Ok(()), "{good}");
        }
        for bad in [
            "evil.example",
            "127.0.0.1.evil.example:8080",
            "localhost.evil.example",
            "8.8.8.8",
            "",
        ] {
            let error = access.check(&headers(&[("host", bad)])).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (403, "unknown_host"), "{bad}");
        }
        let open = Access::new(None, "0.0.0.0:80".parse().unwrap(), vec![]);
        assert_eq!(open.check(&headers(&[("host", "anything.example")])), Ok(()));
    }
}
