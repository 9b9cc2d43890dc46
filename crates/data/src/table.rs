//! Tables as parquet files, which pandas, pyarrow and DuckDB read.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, PrimitiveTypeBuilder, Type, TypePtr};

/// Rows of a group: what a reader has in memory at a time.
const GROUP: usize = 10_000;

/// A column; all of a table have the same number of rows.
#[derive(Debug, Clone)]
pub enum Column<'a> {
    /// Texts, or null.
    Text(Vec<Option<&'a str>>),
    /// Whole numbers, or null.
    Number(Vec<Option<i64>>),
    /// One list of `width` numbers a row, `[rows, width]`.
    Vector(&'a [f32], usize),
}

impl Column<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Text(values) => values.len(),
            Self::Number(values) => values.len(),
            Self::Vector(values, width) => values.len() / (*width).max(1),
        }
    }

    fn describe(&self, name: &str) -> Result<TypePtr> {
        let described = match self {
            Self::Text(_) => leaf(name, Physical::BYTE_ARRAY, Repetition::OPTIONAL)
                .with_converted_type(ConvertedType::UTF8)
                .with_logical_type(Some(LogicalType::String))
                .build()?,
            Self::Number(_) => leaf(name, Physical::INT64, Repetition::OPTIONAL).build()?,
            Self::Vector(..) => {
                let element = leaf("element", Physical::FLOAT, Repetition::REQUIRED).build()?;
                let list = Type::group_type_builder("list")
                    .with_repetition(Repetition::REPEATED)
                    .with_fields(vec![Arc::new(element)])
                    .build()?;
                Type::group_type_builder(name)
                    .with_repetition(Repetition::REQUIRED)
                    .with_converted_type(ConvertedType::LIST)
                    .with_logical_type(Some(LogicalType::List))
                    .with_fields(vec![Arc::new(list)])
                    .build()?
            }
        };
        Ok(Arc::new(described))
    }
}

fn leaf(name: &str, physical: Physical, repetition: Repetition) -> PrimitiveTypeBuilder<'_> {
    Type::primitive_type_builder(name, physical).with_repetition(repetition)
}

/// Writes a table; the same columns make the same bytes.
///
/// # Errors
/// Columns of different lengths, and whatever the operating system reports.
pub fn write(out: impl Write + Send, columns: &[(&str, Column)]) -> io::Result<()> {
    let rows = columns.first().map_or(0, |(_, column)| column.len());
    if columns.iter().any(|(_, column)| column.len() != rows) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the columns of the table have different numbers of rows",
        ));
    }
    write_all(out, columns, rows).map_err(io::Error::other)
}

fn write_all(out: impl Write + Send, columns: &[(&str, Column)], rows: usize) -> Result<()> {
    let fields = columns.iter().map(|(name, column)| column.describe(name));
    let schema = Type::group_type_builder("table")
        .with_fields(fields.collect::<Result<_>>()?)
        .build()?;
    let mut properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    for (name, column) in columns {
        if let Column::Vector(..) = column {
            // neither repeats nor shrinks
            let path = ColumnPath::new(vec![(*name).to_owned(), "list".to_owned(), "element".to_owned()]);
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_compression(path, Compression::UNCOMPRESSED);
        }
    }
    let mut file = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties.build()))?;
    for first in (0..rows).step_by(GROUP) {
        let mut group = file.next_row_group()?;
        for (_, column) in columns {
            write_column(&mut group, column, first, rows.min(first + GROUP))?;
        }
        group.close()?;
    }
    file.close()?;
    Ok(())
}

fn write_column<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    column: &Column,
    first: usize,
    end: usize,
) -> Result<()> {
    let Some(mut writer) = group.next_column()? else {
        return Ok(());
    };
    match column {
        Column::Text(values) => {
            let values = &values[first..end];
            let levels: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
            let texts: Vec<ByteArray> = values.iter().flatten().map(|&text| text.into()).collect();
            writer
                .typed::<ByteArrayType>()
                .write_batch(&texts, Some(&levels), None)?;
        }
        Column::Number(values) => {
            let values = &values[first..end];
            let levels: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
            let numbers: Vec<i64> = values.iter().flatten().copied().collect();
            writer.typed::<Int64Type>().write_batch(&numbers, Some(&levels), None)?;
        }
        Column::Vector(values, width) => {
            let values = &values[first * width..end * width];
            // there is an element everywhere; a new row begins where the list does
            let there = vec![1; values.len()];
            let begins: Vec<i16> = (0..values.len()).map(|i| i16::from(i % width != 0)).collect();
            writer
                .typed::<FloatType>()
                .write_batch(values, Some(&there), Some(&begins))?;
        }
    }
    writer.close()
}
