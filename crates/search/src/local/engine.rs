//! SQLite's errors in the store's words.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::error::StoreError;

/// What error messages need to know.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The store's folder.
    pub(super) path: &'a Path,
}

impl Context<'_> {
    /// What SQLite reported while `action` was done.
    pub(super) fn engine(self, action: &'static str, source: rusqlite::Error) -> StoreError {
        let path = self.path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => self.corrupt(source.to_string()),
            _ => match source {
                // A value of another type than the tables allow: the file was changed by something else.
                rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::QueryReturnedNoRows => self.corrupt(format!("while {action}: {source}")),
                source => StoreError::Engine {
                    path,
                    action,
                    source: Box::new(source),
                },
            },
        }
    }

    pub(super) fn corrupt(self, what: String) -> StoreError {
        StoreError::Corrupt {
            path: self.path.to_owned(),
            what,
        }
    }
}
