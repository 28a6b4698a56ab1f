//! A table as comma-separated values (RFC 4180, lines end in LF).

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::Column;
use crate::printable::csv_text;
use crate::result::StoreError;

/// The table with a line of column names. Null is an empty cell; numbers have as many digits as it takes to read the same number back.
pub(super) fn text(columns: &[Column]) -> Result<String, StoreError> {
    let rows = columns.first().map_or(0, |(_, _, values)| values.len());
    let mut lines = vec![columns.iter().map(|(name, _, _)| (*name).to_owned()).collect::<Vec<_>>().join(",")];
    for row in 0..rows {
        let cells = columns.iter().map(|(name, _, values)| cell(name, values, row));
        lines.push(cells.collect::<Result<Vec<_>, _>>()?.join(","));
    }
    Ok(lines.join("\n") + "\n")
}

fn cell(name: &'static str, values: &ArrayRef, row: usize) -> Result<String, StoreError> {
    if values.is_null(row) {
        return Ok(String::new());
    }
    match values.data_type() {
        DataType::Utf8 => Ok(csv_text(values.as_string::<i32>().value(row))),
        DataType::Float64 => Ok(values.as_primitive::<Float64Type>().value(row).to_string()),
        DataType::UInt64 => Ok(values.as_primitive::<UInt64Type>().value(row).to_string()),
        _ => Err(StoreError::NoText(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::result::parquet::{f64s, texts, u64s};

    #[test]
    fn numbers_read_back_equal_and_null_is_empty() {
        let rows = [Some(0.1 + 0.2), None];
        let columns = vec![
            ("label", "", texts(&rows, |row| format!("a=\"{}\", b", row.is_some()))),
            ("figure", "", f64s(&rows, |row| *row)),
            ("runs", "", u64s(&rows, |row| row.map(|_| u64::MAX))),
        ];
        let expected = "label,figure,runs\n\"a=\"\"true\"\", b\",0.30000000000000004,18446744073709551615\n\
                        \"a=\"\"false\"\", b\",,\n";
        assert_eq!(text(&columns).unwrap(), expected);
    }
}
