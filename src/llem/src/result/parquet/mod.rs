//! Parquet tables, and the same as CSV; the only code that sees Arrow. Units are in the column names, meanings in the field metadata.

mod csv;
mod experiments;
mod runs;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, UInt32Builder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{Field, Schema};
use llem_protocol::{CurveKind, PowerSample, RequestRecord};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::metrics::{domain_name, e2e_ms, itl_ms, ttft_ms};
use super::same_work::Generated;
use super::store::write_atomic;
use super::{Distribution, SCHEMA_VERSION, StoreError, StudyResult};

pub(super) use experiments::write_experiments;

/// A column: name, meaning, values.
type Column = (&'static str, &'static str, ArrayRef);

/// Writes one row per request and pass of the window.
pub(super) fn write_requests(path: &Path, requests: &[RequestRecord]) -> Result<(), StoreError> {
    let mut tokens = ListBuilder::new(UInt64Builder::new());
    let mut ids = ListBuilder::new(UInt32Builder::new());
    for request in requests {
        tokens.append_value(request.token_ns.iter().map(|ns| Some(*ns)));
        ids.append_value(request.output_ids.iter().map(|id| Some(*id)));
    }
    let itl_mean = |r: &RequestRecord| Distribution::of(itl_ms(r).collect()).map(|d| d.mean);
    let columns: Vec<Column> = vec![
        ("pass", "number of the pass, counted over warm-up and window", u32s(requests, |r| Some(r.pass))),
        ("request_index", "position in the workload", u64s(requests, |r| Some(r.index))),
        ("batch", "batch of the pass, for engines with static batches", u32s(requests, |r| r.batch)),
        ("prompt_tokens", "tokens of the prompt, without padding", u32s(requests, |r| Some(r.prompt_tokens))),
        ("output_tokens", "generated tokens", u64s(requests, |r| Some(r.token_ns.len() as u64))),
        ("submit_ns", "handed to the engine, CLOCK_MONOTONIC", u64s(requests, |r| Some(r.submit_ns))),
        ("ttft_ms", "from submit to the first token", f64s(requests, ttft_ms)),
        ("itl_mean_ms", "mean time between two tokens", f64s(requests, itl_mean)),
        ("e2e_ms", "from submit to the last token", f64s(requests, e2e_ms)),
        ("token_ns", "each generated token, CLOCK_MONOTONIC", Arc::new(tokens.finish())),
        ("output_ids", "the generated token ids", Arc::new(ids.finish())),
    ];
    write(path, columns)
}

/// Reads what was generated from a table of [`write_requests`].
pub(super) fn read_generated(path: &Path) -> Result<Vec<Generated>, StoreError> {
    let file = fs_err::File::open(path)?.into_parts().0;
    let failed = |source| StoreError::Parquet { path: path.to_owned(), source };
    // parquet 60.1 panics at some damage: no reason to end a study.
    let read = std::panic::catch_unwind(|| generated(file));
    read.unwrap_or_else(|_| Err(ParquetError::General("it is damaged".to_owned()))).map_err(failed)
}

fn generated(file: std::fs::File) -> Result<Vec<Generated>, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let columns = ["pass", "request_index", "prompt_tokens", "output_ids"];
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    let mut rows = Vec::new();
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let missing = || ParquetError::General("it lacks a column of llem's".to_owned());
        let column = |name: &str| batch.column_by_name(name).ok_or_else(missing);
        let u32s = |name| column(name)?.as_primitive_opt::<UInt32Type>().ok_or_else(missing);
        let (passes, prompts) = (u32s("pass")?, u32s("prompt_tokens")?);
        let indices = column("request_index")?.as_primitive_opt::<UInt64Type>().ok_or_else(missing)?;
        let ids = column("output_ids")?.as_list_opt::<i32>().ok_or_else(missing)?;
        for row in 0..batch.num_rows() {
            let output_ids = ids.value(row).as_primitive_opt::<UInt32Type>().ok_or_else(missing)?.values().to_vec();
            let (pass, index) = (passes.value(row), indices.value(row));
            rows.push(Generated { pass, index, prompt_tokens: prompts.value(row), output_ids });
        }
    }
    Ok(rows)
}

/// Writes one row per power sample of the whole run.
pub(super) fn write_samples(path: &Path, samples: &[PowerSample]) -> Result<(), StoreError> {
    let columns: Vec<Column> = vec![
        ("t_ns", "time of the reading, CLOCK_MONOTONIC", u64s(samples, |s| Some(s.t_ns))),
        ("domain", "what the sensor covers, source:id", texts(samples, |s| domain_name(&s.domain))),
        ("power_w", "power; null when the reading failed, or is of something else", f64s(samples, |s| s.power_w)),
        (
            "curve_kind",
            "what power_w means: mean, instant or moving_average",
            maybe_texts(samples, |s| s.curve_kind.map(curve_kind)),
        ),
        ("power_average_w", "the driver's moving average over one second", f64s(samples, |s| s.power_average_w)),
        ("temperature_c", "temperature", f64s(samples, |s| s.temperature_c)),
        ("clock_mhz", "clock of the compute units", f64s(samples, |s| s.clock_mhz)),
        ("memory_clock_mhz", "clock of the device's memory", f64s(samples, |s| s.memory_clock_mhz)),
        ("throttle_reasons", "NVML's clocks-event reasons, a bit mask", u64s(samples, |s| s.throttle_reasons)),
        ("memory_used_bytes", "memory in use on the device", u64s(samples, |s| s.memory_used_bytes)),
    ];
    write(path, columns)
}

/// Writes one row per run of a study.
pub(super) fn write_runs(path: &Path, study: &StudyResult) -> Result<(), StoreError> {
    write(path, runs::columns(study))
}

/// Unit of a column by its name, `1` for what has none: counts, places, names.
fn unit(name: &str) -> &'static str {
    let name = ["_sd", "_expanded_u", "_comparison_u"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
    match name {
        "output_tokens" | "prompt_tokens" => return "tokens",
        "output_tokens_per_s" => return "tokens/s",
        "requests_per_s" => return "requests/s",
        _ if name.ends_with("_token_j") => return "J/token",
        _ => {}
    }
    match name.rsplit_once('_').map(|(_, ending)| ending) {
        Some("ns") => "ns",
        Some("ms") => "ms",
        Some("s") => "s",
        Some("j") => "J",
        Some("w") => "W",
        Some("g") => "g",
        Some("c") => "°C",
        Some("mhz") => "MHz",
        Some("bytes") => "B",
        _ => "1",
    }
}

fn curve_kind(kind: CurveKind) -> &'static str {
    match kind {
        CurveKind::Mean => "mean",
        CurveKind::Instant => "instant",
        CurveKind::MovingAverage => "moving_average",
        CurveKind::Samples => "samples",
    }
}

fn u32s<T>(rows: &[T], value: impl Fn(&T) -> Option<u32>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<UInt32Array>())
}

fn u64s<T>(rows: &[T], value: impl Fn(&T) -> Option<u64>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<UInt64Array>())
}

fn f64s<T>(rows: &[T], value: impl Fn(&T) -> Option<f64>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<Float64Array>())
}

fn texts<T>(rows: &[T], value: impl Fn(&T) -> String) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
}

fn maybe_texts<T>(rows: &[T], value: impl Fn(&T) -> Option<&'static str>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringArray>())
}

/// Writes a table whose columns say what they mean.
fn write(path: &Path, columns: Vec<Column>) -> Result<(), StoreError> {
    let failed = |source| StoreError::Parquet { path: path.to_owned(), source };
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, meaning, values)| {
            let metadata = [("unit", unit(name)), ("description", *meaning)];
            let metadata = HashMap::from(metadata.map(|(key, value)| (key.to_owned(), value.to_owned())));
            Field::new(*name, values.data_type().clone(), true).with_metadata(metadata)
        })
        .collect();
    let version = [("schema_version".to_owned(), SCHEMA_VERSION.to_string())];
    let schema = Arc::new(Schema::new_with_metadata(fields, HashMap::from(version)));
    let values = columns.into_iter().map(|(_, _, values)| values).collect();
    let batch = RecordBatch::try_new(schema.clone(), values).map_err(|e| failed(e.into()))?;
    let compression = Compression::ZSTD(ZstdLevel::try_new(3).map_err(failed)?);
    let version = KeyValue::new("schema_version".to_owned(), SCHEMA_VERSION.to_string());
    let properties =
        WriterProperties::builder().set_compression(compression).set_key_value_metadata(Some(vec![version])).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    write_atomic(path, &writer.into_inner().map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, UInt64Type};
    use arrow_array::{Array, RecordBatch};
    use llem_protocol::{CurveKind, PowerDomain, PowerSample, PowerScope, PowerSourceKind, RequestRecord};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::{read_generated, unit, write_requests, write_runs, write_samples};
    use crate::result::StudyResult;
    use crate::result::same_work::Generated;

    fn read(path: &std::path::Path) -> RecordBatch {
        let file = fs_err::File::open(path).unwrap().into_file();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        reader.next().unwrap().unwrap()
    }

    #[test]
    fn requests_come_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("requests.parquet");
        let record = RequestRecord {
            pass: 2,
            index: 1,
            batch: None,
            prompt_tokens: 7,
            submit_ns: 1_000_000,
            token_ns: vec![3_000_000, 4_000_000, 6_000_000],
            output_ids: vec![9, 8, 7],
        };
        write_requests(&path, &[record]).unwrap();
        let expected = Generated { pass: 2, index: 1, prompt_tokens: 7, output_ids: vec![9, 8, 7] };
        assert_eq!(read_generated(&path).unwrap(), [expected]);
        let batch = read(&path);
        let f64_of = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Float64Type>().value(0);
        assert!((f64_of("ttft_ms") - 2.0).abs() < 1e-12);
        assert!((f64_of("itl_mean_ms") - 1.5).abs() < 1e-12);
        assert!((f64_of("e2e_ms") - 5.0).abs() < 1e-12);
        assert!(batch.column_by_name("batch").unwrap().is_null(0));
        let tokens = batch.column_by_name("token_ns").unwrap().as_list::<i32>().value(0);
        assert_eq!(tokens.as_primitive::<UInt64Type>().values(), &[3_000_000, 4_000_000, 6_000_000]);
        let file = fs_err::File::open(&path).unwrap().into_file();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let metadata = builder.metadata().file_metadata().key_value_metadata().unwrap();
        assert!(metadata.iter().any(|pair| pair.key == "schema_version" && pair.value.as_deref() == Some("2")));
        let meaning = builder.schema().field_with_name("ttft_ms").unwrap().metadata().get("description").cloned();
        assert_eq!(meaning.as_deref(), Some("from submit to the first token"));
    }

    #[test]
    fn every_column_has_its_unit_and_meaning() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let old =
            StudyResult::from_json(include_bytes!("../../../../../tests/old-results/schema-1/study.json")).unwrap();
        write_requests(&path("requests"), &[]).unwrap();
        write_samples(&path("samples"), &[]).unwrap();
        write_runs(&path("runs"), &old).unwrap();
        super::write_experiments(dir.path(), &old).unwrap();
        for name in ["requests", "samples", "runs", "experiments.parquet"] {
            let file = fs_err::File::open(path(name)).unwrap().into_file();
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            for field in builder.schema().fields() {
                let of = |key: &str| field.metadata().get(key).cloned().unwrap_or_default();
                assert!(!of("unit").is_empty() && !of("description").is_empty(), "{name}: {field}");
                // What is not counted in ones says its unit in its name.
                let number = field.data_type().is_floating();
                assert!(!number || of("unit") != "1", "{name}: {field}");
            }
        }
        let runs = read(&path("runs"));
        assert_eq!((runs.num_rows(), runs["cycle"].as_primitive::<UInt64Type>().value(0)), (1, 1));
        assert!((runs["energy_j"].as_primitive::<Float64Type>().value(0) - 1.5).abs() < 1e-12);
        let units =
            ["co2_g_sd", "energy_per_output_token_j_expanded_u", "t_ns", "temperature_c", "pass", "window_s"].map(unit);
        assert_eq!(units, ["g", "J/token", "ns", "°C", "1", "s"]);
    }

    #[test]
    fn a_failed_reading_is_null_and_no_samples_are_an_empty_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("timeseries.parquet");
        let domain = PowerDomain { source: PowerSourceKind::Nvml, id: "GPU-a".into(), scope: PowerScope::Gpu };
        let sample = |power_w| PowerSample {
            t_ns: 5,
            domain: domain.clone(),
            power_w,
            curve_kind: power_w.map(|_| CurveKind::Mean),
            power_average_w: None,
            memory_clock_mhz: Some(2619.0),
            throttle_reasons: power_w.map(|_| 4),
            temperature_c: None,
            clock_mhz: Some(1980.0),
            memory_used_bytes: None,
        };
        write_samples(&path, &[sample(Some(300.0)), sample(None)]).unwrap();
        let batch = read(&path);
        assert_eq!(batch.column_by_name("power_w").unwrap().null_count(), 1);
        let kinds = batch.column_by_name("curve_kind").unwrap().as_string::<i32>();
        assert_eq!((kinds.value(0), kinds.is_null(1)), ("mean", true));
        let reasons = batch.column_by_name("throttle_reasons").unwrap().as_primitive::<UInt64Type>();
        assert_eq!((reasons.value(0), reasons.is_null(1)), (4, true));
        assert_eq!(batch.column_by_name("power_average_w").unwrap().null_count(), 2);
        assert_eq!(batch.column_by_name("domain").unwrap().as_string::<i32>().value(0), "nvml:GPU-a");
        write_samples(&path, &[]).unwrap();
        let file = fs_err::File::open(&path).unwrap().into_file();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!((builder.metadata().file_metadata().num_rows(), builder.schema().fields().len()), (0, 10));
    }
}
