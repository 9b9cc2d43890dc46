//! The vectors in memory, brought up to date by what changed since the last look.

use bifocal_kernels::scan::scan_top_k;
use half::f16;
use rusqlite::Connection;

use crate::error::StoreError;

use crate::store::from_bytes;

use super::engine::Context;
use super::schema;
use super::write::KEPT_GENERATIONS;

/// All vectors of one generation of the store, in the order of their ids.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The generation that it shows; `None`: nothing was loaded.
    generation: Option<i64>,
    ids: Vec<i64>,
    rows: Vec<f16>,
}

impl Cache {
    pub(super) fn generation(&self) -> Option<i64> {
        self.generation
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.rows[..]) + size_of_val(&self.ids[..])
    }

    /// The best ids with their scores.
    pub(super) fn search(&self, dim: usize, query: &[f32], k: usize) -> Vec<(i64, f32)> {
        scan_top_k(&self.rows, dim, query, k)
            .into_iter()
            .map(|(row, score)| (self.ids[row], score))
            .collect()
    }

    /// Brings it to `generation`, the one that the connection's open transaction sees.
    pub(super) fn refresh(
        &mut self,
        connection: &Connection,
        generation: i64,
        dim: usize,
        cx: Context,
    ) -> Result<(), StoreError> {
        if self.generation == Some(generation) {
            return Ok(());
        }
        // Removals are remembered for so many generations; a restored older copy of the file looks like the future.
        let known = self
            .generation
            .filter(|g| (generation - KEPT_GENERATIONS..generation).contains(g));
        match known {
            Some(since) => self
                .drop_removed(connection, since, dim)
                .map_err(|e| cx.engine("reading what was removed", e))?,
            None => (self.ids, self.rows) = (Vec::new(), Vec::new()),
        }
        // Until all is read, the content is that of no generation.
        self.generation = None;
        self.load_new(connection, dim, cx)?;
        self.generation = Some(generation);
        Ok(())
    }

    fn drop_removed(&mut self, connection: &Connection, since: i64, dim: usize) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached("SELECT id FROM removed WHERE generation > ?1")?;
        let mut removed: Vec<i64> = statement
            .query_map([since], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        if removed.is_empty() {
            return Ok(());
        }
        removed.sort_unstable();
        let mut kept = 0;
        for position in 0..self.ids.len() {
            if removed.binary_search(&self.ids[position]).is_ok() {
                continue;
            }
            if kept != position {
                self.ids[kept] = self.ids[position];
                self.rows.copy_within(position * dim..(position + 1) * dim, kept * dim);
            }
            kept += 1;
        }
        self.ids.truncate(kept);
        self.rows.truncate(kept * dim);
        Ok(())
    }

    fn load_new(&mut self, connection: &Connection, dim: usize, cx: Context) -> Result<(), StoreError> {
        let last = self.ids.last().copied().unwrap_or(i64::MIN);
        let fail = |e| cx.engine("reading vectors", e);
        let count: i64 = connection
            .prepare_cached("SELECT count(*) FROM vectors WHERE id > ?1")
            .and_then(|mut s| s.query_row([last], |row| row.get(0)))
            .map_err(fail)?;
        let count = usize::try_from(count).unwrap_or(0);
        let memory = |_| StoreError::Memory {
            path: cx.path.to_owned(),
            count,
            bytes: count.saturating_mul(2 * dim),
        };
        self.rows.try_reserve(count.saturating_mul(dim)).map_err(memory)?;
        self.ids.try_reserve(count).map_err(memory)?;
        let mut statement = connection
            .prepare_cached("SELECT id, f16 FROM vectors WHERE id > ?1 ORDER BY id")
            .map_err(fail)?;
        let mut rows = statement.query([last]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let id: i64 = row.get(0).map_err(fail)?;
            let bytes = row.get_ref(1).and_then(|v| Ok(v.as_blob()?)).map_err(fail)?;
            let values = from_bytes(bytes, dim)
                .ok_or_else(|| cx.corrupt(format!("the vector of item {id} is not {dim} numbers")))?;
            self.rows.extend(values);
            self.ids.push(id);
        }
        Ok(())
    }

    /// Forgets everything, after a damaged row.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The generation that the open transaction sees.
pub(super) fn current(connection: &Connection, cx: Context) -> Result<i64, StoreError> {
    schema::generation(connection).map_err(|e| cx.engine("reading its generation", e))
}
