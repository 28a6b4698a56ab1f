//! Ranges: `{from, to, num}`, `{from, to, step}`, and their scales.

use serde_json::{Map, Value};

use crate::config::shown_key;

/// The most values that one range makes.
const MAX_VALUES: u64 = 100_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
    Pow2,
}

/// Whether a mapping is a range rather than nested keys.
pub(super) fn is_range(map: &Map<String, Value>) -> bool {
    map.contains_key("from") || map.contains_key("to")
}

/// The values of a range, or what is wrong with it. Whole ends give whole numbers, rounded and without repetition.
pub(super) fn values(map: &Map<String, Value>) -> Result<Vec<Value>, String> {
    if let Some(unknown) = map.keys().find(|key| !["from", "to", "num", "step", "scale"].contains(&key.as_str())) {
        return Err(format!(
            "unknown field `{}` of a range; known fields: `from`, `to`, `num`, `step`, `scale`",
            shown_key(unknown)
        ));
    }
    let (from, to) = (number(map, "from")?, number(map, "to")?);
    let scale = scale(map)?;
    let whole = map.get("from").is_some_and(|v| !v.is_f64()) && map.get("to").is_some_and(|v| !v.is_f64());
    let points = match (map.get("num"), map.get("step"), scale) {
        (Some(_), Some(_), _) => return Err("a range has `num` or `step`, not both".to_owned()),
        (None, Some(step), Scale::Linear) => stepped(from, to, positive(step, "step")?)?,
        (None, Some(_), _) => return Err("`step` goes with the linear scale only".to_owned()),
        (None, None, Scale::Pow2) => powers_of_two(from, to)?,
        (None, None, _) => return Err("a range needs `num` or `step`".to_owned()),
        (Some(num), None, scale) => spaced(from, to, count(num)?, scale)?,
    };
    Ok(as_json(points, whole && map.get("step").is_none_or(|step| !step.is_f64())))
}

fn number(map: &Map<String, Value>, key: &str) -> Result<f64, String> {
    match map.get(key) {
        None => Err(format!("a range needs `{key}`")),
        Some(value) => value.as_f64().ok_or_else(|| format!("`{key}` of a range must be a number")),
    }
}

fn positive(value: &Value, name: &str) -> Result<f64, String> {
    value.as_f64().filter(|step| *step > 0.0).ok_or_else(|| format!("`{name}` of a range must be a number above 0"))
}

fn count(value: &Value) -> Result<u64, String> {
    let within = value.as_u64().filter(|num| (1..=MAX_VALUES).contains(num));
    within.ok_or_else(|| format!("`num` of a range must be an integer from 1 to {MAX_VALUES}"))
}

fn scale(map: &Map<String, Value>) -> Result<Scale, String> {
    match map.get("scale").map(Value::as_str) {
        None | Some(Some("linear")) => Ok(Scale::Linear),
        Some(Some("log")) => Ok(Scale::Log),
        Some(Some("pow2")) => Ok(Scale::Pow2),
        Some(_) => Err("unknown `scale` of a range; known scales: `linear`, `log`, `pow2`".to_owned()),
    }
}

fn stepped(from: f64, to: f64, step: f64) -> Result<Vec<f64>, String> {
    if from > to {
        return Err("`from` of a range with `step` must not be above `to`".to_owned());
    }
    // A whole number of steps must reach `to` although 0.1 has no exact double.
    let steps = ((to - from) / step * (1.0 + 1e-9)).floor();
    if steps >= MAX_VALUES as f64 {
        return Err(format!("a range has at most {MAX_VALUES} values"));
    }
    Ok((0..=steps as u64).map(|index| rounded(from + step * index as f64)).collect())
}

/// Drops the last digits of a sum of decimal fractions: 0.30000000000000004 is 0.3.
fn rounded(value: f64) -> f64 {
    format!("{value:.12}").parse().unwrap_or(value)
}

fn powers_of_two(from: f64, to: f64) -> Result<Vec<f64>, String> {
    if from <= 0.0 || to < from {
        return Err("a `pow2` range needs 0 < `from` <= `to`".to_owned());
    }
    let (first, last) = (from.log2().ceil() as i32, to.log2().floor() as i32);
    if first > last {
        return Err("there is no power of two from `from` to `to`".to_owned());
    }
    Ok((first..=last).map(|exponent| f64::from(exponent).exp2()).collect())
}

fn spaced(from: f64, to: f64, num: u64, scale: Scale) -> Result<Vec<f64>, String> {
    if scale != Scale::Linear && (from <= 0.0 || to <= 0.0) {
        return Err("`from` and `to` of this scale must be above 0".to_owned());
    }
    let share = |index: u64| if num == 1 { 0.0 } else { index as f64 / (num - 1) as f64 };
    let point = |index: u64| match scale {
        _ if index == 0 => from,
        _ if index + 1 == num => to,
        Scale::Linear => rounded(from + (to - from) * share(index)),
        Scale::Log => rounded((from.ln() + (to.ln() - from.ln()) * share(index)).exp()),
        Scale::Pow2 => (from.log2() + (to.log2() - from.log2()) * share(index)).round().exp2(),
    };
    Ok((0..num).map(point).collect())
}

fn as_json(points: Vec<f64>, whole: bool) -> Vec<Value> {
    let mut values: Vec<Value> = Vec::with_capacity(points.len());
    for point in points {
        let value = if whole { Value::from(point.round() as i64) } else { Value::from(point) };
        if values.last() != Some(&value) {
            values.push(value);
        }
    }
    values
}
