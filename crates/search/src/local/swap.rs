//! One store's content in another one's place.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::StoreError;
use crate::store::ModelId;

use super::engine::Context;
use super::schema;

/// Items get ids that were never used here before, so that readers notice by the same means as any other change.
const REPLACE: &str = "
    INSERT OR REPLACE INTO main.removed (id, generation) SELECT id, :generation FROM main.items;
    DELETE FROM main.items;
    INSERT INTO main.items (id, key, size, modified_ns, hash, metadata)
        SELECT id + :offset, key, size, modified_ns, hash, metadata FROM beside.items ORDER BY id;
    INSERT INTO main.vectors (id, f16) SELECT id + :offset, f16 FROM beside.vectors ORDER BY id;
    INSERT INTO main.thumbnails (id, jpeg) SELECT id + :offset, jpeg FROM beside.thumbnails ORDER BY id;
    INSERT OR REPLACE INTO main.failures (key, size, modified_ns, cause, reason, at)
        SELECT key, size, modified_ns, cause, reason, at FROM beside.failures;
    UPDATE main.meta SET value = :generation WHERE key = 'generation';
";

/// Copies everything from the store in `file`, which nobody writes, in one transaction.
pub(super) fn replace(
    connection: &mut Connection,
    file: &Path,
    model: &ModelId,
    cx: Context,
) -> Result<(), StoreError> {
    let fail = |e| cx.engine("replacing its content", e);
    let file = file.to_str().ok_or_else(|| StoreError::Invalid {
        what: format!("the path {}", file.display()),
        why: "is not UTF-8; rename the folder",
    })?;
    connection.execute("ATTACH ?1 AS beside", [file]).map_err(fail)?;
    let result = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .and_then(|tx| {
            copy(&tx, model)?;
            tx.commit()
        });
    let detached = connection.execute("DETACH beside", []);
    result.and(detached.map(|_| ())).map_err(fail)
}

fn copy(tx: &Transaction, model: &ModelId) -> rusqlite::Result<()> {
    let generation = schema::generation(tx)? + 1;
    let offset: i64 = tx.query_row(
        "SELECT coalesce(max(seq), 0) FROM main.sqlite_sequence WHERE name = 'items'",
        [],
        |row| row.get(0),
    )?;
    for statement in REPLACE.split(';').filter(|s| !s.trim().is_empty()) {
        let mut statement = tx.prepare(statement)?;
        for (name, value) in [(":generation", generation), (":offset", offset)] {
            if let Some(at) = statement.parameter_index(name)? {
                statement.raw_bind_parameter(at, value)?;
            }
        }
        statement.raw_execute()?;
    }
    let mut update = tx.prepare("UPDATE main.meta SET value = ?2 WHERE key = ?1")?;
    update.execute(("model.fingerprint", &model.fingerprint))?;
    update.execute(("model.dim", model.dim as i64))?;
    update.execute(("model.name", &model.name))?;
    Ok(())
}
