//! All metrics of requests: one table of events, one of levels, one of durations. A new metric
//! needs one line here and one `add` where it happens.
//!
//! No label contains a path, a host, a user or anything else that clients choose: each series costs
//! memory for ever.

use http::StatusCode;

/// One series of the exposition, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// The name after `wp_jwt_sidecar_`, without the ending `_total` of counters.
    pub family: &'static str,
    /// The help text, one sentence.
    pub help: &'static str,
    /// The labels' names and values.
    pub labels: &'static [(&'static str, &'static str)],
}

/// Defines a closed set of series: the families one after the other, each with its members.
macro_rules! series {
    ($(#[$doc:meta])* $name:ident { $($family:literal $help:literal { $($variant:ident $({ $($label:ident = $value:literal),+ })?),+ $(,)? })+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $help] $variant,)+)+ }

        impl $name {
            /// All of them, grouped by family.
            pub const ALL: &'static [$name] = &[$($($name::$variant),+),+];

            /// The name and labels in the exposition.
            pub fn series(self) -> Series {
                match self {
                    $($($name::$variant => Series {
                        family: $family,
                        help: $help,
                        labels: &[$($((stringify!($label), $value)),+)?],
                    },)+)+
                }
            }
        }
    };
}

series! {
    /// Events.
    Event {
        "requests_begun" "Requests whose head was read." { Begun }
        "requests" "Requests that ended, by what became of them (refresh: answered here; forward: by the site; upgrade: became a tunnel; error: the sidecar's own error answer, or the client left) and by the class of their status." {
            Refresh2xx { kind = "refresh", class = "2xx" },
            Refresh4xx { kind = "refresh", class = "4xx" },
            Refresh5xx { kind = "refresh", class = "5xx" },
            Forward1xx { kind = "forward", class = "1xx" },
            Forward2xx { kind = "forward", class = "2xx" },
            Forward3xx { kind = "forward", class = "3xx" },
            Forward4xx { kind = "forward", class = "4xx" },
            Forward5xx { kind = "forward", class = "5xx" },
            ForwardOther { kind = "forward", class = "other" },
            Upgrade { kind = "upgrade", class = "1xx" },
            Error4xx { kind = "error", class = "4xx" },
            Error5xx { kind = "error", class = "5xx" },
        }
        "errors" "Requests that the sidecar answered with an error of its own, by reason (499: the client left before the answer), and those whose body broke when the site had begun to answer." {
            MethodRefused { reason = "method_refused", status = "405" },
            InvalidTarget { reason = "invalid_target", status = "400" },
            InvalidHost { reason = "invalid_host", status = "400" },
            UnsupportedTransferEncoding { reason = "unsupported_transfer_encoding", status = "501" },
            Malformed { reason = "malformed", status = "400" },
            UriTooLong { reason = "uri_too_long", status = "414" },
            HeadTooLarge { reason = "head_too_large", status = "431" },
            RequestHeadTimeout { reason = "request_head_timeout", status = "408" },
            InvalidRequestBody { reason = "invalid_request_body", status = "400" },
            RequestBodyTimeout { reason = "request_body_timeout", status = "408" },
            RequestTooLarge { reason = "request_too_large", status = "413" },
            ClientClosed { reason = "client_closed", status = "499" },
            TooManyInFlight { reason = "too_many_in_flight", status = "503" },
            UpstreamBusy { reason = "upstream_busy", status = "503" },
            UpstreamUnreachable { reason = "upstream_unreachable", status = "502" },
            UpstreamConnectTimeout { reason = "upstream_connect_timeout", status = "504" },
            UpstreamTls { reason = "upstream_tls", status = "502" },
            UpstreamBrokeOff { reason = "upstream_broke_off", status = "502" },
            UpstreamUnaskedUpgrade { reason = "upstream_unasked_upgrade", status = "502" },
            UpstreamTransferEncoding { reason = "upstream_transfer_encoding", status = "502" },
            UpstreamTimeout { reason = "upstream_timeout", status = "504" },
            DatabaseUnavailable { reason = "database_unavailable", status = "503" },
        }
        "connections_accepted" "Client connections accepted." { Accepted }
        "connections_refused" "Client connections closed before their first request, by reason." {
            RefusedPerAddress { reason = "per_address" },
            RefusedProxyHeader { reason = "proxy_header" },
        }
        "connections_closed_silent" "Client connections closed because the client was silent, by what was waited for." {
            SilentFirstByte { waited_for = "first_byte" },
            SilentReader { waited_for = "reader" },
        }
        "accept_errors" "Times that the system gave no connection, out of open files for example." { AcceptError }
        "tls_handshakes" "TLS handshakes with clients that succeeded, by the protocol chosen." {
            HandshakeHttp1 { protocol = "http/1.1" },
            HandshakeHttp2 { protocol = "h2" },
        }
        "tls_handshake_failures" "TLS handshakes with clients that failed, by reason." {
            HandshakeTimeout { reason = "timeout" },
            HandshakeClosed { reason = "closed" },
            HandshakeNotTls { reason = "not_tls" },
            HandshakeIncompatible { reason = "incompatible" },
            HandshakeAlert { reason = "alert" },
            HandshakeOther { reason = "other" },
        }
        "tls_reloads" "Times that the certificates were read again, by result." {
            ReloadWorked { result = "success" },
            ReloadFailed { result = "failure" },
        }
        "reloads" "Times that the configuration was read again (SIGHUP), by result; at a failure the one before stays in effect." {
            ConfigurationReloaded { result = "success" },
            ConfigurationRefused { result = "failure" },
        }
        "upstream_connections_opened" "Connections made to the site's web server." { UpstreamOpened }
        "upstream_connections_reused" "Requests sent on a connection to the site's web server that had been used before." { UpstreamReused }
        "upstream_retries" "Requests sent once more because a reused connection had died." { UpstreamRetried }
        "upstream_interim_responses" "Interim responses of the site (103 and others, not 100), by whether the client got them." {
            InterimPassed { result = "passed" },
            InterimDropped { result = "dropped" },
        }
        "early_bodies" "Request bodies that upstream.early_bodies lets flow before their start was read, by when: once the site asked (when_asked), at once (at_once), or not early, because the address had no place left (no_place; server.max_early_bodies_per_address)." {
            BodyWhenAsked { begin = "when_asked" },
            BodyAtOnce { begin = "at_once" },
            BodyWithoutPlace { begin = "no_place" },
        }
        "upstream_answers_cut" "Answers of the site that ended early, by reason." {
            AnswerBrokeOff { reason = "broke_off" },
            AnswerSilent { reason = "silent" },
        }
    }
}

series! {
    /// Levels.
    Level {
        "connections" "Client connections open." { Connections }
        "tunnels" "Connections that switched protocols, WebSockets for example." { Tunnels }
        "upstream_connections" "Connections to the site's web server, idle ones among them." { Upstream }
        "upstream_connections_idle" "Connections to the site's web server that wait for a request." { UpstreamIdle }
    }
}

series! {
    /// Durations.
    Timing {
        "refresh_duration_seconds" "Time from the head of a refresh call to its answer, where the sidecar answered." { Refresh }
        "forward_duration_seconds" "Time from the head of a forwarded request to the head of its answer." { Forward }
        "upstream_duration_seconds" "Time from a request's sending to the head of the site's answer, a connection to be made not counted." { Upstream }
    }
}

impl Event {
    /// A response of the site.
    pub fn forwarded(status: StatusCode) -> Event {
        match status.as_u16() {
            101 => Event::Upgrade,
            100..200 => Event::Forward1xx,
            200..300 => Event::Forward2xx,
            300..400 => Event::Forward3xx,
            400..500 => Event::Forward4xx,
            500..600 => Event::Forward5xx,
            _ => Event::ForwardOther,
        }
    }

    /// A refresh answered by the sidecar.
    pub fn refreshed(status: StatusCode) -> Event {
        match status.as_u16() {
            500.. => Event::Refresh5xx,
            400.. => Event::Refresh4xx,
            _ => Event::Refresh2xx,
        }
    }

    /// An error response with this status.
    pub fn failed(status: u16) -> Event {
        if status < 500 { Event::Error4xx } else { Event::Error5xx }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_list() {
        for (place, event) in Event::ALL.iter().enumerate() {
            assert_eq!(*event as usize, place);
        }
    }

    #[test]
    fn statuses_go_where_they_belong() {
        let status = |code: u16| StatusCode::from_u16(code).unwrap();
        for (code, class) in
            [(101, "1xx"), (103, "1xx"), (200, "2xx"), (304, "3xx"), (404, "4xx"), (599, "5xx"), (999, "other")]
        {
            assert_eq!(Event::forwarded(status(code)).series().labels.last(), Some(&("class", class)), "{code}");
        }
        assert_eq!(Event::refreshed(status(403)), Event::Refresh4xx);
        assert_eq!((Event::failed(499), Event::failed(500)), (Event::Error4xx, Event::Error5xx));
    }
}
