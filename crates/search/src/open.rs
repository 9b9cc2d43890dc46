//! Any store by its name: a folder, or `postgres://…`.

use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::local::LocalStore;
use crate::store::{ModelId, Store};

/// What addresses of a PostgreSQL server begin with.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// Whether the name is that of a store in PostgreSQL.
pub fn is_postgres(name: &Path) -> bool {
    SCHEMES.iter().any(|s| name.to_string_lossy().starts_with(s))
}

/// The name as it may be shown: of an address, without the password.
pub fn shown(name: &Path) -> PathBuf {
    if !is_postgres(name) {
        return name.to_owned();
    }
    let text = name.to_string_lossy();
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    // A password may hold any sign, as long as it is not read back: all up to the last `@` is taken for user and password.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (credentials.split(':').next().unwrap_or_default(), rest),
        None => ("", rest),
    };
    let at = if user.is_empty() { "" } else { "@" };
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let kept: Vec<&str> = parameters
        .split('&')
        .filter(|p| !p.is_empty() && !p.starts_with("password=") && !p.starts_with("user="))
        .collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    format!("{scheme}://{user}{at}{place}{mark}{}", kept.join("&")).into()
}

/// Opens a store for reading. With a model, the store has to be of that model.
///
/// # Errors
/// Those of [`LocalStore::open_reader`] and of `PgStore::open_reader`; an address in a build without the feature `postgres`.
pub fn open_reader(name: &Path, model: Option<&ModelId>) -> Result<Box<dyn Store>, StoreError> {
    if is_postgres(name) {
        return postgres_reader(name, model);
    }
    Ok(Box::new(LocalStore::open_reader(name, model)?))
}

/// Opens a store for writing, and creates it when it is not there.
///
/// # Errors
/// Those of [`LocalStore::open_writer`] and of `PgStore::open_writer`; an address in a build without the feature `postgres`.
pub fn open_writer(name: &Path, model: &ModelId) -> Result<Box<dyn Store>, StoreError> {
    if is_postgres(name) {
        return postgres_writer(name, model);
    }
    Ok(Box::new(LocalStore::open_writer(name, model)?))
}

#[cfg(feature = "postgres")]
fn postgres_reader(name: &Path, model: Option<&ModelId>) -> Result<Box<dyn Store>, StoreError> {
    let address = name.to_string_lossy();
    Ok(Box::new(crate::postgres::PgStore::open_reader(&address, model)?))
}

#[cfg(feature = "postgres")]
fn postgres_writer(name: &Path, model: &ModelId) -> Result<Box<dyn Store>, StoreError> {
    let address = name.to_string_lossy();
    Ok(Box::new(crate::postgres::PgStore::open_writer(&address, model)?))
}

#[cfg(not(feature = "postgres"))]
fn postgres_reader(name: &Path, _: Option<&ModelId>) -> Result<Box<dyn Store>, StoreError> {
    Err(StoreError::NotBuilt { path: shown(name) })
}

#[cfg(not(feature = "postgres"))]
fn postgres_writer(name: &Path, _: &ModelId) -> Result<Box<dyn Store>, StoreError> {
    Err(StoreError::NotBuilt { path: shown(name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (name, expected) in [
            (
                "postgres://me:secret@host:5433/db?store=a",
                "postgres://me@host:5433/db?store=a",
            ),
            ("postgresql://me@host/db", "postgresql://me@host/db"),
            ("postgres://host/db", "postgres://host/db"),
            ("postgres://me:se@c/r?et@host/db", "postgres://me@host/db"),
            (
                "postgres:///db?host=/run&user=me&password=secret&store=b",
                "postgres:///db?host=/run&store=b",
            ),
            ("postgres://host/db?password=secret", "postgres://host/db"),
            ("folder/postgres://x:y@z", "folder/postgres://x:y@z"),
        ] {
            assert_eq!(shown(Path::new(name)), Path::new(expected), "{name}");
        }
    }

    #[cfg(not(feature = "postgres"))]
    #[test]
    fn an_address_without_the_feature_says_how_to_build_it() {
        let error = open_reader(Path::new("postgres://me:secret@host/db"), None)
            .err()
            .map(|e| e.to_string());
        let error = error.expect("an error");
        assert!(
            error.contains("--features postgres") && !error.contains("secret"),
            "{error}"
        );
    }
}
