//! The fields of the user config, found in its JSON Schema, and which of them are looked at in a container.

use std::collections::BTreeSet;

use serde_json::Value;

/// What only a container shows; all others have their case beside the scripted agent.
pub(crate) const IN_CONTAINER: [&str; 6] =
    ["cap_add", "devices", "env", "mounts.read_only", "mounts.source", "mounts.target"];

/// Every field by its dotted name; entries of lists have that of their list.
#[allow(dead_code, reason = "not every test program asks for all")]
pub(crate) fn all() -> BTreeSet<String> {
    let schema = llem::config::user_schema();
    let mut found = BTreeSet::new();
    walk(&schema, &schema, "", &mut found);
    found
}

fn walk(root: &Value, schema: &Value, name: &str, found: &mut BTreeSet<String>) {
    let resolved = resolve(root, schema);
    let inner = if resolved["items"].is_object() { resolve(root, &resolved["items"]) } else { resolved };
    match inner["properties"].as_object() {
        Some(properties) => {
            for (key, property) in properties {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                walk(root, property, &name, found);
            }
        }
        None => drop(found.insert(name.to_owned())),
    }
}

/// What a reference means; of alternatives, the one that is not null.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolve(root, root.pointer(reference.trim_start_matches('#')).unwrap());
    }
    let alternatives = schema["anyOf"].as_array().filter(|some| some.iter().any(|one| one["type"] == "null"));
    match alternatives.and_then(|some| some.iter().find(|one| one["type"] != "null")) {
        Some(other) => resolve(root, other),
        None => schema,
    }
}
