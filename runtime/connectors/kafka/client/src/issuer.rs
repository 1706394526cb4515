//! Bearer tokens of an identity provider, by OAuth 2.0's client credentials (RFC 6749, 4.4), as KIP-768 has it.

use crate::error::{KafkaError, Result};
use crate::options::TlsOptions;
use crate::tls;
use serde::Deserialize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

// The settings that say where and as whom.
pub(crate) const URL: &str = "sasl.oauthbearer.token.endpoint.url";
pub(crate) const ID: &str = "sasl.oauthbearer.client.credentials.client.id";
pub(crate) const SECRET: &str = "sasl.oauthbearer.client.credentials.client.secret";
pub(crate) const SCOPE: &str = "sasl.oauthbearer.scope";
pub(crate) const ENCODE: &str = "sasl.oauthbearer.header.urlencode";
pub(crate) const CA_FILE: &str = "https.ca.location";
pub(crate) const CA: &str = "https.ca.pem";

/// Of one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of a token's life; then another one is asked for. As other clients have it.
const REFRESH_WINDOW_FACTOR: f64 = 0.8;
/// After a request that failed, while the token is good.
const PAUSE: Duration = Duration::from_secs(5);
/// A token is not kept for longer, whatever its issuer says.
const MAX_LIFETIME: Duration = Duration::from_secs(86_400);
/// Of an answer that a message shows.
const SHOWN: usize = 200;

/// Where tokens are asked for, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    pub url: String,
    pub client_id: String,
    pub client_secret: String,
    pub scope: Option<String>,
    /// Id and secret are percent-encoded, as the standard wants it and many providers don't.
    pub encodes_credentials: bool,
    /// Certificates of authorities; those of the system if nothing is said.
    pub ca_pem: Option<Vec<u8>>,
}

/// Of one endpoint and client: all connections of a process share its token.
pub struct Issuer {
    endpoint: TokenEndpoint,
    held: Mutex<Option<Held>>,
}

/// What the broker is shown.
pub(crate) struct Token {
    pub text: String,
    /// It was asked for just now.
    pub is_fresh: bool,
}

struct Held {
    token: String,
    renew_at: Instant,
    ends_at: Instant,
}

/// RFC 6749, 5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// Seconds: a number, and from some providers a text.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Granted {
    fn lifetime(&self) -> Duration {
        let text = || self.expires_in.as_str()?.parse().ok();
        let seconds = self.expires_in.as_f64().or_else(text).unwrap_or_default();
        Duration::try_from_secs_f64(seconds).unwrap_or_default().min(MAX_LIFETIME)
    }
}

/// RFC 6749, 5.2.
#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Issuer {
    pub fn of(endpoint: TokenEndpoint) -> Arc<Self> {
        static ISSUERS: Mutex<Vec<Weak<Issuer>>> = Mutex::new(vec![]);
        let mut issuers = ISSUERS.lock().unwrap_or_else(PoisonError::into_inner);
        issuers.retain(|issuer| issuer.strong_count() > 0);
        if let Some(issuer) = issuers.iter().filter_map(Weak::upgrade).find(|issuer| issuer.endpoint == endpoint) {
            return issuer;
        }
        let issuer = Arc::new(Issuer { endpoint, held: Mutex::new(None) });
        issuers.push(Arc::downgrade(&issuer));
        issuer
    }

    /// The one that is held, for most of its life.
    pub(crate) fn token(&self) -> Result<Token> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(held) = held.as_ref().filter(|held| now < held.renew_at) {
            return Ok(Token { text: held.token.clone(), is_fresh: false });
        }
        match self.ask() {
            Ok(granted) => {
                let (lifetime, access_token) = (granted.lifetime(), granted.access_token);
                *held = Some(Held {
                    token: access_token.clone(),
                    renew_at: now + lifetime.mul_f64(REFRESH_WINDOW_FACTOR),
                    ends_at: now + lifetime,
                });
                Ok(Token { text: access_token, is_fresh: true })
            }
            Err(error) => match held.as_mut().filter(|held| now < held.ends_at) {
                Some(held) => {
                    tracing::warn!(%error, "no new token; the one that is held is used on");
                    held.renew_at = now + PAUSE;
                    Ok(Token { text: held.token.clone(), is_fresh: false })
                }
                None => Err(error),
            },
        }
    }

    /// The broker doesn't take this one.
    pub(crate) fn forget(&self, token: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|held| held.token == token) {
            *held = None;
        }
    }

    fn ask(&self) -> Result<Granted> {
        let endpoint = &self.endpoint;
        let away = |error: &dyn std::fmt::Display| {
            KafkaError::Connection(format!("the token endpoint {}: {error}", endpoint.url))
        };
        let unusable = |reason: &str| KafkaError::Unusable(format!("the token endpoint {}: {reason}", endpoint.url));
        let tls = tls::config(&TlsOptions { ca_pem: endpoint.ca_pem.clone(), identity_pem: None })?;
        let client = reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).timeout(TIMEOUT).build();
        let client = client.map_err(|error| unusable(&chain(&error)))?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(scope) = &endpoint.scope {
            form.append_pair("scope", scope);
        }
        let encoded = |text: &str| match endpoint.encodes_credentials {
            true => form_urlencoded::byte_serialize(text.as_bytes()).collect(),
            false => text.to_owned(),
        };
        let request = client
            .post(&endpoint.url)
            .basic_auth(encoded(&endpoint.client_id), Some(encoded(&endpoint.client_secret)))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Accept", "application/json")
            .body(form.finish());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| away(&error))?;
        let (status, body) = runtime
            .block_on(async {
                let answer = request.send().await?;
                let status = answer.status();
                answer.text().await.map(|body| (status, body))
            })
            .map_err(|error| match refused_certificate(&error) {
                Some(reason) => unusable(&format!("{reason}; name the authority of its certificate in {CA_FILE}")),
                None => away(&chain(&error)),
            })?;
        let shown: String = body.chars().take(SHOWN).collect();
        match status.as_u16() {
            200..=299 => serde_json::from_str(&body)
                .map_err(|error| unusable(&format!("its answer has no token ({error}); correct {URL}"))),
            400 | 401 | 403 => {
                let reason = match serde_json::from_str(&body) {
                    Ok(Refused { error, error_description }) => format!("{error} {error_description}"),
                    Err(_) => shown,
                };
                Err(unusable(&format!("{status}: {}; correct {ID}, {SECRET} and {SCOPE}", reason.trim())))
            }
            404 | 405 => Err(unusable(&format!("{status}; correct {URL}"))),
            _ => Err(away(&format!("{status}: {shown}"))),
        }
    }
}

/// Why the certificate is not believed, if that is what went wrong.
fn refused_certificate(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let cause = causes.find_map(|cause| match cause.downcast_ref::<std::io::Error>() {
        Some(error) => innermost(error).downcast_ref::<rustls::Error>(),
        None => cause.downcast_ref(),
    });
    cause.filter(|error| matches!(error, rustls::Error::InvalidCertificate(_)))
}

/// What IO errors are wrapped around: none of them names it as its source.
fn innermost(error: &std::io::Error) -> &(dyn std::error::Error + 'static) {
    match error.get_ref() {
        None => error,
        Some(inner) => inner.downcast_ref().map_or(inner, innermost),
    }
}

/// An error with its causes, of which the last says most.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    /// An endpoint that gives these answers, one after the other; then nobody is there. Each request's header
    /// `authorization` and body are returned.
    fn endpoint(answers: &'static [(u16, &'static str)]) -> (TokenEndpoint, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let answer = |(status, body): &(u16, &str)| {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(&stream);
                let (mut login, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    let Some((name, value)) = line.trim().split_once(": ") else {
                        if line.trim().is_empty() {
                            break;
                        }
                        continue;
                    };
                    match name.to_ascii_lowercase().as_str() {
                        "authorization" => login = value.to_owned(),
                        "content-length" => length = value.parse().unwrap(),
                        _ => {}
                    }
                }
                let mut form = vec![0; length];
                reader.read_exact(&mut form).unwrap();
                let length = body.len();
                write!(&stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                    .unwrap();
                format!("{login} {}", String::from_utf8(form).unwrap())
            };
            answers.iter().map(answer).collect()
        });
        let endpoint = TokenEndpoint {
            url,
            client_id: "me".into(),
            client_secret: "a b".into(),
            scope: Some("read write".into()),
            encodes_credentials: false,
            ca_pem: None,
        };
        (endpoint, asked)
    }

    fn texts(issuer: &Issuer, count: usize) -> Vec<(String, bool)> {
        let token = || issuer.token().map(|token| (token.text, token.is_fresh)).unwrap();
        (0..count).map(|_| token()).collect()
    }

    fn pair(text: &str, is_fresh: bool) -> (String, bool) {
        (text.to_owned(), is_fresh)
    }

    #[test]
    fn a_token_is_asked_for_once_until_it_is_forgotten() {
        let (endpoint, asked) = endpoint(&[
            (200, r#"{"access_token": "one", "token_type": "Bearer", "expires_in": 3600}"#),
            (200, r#"{"access_token": "two", "expires_in": "60"}"#),
        ]);
        let issuer = Issuer::of(endpoint.clone());
        assert!(Arc::ptr_eq(&issuer, &Issuer::of(endpoint.clone())), "the same for all who ask");
        assert_eq!(texts(&issuer, 3), [pair("one", true), pair("one", false), pair("one", false)]);
        issuer.forget("another");
        assert_eq!(texts(&issuer, 1), [pair("one", false)]);
        issuer.forget("one");
        assert_eq!(texts(&issuer, 2), [pair("two", true), pair("two", false)]);
        let asked = asked.join().unwrap();
        // me:a b
        assert_eq!(asked[0], "Basic bWU6YSBi grant_type=client_credentials&scope=read+write");
    }

    #[test]
    fn without_a_life_a_token_is_used_once() {
        let (endpoint, asked) =
            endpoint(&[(200, r#"{"access_token": "one"}"#), (200, r#"{"access_token": "two", "expires_in": "soon"}"#)]);
        let issuer = Issuer::of(TokenEndpoint { encodes_credentials: true, ..endpoint });
        assert_eq!(texts(&issuer, 2), [pair("one", true), pair("two", true)]);
        // me:a+b
        assert!(asked.join().unwrap()[0].starts_with("Basic bWU6YSti "));
    }

    #[test]
    fn a_token_is_used_on_while_nobody_gives_another() {
        let (endpoint, asked) = endpoint(&[(200, r#"{"access_token": "one", "expires_in": 3600}"#), (503, "busy")]);
        let issuer = Issuer::of(endpoint);
        assert_eq!(texts(&issuer, 1), [pair("one", true)]);
        issuer.held.lock().unwrap().as_mut().unwrap().renew_at = Instant::now();
        assert_eq!(texts(&issuer, 2), [pair("one", false), pair("one", false)], "asked once, then not for a while");
        asked.join().unwrap();
        let mut held = issuer.held.lock().unwrap();
        let now = Instant::now();
        *held = Some(Held { token: "one".into(), renew_at: now, ends_at: now });
        drop(held);
        let error = issuer.token().err().unwrap();
        assert!(error.is_retriable() && error.to_string().contains("/token: "), "{error}");
    }

    #[test]
    fn what_is_refused_says_why() {
        let answers: &[(u16, &str, bool, &[&str])] = &[
            (
                401,
                r#"{"error": "invalid_client", "error_description": "no such"}"#,
                false,
                &["invalid_client no such", ID],
            ),
            (400, "what?", false, &["400", "what?", SCOPE]),
            (404, "", false, &["404", URL]),
            (200, "<html>", false, &["no token", URL]),
            (429, "later", true, &["429", "later"]),
            (500, "oops", true, &["500", "oops"]),
        ];
        for (status, body, is_retriable, parts) in answers {
            let answers: &'static [(u16, &'static str)] = Box::leak(Box::new([(*status, *body)]));
            let (endpoint, asked) = endpoint(answers);
            let error = Issuer::of(endpoint).token().err().unwrap();
            asked.join().unwrap();
            assert_eq!(error.is_retriable(), *is_retriable, "{error}");
            for part in *parts {
                assert!(error.to_string().contains(part), "no word of {part}: {error}");
            }
        }
    }
}
