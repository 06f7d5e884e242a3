//! Who may come in.
//!
//! A page on the reader's own machine is reachable by every other page that the reader's browser has open. Four checks, for every
//! request: it names a host that is ours (against DNS rebinding), it does not come from another page (Origin), it knows the token
//! where there is one, and what it gets tells the browser to run nothing else (CSP).

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::header::{AUTHORIZATION, COOKIE, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use peer_observer_exporter::host::Hosts;

/// Shorter tokens can be guessed.
const MIN_SECRET: usize = 16;
/// What the login page is made of; it tells nothing of a node.
const OPEN: [&str; 2] = ["/style.css", "/icon.svg"];
/// Name of the cookie that keeps the token; the port follows.
const COOKIE_NAME: &str = "peer_observer_token";
/// How long a browser keeps it, s: 30 days.
const COOKIE_AGE: u32 = 30 * 24 * 60 * 60;

/// Headers of every answer.
const HEADERS: [(&str, &str); 8] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("cache-control", "no-cache"),
];

/// Why access cannot be guarded as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Everybody could come in.
    #[error(
        "{address} can be reached from other machines, so say who may come in: set --web-token-file, or --web-proxy-header for a \
         reverse proxy that asks"
    )]
    Open {
        /// The address that was configured.
        address: SocketAddr,
    },
    /// A secret is too easy to guess, or does not fit into a header.
    #[error("the {what} has to be at least 16 letters, digits, and characters of `-._~`")]
    Weak {
        /// Which secret.
        what: &'static str,
    },
    /// The file of the token cannot be read.
    #[error("cannot read the token from {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The header is no header.
    #[error(
        "--web-proxy-header {given}: give NAME=VALUE, the header that the proxy sets, such as X-Observer-Access=a-long-secret"
    )]
    Header {
        /// What was given.
        given: String,
    },
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("this is not the host you asked for; name it with --web-host if it should be\n")]
    Host,
    #[error("pages of other sites may not come in; allow one with --web-origin\n")]
    Origin,
    #[error("only GET and HEAD are answered here\n")]
    Method,
    #[error("a token is needed\n")]
    Token,
}

impl Denied {
    /// The status to answer with.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Denied::Host => StatusCode::MISDIRECTED_REQUEST,
            Denied::Origin => StatusCode::FORBIDDEN,
            Denied::Method => StatusCode::METHOD_NOT_ALLOWED,
            Denied::Token => StatusCode::UNAUTHORIZED,
        }
    }
}

/// A request that may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visitor {
    /// It has the login, or none is needed.
    Known,
    /// It asks for the login page, or logs in.
    Unknown,
}

/// Who may come in.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    token: Option<String>,
    /// A header that a reverse proxy sets, and what it sets it to.
    proxy: Option<(HeaderName, String)>,
    hosts: Hosts,
    origins: Vec<String>,
    cookie: String,
}

fn is_strong(secret: &str) -> bool {
    secret.len() >= MIN_SECRET && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

/// Takes as long whatever the secrets have in common.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

impl Guard {
    /// As configured.
    ///
    /// # Errors
    /// When a secret is weak or cannot be read.
    pub(crate) fn new(config: &super::Config) -> Result<Self, Error> {
        let from_file = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|source| Error::File { path: path.clone(), source })
        };
        let token = match (&config.web_token, &config.web_token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(path)) => Some(from_file(path)?),
            (None, None) => None,
        };
        if token.as_deref().is_some_and(|token| !is_strong(token)) {
            return Err(Error::Weak { what: "token" });
        }
        let proxy = match &config.web_proxy_header {
            None => None,
            Some(given) => {
                let parts = given.split_once('=').and_then(|(name, value)| Some((name.parse().ok()?, value)));
                let (name, value) = parts.ok_or_else(|| Error::Header { given: given.clone() })?;
                if !is_strong(value) {
                    return Err(Error::Weak { what: "value of --web-proxy-header" });
                }
                Some((name, value.to_owned()))
            }
        };
        Ok(Guard {
            token,
            proxy,
            hosts: Hosts::new(&config.web_host),
            origins: config.web_origin.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            cookie: COOKIE_NAME.into(),
        })
    }

    /// The same for the server at that port. Cookies belong to a host and not to a port, so its
    /// name has the port: otherwise, logging in to one server of a machine would log out of
    /// another.
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        self.cookie = format!("{COOKIE_NAME}_{port}");
        self
    }

    /// Whether there is a secret that clients have to know.
    pub(crate) fn needs_login(&self) -> bool {
        self.token.is_some() || self.proxy.is_some()
    }

    /// The cookie that keeps the token in the browser that sent this request. A browser sends one
    /// with `Secure` over https only.
    ///
    /// This server speaks plain HTTP, so it knows of https what the request says: `Origin`, which
    /// browsers send with a form, or a proxy's `X-Forwarded-Proto`. Neither has to be trusted: a
    /// wrong one changes nothing but the sender's own cookie.
    pub(crate) fn cookie(&self, token: &str, headers: &HeaderMap) -> String {
        let says = |name: &str, starts: &[u8]| {
            headers.get(name).is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(starts))
        };
        let secure = match says("origin", b"https://") || says("x-forwarded-proto", b"https") {
            true => "; Secure",
            false => "",
        };
        format!("{}={token}; Path=/; Max-Age={COOKIE_AGE}; HttpOnly; SameSite=Strict{secure}", self.cookie)
    }

    /// Refuses an address that everybody can reach without a word.
    ///
    /// # Errors
    /// When that is so.
    pub(crate) fn check_address(&self, address: SocketAddr) -> Result<(), Error> {
        match address.ip().is_loopback() || self.needs_login() {
            true => Ok(()),
            false => Err(Error::Open { address }),
        }
    }

    /// Whether a request may come in.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Visitor, Denied> {
        let host = self.hosts.named_by(headers).ok_or(Denied::Host)?;
        self.origin(headers, &host, uri)?;
        let login = uri.path() == "/login";
        match *method {
            Method::GET | Method::HEAD => {}
            Method::POST if login => return Ok(Visitor::Unknown),
            _ => return Err(Denied::Method),
        }
        match self.has_login(headers, uri) {
            true => Ok(Visitor::Known),
            false if OPEN.contains(&uri.path()) => Ok(Visitor::Unknown),
            false => Err(Denied::Token),
        }
    }

    fn origin(&self, headers: &HeaderMap, host: &str, uri: &Uri) -> Result<(), Denied> {
        if let Some(origin) = headers.get(ORIGIN) {
            let origin = origin.to_str().map_err(|_| Denied::Origin)?.to_ascii_lowercase();
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            let ours = authority == Some(host) || self.origins.contains(&origin);
            return if ours { Ok(()) } else { Err(Denied::Origin) };
        }
        // Browsers leave Origin out of plain GETs, but say this. A link to the page itself may come from anywhere.
        let cross = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
        let page = uri.path() == "/";
        if cross && !page { Err(Denied::Origin) } else { Ok(()) }
    }

    fn has_login(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        if !self.needs_login() {
            return true;
        }
        let from_proxy = self.proxy.as_ref().is_some_and(|(name, value)| {
            headers.get(name).and_then(|given| given.to_str().ok()).is_some_and(|given| same(given, value))
        });
        let bearer =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let cookie = cookies
            .flat_map(|cookies| cookies.split(';'))
            .find_map(|cookie| cookie.trim().strip_prefix(&*self.cookie)?.strip_prefix('='));
        let given = [bearer, cookie, token_of(uri)];
        let known = given.into_iter().flatten().any(|given| self.is_token(given));
        from_proxy || known
    }

    /// Whether this is the token.
    pub(crate) fn is_token(&self, given: &str) -> bool {
        self.token.as_deref().is_some_and(|token| same(token, given))
    }
}

/// The token in an address, for clients that can set no headers.
pub(crate) fn token_of(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))
}

/// Adds what every answer says to browsers.
pub(crate) fn add_headers(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::Config;

    const TOKEN: &str = "0123456789abcdef";

    fn request(headers: &[(&str, &str)], uri: &str) -> (HeaderMap, Uri) {
        let headers = headers.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        });
        (headers.collect(), uri.parse().unwrap())
    }

    fn check(guard: &Guard, headers: &[(&str, &str)], uri: &str) -> Result<(), Denied> {
        let (headers, uri) = request(headers, uri);
        guard.check(&Method::GET, &uri, &headers).map(drop)
    }

    #[test]
    fn host_has_to_be_ours() {
        let guard =
            Guard::new(&Config { web_host: vec!["node.example".into()], ..Config::default() }).unwrap();
        assert_eq!(check(&guard, &[("host", "Node.Example:80")], "/"), Ok(()));
        assert_eq!(check(&guard, &[("host", "evil.example")], "/"), Err(Denied::Host));
        assert_eq!(check(&guard, &[], "/"), Err(Denied::Host));
        // The page needs no name of the machine that was not given to it.
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        if own.trim() != "localhost" {
            assert_eq!(check(&guard, &[("host", own.trim())], "/"), Err(Denied::Host));
        }
    }

    #[test]
    fn pages_of_other_sites_are_turned_away() {
        let guard =
            Guard::new(&Config { web_origin: vec!["http://pages.example:8000".into()], ..Config::default() })
                .unwrap();
        let host = ("host", "localhost:47482");
        for good in ["http://localhost:47482", "https://localhost:47482", "http://pages.example:8000"] {
            assert_eq!(check(&guard, &[host, ("origin", good)], "/ws"), Ok(()), "{good}");
        }
        for bad in [
            "http://localhost:8000",
            "http://evil.example",
            "null",
            "",
            "http://localhost:47482.evil.example",
        ] {
            assert_eq!(check(&guard, &[host, ("origin", bad)], "/ws"), Err(Denied::Origin), "{bad}");
        }
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(check(&guard, &[host, cross], "/api/v1/peers"), Err(Denied::Origin));
        assert_eq!(check(&guard, &[host, cross], "/"), Ok(()), "a link to the page");
    }

    #[test]
    fn where_there_is_a_token_it_is_needed_and_can_come_in_four_ways() {
        let config = Config {
            web_token: Some(TOKEN.into()),
            web_proxy_header: Some("X-Access=fedcba9876543210".into()),
            ..Config::default()
        };
        let guard = Guard::new(&config).unwrap();
        let host = ("host", "localhost");
        assert_eq!(check(&guard, &[host], "/"), Err(Denied::Token));
        let cookie = format!("a=b; {COOKIE_NAME}={TOKEN}");
        let bearer = format!("Bearer {TOKEN}");
        for header in [("cookie", &*cookie), ("authorization", &*bearer), ("x-access", "fedcba9876543210")] {
            assert_eq!(check(&guard, &[host, header], "/"), Ok(()), "{header:?}");
        }
        assert_eq!(check(&guard, &[host], &format!("/ws?token={TOKEN}")), Ok(()));
        for header in [
            ("cookie", "peer_observer_token=0123456789abcdeX"),
            ("authorization", "Bearer "),
            ("x-access", ""),
        ] {
            assert_eq!(check(&guard, &[host, header], "/?token="), Err(Denied::Token), "{header:?}");
        }
    }

    #[test]
    fn without_the_token_there_is_what_the_login_page_is_made_of_and_nothing_else() {
        let guard = Guard::new(&Config { web_token: Some(TOKEN.into()), ..Config::default() }).unwrap();
        let host = ("host", "localhost");
        for open in ["/style.css", "/icon.svg", "/style.css?v=1"] {
            assert_eq!(check(&guard, &[host], open), Ok(()), "{open}");
            assert_eq!(check(&guard, &[("host", "evil.example")], open), Err(Denied::Host), "{open}");
            for foreign in [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")] {
                assert_eq!(check(&guard, &[host, foreign], open), Err(Denied::Origin), "{open} {foreign:?}");
            }
            let (headers, uri) = request(&[host], open);
            assert_eq!(guard.check(&Method::POST, &uri, &headers), Err(Denied::Method), "{open}");
        }
        for shut in [
            "/",
            "/login",
            "/app.js",
            "/views.js",
            "/style.css/",
            "//style.css",
            "/api/v1/health",
            "/ws",
            "/index.html",
            "/x?/style.css",
        ] {
            assert_eq!(check(&guard, &[host], shut), Err(Denied::Token), "{shut}");
        }
    }

    #[test]
    fn only_reading_is_possible() {
        let (headers, uri) = request(&[("host", "localhost")], "/");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::CONNECT] {
            assert_eq!(
                Guard::new(&Config::default()).unwrap().check(&method, &uri, &headers),
                Err(Denied::Method)
            );
        }
    }

    #[test]
    fn an_open_address_without_a_secret_and_weak_secrets_are_refused() {
        let guard = Guard::new(&Config::default()).unwrap();
        assert!(guard.check_address("127.0.0.1:1".parse().unwrap()).is_ok());
        assert!(guard.check_address("[::1]:1".parse().unwrap()).is_ok());
        for open in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1"] {
            assert!(matches!(guard.check_address(open.parse().unwrap()), Err(Error::Open { .. })), "{open}");
        }
        let with = |token: &str| Guard::new(&Config { web_token: Some(token.into()), ..Config::default() });
        assert!(with(TOKEN).unwrap().check_address("0.0.0.0:1".parse().unwrap()).is_ok());
        for weak in ["", "short", "with a space in it", "läng genug aber nicht"] {
            assert!(matches!(with(weak), Err(Error::Weak { .. })), "{weak}");
        }
        for header in ["X-Access", "X Access=0123456789abcdef", "X-Access=short"] {
            let config = Config { web_proxy_header: Some(header.into()), ..Config::default() };
            assert!(Guard::new(&config).is_err(), "{header}");
        }
    }

    #[test]
    fn cookie_belongs_to_one_port() {
        let config = Config { web_token: Some(TOKEN.into()), ..Config::default() };
        let [one, two] = [1, 2].map(|port| Guard::new(&config).unwrap().at_port(port));
        let cookie = one.cookie(TOKEN, &HeaderMap::new());
        let pair = cookie.split(';').next().unwrap();
        let headers = [("host", "localhost"), ("cookie", pair)];
        assert_eq!(check(&one, &headers, "/"), Ok(()));
        assert_eq!(check(&two, &headers, "/"), Err(Denied::Token));
        let both = format!("peer_observer_token_2=other; {pair}");
        assert_eq!(check(&one, &[("host", "localhost"), ("cookie", &both)], "/"), Ok(()));
    }

    #[test]
    fn cookie_is_secure_over_https() {
        let guard = Guard::new(&Config { web_token: Some(TOKEN.into()), ..Config::default() }).unwrap();
        for (header, secure) in [
            (("origin", "https://observer.example"), true),
            (("x-forwarded-proto", "https"), true),
            (("origin", "http://localhost:47482"), false),
            (("x-forwarded-proto", "http"), false),
            (("referer", "https://observer.example/"), false),
        ] {
            let (headers, _) = request(&[header], "/");
            let cookie = guard.cookie(TOKEN, &headers);
            assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
            assert_eq!(cookie.ends_with("; Secure"), secure, "{header:?}: {cookie}");
        }
    }

    #[test]
    fn token_is_compared_as_it_is() {
        let guard = Guard::new(&Config { web_token: Some(TOKEN.into()), ..Config::default() }).unwrap();
        let host = ("host", "localhost");
        let forms = [
            format!("bearer {TOKEN}"),
            format!("Bearer  {TOKEN}"),
            format!("Bearer \"{TOKEN}\""),
            format!("Bearer {TOKEN}, x"),
            format!("Bearer {}", TOKEN.to_uppercase()),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Bearer {TOKEN}0"),
            format!("Basic {TOKEN}"),
            TOKEN.into(),
        ];
        for form in forms {
            let header = ("authorization", form.as_str());
            assert_eq!(check(&guard, &[host, header], "/"), Err(Denied::Token), "{form}");
        }
        for uri in ["/?Token=", "/?xtoken=", "/?token=%30", "/?a=token=", "/token="] {
            assert_eq!(check(&guard, &[host], &format!("{uri}{TOKEN}")), Err(Denied::Token), "{uri}");
        }
        for cookie in ["peer_observer_tokenx", "xpeer_observer_token", "Peer_Observer_Token"] {
            let pair = format!("{cookie}={TOKEN}");
            assert_eq!(check(&guard, &[host, ("cookie", &pair)], "/"), Err(Denied::Token), "{cookie}");
        }
    }
}
