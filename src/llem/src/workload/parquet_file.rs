use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Field;
use parquet::schema::types::Type;

use super::WorkloadError;

/// Reads a text column of a Parquet file, in file order. The file's own columns beside it are not decoded.
pub(super) fn read_column(path: &Path, column: &str, max_bytes: u64) -> Result<Vec<String>, WorkloadError> {
    let file = fs_err::File::open(path)?.into_parts().0;
    // parquet 60.1 asserts where damaged metadata should be an error, e.g. in ColumnChunkMetaData::byte_range.
    let outcome = std::panic::catch_unwind(|| read(file, column, max_bytes));
    let outcome = outcome.unwrap_or_else(|_| Err("its metadata contradicts itself: it is damaged".to_owned()));
    outcome.map_err(|reason| WorkloadError::Parquet { path: path.to_owned(), column: column.to_owned(), reason })
}

fn read(file: std::fs::File, column: &str, max_bytes: u64) -> Result<Vec<String>, String> {
    let describe = |error: ParquetError| error.to_string();
    let reader = SerializedFileReader::new(file).map_err(describe)?;
    let metadata = reader.metadata();
    let declared: i64 = metadata.row_groups().iter().map(|group| group.total_byte_size().max(0)).sum();
    if declared as u64 > max_bytes {
        return Err(format!("it declares {declared} bytes of data, more than {max_bytes}"));
    }
    let schema = metadata.file_metadata().schema();
    let field = schema.get_fields().iter().find(|field| field.name() == column).ok_or("it has no such column")?;
    let projection = Type::group_type_builder(schema.name()).with_fields(vec![field.clone()]).build();
    let rows = reader.get_row_iter(Some(projection.map_err(describe)?)).map_err(describe)?;
    (1..).zip(rows).map(|(number, row)| text(row.map_err(describe)?.into_columns(), number)).collect()
}

fn text(columns: Vec<(String, Field)>, number: u64) -> Result<String, String> {
    match columns.into_iter().next() {
        Some((_, Field::Str(text))) => Ok(text),
        _ => Err(format!("row {number} is not text")),
    }
}
