//! Reads the Parquet tables of a run back; with `result/parquet.rs` and `workload/parquet_file.rs` the only code that sees Arrow.

use std::collections::BTreeMap;
use std::fs::File;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::latency::Latency;
use crate::workload::check_declared_sizes;

/// Largest content of a table, unpacked, in bytes.
const CONTENT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Rows that are unpacked at a time.
const ROWS: usize = 65_536;

/// The latencies of a run's requests, in the order of [`Latency::ALL`].
pub(super) type Latencies = [Vec<f64>; 3];

/// One point of a power curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PowerPoint {
    pub(super) t_ns: u64,
    pub(super) power_w: f64,
}

/// Reads `requests.parquet`. A latency that a request does not have is left out.
pub(super) fn latencies(file: File) -> Result<Latencies, String> {
    let names = Latency::ALL.map(Latency::name);
    let mut all = Latencies::default();
    read(file, &names, |batch| {
        for (values, name) in all.iter_mut().zip(names) {
            let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float64Type>());
            let column = column.ok_or_else(|| format!("its column `{name}` does not hold numbers"))?;
            values.extend(column.iter().flatten());
        }
        Ok(())
    })?;
    let odd = |value: &f64| !value.is_finite() || *value < 0.0;
    if all.iter().flatten().any(odd) {
        return Err("a latency in it is no number, or below 0".to_owned());
    }
    Ok(all)
}

/// Reads the power of `timeseries.parquet`, sensor by sensor in the order of their names. Readings that failed are left out.
pub(super) fn power(file: File) -> Result<BTreeMap<String, Vec<PowerPoint>>, String> {
    let mut curves = BTreeMap::<String, Vec<PowerPoint>>::new();
    read(file, &["t_ns", "domain", "power_w"], |batch| {
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"));
        let odd = "its columns are not those of a power curve";
        let times = column("t_ns")?.as_primitive_opt::<UInt64Type>().ok_or(odd)?;
        let powers = column("power_w")?.as_primitive_opt::<Float64Type>().ok_or(odd)?;
        let domains = column("domain")?.as_string_opt::<i32>().ok_or(odd)?;
        for ((time, power), domain) in times.iter().zip(powers).zip(domains) {
            let (Some(t_ns), Some(power_w), Some(domain)) = (time, power, domain) else { continue };
            if !power_w.is_finite() {
                return Err("a power in it is no number".to_owned());
            }
            let point = PowerPoint { t_ns, power_w };
            match curves.get_mut(domain) {
                Some(points) => points.push(point),
                None => drop(curves.insert(domain.to_owned(), vec![point])),
            }
        }
        Ok(())
    })?;
    Ok(curves)
}

/// Hands the batches of a table to `take`, with the named columns only.
fn read(file: File, columns: &[&str], mut take: impl FnMut(&RecordBatch) -> Result<(), String>) -> Result<(), String> {
    let batches = || -> Result<(), String> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
        check_declared_sizes(builder.metadata(), CONTENT_BYTES)?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(|error| error.to_string())?;
        reader.into_iter().try_for_each(|batch| take(&batch.map_err(|error| error.to_string())?))
    };
    // parquet 60.1 panics at some damage.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(batches));
    outcome.unwrap_or_else(|_| Err("it is damaged".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{latencies, power};

    #[test]
    fn what_is_no_table_is_refused() {
        for content in [&b""[..], b"PAR1", b"PAR1xxxxxxxxPAR1", &[0xff; 64]] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            assert!(latencies(file.try_clone().unwrap()).is_err());
            assert!(power(file).is_err());
        }
    }
}
