//! The keys for reaching the site's web server: `[upstream]`, `[forwarded]`.

use std::time::Duration;

use super::super::{Key, duration, integer, list, one_of, path, text};
use crate::config::{EarlyBodies, ForwardedMode, RequestIdMode, UpstreamProxyProtocol, kind::FileName};

keys! {
    UPSTREAM_URL: Option<String> = text("upstream.url", "URL").required("http://127.0.0.1:8081").flag_as("upstream")
        .about("The web server of the site, as http://HOST:PORT, https://HOST:PORT or unix:/PATH, without a path of \
            the site: requests keep the path that the client sent.")
        .change("With https its certificate must be valid for HOST, or for the name in tls_name.");
    UPSTREAM_CA_FILE: Option<FileName> = path("upstream.ca_file")
        .unset("those that the system trusts", "/etc/wp-jwt-sidecar/upstream-ca.pem")
        .about("Certificates, in PEM form: of the authorities that may have signed the upstream's certificate, or that \
            certificate itself.")
        .change("For an https upstream with a certificate of your own, or of your own authority. Only what is in the \
            file is trusted then.");
    UPSTREAM_TLS_NAME: Option<String> = text("upstream.tls_name", "NAME")
        .unset("the host in upstream.url", "www.example.com")
        .about("The name that an https upstream is asked for in the TLS handshake (SNI), and that its certificate must \
            be valid for; or \"host\".")
        .change("Set it where url has an IP address, or another name than the certificate. \"host\" takes the \
            request's Host where that is the home URL's or one of wordpress.hosts, else the host in url: Apache from \
            2.4.64 answers 421 where SNI and Host belong to different virtual hosts.");
    UPSTREAM_PROXY_PROTOCOL: UpstreamProxyProtocol = one_of("upstream.proxy_protocol").is("off")
        .about("Whether connections to the upstream begin with a PROXY header of version 2 that names the client.")
        .change("Only where the upstream expects it. Each request takes a new connection then, since the header is for \
            all that follows.");
    UPSTREAM_EARLY_BODIES: EarlyBodies = one_of("upstream.early_bodies").is("expect")
        .about("When the body of a request begins to flow to the upstream. \"never\": when its first 64 KiB have \
            arrived, so that slow clients hold none of the upstream's workers. \"expect\": the same, but a request \
            with \"Expect: 100-continue\" is sent on before its body arrives, and the upstream may refuse it without \
            a byte of the body. \"always\": as \"expect\", and a body without a length (chunked) flows from its first \
            byte.")
        .change("\"always\" is for conversations, where the site answers while the client still sends. They must keep \
            up server.min_rate, and one address may have server.max_early_bodies_per_address of them.");
    UPSTREAM_CONNECT_TIMEOUT: Duration = duration("upstream.connect_timeout").is("3s")
        .about("How long a connection to the upstream may take to be made, before the client gets a 504.");
    UPSTREAM_RESPONSE_HEADER_TIMEOUT: Duration = duration("upstream.response_header_timeout").is("330s")
        .about("How long the upstream may take to begin its response, before the client gets a 504.")
        .change("The default is above Apache's own 300 s, so that the site's response wins.");
    UPSTREAM_RESPONSE_BODY_IDLE: Duration = duration("upstream.response_body_idle").is("330s")
        .about("How long the body of a response may stand still before it is cut off.")
        .change("The default is above Apache's own 300 s, so that the site gives up first.");
    UPSTREAM_MAX_CONNECTIONS: Option<usize> = integer("upstream.max_connections", 0..=1_000_000, "connections")
        .unset("what the limit of open files leaves beside server.max_connections and the program's own", "150")
        .about("Connections to the upstream in use at once, shared by the workers, each at least one; 0: no limit.")
        .change("Requests wait for one as long as connect_timeout says, then the client gets a 503. Set it if the \
            upstream takes fewer; `check` shows the value that holds otherwise.");
    UPSTREAM_KEEPALIVE_IDLE: Duration = duration("upstream.keepalive_idle").or_zero().is("4s")
        .about("How long an idle connection to the upstream is kept for the next request; \"0s\" keeps none.")
        .change("Stay below the upstream's own limit, or requests meet closed connections: Apache's is 5 s, nginx's 75 \
            s.");
    UPSTREAM_KEEPALIVE_MAX_IDLE: usize = integer("upstream.keepalive_max_idle", 0..=65_535, "connections").is("512")
        .about("Idle connections to the upstream that each worker keeps at most; 0 keeps none.")
        .change("There are never more than were in use at once within keepalive_idle. If it is less than the number \
            of clients busy at once, every other request takes a new connection. Lower it only if other programs need \
            the upstream's workers, which idle connections hold (Apache's prefork has 150).");
    FORWARDED_TRUSTED_PROXIES: Vec<String> = list("forwarded.trusted_proxies", "NETWORK")
        .about("Addresses and networks of proxies in front of the sidecar, whose X-Forwarded-For is believed.")
        .change("List only machines that you run: each of them can choose the address that the rate limit counts.");
    FORWARDED_MODE: ForwardedMode = one_of("forwarded.mode").is("auto")
        .about("X-Forwarded-For, -Proto and -Host, X-Real-IP and Forwarded: \"auto\" replaces what an untrusted peer \
            sent and appends to what a trusted one did; \"preserve\" passes them as they came and adds nothing.")
        .change("With \"preserve\" a client can claim any address, unless a proxy in front prevents it.");
    FORWARDED_REQUEST_ID: RequestIdMode = one_of("forwarded.request_id").is("auto")
        .about("X-Request-Id, the name of a request in the sidecar's log. \"auto\": the upstream gets a trusted \
            peer's as it came, and the sidecar's own in place of any other. \"preserve\": what came passes, and \
            nothing is added.")
        .change("Set \"preserve\" if clients send one that the site reads. mode = \"preserve\" implies it.");
}
