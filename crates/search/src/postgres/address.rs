//! Where a store in PostgreSQL is, and how the way there is secured.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use postgres::Config;
use postgres::config::{Host, SslMode};

use crate::error::StoreError;

/// The store that an address without `store=` means.
const DEFAULT_STORE: &str = "bifocal";
/// Results of so many items, or collections of so many, are searched exactly when the address does not say otherwise.
const EXACT_UNTIL: u64 = 20_000;
/// Bytes of a name in PostgreSQL.
const MAX_NAME: usize = 63;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long sent data may stay unanswered before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(60);

/// What is checked of the server, by libpq's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// `disable`: no encryption.
    Disable,
    /// `prefer`: encrypted if the server can, whoever it is.
    Prefer,
    /// `require`: encrypted, whoever the server is; with `sslrootcert`, as `verify-ca`.
    Require,
    /// `verify-ca`: a certificate from an authority that is known, for any host.
    VerifyCa,
    /// `verify-full`: also for this host.
    VerifyFull,
}

/// An address that was read.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// Certificates of authorities as PEM; `None`: those that browsers know.
    pub(super) roots: Option<PathBuf>,
    /// The schema that keeps the tables.
    pub(super) store: String,
    /// Collections and results of at most so many items are searched exactly.
    pub(super) exact_until: u64,
    /// As it may be shown.
    pub(super) shown: PathBuf,
}

impl Address {
    /// Reads `postgres://user:password@host:port/database?store=NAME&sslmode=MODE&sslrootcert=FILE&exact=N`; the other parameters are
    /// those of `tokio_postgres::Config`. Without a password in it, `PGPASSWORD` is used.
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        let shown = crate::open::shown(Path::new(text));
        let invalid = |why| StoreError::Invalid {
            what: format!("the address {}", shown.display()),
            why,
        };
        let (place, parameters) = text.split_once('?').unwrap_or((text, ""));
        let (mut store, mut mode, mut roots, mut exact_until) = (None, None, None, EXACT_UNTIL);
        let mut others = Vec::new();
        for parameter in parameters.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| invalid("has a parameter that is not UTF-8"))?;
            match name {
                "store" => store = Some(value.into_owned()),
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => roots = (value != "system").then(|| PathBuf::from(value.as_ref())),
                "exact" => {
                    exact_until = value
                        .parse()
                        .map_err(|_| invalid("has an exact= that is not a whole number"))?;
                }
                _ => others.push(parameter),
            }
        }
        let tls = match mode.as_deref() {
            None | Some("prefer") => Tls::Prefer,
            Some("disable") => Tls::Disable,
            // With a list of authorities libpq checks against it.
            Some("require") if roots.is_some() => Tls::VerifyCa,
            Some("require") => Tls::Require,
            Some("verify-ca") => Tls::VerifyCa,
            Some("verify-full") => Tls::VerifyFull,
            Some(_) => {
                return Err(invalid(
                    "has an unknown sslmode; there are disable, prefer, require, verify-ca and verify-full",
                ));
            }
        };
        let store = store.unwrap_or_else(|| DEFAULT_STORE.to_owned());
        if !is_name(&store) {
            return Err(invalid(
                "has a store= that cannot be used: at most 63 small letters, digits and _ that begin with a letter, and not with pg_",
            ));
        }
        // The reason is not told: a password with signs that are not escaped would be part of it.
        let mut config = Config::from_str(&format!("{place}?{}", others.join("&"))).map_err(|_| {
            invalid(
                "cannot be read; postgres://user:password@host:port/database?store=name is expected, with %XX for special signs",
            )
        })?;
        if config.get_hosts().is_empty() {
            return Err(invalid("has no host; postgres://host/database is expected"));
        }
        if config.get_password().is_none()
            && let Some(password) = std::env::var_os("PGPASSWORD")
        {
            config.password(password.to_string_lossy().as_bytes());
        }
        // Nobody listens in on a socket of this machine, and libpq does not encrypt there either.
        let is_local = config.get_hosts().iter().all(|h| !matches!(h, Host::Tcp(_)));
        let tls = if is_local { Tls::Disable } else { tls };
        config.ssl_mode(match tls {
            Tls::Disable => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require | Tls::VerifyCa | Tls::VerifyFull => SslMode::Require,
        });
        if config.get_application_name().is_none() {
            config.application_name(&format!("bifocal process {}", std::process::id()));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
            config.keepalives_idle(SILENCE / 2);
        }
        Ok(Self {
            config,
            tls,
            roots,
            store,
            exact_until,
            shown,
        })
    }

    /// The store that grows beside this one, in a schema of its own.
    pub(super) fn beside(&self) -> Self {
        const END: &str = "_rebuild";
        let mut store = format!("{}{END}", self.store);
        if store.len() > MAX_NAME {
            // Long names are told apart by their hash.
            let hash = &blake3::hash(self.store.as_bytes()).to_hex()[..16];
            let kept = MAX_NAME - END.len() - hash.len() - 1;
            store = format!("{}_{hash}{END}", &self.store[..kept]);
        }
        Self { store, ..self.clone() }
    }

    /// A statement in which `@` stands for the store's schema.
    pub(super) fn sql(&self, statement: &str) -> String {
        statement.replace('@', &format!("\"{}\".", self.store))
    }
}

fn is_name(store: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c == '_';
    store.len() <= MAX_NAME
        && store.starts_with(letter)
        && store.chars().all(|c| letter(c) || c.is_ascii_digit())
        && !store.starts_with("pg_")
        && store != "information_schema"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read() {
        let address = Address::parse("postgres://me:se%40cret@host:5433/db?store=team_1&sslmode=verify-full").unwrap();
        assert_eq!((address.store.as_str(), address.tls), ("team_1", Tls::VerifyFull));
        assert_eq!(address.config.get_password(), Some(&b"se@cret"[..]));
        assert_eq!(address.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(
            address.shown,
            Path::new("postgres://me@host:5433/db?store=team_1&sslmode=verify-full")
        );
        assert_eq!(address.sql("SELECT 1 FROM @items"), "SELECT 1 FROM \"team_1\".items");
        let address = Address::parse("postgresql://host/db").unwrap();
        assert_eq!((address.store.as_str(), address.tls), ("bifocal", Tls::Prefer));
        let address = Address::parse("postgres://host/db?sslmode=require&sslrootcert=/a%20b.pem&exact=7").unwrap();
        assert_eq!((address.tls, address.exact_until), (Tls::VerifyCa, 7));
        assert_eq!(address.roots.as_deref(), Some(Path::new("/a b.pem")));
        let address = Address::parse("postgres:///db?host=/run/postgresql&sslmode=verify-full").unwrap();
        assert_eq!(address.tls, Tls::Disable);
    }

    #[test]
    fn the_store_beside_has_a_name_of_its_own() {
        let beside = |store: &str| {
            let address = Address::parse(&format!("postgres://host/db?store={store}")).unwrap();
            address.beside().store
        };
        assert_eq!(beside("photos"), "photos_rebuild");
        let (a, b) = (beside(&"a".repeat(63)), beside(&"a".repeat(62)));
        assert!(a != b && is_name(&a) && is_name(&b), "{a} {b}");
    }

    #[test]
    fn bad_addresses_are_refused_without_their_password() {
        for bad in [
            "postgres://me:secret@host/db?sslmode=allow",
            "postgres://me:secret@host/db?store=a\"b",
            "postgres://me:secret@host/db?store=pg_catalog",
            "postgres://me:secret@host/db?store=",
            "postgres://me:secret@host/db?exact=many",
            "postgres://me:secret@host/db?secret=secret2",
            "postgres://me:secret@host:port/db",
            "postgres:///db",
        ] {
            let error = Address::parse(bad).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("the address postgres://"), "{bad}: {error}");
            assert!(!error.contains(":secret"), "{error}");
        }
    }
}
