//! Describes differences: names and types, never values.

use serde_json::{Map, Value};

pub use crate::verify::difference::shown;

/// How many names of a difference are shown; the others are counted.
const MOST: usize = 8;

/// How deep objects are compared.
const DEPTH: usize = 4;

/// The type of a value.
pub fn kind(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let mut kinds = values.iter().map(simple);
            match kinds.next() {
                Some(first) if kinds.all(|other| other == first) => format!("array of {first}"),
                _ => "array".to_owned(),
            }
        }
        other => simple(other).to_owned(),
    }
}

fn simple(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A difference for people: `body +roles (array of string), -token_type`.
pub fn listed(subject: &str, changes: &[String]) -> String {
    let listed = changes.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match changes.len().saturating_sub(MOST) {
        0 => format!("{subject} {listed}"),
        more => format!("{subject} {listed} and {more} more"),
    }
}

/// The members that `found` has or lacks, compared with `expected`: names and types at any depth.
/// Values of the same type are not compared.
pub fn members(found: &Map<String, Value>, expected: &Map<String, Value>) -> Vec<String> {
    let mut changes = Vec::new();
    compare(found, expected, "", 0, &mut changes);
    changes
}

/// The members of `declared` that have another value in `found`.
pub fn other_values(found: &Map<String, Value>, declared: &[(Vec<String>, Value)]) -> Vec<String> {
    let others = declared.iter().filter(|(path, value)| member(found, path) != Some(value));
    others.map(|(path, _)| format!("{} (another value)", dotted(path))).collect()
}

fn member<'a>(found: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (name, below) = path.split_first()?;
    match (found.get(name)?, below) {
        (value, []) => Some(value),
        (Value::Object(inner), below) => member(inner, below),
        _ => None,
    }
}

/// A path as shown to people.
fn dotted(path: &[String]) -> String {
    path.iter().map(|name| shown(name)).collect::<Vec<_>>().join(".")
}

fn compare(
    found: &Map<String, Value>,
    expected: &Map<String, Value>,
    above: &str,
    depth: usize,
    changes: &mut Vec<String>,
) {
    let mut say = |sign: &str, name: &str, value: Option<&Value>| {
        let kind = value.map(|value| format!(" ({})", kind(value))).unwrap_or_default();
        changes.push(format!("{sign}{above}{}{kind}", shown(name)));
    };
    let mut nested = Vec::new();
    for (name, value) in found {
        match (value, expected.get(name)) {
            (_, None) => say("+", name, Some(value)),
            (Value::Object(value), Some(Value::Object(expected))) if depth < DEPTH => {
                nested.push((name, value, expected));
            }
            (value, Some(expected)) if simple(value) != simple(expected) => say("", name, Some(value)),
            _ => {}
        }
    }
    for name in expected.keys().filter(|name| !found.contains_key(*name)) {
        say("-", name, None);
    }
    for (name, value, expected) in nested {
        compare(value, expected, &format!("{above}{}.", shown(name)), depth + 1, changes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(found: Value, expected: Value) -> String {
        let (Value::Object(found), Value::Object(expected)) = (found, expected) else { panic!("objects") };
        listed("body", &members(&found, &expected))
    }

    #[test]
    fn names_and_types() {
        for (found, expected, said_of_it) in [
            (json!({"a": 1}), json!({"a": 2}), "body "),
            (json!({"a": 1, "roles": ["x", "y"]}), json!({"a": 2}), "body +roles (array of string)"),
            (json!({"a": [1, "x"], "b": []}), json!({}), "body +a (array), +b (array)"),
            (json!({"a": "1"}), json!({"a": 1, "b": 2}), "body a (string), -b"),
            (
                json!({"a": {"b": {"c": 1, "d": null}}}),
                json!({"a": {"b": {"c": ""}}}),
                "body a.b.c (integer), +a.b.d (null)",
            ),
            (json!({"alice@example.org": true, "0123456789": 1.5}), json!({}), "body +… (boolean), +… (number)"),
        ] {
            assert_eq!(said(found, expected), said_of_it);
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let found: Map<String, Value> = (0..20).map(|number| (format!("m{number}"), Value::Null)).collect();
        let listed = listed("body", &members(&found, &Map::new()));
        assert!(listed.ends_with("+m7 (null) and 12 more"), "{listed}");
    }

    #[test]
    fn a_name_that_may_be_a_value_is_not_shown() {
        for name in ["", "a b", "a.b", "5f0c1e2d3a4b5c6d7e8f", "ä", &"x".repeat(65)] {
            assert_eq!(shown(name), "…", "{name}");
        }
        for name in ["rest_forbidden", "x-session-user", "expires_at", "Sub", "k8s"] {
            assert_eq!(shown(name), name);
        }
    }
}
