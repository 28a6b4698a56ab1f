//! What an unquoted YAML scalar means.

use serde_json::{Number, Value};

use super::wording::key;

/// The value of a plain scalar, or what is wrong with it. `yes`, `no`, `on` and `off` are text, as in YAML 1.2.
pub(crate) fn resolve(text: &str) -> Result<Value, String> {
    if !may_be_special(text) {
        return Ok(Value::String(text.to_owned()));
    }
    match serde_yaml::from_str::<serde_yaml::Value>(text) {
        Ok(serde_yaml::Value::Null) => Ok(Value::Null),
        Ok(serde_yaml::Value::Bool(flag)) => Ok(Value::Bool(flag)),
        Ok(serde_yaml::Value::Number(number)) => from_number(text, &number),
        _ if is_integer(text) => Err(too_large(text)),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// Spares the parser for what can only be text.
fn may_be_special(text: &str) -> bool {
    match text.bytes().next() {
        None | Some(b'~' | b'+' | b'-' | b'.' | b'0'..=b'9') => true,
        Some(b'n' | b'N' | b't' | b'T' | b'f' | b'F') => text.len() <= 5,
        _ => false,
    }
}

/// A run of digits longer than any date or phone number is meant as a number.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    digits.len() >= 19 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn too_large(text: &str) -> String {
    format!("the integer `{}` does not fit into 64 bits", key(text))
}

fn from_number(text: &str, number: &serde_yaml::Number) -> Result<Value, String> {
    if let Some(integer) = number.as_u64() {
        return Ok(Value::from(integer));
    }
    if let Some(integer) = number.as_i64() {
        return Ok(Value::from(integer));
    }
    let float = number.as_f64().unwrap_or(f64::NAN);
    if !float.is_finite() {
        return Err(format!("`{text}` is not a finite number"));
    }
    if is_integer(text) {
        return Err(too_large(text));
    }
    Number::from_f64(float).map(Value::Number).ok_or_else(|| format!("`{text}` is not a finite number"))
}
