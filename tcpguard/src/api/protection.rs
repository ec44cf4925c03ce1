//! Protection against web pages of other sites: a browser on the operator's machine can reach this address too. The
//! `Host` of a request must be a name of this server, the request must not come from another site's page, and
//! responses carry headers that restrict how a browser may use them.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Access, ApiError, ApiState, error::Foreign};

/// Allows the page only its own script, style sheet and images, and connections to this server.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// Checks each request before anything else, and adds the protective headers to each response.
pub(super) async fn protect(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let is_by_tcp = request.extensions().get() != Some(&Access::Change);
    let mut response = match check(request.headers(), is_by_tcp, &state.config().listen.hosts) {
        Ok(()) => next.run(request).await,
        Err(foreign) => ApiError::from(foreign).into_response(),
    };
    let headers = response.headers_mut();
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check(headers: &HeaderMap, is_by_tcp: bool, names: &[String]) -> Result<(), Foreign> {
    let text =
        |name: &HeaderName| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let host = text(&header::HOST).unwrap_or_default();
    if is_by_tcp && !is_ours(&host, names) {
        return Err(Foreign::Host(shortened(host)));
    }
    match text(&header::ORIGIN) {
        // A sandboxed page sends "null".
        Some(origin) if !is_same_site(&origin, &host) => return Err(Foreign::Origin(shortened(origin))),
        _ => {}
    }
    // Browsers mark requests of a page for an image or a script, which have no `Origin`, with Fetch Metadata (W3C).
    // Following a link to the dashboard is allowed.
    match text(&HeaderName::from_static("sec-fetch-site")).as_deref() {
        Some(site @ ("cross-site" | "same-site")) if !is_navigation(headers) => Err(Foreign::Origin(site.to_owned())),
        _ => Ok(()),
    }
}

fn is_navigation(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate")
}

/// Returns whether `host` is an IP address, which cannot be made to resolve elsewhere, or a name of this server.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = without_port(host);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns whether a page from `origin` was served by `host`. HTTPS is accepted too, for a proxy in front of
/// tcpguard.
fn is_same_site(origin: &str, host: &str) -> bool {
    let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    of.is_some_and(|of| of.eq_ignore_ascii_case(host))
}

fn shortened(text: String) -> String {
    text.chars().filter(|character| !character.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(pairs: &[(&'static str, &'static str)]) -> Result<(), Foreign> {
        let headers =
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        check(&headers.collect(), true, &["guard.example".to_owned()])
    }

    #[test]
    fn addresses_and_our_names_are_ours() {
        for host in
            ["127.0.0.1:9477", "[::1]:9477", "[2001:db8::1]", "localhost", "LOCALHOST:9477", "guard.example:443"]
        {
            assert_eq!(checked(&[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example:9477", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            assert_eq!(checked(&[("host", host)]), Err(Foreign::Host(host.to_owned())));
        }
        assert!(checked(&[]).is_err());
    }

    #[test]
    fn nor_do_their_images_but_links_lead_here() {
        let host = ("host", "127.0.0.1:9477");
        for site in ["cross-site", "same-site"] {
            let fetched = [host, ("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")];
            assert_eq!(checked(&fetched), Err(Foreign::Origin(site.to_owned())));
            assert_eq!(checked(&[host, ("sec-fetch-site", site), ("sec-fetch-mode", "navigate")]), Ok(()));
        }
        for site in ["same-origin", "none"] {
            assert_eq!(checked(&[host, ("sec-fetch-site", site), ("sec-fetch-mode", "cors")]), Ok(()));
        }
    }

    #[test]
    fn pages_of_others_have_no_access() {
        let host = ("host", "127.0.0.1:9477");
        for origin in ["http://127.0.0.1:9477", "https://127.0.0.1:9477"] {
            assert_eq!(checked(&[host, ("origin", origin)]), Ok(()));
        }
        for origin in ["http://evil.example", "null", "http://127.0.0.1:80", "http://localhost:9477"] {
            assert_eq!(checked(&[host, ("origin", origin)]), Err(Foreign::Origin(origin.to_owned())));
        }
    }
}
