//! Declarations about the site's own code: `jwt.claim` and `refresh.field`.

use serde::Deserialize;

use crate::config::keys::Key;
use crate::config::kind::Tables;
use crate::config::merged::Merged;
use crate::declared::{Column, Member, Source};

/// A table of `jwt.claim` or `refresh.field`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(alias = "name")]
    path: String,
    value: Source,
}

/// The members declared by a list of tables; `named` is the table's key for the path.
pub(super) fn members(
    read: &mut Merged,
    key: Key<Option<Tables>>,
    named: &str,
    check: fn(&[String]) -> Result<(), String>,
) -> Vec<Member> {
    let Some(Tables(toml::Value::Array(tables))) = read.get(key) else { return Vec::new() };
    let mut members: Vec<Member> = Vec::new();
    for (number, table) in (1..).zip(tables) {
        let has_name = table.get(named).is_some();
        let parsed = match has_name {
            true => Table::deserialize(table).map_err(|error| error.message().to_owned()),
            false => Err(format!("has no {named}")),
        };
        let member = parsed.and_then(|Table { path, value }| {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            check(&path)?;
            // SECURITY: data of the user must not decide whose token it is.
            let is_of_user = matches!(value, Source::Column(Column::Id, _));
            if named == "path" && path == ["data", "user", "id"] && !is_of_user {
                return Err("data.user.id is the user's id; accepted: { column = \"id\" }".to_owned());
            }
            match members.iter().any(|member| member.path.starts_with(&path) || path.starts_with(&member.path)) {
                true => Err(format!("{} is there twice, or below another", path.join("."))),
                false => Ok(Member { path, value }),
            }
        });
        match member {
            Ok(member) => members.push(member),
            Err(problem) => read.fault(key, format!("number {number}: {problem}")),
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Sources};

    const BASE: &str = "[upstream]\nurl = \"http://127.0.0.1:8081\"\n[wordpress]\nhome = \"https://shop.example\"\n";

    fn load(toml: &str) -> Result<Config, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.toml");
        std::fs::write(&file, format!("{BASE}{toml}")).unwrap();
        let sources = Sources { file: Some(file), ..Sources::default() };
        Config::load(&sources).map_err(|faults| faults.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn tables_and_inline_tables_are_the_same() {
        let tables = "[[jwt.claim]]\npath = \"a.b\"\nvalue = { roles = \"first\" }\n[refresh]\nmode = \"forward\"\n\
                      [[refresh.field]]\nname = \"c\"\nvalue = { constant = 1 }\n";
        let inline = "[jwt]\nclaim = [{ path = \"a.b\", value = { roles = \"first\" } }]\n[refresh]\nmode = \"forward\"\n\
                      field = [{ name = \"c\", value = { constant = 1 } }]\n";
        let (tables, inline) = (load(tables).unwrap(), load(inline).unwrap());
        assert_eq!(tables.declared(), inline.declared());
        assert_eq!((tables.declared().claims.len(), tables.declared().fields.len()), (1, 1));
        let said = tables.effective().to_string();
        assert!(said.contains(r#"[{ path = "a.b", value = { roles = "first" } }]"#), "{said}");
    }

    #[test]
    fn each_fault_names_its_table() {
        let field = |table: &str| {
            let faults = load(&format!(
                "[refresh]\nmode = \"forward\"\nfield = [{{ name = \"a\", value = {{ column = \"id\" }} }}, {table}]"
            ));
            faults.unwrap_err().join("\n")
        };
        for (table, problem) in [
            (r#"{ path = "b", value = { column = "id" } }"#, "number 2: has no name"),
            (r#"{ name = "b", value = "c" }"#, "expected a table such as"),
            (r#"{ name = "b", value = { meta = "x" }, more = 1 }"#, "unknown field `more`"),
            (r#"{ name = "a", value = { column = "id" } }"#, "a is there twice, or below another"),
            (r#"{ name = "a.b", value = { column = "id" } }"#, "a.b is there twice, or below another"),
            (r#"{ name = "refresh_token", value = { column = "id" } }"#, "a member that the sidecar itself fills in"),
            (r#"{ name = "b", value = { roles = "some" } }"#, "unknown variant `some`"),
            (r#"{ name = "b" }"#, "missing field `value`"),
        ] {
            let said = field(table);
            assert!(said.contains(problem) && said.starts_with("refresh.field = [{ name"), "{table}: {said}");
        }
    }
}
