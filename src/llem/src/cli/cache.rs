use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use llem::config::UserConfig;
use llem::engine_cache::{
    CacheError, CacheSettings, Condition, Difference, EngineCache, Entry, Evicted, PruneReport, PruneRule, differences,
    nearest,
};
use serde_json::{Value, json};

use super::arguments::{CacheArguments, CacheCommand, Format, PruneArguments};
use super::printer::without_controls;
use super::{Exit, Failure, Printer, engines, table};

/// Entries that are compared with one that is asked about alone.
pub(super) const NEAREST: usize = 3;

/// Characters of a value that are shown; `--format json` has all of it.
const VALUE_WIDTH: usize = 60;

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Unknown { .. } | CacheError::Ambiguous { .. } => Self::usage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}

/// `llem cache ls|verify|prune|explain`.
pub(crate) fn cache(arguments: CacheArguments, printer: Printer) -> Result<Exit, Failure> {
    let user = UserConfig::load()?;
    let cache = EngineCache::open(CacheSettings::of(&user));
    match arguments.command {
        CacheCommand::Ls { format } => ls(&cache, format, printer),
        CacheCommand::Verify { evict } => verify(&cache, evict, printer),
        CacheCommand::Prune(rule) => prune(&cache, &rule, printer),
        CacheCommand::Explain { left, right: None, format } if is_file(&left) => {
            engines::explain_file(&cache, user, Path::new(&left), format, printer)
        }
        CacheCommand::Explain { left, right, format } => explain(&cache, &left, right.as_deref(), format, printer),
    }
}

/// The beginning of a key is hexadecimal.
fn is_file(text: &str) -> bool {
    text.contains(['.', '/']) || Path::new(text).is_file()
}

fn ls(cache: &EngineCache, format: Format, printer: Printer) -> Result<Exit, Failure> {
    let entries = cache.entries()?;
    match format {
        Format::Json => {
            let list: Vec<Value> = entries.iter().map(as_json).collect();
            printer.result(&format!("{:#}", json!({"dir": cache.dir(), "entries": list})))?;
        }
        Format::Human if entries.is_empty() => printer.line(&format!("no entries in {}", cache.dir().display())),
        Format::Human => {
            let total = entries.iter().map(|entry| entry.size_bytes).fold(0, u64::saturating_add);
            let mut text = list(&entries, Timestamp::now());
            let _ = write!(text, "\n{}, {}", number_of(entries.len()), bytes(total));
            printer.result(&text)?;
            printer.line(&format!("in {}; built and used: how long ago", cache.dir().display()));
        }
    }
    Ok(Exit::Success)
}

fn as_json(entry: &Entry) -> Value {
    let (manifest, problem) = match &entry.manifest {
        Ok(manifest) => (Some(manifest), None),
        Err(problem) => (None, Some(problem)),
    };
    json!({
        "kind": entry.kind, "key": entry.key, "path": entry.path, "size_bytes": entry.size_bytes,
        "last_used": entry.last_used.map(|at| at.strftime("%FT%TZ").to_string()),
        "manifest": manifest, "problem": problem,
    })
}

fn list(entries: &[Entry], now: Timestamp) -> String {
    let head = ["kind", "key", "model, engine, device", "size", "built", "used", "s", "J"].map(str::to_owned).to_vec();
    let rows = entries.iter().map(|entry| {
        let manifest = entry.manifest.as_ref();
        let what = manifest
            .map_or_else(Clone::clone, |m| format!("{}, {}, {}", m.summary.model, m.summary.engine, m.summary.device));
        let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
        let built = manifest.ok().and_then(|manifest| manifest.created.parse().ok());
        vec![
            entry.kind.name().split('-').next().unwrap_or_default().to_owned(),
            entry.short().to_owned(),
            what,
            bytes(entry.size_bytes),
            age(built, now),
            age(entry.last_used, now),
            figure(manifest.ok().and_then(|manifest| manifest.build_seconds)),
            figure(manifest.ok().and_then(|manifest| manifest.build_energy_j)),
        ]
    });
    table::grid(head, rows, 3)
}

fn verify(cache: &EngineCache, evict: bool, printer: Printer) -> Result<Exit, Failure> {
    let (mut bad, mut whole, mut read) = (0_usize, 0_usize, 0_u64);
    for entry in cache.entries()? {
        let name = format!("{} {}", entry.kind, entry.short());
        let problem = match cache.check(&entry) {
            Condition::Whole => {
                whole += 1;
                read = entry.size_bytes.saturating_add(read);
                printer.detail(&format!("{name}: whole"));
                continue;
            }
            Condition::Gone => continue,
            Condition::Damaged(problem) if evict => format!("damaged: {problem}; {}", thrown_away(cache, &entry)?),
            Condition::Damaged(problem) => format!("damaged: {problem}; `llem cache verify --evict` removes it"),
            Condition::Unreadable(problem) => format!("cannot be read: {problem}"),
        };
        bad += 1;
        printer.result(&format!("{name}: {problem}"))?;
    }
    printer.line(&format!("{} whole, {}; {bad} bad", number_of(whole), bytes(read)));
    Ok(if bad == 0 { Exit::Success } else { Exit::Failed })
}

fn thrown_away(cache: &EngineCache, entry: &Entry) -> Result<&'static str, Failure> {
    Ok(match cache.remove(entry)? {
        Evicted::Gone | Evicted::Absent => "removed",
        Evicted::InUse => "somebody uses it, so it stays",
    })
}

fn prune(cache: &EngineCache, arguments: &PruneArguments, printer: Printer) -> Result<Exit, Failure> {
    let rule = PruneRule {
        max_bytes: arguments.max_size,
        older_than: arguments.older_than,
        all: arguments.all,
        dry_run: arguments.dry_run,
    };
    let report = cache.prune(&rule)?;
    let verb = if rule.dry_run { "would remove" } else { "removed" };
    for entry in &report.removed {
        printer.result(&format!("{verb} {} {} ({})", entry.kind, entry.short(), bytes(entry.size_bytes)))?;
    }
    for entry in &report.in_use {
        printer.notice(&format!("{} {} is in use and stays", entry.kind, entry.short()));
    }
    for (entry, why) in &report.failed {
        printer.error_line(&format!("{} {} could not be removed: {why}", entry.kind, entry.short()));
    }
    printer.line(&summary(&report, verb));
    Ok(if report.failed.is_empty() { Exit::Success } else { Exit::Failed })
}

fn summary(report: &PruneReport, verb: &str) -> String {
    let mut text = format!("{verb} {}, {}", number_of(report.removed.len()), bytes(report.removed_bytes()));
    if report.leftovers > 0 {
        let _ = write!(text, "; {} of dead builders", table::count(report.leftovers, "leftover"));
    }
    let _ = write!(text, "; {} kept", bytes(report.kept_bytes));
    text
}

fn explain(
    cache: &EngineCache,
    left: &str,
    right: Option<&str>,
    format: Format,
    printer: Printer,
) -> Result<Exit, Failure> {
    let left = cache.find(left)?;
    let inputs = inputs(&left)?;
    let others = match right {
        Some(right) => vec![cache.find(right)?],
        None => cache.entries()?.into_iter().filter(|entry| entry.path != left.path).collect(),
    };
    let compared: Vec<(&Entry, Vec<Difference>)> = match (right, others.first()) {
        (Some(_), Some(other)) => vec![(other, differences(inputs, self::inputs(other)?))],
        _ => nearest(inputs, &others, NEAREST).into_iter().map(|near| (near.entry, near.differences)).collect(),
    };
    let text = match format {
        Format::Human => {
            let texts = compared.iter().map(|(other, found)| differing(left.short(), other.short(), found));
            texts.collect::<Vec<_>>().join("\n")
        }
        Format::Json => {
            let list: Vec<Value> = compared
                .iter()
                .map(|(other, found)| json!({"left": left.key, "right": other.key, "differences": found}))
                .collect();
            format!("{:#}", json!(list))
        }
    };
    if text.is_empty() {
        printer.line(&format!("no other entry of kind {}", left.kind));
    } else {
        printer.result(&text)?;
    }
    Ok(Exit::Success)
}

fn inputs(entry: &Entry) -> Result<&Value, Failure> {
    let manifest = entry.manifest.as_ref();
    manifest
        .map(|manifest| &manifest.inputs)
        .map_err(|problem| Failure::failed(format!("{}: {problem}", entry.short())))
}

/// One heading and, for every input, its name and both values.
pub(super) fn differing(left: &str, right: &str, differences: &[Difference]) -> String {
    let mut text = format!("{left} and {right}: ");
    if differences.is_empty() {
        text.push_str("the same inputs\n");
        return text;
    }
    let _ = writeln!(text, "{} differ", table::count(differences.len(), "input"));
    for difference in differences {
        let _ = writeln!(text, "  {}", difference.path);
        let _ = writeln!(text, "    - {}", shown(difference.left.as_ref()));
        let _ = writeln!(text, "    + {}", shown(difference.right.as_ref()));
    }
    text
}

fn shown(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "absent".to_owned(), Value::to_string);
    let text = without_controls(&text);
    match text.char_indices().nth(VALUE_WIDTH) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn number_of(entries: usize) -> String {
    format!("{entries} {}", if entries == 1 { "entry" } else { "entries" })
}

/// `1.5 GB`, three digits.
fn bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "B" || value >= 99.5 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `5 s`, `12 min`, `3 h`, `40 d`.
fn age(at: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else { return "-".to_owned() };
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `50GB`, `1.5 TB`, `800MiB`: a number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 10] = [
        ("", 1.0),
        ("B", 1.0),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
    ];
    let (number, unit) = split(text)?;
    let known = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, factor) = known.ok_or_else(|| format!("`{unit}` is no unit of size; for example 50GB, 1.5TB, 800MiB"))?;
    Ok((number * factor) as u64)
}

/// `30d`, `12h`, `90min`, `45s`.
pub(super) fn parse_age(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return Err(format!("`{unit}` is no unit of time; for example 30d, 12h, 90min, 45s")),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse::<f64>().map_err(|_| format!("`{text}` does not begin with a number"))?;
    Ok((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_read() {
        assert_eq!(parse_size("50GB"), Ok(50_000_000_000));
        assert_eq!(parse_size("1.5 TB"), Ok(1_500_000_000_000));
        assert_eq!((parse_size("0"), parse_size("2MiB")), (Ok(0), Ok(2_097_152)));
        assert!(parse_size("50 apples").unwrap_err().contains("50GB"));
        assert!(parse_size("GB").is_err() && parse_size("").is_err() && parse_size("-1GB").is_err());
        assert_eq!(parse_age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert!(parse_age("30").unwrap_err().contains("30d"));
    }

    #[test]
    fn sizes_and_ages_are_shown_in_few_characters() {
        let sizes: Vec<_> = [0, 999, 1_000, 99_500_000, 15_200_000_000].map(bytes).to_vec();
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "100 MB", "15.2 GB"]);
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ages: Vec<_> = [0, 119, 120, 7_200, 172_800]
            .map(|seconds| age(Timestamp::from_second(1_000_000 - seconds).ok(), now))
            .to_vec();
        assert_eq!(ages, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!(age(None, now), "-");
    }
}
