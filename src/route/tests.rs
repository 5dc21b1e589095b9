use super::*;
use proptest::prelude::*;

fn forms(home_path: &str, permalinks: Permalinks) -> RouteForms {
    RouteForms { home_path: home_path.to_owned(), permalinks }
}

fn post(target: &str, forms: &RouteForms) -> Route {
    let target: Uri = target.parse().unwrap();
    decide(&Method::POST, &target, &HeaderMap::new(), forms)
}

fn is_native(route: &Route) -> bool {
    matches!(route, Route::Refresh { .. })
}

/// The targets that are answered natively, each with the token its query holds.
fn native_targets(forms: &RouteForms) -> Vec<(String, Option<&'static str>)> {
    let home = &forms.home_path;
    let mut targets = vec![
        (format!("{home}/?rest_route=/jwt-auth/v1/token/refresh"), None),
        (format!("{home}/?rest_route=/jwt-auth/v1/token/refresh/"), None),
        (format!("{home}/index.php?rest_route=/JWT-Auth/V1/Token/Refresh"), None),
    ];
    let prefixes: &[&str] = match forms.permalinks {
        Permalinks::Plain => &[],
        Permalinks::Pretty => &["/wp-json", "/index.php/wp-json"],
        Permalinks::PathInfo => &["/index.php/wp-json"],
    };
    for prefix in prefixes {
        for route in ["/jwt-auth/v1/token/refresh", "/JWT-AUTH/v1/Token/Refresh/"] {
            targets.push((format!("{home}{prefix}{route}"), None));
            targets.push((format!("{home}{prefix}{route}?refresh_token="), Some("")));
            targets.push((format!("{home}{prefix}{route}?refresh_token=0aZ"), Some("0aZ")));
        }
    }
    targets
}

const ALL: [Permalinks; 3] = [Permalinks::Plain, Permalinks::Pretty, Permalinks::PathInfo];

#[test]
fn plain_forms_are_native() {
    for permalinks in ALL {
        for home in ["", "/blog", "/a/b-c_d.e~f"] {
            let forms = forms(home, permalinks);
            for (target, token) in native_targets(&forms) {
                let token = token.map(str::to_owned);
                assert_eq!(post(&target, &forms), Route::Refresh { query_token: token });
            }
        }
    }
}

#[test]
fn other_forms_are_forwarded() {
    let pretty = forms("", Permalinks::Pretty);
    for target in [
        "/",
        "*",
        "/wp-json/jwt-auth/v1/token/refresh?",
        "/wp-json/jwt-auth/v1/token/refresh//",
        "/wp-json//jwt-auth/v1/token/refresh",
        "//wp-json/jwt-auth/v1/token/refresh",
        "/./wp-json/jwt-auth/v1/token/refresh",
        "/x/../wp-json/jwt-auth/v1/token/refresh",
        "/wp-json/jwt-auth/v1/token/%72efresh",
        "/wp-json/jwt-auth%2Fv1/token/refresh",
        "/WP-JSON/jwt-auth/v1/token/refresh",
        "/Index.php/wp-json/jwt-auth/v1/token/refresh",
        "/blog/wp-json/jwt-auth/v1/token/refresh",
        "/wp-json/jwt-auth/v1/token/refresh?_method=GET",
        "/wp-json/jwt-auth/v1/token/refresh?_fields=token",
        "/wp-json/jwt-auth/v1/token/refresh?refresh_token=a&refresh_token=b",
        "/wp-json/jwt-auth/v1/token/refresh?refresh_token=a&",
        "/wp-json/jwt-auth/v1/token/refresh?refresh_token",
        "/wp-json/jwt-auth/v1/token/refresh?refresh_token[]=a",
        "/wp-json/jwt-auth/v1/token/refresh?refresh.token=a",
        "/wp-json/jwt-auth/v1/token/refresh?refresh_token=%61",
        "/wp-json/jwt-auth/v1/token/refresh?refresh_token=a+b",
        "/wp-json/jwt-auth/v1/token/refresh?rest_route=/jwt-auth/v1/token/refresh",
        "/?rest_route=%2Fjwt-auth%2Fv1%2Ftoken%2Frefresh",
        "/?rest_route=jwt-auth/v1/token/refresh",
        "/?rest_route=/jwt-auth/v1/token/refresh//",
        "/?rest_route=/jwt-auth/v1/token/refresh&refresh_token=a",
        "/?x=1&rest_route=/jwt-auth/v1/token/refresh",
        "/index.php/?rest_route=/jwt-auth/v1/token/refresh",
        "/wp-json/?rest_route=/jwt-auth/v1/token/refresh",
        "/wp-json/jwt-auth/v1/token/refresh/x",
        "/wp-json/jwt-auth/v1/token",
    ] {
        assert!(!is_native(&post(target, &pretty)), "{target}");
    }
    let plain = forms("", Permalinks::Plain);
    assert!(!is_native(&post("/wp-json/jwt-auth/v1/token/refresh", &plain)));
    assert!(!is_native(&post("/index.php/wp-json/jwt-auth/v1/token/refresh", &plain)));
    let path_info = forms("", Permalinks::PathInfo);
    assert!(!is_native(&post("/wp-json/jwt-auth/v1/token/refresh", &path_info)));
    for home in ["/caf%C3%A9", "/café", "/blog/", "/", "blog", "/a/../b", "/a//b", "/a b"] {
        let forms = forms(home, Permalinks::Pretty);
        let target = format!("{home}/wp-json/jwt-auth/v1/token/refresh");
        let Ok(target) = target.parse::<Uri>() else { continue };
        let route = decide(&Method::POST, &target, &HeaderMap::new(), &forms);
        assert!(!is_native(&route), "{home}");
    }
}

#[test]
fn other_methods_are_forwarded() {
    let forms = forms("", Permalinks::Pretty);
    let target = Uri::from_static("/wp-json/jwt-auth/v1/token/refresh");
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "post", "Post"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let route = decide(&method, &target, &HeaderMap::new(), &forms);
        assert_eq!(route, Route::Forward(ForwardReason::NotRefresh));
    }
}

#[test]
fn headers_decide() {
    use ForwardReason as Why;
    let forms = forms("", Permalinks::Pretty);
    let target = Uri::from_static("/wp-json/jwt-auth/v1/token/refresh");
    type Case = (&'static [(&'static str, &'static str)], Option<Why>);
    let cases: [Case; 39] = [
        (&[], None),
        (&[("content-type", "application/json"), ("accept", "*/*")], None),
        (&[("authorization", "Bearer x"), ("cookie", "a=b")], None),
        (&[("authorization", "Bearer ")], None),
        (&[("authorization", "Basic YWRhOnBhc3N3b3Jk")], Some(Why::Authorization)),
        (&[("authorization", "basic YWRhOnBhc3N3b3Jk")], Some(Why::Authorization)),
        (&[("authorization", "bearer x")], Some(Why::Authorization)),
        (&[("authorization", "Bearer")], Some(Why::Authorization)),
        (&[("authorization", "")], Some(Why::Authorization)),
        (&[("authorization", "Bearer x"), ("authorization", "Bearer x")], Some(Why::Authorization)),
        (&[("authorization", "Bearer x"), ("authorization", "Basic x")], Some(Why::Authorization)),
        (&[("authorization", ""), ("authorization", "Bearer x")], Some(Why::Authorization)),
        (&[("content-encoding", "Identity")], None),
        (&[("expect", "100-Continue")], None),
        (&[("origin", "https://app.example")], None),
        (&[("origin", "http://127.0.0.1:8099")], None),
        (&[("origin", "null")], None),
        (&[("my_header", "x")], None),
        (&[("origin", "")], Some(Why::Origin)),
        (&[("origin", "NULL")], Some(Why::Origin)),
        (&[("origin", "HTTPS://app.example")], Some(Why::Origin)),
        (&[("origin", "capacitor://localhost")], None),
        (&[("origin", "capacitor://localhost"), ("origin", "capacitor://localhost")], Some(Why::Origin)),
        (&[("origin", "https://app.example/")], Some(Why::Origin)),
        (&[("origin", "https://app.example:")], Some(Why::Origin)),
        (&[("origin", "https://a:b@app.example")], Some(Why::Origin)),
        (&[("origin", "https://[::1]")], Some(Why::Origin)),
        (&[("origin", "https://")], Some(Why::Origin)),
        (&[("origin", "https://a"), ("origin", "https://a")], Some(Why::Origin)),
        (&[("content-type", "a/b"), ("content-type", "a/b")], Some(Why::ContentType)),
        (&[("content-encoding", "gzip")], Some(Why::ContentEncoding)),
        (&[("content-encoding", "")], Some(Why::ContentEncoding)),
        (&[("expect", "200-ok")], Some(Why::Expect)),
        (&[("x-http-method-override", "GET")], Some(Why::MethodOverride)),
        (&[("x-http-method-override", "")], Some(Why::MethodOverride)),
        (&[("x-wp-nonce", "x")], Some(Why::Nonce)),
        (&[("x_wp_nonce", "x")], Some(Why::HeaderName)),
        (&[("content_type", "x")], Some(Why::HeaderName)),
        (&[("x-http_method-override", "x")], Some(Why::HeaderName)),
    ];
    for (lines, expected) in cases {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let expected = match expected {
            Some(reason) => Route::Forward(reason),
            None => Route::Refresh { query_token: None },
        };
        assert_eq!(decide(&Method::POST, &target, &headers, &forms), expected, "{lines:?}");
    }
}

#[test]
fn debug_hides_the_token() {
    let route = Route::Refresh { query_token: Some("0123abc".to_owned()) };
    assert!(!format!("{route:?}").contains("0123"));
}

fn some_forms() -> impl Strategy<Value = RouteForms> {
    (prop_oneof!["", "/blog", "(/[a-z]{1,3}){0,2}"], proptest::sample::select(&ALL[..]))
        .prop_map(|(home, permalinks)| forms(&home, permalinks))
}

/// The canonical form of a target: WordPress ignores the route's case and its last slash.
fn canonical(target: &str) -> Option<String> {
    let lower = target.to_ascii_lowercase();
    let at = lower.find(REFRESH_ROUTE)?;
    let (before, _) = target.split_at(at);
    let rest = target.get(at + REFRESH_ROUTE.len()..)?;
    Some(format!("{before}{REFRESH_ROUTE}{}", rest.strip_prefix('/').unwrap_or(rest)))
}

proptest! {
    #[test]
    fn never_panics(
        method in proptest::sample::select(vec![Method::POST, Method::GET]),
        target in "[ -~é]{0,60}",
        home in ".{0,12}",
        permalinks in proptest::sample::select(&ALL[..]),
        name in "[a-z_-]{1,20}",
        value in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let Ok(target) = target.parse::<Uri>() else { return Ok(()) };
        let mut headers = HeaderMap::new();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_bytes(&value))
        {
            headers.insert(name, value);
        }
        let forms = forms(&home, permalinks);
        let route = decide(&method, &target, &headers, &forms);
        prop_assert!(!is_native(&route) || could_be_refresh(&method, &target));
    }

    #[test]
    fn an_edit_is_an_equivalent_spelling_or_forwarded(
        forms in some_forms(),
        pick in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        edit in prop_oneof![
            Just(String::new()), "[ -~]", "%[0-9A-F]{2}", Just("//".into()), Just("/./".into()),
        ],
        replace in any::<bool>(),
    ) {
        let targets = native_targets(&forms);
        let (target, token) = pick.get(&targets);
        let at = at.index(target.len() + 1);
        let (before, after) = target.split_at(at);
        let after = if replace { after.get(1..).unwrap_or("") } else { after };
        let edited = format!("{before}{edit}{after}");
        // `http` cuts a target at `#`, which no client sends (RFC 9112, section 3.2).
        prop_assume!(!edited.contains('#'));
        let Ok(uri) = edited.parse::<Uri>() else { return Ok(()) };
        if uri.scheme().is_some() || uri.authority().is_some() { return Ok(()) }
        let route = decide(&Method::POST, &uri, &HeaderMap::new(), &forms);
        if let Route::Refresh { query_token } = route {
            prop_assert!(could_be_refresh(&Method::POST, &uri));
            // Only the token's own characters, the route's case and the last slash may differ.
            let strip = |text: &str, token: Option<&str>| {
                let text = canonical(text)?;
                Some(match token {
                    Some(token) => text.strip_suffix(token)?.to_owned(),
                    None => text,
                })
            };
            let edited = strip(&edited, query_token.as_deref());
            let same = edited == strip(target, *token)
                || edited == strip(target, *token).map(|t| t.replace("/index.php", ""))
                || edited.map(|t| t.replace("/index.php", "")) == strip(target, *token);
            prop_assert!(same, "{uri}");
        }
    }
}
