//! Parses a refresh: finds the token, WordPress's own 400, or a reason to forward the request.
//!
//! The sources are WordPress's (`WP_REST_Request::get_parameter_order()`): a JSON body, else a
//! form, else the query. WordPress checks every source that has the key, so a native response needs
//! a request that contains it once, in plain form. Requests that PHP decodes in its own way (names
//! with dots or brackets, multipart) are forwarded, and so are tokens that WordPress's cleaning
//! would change by more than trimming.

use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::json::{self, Body, Fault, JsonError, Member};
use crate::route::ForwardReason;

/// The largest body that is read for a refresh, in bytes. A real one has about 60; larger ones are
/// forwarded.
pub const BODY_LIMIT: usize = 16 * 1024;

/// The most form fields of a native refresh. PHP's own limit, 1,000 (`max_input_vars`), is a
/// setting; no refresh comes near either.
const FORM_FIELD_LIMIT: usize = 64;

/// The form fields that are allowed besides the token: those of an OAuth 2 client (RFC 6749,
/// sections 2.3.1 and 6). Others are left to WordPress, whose core alone reads about fifty
/// (`wp_customize`, `wp_scrape_key`) before it gets to the REST API.
const HARMLESS_FORM_FIELDS: [&[u8]; 4] = [b"grant_type", b"client_id", b"client_secret", b"scope"];

/// The parsed request.
#[derive(Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A refresh with this token, trimmed, of digits and letters only; `""` matches no row.
    Token(String),
    /// A request that WordPress refuses.
    Invalid(BadRequest),
    /// A request that is left to WordPress.
    Forward(ForwardReason),
}

// SECURITY: `Debug` does not show the token.
impl fmt::Debug for Parsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => formatter.write_str("Token(…)"),
            Self::Invalid(bad) => formatter.debug_tuple("Invalid").field(bad).finish(),
            Self::Forward(reason) => formatter.debug_tuple("Forward").field(reason).finish(),
        }
    }
}

/// Why WordPress refuses a request before the plugin sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// `rest_missing_callback_param`
    MissingToken,
    /// `rest_invalid_param`
    NotAString,
    /// `rest_invalid_json`
    InvalidJson(JsonError),
}

/// Parses a request on the refresh route whose head [`crate::route::decide`] has accepted.
///
/// `query_token` is the query's token, `body` the whole body.
pub fn parse(headers: &HeaderMap, query_token: Option<&str>, body: &[u8]) -> Parsed {
    match token(headers, query_token, body) {
        Ok(token) => Parsed::Token(token),
        Err(Refused::Invalid(bad)) => Parsed::Invalid(bad),
        Err(Refused::Forward(reason)) => Parsed::Forward(reason),
    }
}

/// Why there is no token.
enum Refused {
    Invalid(BadRequest),
    Forward(ForwardReason),
}

impl From<ForwardReason> for Refused {
    fn from(reason: ForwardReason) -> Self {
        Self::Forward(reason)
    }
}

fn token(headers: &HeaderMap, query_token: Option<&str>, body: &[u8]) -> Result<String, Refused> {
    if body.len() > BODY_LIMIT {
        return Err(ForwardReason::BodyTooLarge.into());
    }
    let body_token = match media_type(headers)? {
        MediaType::Json => json_token(body, query_token.is_some())?,
        MediaType::Form => form_token(body)?,
        // Neither PHP nor WordPress reads such a body.
        MediaType::Other => None,
    };
    match (body_token, query_token) {
        (Some(_), Some(_)) => Err(ForwardReason::SeveralTokens.into()),
        (Some(token), None) => Ok(token),
        (None, Some(token)) => Ok(cleaned(token.as_bytes())?),
        (None, None) => Err(Refused::Invalid(BadRequest::MissingToken)),
    }
}

enum MediaType {
    Json,
    Form,
    Other,
}

/// How PHP and WordPress read the body, if they agree.
///
/// PHP cuts the header at `;`, `,` or a space and fills `$_POST` for exactly two media types
/// (`sapi_read_post_data()`); WordPress cuts it at `;` and looks for JSON with a regular expression
/// that is not anchored to the whole (`wp_is_json_media_type()`). Both read a plain `type/subtype`
/// the same way.
fn media_type(headers: &HeaderMap) -> Result<MediaType, ForwardReason> {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let Some(line) = lines.next() else {
        return Ok(MediaType::Other);
    };
    if lines.next().is_some() {
        return Err(ForwardReason::ContentType);
    }
    let media_type = line.to_str().map_err(|_| ForwardReason::ContentType)?;
    let media_type = media_type.split_once(';').map_or(media_type, |(value, _)| value);
    let media_type = media_type.trim_matches([' ', '\t']).to_ascii_lowercase();
    let (kind, subtype) = media_type.split_once('/').ok_or(ForwardReason::ContentType)?;
    let is_plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-_".contains(&byte))
    };
    if !is_plain(kind) || !is_plain(subtype) {
        return Err(ForwardReason::ContentType);
    }
    match (kind, subtype) {
        ("application", "json") => Ok(MediaType::Json),
        ("application", "x-www-form-urlencoded") => Ok(MediaType::Form),
        ("application", subtype) if subtype.ends_with("+json") && subtype != "+json" => Ok(MediaType::Json),
        ("multipart", _) => Err(ForwardReason::Multipart),
        // WordPress treats `application/json+oembed` as JSON, and may add others some day.
        (_, subtype) if subtype.contains("json") => Err(ForwardReason::ContentType),
        _ => Ok(MediaType::Other),
    }
}

/// The token of a JSON body, cleaned.
fn json_token(body: &[u8], query_has_token: bool) -> Result<Option<String>, Refused> {
    // PHP's `empty()`, which WordPress checks before parsing.
    if matches!(body, b"" | b"0") {
        return Ok(None);
    }
    match json::refresh_token(body) {
        Err(Fault::Unsure) => Err(ForwardReason::Json.into()),
        Err(Fault::Refused(error)) => Err(Refused::Invalid(BadRequest::InvalidJson(error))),
        // WordPress iterates over the parameters of each source that is not empty; with a scalar or
        // a list beside a query it would emit warnings.
        Ok(Body::NotAnObject) if query_has_token => Err(ForwardReason::Json.into()),
        Ok(Body::NotAnObject) => Ok(None),
        Ok(Body::Object { has_special_name: true, .. }) => Err(ForwardReason::BodyParameter.into()),
        Ok(Body::Object { refresh_token, .. }) => match refresh_token {
            Member::Absent => Ok(None),
            _ if query_has_token => Err(ForwardReason::SeveralTokens.into()),
            Member::Null => Ok(None),
            Member::Other => Err(Refused::Invalid(BadRequest::NotAString)),
            Member::Text(text) => Ok(Some(cleaned(text.as_bytes())?)),
        },
    }
}

/// The token of a form, cleaned.
fn form_token(body: &[u8]) -> Result<Option<String>, ForwardReason> {
    let mut token = None;
    if body.is_empty() {
        return Ok(token);
    }
    for (index, field) in body.split(|byte| *byte == b'&').enumerate() {
        if index >= FORM_FIELD_LIMIT {
            return Err(ForwardReason::BodyParameter);
        }
        let equals = field.iter().position(|byte| *byte == b'=');
        let (name, value) = field.split_at(equals.ok_or(ForwardReason::BodyParameter)?);
        let value = value.strip_prefix(b"=").unwrap_or(value);
        if name == b"refresh_token" {
            if token.is_some() {
                return Err(ForwardReason::SeveralTokens);
            }
            token = Some(cleaned(&url_decoded(value))?);
        } else if !HARMLESS_FORM_FIELDS.contains(&name) {
            return Err(ForwardReason::BodyParameter);
        }
    }
    Ok(token)
}

/// PHP's `urldecode()`: a `%` without two hex digits is kept.
fn url_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => decoded.push(b' '),
            b'%' => match after {
                [high, low, after @ ..] => match (hex_value(*high), hex_value(*low)) {
                    (Some(high), Some(low)) => {
                        decoded.push(high * 16 + low);
                        rest = after;
                    }
                    _ => decoded.push(b'%'),
                },
                _ => decoded.push(b'%'),
            },
            byte => decoded.push(byte),
        }
    }
    decoded
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// WordPress's `sanitize_text_field()`, as long as it only trims.
fn cleaned(token: &[u8]) -> Result<String, ForwardReason> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let start = token.iter().position(|byte| !is_space(byte)).unwrap_or(token.len());
    let end = token.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    let token = token.get(start..end).unwrap_or_default();
    if !token.iter().all(u8::is_ascii_alphanumeric) {
        return Err(ForwardReason::Token);
    }
    String::from_utf8(token.to_vec()).map_err(|_| ForwardReason::Token)
}

#[cfg(test)]
mod tests;
