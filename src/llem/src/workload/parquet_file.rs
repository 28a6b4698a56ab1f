use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Field;
use parquet::schema::types::Type;

use super::WorkloadError;

/// Reads a text column of a Parquet file, in file order. The file's own columns beside it are not decoded.
pub(super) fn read_column(path: &Path, column: &str, max_bytes: u64) -> Result<Vec<String>, WorkloadError> {
    let file = fs_err::File::open(path)?.into_parts().0;
    let describe = |reason| WorkloadError::Parquet { path: path.to_owned(), column: column.to_owned(), reason };
    // parquet 60.1 panics at some damage, e.g. "Decoder for dict should have been set": no reason to end a study.
    let outcome = std::panic::catch_unwind(|| read(file, column, max_bytes));
    outcome.unwrap_or_else(|_| Err("it is damaged".into())).map_err(describe)
}

fn read(file: std::fs::File, column: &str, max_bytes: u64) -> Result<Vec<String>, String> {
    let describe = |error: ParquetError| error.to_string();
    let reader = SerializedFileReader::new(file).map_err(describe)?;
    let metadata = reader.metadata();
    check_declared_sizes(metadata, max_bytes)?;
    let schema = metadata.file_metadata().schema();
    let field = schema.get_fields().iter().find(|field| field.name() == column).ok_or("it has no such column")?;
    let projection = Type::group_type_builder(schema.name()).with_fields(vec![field.clone()]).build();
    let rows = reader.get_row_iter(Some(projection.map_err(describe)?)).map_err(describe)?;
    (1..).zip(rows).map(|(number, row)| text(row.map_err(describe)?.into_columns(), number)).collect()
}

/// Refuses sizes that the reader would believe: it allocates what is declared.
pub(crate) fn check_declared_sizes(metadata: &ParquetMetaData, max_bytes: u64) -> Result<(), String> {
    let mut declared: u64 = 0;
    for chunk in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
        if start < 0 || chunk.compressed_size() < 0 {
            return Err("it declares a negative size".into());
        }
        declared = declared.saturating_add(u64::try_from(chunk.uncompressed_size()).unwrap_or(u64::MAX));
    }
    if declared > max_bytes {
        Err(format!("it declares {declared} bytes of data, more than {max_bytes}"))
    } else {
        Ok(())
    }
}

fn text(columns: Vec<(String, Field)>, number: u64) -> Result<String, String> {
    match columns.into_iter().next() {
        Some((_, Field::Str(text))) => Ok(text),
        _ => Err(format!("row {number} is not text")),
    }
}
