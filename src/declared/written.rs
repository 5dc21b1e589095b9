//! Sets members in an object that is already JSON text.

use serde_json::{Map, Value};

use super::set;

/// Sets `members` in `object`, each path once, like [`set`]. `levels` are the names of its members,
/// of those of the last object in it, and so on to the innermost. A new member at the end of one of
/// these is written directly: parsing the object and writing it again costs more than all other
/// work on a claim.
///
/// # Errors
/// `object` is invalid, or a value cannot be written.
pub fn with_members(
    mut object: Vec<u8>,
    levels: &[&[&str]],
    members: &[(Vec<String>, Value)],
) -> Result<Vec<u8>, serde_json::Error> {
    if !members.iter().all(|(path, _)| is_at_an_end(levels, path)) {
        let mut map: Map<String, Value> = serde_json::from_slice(&object)?;
        for (path, value) in members {
            set(&mut map, path, value.clone());
        }
        return serde_json::to_vec(&map);
    }
    // Removes the closing braces.
    object.truncate(object.len().saturating_sub(levels.len()));
    for depth in (1..=levels.len()).rev() {
        for (path, value) in members.iter().filter(|(path, _)| path.len() == depth) {
            object.push(b',');
            serde_json::to_writer(&mut object, &path.last())?;
            object.push(b':');
            serde_json::to_writer(&mut object, value)?;
        }
        object.push(b'}');
    }
    Ok(object)
}

fn is_at_an_end(levels: &[&[&str]], path: &[String]) -> bool {
    let Some((name, outer)) = path.split_last() else { return false };
    let is_last = |(outer, level): (&String, &&[&str])| level.last() == Some(&outer.as_str());
    outer.iter().zip(levels).all(is_last)
        && levels.get(outer.len()).is_some_and(|level| !level.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_stand_where_set_puts_them() {
        let object = br#"{"iss":"x","data":{"user":{"id":"7"}}}"#;
        let levels: [&[&str]; 3] = [&["iss", "data"], &["user"], &["id"]];
        for paths in [
            &[][..],
            &["role"],
            &["data.user.role", "data.role", "role", "other", "data.user.name"],
            &["iss"],
            &["data.user.id"],
            &["data.user"],
            &["role", "data.user.id"],
            &["a.b", "a.c", "data.a.b", "data.user.a.b"],
            &["data.user.id.deep"],
        ] {
            let path = |path: &str| path.split('.').map(str::to_owned).collect();
            let members: Vec<(Vec<String>, Value)> =
                paths.iter().map(|text| (path(text), json!({ "of": [text, "\"ü\n", 1, true] }))).collect();
            let mut map: Map<String, Value> = serde_json::from_slice(object).unwrap();
            members.iter().for_each(|(path, value)| set(&mut map, path, value.clone()));
            let expected = serde_json::to_string(&map).unwrap();
            let found = with_members(object.to_vec(), &levels, &members).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{paths:?}");
        }
    }
}
