//! Whether the sidecar or WordPress answers the recorded calls.

/// How many exchanges were recorded on each network.
pub const RECORDED: [(&str, usize); 4] = [
    ("network-subdirectory", 125),
    ("network-subdomain", 28),
    ("network-per-blog-activation", 17),
    ("home-by-host", 24),
];

/// Exchanges that cannot be replayed, with the reason.
pub const NOT_MADE_AGAIN: &[(&str, &str, &str)] = &[];

/// Refresh calls that WordPress answers, with the reason. The sidecar answers all others. WordPress
/// always answers everything else (logins, home questions, OPTIONS).
pub const BY_WORDPRESS: &[(&str, &str)] = &[
    ("nine_first_request_is_a_refresh", "the site's tables are not there yet"),
    ("upper_case_path_TWO", "the database decides whether that is /two/"),
    ("mixed_case_path_Two", "likewise"),
    ("two_double_slash", "an unusual path"),
    ("double_slash_two", "an unusual path"),
    ("encoded_two", "an unusual path"),
    ("two_rest_route_no_slash", "an unusual path"),
    ("host_other_port", "no site"),
    ("host_trailing_dot", "no site"),
    ("host_port_443", "by http it is another port than the first site's own"),
    ("bare_host_of_www_blog", "no site"),
    ("unknown_host", "no site"),
    ("unknown_subdomain", "no site"),
    ("unknown_path", "not the route"),
    ("two_and_more_segments", "not the route"),
    ("mapped_with_path_two", "not the route"),
    ("mapped_blog_at_its_first_path", "not the route"),
    ("path_two_on_main", "not the route"),
    ("path_on_two", "not the route"),
    ("www_host_main", "the first site is native at its own host and those in wordpress.hosts only"),
    ("archived_refresh_live", "a site that is not served"),
    ("archived_refresh_unknown", "likewise"),
    ("archived_refresh_live_form", "likewise"),
    ("archived_refresh_live_form_accept_json", "likewise"),
    ("archived_upper_case", "likewise"),
    ("archived_refresh_live_with_cookie_of_user1", "likewise"),
    ("archived_refresh_live_with_cookie_of_super_admin", "likewise, and WordPress serves it to this one"),
    ("spam_refresh_live", "likewise"),
    ("spam_refresh_unknown", "likewise"),
    ("deleted_refresh_live", "likewise"),
    ("deleted_refresh_unknown", "likewise"),
    ("archived_2_refresh", "a flag that WordPress may heed one day"),
    ("deleted_2_unconfirmed_refresh", "a site that is not activated"),
    ("five_never_active_refresh", "the plugin is not active there"),
    ("three_deactivated_refresh_live", "likewise"),
    ("main_deactivated_refresh", "likewise"),
    ("host_other_port_where_nginx_sends_HTTP_HOST_as_dollar_host", "no site, by the host that the client has sent"),
    ("host_trailing_dot_where_nginx_sends_HTTP_HOST_as_dollar_host", "likewise"),
];

/// Refresh calls for a host that no other call names. WordPress answers the first one and is asked
/// for its home URL there; the sidecar answers the next one, as recorded, too.
pub const ASKED_FOR: [&str; 5] = [
    "refresh_unknown_host",
    "refresh_upper_case_host",
    "refresh_host_with_port",
    "refresh_host_with_port_where_nginx_sends_HTTP_HOST_as_dollar_host",
    "refresh_upper_case_host_where_nginx_sends_HTTP_HOST_as_dollar_host",
];
