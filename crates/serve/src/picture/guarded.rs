//! One guarded request.

use std::fmt;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use axum::http::{Uri, header};
use bifocal_data::decode::is_image;
use bytes::Bytes;
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use crate::error::{Answer, ApiError};
use crate::picture::address::is_global;
use crate::picture::allow::AllowedHosts;

/// For everything: all redirects, and the last byte.
const TIME: Duration = Duration::from_secs(5);
const REDIRECTS: usize = 3;

/// From a host and a port to addresses.
pub(super) type Lookup = Arc<dyn Fn(&str, u16) -> std::io::Result<Vec<SocketAddr>> + Send + Sync>;

/// As the system resolves names, but no longer than a picture may take: a thread that hangs is left behind.
pub(super) fn system() -> Lookup {
    Arc::new(|host, port| {
        let (send, found) = mpsc::channel();
        let host = host.to_owned();
        std::thread::spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            // nobody listens when it took too long
            let _ = send.send(found);
        });
        found.recv_timeout(TIME).map_err(|_| std::io::ErrorKind::TimedOut)?
    })
}

/// Gives the addresses that may be connected to.
pub(super) enum Address {
    /// Those of the public internet.
    Public(Lookup),
    /// All of them: tests have their servers on this machine.
    #[cfg(test)]
    Any(Lookup),
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address")
    }
}

impl Resolver for Address {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let standard = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let (lookup, public) = match self {
            Self::Public(lookup) => (lookup, true),
            #[cfg(test)]
            Self::Any(lookup) => (lookup, false),
        };
        let found = lookup(host, uri.port_u16().unwrap_or(standard)).map_err(|_| Error::HostNotFound)?;
        // one that leads inside spoils all: which one is tried is not ours to say
        if found.is_empty() || public && !found.iter().all(|address| is_global(address.ip())) {
            return Err(Error::HostNotFound);
        }
        let mut addresses = self.empty();
        for address in found.into_iter().take(16) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// Fetches one picture of at most so many bytes.
pub(super) fn get(url: &str, hosts: &AllowedHosts, lookup: Lookup, most: u64, param: &str) -> Answer<Bytes> {
    follow(url, hosts, &|| Address::Public(lookup.clone()), most, param)
}

/// Follows redirects to a picture. What the other server says of an error is not passed on.
fn follow(url: &str, hosts: &AllowedHosts, address: &dyn Fn() -> Address, most: u64, param: &str) -> Answer<Bytes> {
    let refuse = |message: String| ApiError::field(param, message);
    let begun = Instant::now();
    let mut uri = hosts.check(url, param)?;
    for _ in 0..=REDIRECTS {
        let left = TIME.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
        let left = left.ok_or_else(|| refuse("the picture did not arrive in 5 seconds".to_owned()))?;
        let config = Agent::config_builder()
            .timeout_global(Some(left))
            .max_redirects(0)
            .http_status_as_error(false)
            .proxy(None)
            .max_idle_connections(0)
            .user_agent("bifocal")
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::new(), address());
        let unreachable = || {
            refuse(
                "the picture cannot be fetched: its host is not on the public internet, or does not answer".to_owned(),
            )
        };
        let mut response = agent.get(&uri).call().map_err(|_| unreachable())?;
        if response.status().is_redirection() {
            let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let to = to.ok_or_else(|| refuse("the URL redirects to nowhere".to_owned()))?;
            uri = hosts.check(&absolute(&uri, to), param)?;
            continue;
        }
        if response.status() != 200 {
            return Err(refuse(format!(
                "the URL answers with status {}",
                response.status().as_u16()
            )));
        }
        let mut bytes = Vec::new();
        let read = response.body_mut().as_reader().take(most + 1).read_to_end(&mut bytes);
        read.map_err(|_| refuse("the picture did not arrive completely in 5 seconds".to_owned()))?;
        if bytes.len() as u64 > most {
            return Err(ApiError::too_large(format!("the picture has more than {most} bytes")).at(param));
        }
        if !is_image(&bytes) {
            return Err(ApiError::media("what the URL answers with is not a picture").at(param));
        }
        return Ok(bytes.into());
    }
    Err(refuse(format!("the URL redirects more than {REDIRECTS} times")))
}

/// Where a redirect leads; whatever it is, it is checked again.
fn absolute(from: &Uri, to: &str) -> String {
    let scheme = from.scheme_str().unwrap_or("http");
    let authority = from.authority().map_or("", |authority| authority.as_str());
    if to.starts_with("//") {
        format!("{scheme}:{to}")
    } else if to.starts_with('/') {
        format!("{scheme}://{authority}{to}")
    } else if to.contains("://") {
        to.to_owned()
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{to}")
    }
}

#[cfg(test)]
#[path = "guarded_tests.rs"]
mod tests;
