//! Connections to the server: made, kept, given back, made again after they broke; and the writer's lock.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, GenericClient, IsolationLevel, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::StoreError;

use super::address::Address;
use super::tls;

/// Connections that are kept when nobody reads.
const KEPT: usize = 8;
/// How long a reading call, or a server that is starting, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// How long the session of a writer that ended may take to end at the server.
const GRACE: Duration = Duration::from_secs(2);

/// What the server or the way to it reported, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

/// What ends a call.
pub(super) enum Failure {
    Server(postgres::Error),
    Store(StoreError),
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The ways to one store.
pub(super) struct Connections {
    pub(super) address: Address,
    tls: MakeRustlsConnect,
    readers: Mutex<Vec<Client>>,
    /// The connection that holds the lock; `None` inside: it broke. No lock: opened for reading.
    writer: Option<Mutex<Option<Client>>>,
}

impl Connections {
    /// For reading; connects once to see that it is possible.
    pub(super) fn reader(address: Address) -> Result<Self, StoreError> {
        let tls = tls::connector(&address)?;
        let connections = Self {
            address,
            tls,
            readers: Mutex::default(),
            writer: None,
        };
        let client = connections.connect(false)?;
        connections.keep(client);
        Ok(connections)
    }

    /// For writing: one connection takes the lock.
    pub(super) fn writer(address: Address) -> Result<Self, StoreError> {
        let mut connections = Self::reader(address)?;
        let client = connections.locked()?;
        connections.writer = Some(Mutex::new(Some(client)));
        Ok(connections)
    }

    fn path(&self) -> &Path {
        &self.address.shown
    }

    /// A new connection; `waits`: also for a server that is not there at the moment.
    fn connect(&self, waits: bool) -> Result<Client, StoreError> {
        let begun = Instant::now();
        loop {
            let error = match self.address.config.connect(self.tls.clone()) {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let is_starting = error.code() == Some(&SqlState::CANNOT_CONNECT_NOW);
            let is_worth_it = is_starting || waits && is_lost(&error);
            if !is_worth_it || begun.elapsed() > PATIENCE {
                // What is not the server's own word is about the way to it.
                return Err(match error.as_db_error() {
                    Some(_) => self.failure("connecting", error),
                    None => self.broken("connecting", &error),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Reads; a call whose connection breaks is repeated once on a new one.
    pub(super) fn read<T>(
        &self,
        action: &'static str,
        run: impl Fn(&mut Client) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut client) = kept {
            match run(&mut client) {
                Err(Failure::Server(error)) if is_lost(&error) || client.is_closed() => {
                    // Those that are kept are as old as this one.
                    let old = std::mem::take(&mut *self.readers.lock().unwrap_or_else(PoisonError::into_inner));
                    discard(old);
                    discard(vec![client]);
                }
                result => {
                    self.keep(client);
                    return result.map_err(|e| self.told(action, e));
                }
            }
        }
        let mut client = self.connect(true)?;
        let result = run(&mut client);
        self.keep(client);
        result.map_err(|e| self.told(action, e))
    }

    /// One snapshot for everything that `run` reads.
    pub(super) fn snapshot<T>(
        &self,
        action: &'static str,
        run: impl Fn(&mut Transaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.read(action, |client| {
            let mut tx = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()?;
            let result = run(&mut tx)?;
            tx.commit()?;
            Ok(result)
        })
    }

    /// Writes in one transaction, on the connection that holds the lock. It is not repeated: whether a call whose connection broke was stored
    /// is not known.
    pub(super) fn write<T>(
        &self,
        action: &'static str,
        run: impl FnOnce(&mut Transaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.on_writer(action, |client| {
            let mut tx = client.transaction()?;
            let result = run(&mut tx)?;
            tx.commit()?;
            Ok(result)
        })
    }

    /// Runs something on the connection that holds the lock.
    pub(super) fn on_writer<T>(
        &self,
        action: &'static str,
        run: impl FnOnce(&mut Client) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let Some(writer) = &self.writer else {
            return Err(StoreError::ReadOnly {
                path: self.path().to_owned(),
            });
        };
        let mut slot = writer.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have broken while nobody used it: then nothing is lost by taking a new one before this call.
        if slot
            .as_mut()
            .is_some_and(|client| client.is_closed() || client.simple_query("").is_err())
        {
            discard(slot.take().into_iter().collect());
        }
        let mut client = match slot.take() {
            Some(client) => client,
            None => self.locked()?,
        };
        let result = run(&mut client);
        let is_broken = client.is_closed() || matches!(&result, Err(Failure::Server(error)) if is_lost(error));
        if is_broken {
            discard(vec![client]);
        } else {
            *slot = Some(client);
        }
        result.map_err(|e| self.told(action, e))
    }

    /// A connection that holds the writer's lock as long as it lives.
    fn locked(&self) -> Result<Client, StoreError> {
        let mut client = self.connect(true)?;
        let begun = Instant::now();
        let lock = lock_number(&self.address);
        let fail = |e| self.failure("taking the writer's lock", e);
        loop {
            let taken: bool = client
                .query_one("SELECT pg_try_advisory_lock($1)", &[&lock])
                .map_err(fail)?
                .get(0);
            if taken {
                return Ok(client);
            }
            if begun.elapsed() > GRACE {
                let holder = self.holder(&mut client, lock).map_err(fail)?;
                return Err(StoreError::Locked {
                    path: self.path().to_owned(),
                    holder,
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes the writer's lock of another store until the transaction ends.
    pub(super) fn lock_within(&self, tx: &mut Transaction, other: &Address) -> Result<(), Failure> {
        const TAKE: &str = "SELECT pg_try_advisory_xact_lock($1)";
        let (begun, lock) = (Instant::now(), lock_number(other));
        while !tx.query_one(TAKE, &[&lock])?.get::<_, bool>(0) {
            if begun.elapsed() > GRACE {
                return Err(StoreError::Locked {
                    path: self.path().to_owned(),
                    holder: self.holder(tx, lock)?,
                }
                .into());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn holder(&self, client: &mut impl GenericClient, lock: i64) -> Result<String, postgres::Error> {
        const HOLDER: &str = "SELECT coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'the server''s machine'), l.pid \
            FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
            WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = $1 \
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let row = client.query_opt(HOLDER, &[&lock])?;
        Ok(row.map_or_else(
            || "another process".to_owned(),
            |row| {
                let (name, host, pid): (String, String, i32) = (row.get(0), row.get(1), row.get(2));
                format!("{name} at {host} (the server's process {pid})")
            },
        ))
    }

    fn keep(&self, client: Client) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if !client.is_closed() && readers.len() < KEPT {
            readers.push(client);
        } else {
            drop(readers);
            discard(vec![client]);
        }
    }

    fn told(&self, action: &'static str, failure: Failure) -> StoreError {
        match failure {
            Failure::Server(error) => self.failure(action, error),
            Failure::Store(error) => error,
        }
    }

    /// The server's errors in the store's words.
    pub(super) fn failure(&self, action: &'static str, error: postgres::Error) -> StoreError {
        if is_lost(&error) {
            return self.broken(action, &error);
        }
        let path = self.path().to_owned();
        let source = Box::new(Reason(reason(&error)));
        match error.code() {
            Some(&SqlState::DISK_FULL) => StoreError::Full { path },
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => StoreError::Missing { path },
            _ => StoreError::Engine { path, action, source },
        }
    }

    fn broken(&self, action: &'static str, error: &postgres::Error) -> StoreError {
        StoreError::Connection {
            path: self.path().to_owned(),
            action,
            source: Box::new(Reason(reason(error))),
        }
    }
}

/// Advisory locks are numbers that all programs of a database share.
fn lock_number(address: &Address) -> i64 {
    let hash = blake3::hash(format!("bifocal writer of {}", address.store).as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_le_bytes(first)
}

impl Drop for Connections {
    fn drop(&mut self) {
        let readers = self.readers.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut clients = std::mem::take(readers);
        if let Some(writer) = &mut self.writer {
            clients.extend(writer.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        }
        discard(clients);
    }
}

/// Closes connections, each of which waits until the server has heard of it. On a thread of its own: the client must not wait on a
/// thread that runs asynchronous code.
fn discard(clients: Vec<Client>) {
    if clients.is_empty() {
        return;
    }
    let closing = std::thread::Builder::new().spawn(move || drop(clients));
    if let Ok(closing) = closing {
        // A panic while closing is nobody's concern any more.
        let _ = closing.join();
    }
}

/// Whether the connection, and not the call, is the problem.
fn is_lost(error: &postgres::Error) -> bool {
    if error.is_closed() {
        return true;
    }
    match error.code() {
        Some(code) => {
            // Class 08: connections. Class 57P: the server is shut down, has crashed, is starting.
            code.code().starts_with("08")
                || [
                    SqlState::ADMIN_SHUTDOWN,
                    SqlState::CRASH_SHUTDOWN,
                    SqlState::CANNOT_CONNECT_NOW,
                ]
                .contains(code)
        }
        None => {
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                if inner.is::<std::io::Error>() {
                    // A certificate that is not accepted comes as one of these too, and will not be accepted next time.
                    return !inner.to_string().contains("certificate");
                }
                cause = inner.source();
            }
            false
        }
    }
}

/// All that an error says.
fn reason(error: &postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let more = [db.detail(), db.hint()].into_iter().flatten();
        let more: String = more.map(|text| format!("; {text}")).collect();
        return format!("{}{more} ({})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
