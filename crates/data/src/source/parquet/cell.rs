//! One picture of a parquet file. Pages are packed as a whole, so the last few are kept: neighbours are mostly asked for together.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;

use super::pages::Source;
use super::unpanicked;
use crate::decode::{DecodeError, Limits};

/// Most bytes of pages that are kept, for the whole process; the last one is kept whatever its size.
const KEPT: usize = 256 << 20;

/// The pictures of a file.
pub(super) struct Pictures {
    pub source: Arc<Source>,
    pub metadata: ParquetMetaData,
    /// Which leaf of the schema.
    pub column: usize,
    /// First row of each page, of each group; found when a group is first asked for.
    pages: Vec<OnceLock<Vec<usize>>>,
    /// Two threads that want the same page should not both unpack it.
    unpacking: Mutex<()>,
}

/// A picture in a column of a parquet file.
#[derive(Clone)]
pub struct Cell {
    pub(super) pictures: Arc<Pictures>,
    pub(super) group: u32,
    /// In its group, from 0.
    pub(super) row: u32,
    /// In the file, from 1.
    pub(super) number: u64,
}

/// The values of a page.
struct Page {
    group: usize,
    first: usize,
    values: Vec<Option<ByteArray>>,
    bytes: usize,
}

static PAGES: Mutex<VecDeque<(Arc<Source>, Arc<Page>)>> = Mutex::new(VecDeque::new());

impl Pictures {
    pub fn new(source: Arc<Source>, metadata: ParquetMetaData, column: usize) -> Self {
        let pages = (0..metadata.num_row_groups()).map(|_| OnceLock::new()).collect();
        Self {
            source,
            metadata,
            column,
            pages,
            unpacking: Mutex::new(()),
        }
    }

    /// The value, which is `None` for null.
    fn value(&self, group: usize, row: usize) -> Result<Option<ByteArray>> {
        let page = match self.kept(group, row) {
            Some(page) => page,
            None => {
                let _only = lock(&self.unpacking);
                match self.kept(group, row) {
                    Some(page) => page,
                    None => self.keep(self.page(group, row)?),
                }
            }
        };
        Ok(page.values.get(row - page.first).cloned().flatten())
    }

    fn kept(&self, group: usize, row: usize) -> Option<Arc<Page>> {
        let pages = lock(&PAGES);
        let mut pages = pages.iter().filter(|(source, _)| Arc::ptr_eq(source, &self.source));
        let here = |page: &Page| page.group == group && (page.first..page.first + page.values.len()).contains(&row);
        pages.find(|(_, page)| here(page)).map(|(_, page)| page.clone())
    }

    fn keep(&self, page: Page) -> Arc<Page> {
        let page = Arc::new(page);
        let mut pages = lock(&PAGES);
        pages.push_back((self.source.clone(), page.clone()));
        while pages.len() > 1 && pages.iter().map(|(_, p)| p.bytes).sum::<usize>() > KEPT {
            pages.pop_front();
        }
        page
    }

    fn page(&self, group: usize, row: usize) -> Result<Page> {
        let chunk = self.metadata.row_group(group).column(self.column);
        let odd = || ParquetError::General(format!("the column has no row {row} in group {group}"));
        let starts = match self.pages[group].get() {
            Some(starts) => starts,
            None => {
                let starts = self.starts(group)?;
                self.pages[group].get_or_init(|| starts)
            }
        };
        let place = starts.partition_point(|&start| start <= row);
        let (&first, &end) = place
            .checked_sub(1)
            .and_then(|before| starts.get(before).zip(starts.get(place)))
            .ok_or_else(odd)?;
        let descr = self.metadata.file_metadata().schema_descr().column(self.column);
        let most = descr.max_def_level();
        let mut reader = ColumnReaderImpl::<ByteArrayType>::new(descr, self.source.pages(chunk)?);
        if reader.skip_records(first)? != first {
            return Err(odd());
        }
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (records, _, _) = reader.read_records(end - first, Some(&mut levels), None, &mut values)?;
        if most == 0 {
            levels = vec![0; records];
        }
        let bytes = values.iter().map(ByteArray::len).sum();
        let mut values = values.into_iter();
        Ok(Page {
            group,
            first,
            values: levels
                .iter()
                .map(|&level| if level == most { values.next() } else { None })
                .collect(),
            bytes,
        })
    }

    /// First rows of the pages of a group, and the end of the last.
    fn starts(&self, group: usize) -> Result<Vec<usize>> {
        let mut pages = self.source.pages(self.metadata.row_group(group).column(self.column))?;
        let mut starts = vec![0usize];
        while let Some(page) = pages.peek_next_page()? {
            // a column without lists has one level for each row
            if let Some(rows) = page.num_rows.or(page.num_levels).filter(|_| !page.is_dict) {
                let last = starts.last().copied().unwrap_or(0);
                starts.push(
                    last.checked_add(rows)
                        .ok_or_else(|| ParquetError::General("too many rows".to_owned()))?,
                );
            }
            pages.skip_next_page()?;
        }
        Ok(starts)
    }
}

impl Cell {
    pub(in crate::source) fn file(&self) -> &std::path::Path {
        self.pictures.source.path()
    }

    pub(in crate::source) fn read(&self, limits: &Limits) -> std::result::Result<Vec<u8>, DecodeError> {
        let io = |reason: String| DecodeError::Io {
            path: self.pictures.source.path().to_owned(),
            reason: format!("row {}: {reason}", self.number),
        };
        let (group, row) = (self.group as usize, self.row as usize);
        let value = unpanicked(|| self.pictures.value(group, row)).map_err(io)?;
        let value = value.ok_or_else(|| io("the picture is null".to_owned()))?;
        if value.len() as u64 > limits.bytes {
            return Err(DecodeError::TooLarge {
                bytes: value.len() as u64,
                limit: limits.bytes,
            });
        }
        Ok(value.data().to_vec())
    }
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number && self.pictures.source.path() == other.pictures.source.path()
    }
}

impl Eq for Cell {}

impl Hash for Cell {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pictures.source.path().hash(state);
        self.number.hash(state);
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: row {}", self.pictures.source.path().display(), self.number)
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cell({self})")
    }
}

/// A thread that panicked left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
