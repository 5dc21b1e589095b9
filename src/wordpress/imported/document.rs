//! The format of the file: TOML.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{CONSTANTS, Imported, Seen};
use crate::wordpress::wp_config::Scalar;

/// The version of the format.
const FORMAT: u32 = 1;

const HEAD: &str = "\
# What PHP said of the site's wp-config.php. It holds the site's secrets.
# Written by `wp-jwt-sidecar import`: do not change it, run the command again.
";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    config: PathBuf,
    resolved: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_prefix: Option<Value>,
    undefined: BTreeSet<String>,
    varying: BTreeSet<String>,
    constants: BTreeMap<String, Value>,
    #[serde(default)]
    files: Vec<Seen>,
}

/// SECURITY: errors of untagged enums quote nothing, and this has no `Debug`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Boolean(bool),
    Integer(i64),
    Text(String),
    Bytes(Bytes),
    Null(Null),
}

/// A text that is not UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bytes {
    base64: String,
}

/// TOML has no null.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Null {
    null: bool,
}

/// SECURITY: the parser's own messages quote values, so only the line number is kept.
pub(super) fn parse(text: &str) -> Result<Imported, String> {
    let again = "run `wp-jwt-sidecar import` again";
    let document: Document = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        format!("line {line} is not what `wp-jwt-sidecar import` writes; {again}")
    })?;
    let Document { format, config, resolved, host, table_prefix, undefined, varying, constants, files } = document;
    if format != FORMAT {
        return Err(format!("is of the form {format}, and this version reads the form {FORMAT}; {again}"));
    }
    if let Some(unknown) = constants.keys().find(|name| !CONSTANTS.contains(&name.as_str())) {
        return Err(format!("has a constant {unknown}, which is not asked for; {again}"));
    }
    let scalar = |value: Value| scalar(value).ok_or_else(|| format!("has invalid base64; {again}"));
    let constants: Result<BTreeMap<_, _>, String> =
        constants.into_iter().map(|(name, value)| Ok((name, scalar(value)?))).collect();
    let table_prefix = table_prefix.map(scalar).transpose()?;
    Ok(Imported { config, resolved, host, table_prefix, constants: constants?, undefined, varying, files })
}

pub(super) fn text(imported: &Imported) -> Result<String, String> {
    let document = Document {
        format: FORMAT,
        config: imported.config.clone(),
        resolved: imported.resolved.clone(),
        host: imported.host.clone(),
        table_prefix: imported.table_prefix.as_ref().map(value),
        undefined: imported.undefined.clone(),
        varying: imported.varying.clone(),
        constants: imported.constants.iter().map(|(name, scalar)| (name.clone(), value(scalar))).collect(),
        files: imported.files.clone(),
    };
    toml::to_string(&document)
        .map(|text| format!("{HEAD}{text}"))
        .map_err(|_| "it cannot be written as TOML".to_owned())
}

fn scalar(value: Value) -> Option<Scalar> {
    Some(match value {
        Value::Boolean(boolean) => Scalar::Boolean(boolean),
        Value::Integer(number) => Scalar::Integer(number),
        Value::Text(text) => Scalar::Text(text.into_bytes()),
        Value::Bytes(Bytes { base64 }) => Scalar::Text(STANDARD.decode(base64).ok()?),
        Value::Null(_) => Scalar::Null,
    })
}

fn value(scalar: &Scalar) -> Value {
    match scalar {
        Scalar::Boolean(boolean) => Value::Boolean(*boolean),
        Scalar::Integer(number) => Value::Integer(*number),
        Scalar::Null => Value::Null(Null { null: true }),
        Scalar::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(Bytes { base64: STANDARD.encode(text) }),
        },
    }
}
