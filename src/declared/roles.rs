//! A user's roles: the keys of the serialized meta value `…capabilities` that are names of roles.
//!
//! `WP_User::get_role_caps()` (wp-includes/class-wp-user.php) uses each key that is a role's name,
//! in order, whatever its value. Before WordPress 6.7 the list kept the keys of the unfiltered one,
//! so that a capability before a role made PHP's JSON write an object.

use phpserz::{PhpParser, PhpToken};

/// The most roles of one user, and of a site.
const MOST: u32 = 1_000;

/// How deeply the roles of a site are nested: role, capabilities, capability.
const DEPTH: usize = 8;

/// The roles in `capabilities` that are among `known`.
///
/// # Errors
/// Why they are uncertain.
pub fn of(capabilities: &str, known: &[String]) -> Result<Vec<String>, &'static str> {
    const UNREADABLE: &str = "it is not an array of roles";
    if capabilities.is_empty() {
        return Ok(Vec::new());
    }
    let mut parser = PhpParser::new(capabilities.trim().as_bytes());
    let Ok(PhpToken::Array { elements }) = parser.read_token() else { return Err(UNREADABLE) };
    let mut roles = Vec::new();
    let mut is_mixed = false;
    for _ in 0..elements.min(MOST) {
        let Ok(PhpToken::String(name)) = parser.read_token() else { return Err(UNREADABLE) };
        let name = str::from_utf8(name.as_bytes()).map_err(|_| UNREADABLE)?.to_owned();
        let Ok(PhpToken::Boolean(is_granted)) = parser.read_token() else { return Err(UNREADABLE) };
        match known.contains(&name) {
            true if !is_granted => return Err("a role is denied"),
            true if is_mixed => return Err("a capability stands in front of a role"),
            true => roles.push(name),
            false => is_mixed = true,
        }
    }
    match parser.read_token() {
        Ok(PhpToken::End) => Ok(roles),
        _ => Err(UNREADABLE),
    }
}

/// The names of the roles in the option `…user_roles`; `None` if it cannot be read.
pub fn role_names(option: &[u8]) -> Option<Vec<String>> {
    let mut parser = PhpParser::new(option.trim_ascii());
    let PhpToken::Array { elements } = parser.read_token().ok()? else { return None };
    let mut names = Vec::new();
    for _ in 0..elements.min(MOST) {
        match parser.read_token().ok()? {
            PhpToken::String(name) => names.push(str::from_utf8(name.as_bytes()).ok()?.to_owned()),
            PhpToken::Integer(number) => names.push(number.to_string()),
            _ => return None,
        }
        skip(&mut parser, DEPTH)?;
    }
    Some(names)
}

fn skip(parser: &mut PhpParser<'_>, depth: usize) -> Option<()> {
    match parser.read_token().ok()? {
        PhpToken::Array { elements } => {
            let depth = depth.checked_sub(1)?;
            for _ in 0..elements {
                parser.read_token().ok()?;
                skip(parser, depth)?;
            }
            matches!(parser.read_token().ok()?, PhpToken::End).then_some(())
        }
        PhpToken::Boolean(_) | PhpToken::Integer(_) | PhpToken::Float(_) | PhpToken::String(_) | PhpToken::Null => {
            Some(())
        }
        _ => None,
    }
}
