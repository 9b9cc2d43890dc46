//! From which addresses pictures may be fetched.

use axum::http::Uri;

use crate::error::{Answer, ApiError};

/// Longest address that is looked at.
const MAX_URL: usize = 2048;

/// Host names from which pictures may be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    /// The name itself.
    Exact(String),
    /// Everything below the name, with its dot.
    Below(String),
}

/// A name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name: give names as images.example.com, *.example.com for all below one, or * for any")]
pub struct AllowError(String);

impl AllowedHosts {
    /// Names as `images.example.com`, `*.example.com` (everything below) or `*`.
    ///
    /// # Errors
    /// No names, and what is no name: an address with a scheme, a path or a port.
    pub fn new<S: AsRef<str>>(names: &[S]) -> Result<Self, AllowError> {
        let parse = |name: &S| {
            let name = name.as_ref().trim().to_ascii_lowercase();
            let plain =
                |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
            match name.as_str() {
                "*" => Ok(Pattern::Any),
                n if n.strip_prefix("*.").is_some_and(plain) => Ok(Pattern::Below(n[1..].to_owned())),
                n if plain(n) => Ok(Pattern::Exact(n.to_owned())),
                n => Err(AllowError(n.to_owned())),
            }
        };
        if names.is_empty() {
            return Err(AllowError(String::new()));
        }
        Ok(Self(names.iter().map(parse).collect::<Result<_, _>>()?))
    }

    fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.0.iter().any(|pattern| match pattern {
            Pattern::Any => true,
            Pattern::Exact(name) => host == *name,
            Pattern::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        })
    }

    /// An address that may be asked for, before its host is resolved.
    ///
    /// # Errors
    /// 422 for what is no address over HTTP, has credentials, or whose host is not allowed.
    pub(crate) fn check(&self, url: &str, param: &str) -> Answer<Uri> {
        let refuse = |message: &str| ApiError::field(param, message);
        if url.len() > MAX_URL {
            return Err(refuse("the URL is longer than 2048 bytes"));
        }
        // a parser of another program may see another host behind these
        if url.bytes().any(|b| b <= b' ' || b >= 0x7f || b == b'\\') {
            return Err(refuse("the URL has characters that must be escaped"));
        }
        let uri: Uri = url.parse().map_err(|_| refuse("this is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(refuse("only http and https are fetched"));
        }
        let authority = uri.authority().ok_or_else(|| refuse("the URL has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("URLs with a user name are not fetched"));
        }
        let host = authority.host();
        // http's own port() says that there is none where there is one that is no number
        let port = authority.as_str().strip_prefix(host).unwrap_or("?");
        let number = port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok());
        if host.is_empty() || !port.is_empty() && number.is_none_or(|port| port == 0) {
            return Err(refuse("the URL has no host, or a port that is not 1 to 65535"));
        }
        if !self.allows(host) {
            return Err(refuse(
                "pictures are not fetched from this host; the server's operator can allow it",
            ));
        }
        Ok(uri)
    }
}
