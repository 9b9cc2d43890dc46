//! Tables that are written are read again, by the reader for datasets and by the library's own.
#![cfg(feature = "parquet")]

use std::fs::File;

use bifocal_data::Dataset;
use bifocal_data::table::{Column, write};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    // more than one group of rows
    let n = 10_003;
    let texts: Vec<Option<String>> = (0..n).map(|i| (i % 3 != 1).then(|| format!("text {i} ä"))).collect();
    let numbers: Vec<Option<i64>> = (0..n).map(|i| (i % 2 == 0).then_some(i - 5)).collect();
    let rows: Vec<f32> = (0..3 * n).map(|i| i as f32 / 7.0).collect();
    let columns = [
        ("caption", Column::Text(texts.iter().map(Option::as_deref).collect())),
        ("number", Column::Number(numbers.clone())),
        ("embedding", Column::Vector(&rows, 3)),
    ];
    write(File::create(&path).unwrap(), &columns).unwrap();
    let mut again = Vec::new();
    write(&mut again, &columns).unwrap();
    assert!(again == std::fs::read(&path).unwrap());

    let captions: Vec<String> = Dataset::open(&path)
        .unwrap()
        .samples
        .into_iter()
        .flat_map(|sample| sample.captions.into_values().flatten())
        .collect();
    assert_eq!(captions, texts.iter().flatten().cloned().collect::<Vec<_>>());

    let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    assert_eq!(file.metadata().num_row_groups(), 2);
    let mut count = 0;
    for (i, row) in file.get_row_iter(None).unwrap().enumerate() {
        let row = row.unwrap();
        let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
        let number = match fields[1] {
            Field::Long(number) => Some(*number),
            _ => None,
        };
        assert_eq!(number, numbers[i]);
        let Field::ListInternal(list) = fields[2] else {
            panic!("a list")
        };
        let values: Vec<f32> = list
            .elements()
            .iter()
            .map(|field| match field {
                Field::Float(value) => *value,
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(values, rows[3 * i..3 * i + 3]);
        count += 1;
    }
    assert_eq!(count, n);
}

#[test]
fn columns_of_different_lengths_are_refused() {
    let columns = [("a", Column::Number(vec![None])), ("b", Column::Text(vec![None, None]))];
    assert!(write(Vec::new(), &columns).is_err());
}
