//! The store that grows beside one, and takes its place.

use std::time::{Duration, Instant};

use postgres::Transaction;
use postgres::error::SqlState;

use crate::error::StoreError;

use super::address::Address;
use super::connection::{Connections, Failure};
use super::schema;

/// How long calls that read are waited for before they are let past.
const LOCK: &str = "SET LOCAL lock_timeout = '2s'";
/// How long this is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reading calls come to these tables in this order, so that nobody waits for each other in a circle. They look at the state first: none of them sees a
/// part of the old store and a part of the new one.
const TABLES: &str = "LOCK TABLE @state, @items, @vectors, @thumbnails IN ACCESS EXCLUSIVE MODE";

/// What could not be indexed is still known then; what the one beside says of it counts.
const FAILURES: &str = "INSERT INTO #failures SELECT * FROM @failures ON CONFLICT (key) DO NOTHING";

/// Whoever may use a table may use the one that takes its place. `@` is the store's schema, `#` the one beside, both without quotes.
const REPLACE: &str = "DO $$
DECLARE
    kept CONSTANT oid := '\"@\"'::regnamespace;
    beside CONSTANT oid := '\"#\"'::regnamespace;
    own record;
    may record;
BEGIN
    FOR may IN
        SELECT c.relname, a.privilege_type, a.grantee, a.is_grantable
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.relnamespace = kept AND c.relkind = 'r' AND a.grantee <> c.relowner
            AND EXISTS (SELECT 1 FROM pg_class n WHERE n.relnamespace = beside AND n.relkind = 'r' AND n.relname = c.relname)
    LOOP
        EXECUTE format('GRANT %s ON \"#\".%I TO %s %s', may.privilege_type, may.relname,
            CASE may.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(may.grantee)) END,
            CASE WHEN may.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END);
    END LOOP;
    EXECUTE (SELECT 'DROP TABLE ' || string_agg(format('\"@\".%I', relname), ', ')
        FROM pg_class WHERE relnamespace = kept AND relkind = 'r' AND relname <> 'versions');
    FOR own IN SELECT relname FROM pg_class WHERE relnamespace = beside AND relkind = 'r' AND relname <> 'versions' LOOP
        EXECUTE format('ALTER TABLE \"#\".%I SET SCHEMA \"@\"', own.relname);
    END LOOP;
END $$;
DROP SCHEMA \"#\" CASCADE";

/// What tells the schema beside from one that happens to have its name.
fn mark(address: &Address) -> String {
    format!("bifocal: grows beside {} until it takes its place", address.store)
}

/// Whether there is a schema beside; one of somebody else's is refused.
fn find(tx: &mut Transaction, address: &Address, beside: &Address) -> Result<bool, Failure> {
    const COMMENT: &str = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1";
    let Some(row) = tx.query_opt(COMMENT, &[&beside.store])? else {
        return Ok(false);
    };
    if row.get::<_, Option<String>>(0) == Some(mark(address)) {
        return Ok(true);
    }
    Err(StoreError::Invalid {
        what: format!("the schema {} beside {}", beside.store, address.shown.display()),
        why: "is not one that a rebuild has made; rename it, or keep that store under another name",
    }
    .into())
}

/// Makes the schema beside, if it is not there.
pub(super) fn prepare(tx: &mut Transaction, address: &Address, beside: &Address) -> Result<(), Failure> {
    if !find(tx, address, beside)? {
        let (name, mark) = (&beside.store, mark(address));
        tx.batch_execute(&format!(
            "CREATE SCHEMA \"{name}\"; COMMENT ON SCHEMA \"{name}\" IS '{mark}'"
        ))?;
    }
    Ok(())
}

/// Removes what is beside: it was given up.
pub(super) fn empty(tx: &mut Transaction, address: &Address, beside: &Address) -> Result<(), Failure> {
    if find(tx, address, beside)? {
        tx.batch_execute(&format!("DROP SCHEMA \"{}\" CASCADE", beside.store))?;
    }
    prepare(tx, address, beside)
}

/// Lets the one beside take the place of the store that `connections` write.
pub(super) fn replace(connections: &Connections) -> Result<(), StoreError> {
    let (address, beside) = (&connections.address, connections.address.beside());
    let missing = || StoreError::Missing {
        path: address.shown.clone(),
    };
    connections.write("building the index", |tx| {
        if !find(tx, address, &beside)? || schema::check(tx, &beside)?.is_none() {
            return Err(missing().into());
        }
        schema::index(tx, &beside)
    })?;
    let begun = Instant::now();
    loop {
        let is_done = connections.write("replacing its content", |tx| {
            // The one beside has no writer, and gets none meanwhile.
            connections.lock_within(tx, &beside)?;
            tx.batch_execute(LOCK)?;
            match tx.batch_execute(&address.sql(TABLES)) {
                // What was begun is rolled back by the commit.
                Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && begun.elapsed() < PATIENCE => {
                    return Ok(false);
                }
                other => other?,
            }
            // Who has seen a generation never sees it again with other content.
            let generation = schema::state(tx, address, false)?.generation;
            let update = "UPDATE @state SET generation = generation + $1 + 1";
            tx.execute(&beside.sql(update), &[&generation])?;
            let failures = address.sql(FAILURES).replace('#', &beside.sql("@"));
            tx.execute(&failures, &[])?;
            tx.batch_execute(&REPLACE.replace('@', &address.store).replace('#', &beside.store))?;
            Ok(true)
        })?;
        if is_done {
            return Ok(());
        }
    }
}
