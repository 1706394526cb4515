//! Authentication on a new connection.

use crate::connection::Connection;
use crate::error::{KafkaError, Result, check};
use crate::issuer::Token;
use crate::options::{Sasl, TokenOrigin};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use ring::rand::SecureRandom;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use std::time::Duration;

/// More than any broker asks for by default (4,096), and less than what would let a false broker keep us busy for long.
const MAX_ITERATIONS: u32 = 1_000_000;

pub(crate) fn authenticate(connection: &mut Connection, sasl: &Sasl) -> Result<()> {
    let mechanism = format!("{sasl:?}");
    let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_string(mechanism.clone()));
    let answer = connection.call_at(&request, 1)?;
    if ResponseError::try_from_code(answer.error_code) == Some(ResponseError::UnsupportedSaslMechanism) {
        let offered: Vec<&str> = answer.mechanisms.iter().map(|mechanism| mechanism.as_str()).collect();
        return Err(KafkaError::Unusable(format!(
            "{} does not take SASL {mechanism}; it takes {}",
            connection.peer(),
            offered.join(", ")
        )));
    }
    check(answer.error_code, || format!("SASL handshake with {}", connection.peer()))?;
    match sasl {
        Sasl::Plain { username, password } => {
            exchange(connection, format!("\0{username}\0{password}").into_bytes()).map(|_| ())
        }
        Sasl::OauthBearer { token, extensions } => match token {
            TokenOrigin::Value(token) => bear(connection, token, extensions),
            TokenOrigin::File(path) => {
                let token = std::fs::read_to_string(path).map_err(|error| {
                    KafkaError::Connection(format!("cannot read the token in {}: {error}", path.display()))
                })?;
                bear(connection, token.trim(), extensions)
            }
            TokenOrigin::Issuer(issuer) => {
                let Token { text, is_fresh } = issuer.token()?;
                bear(connection, &text, extensions).map_err(|error| {
                    issuer.forget(&text);
                    // Keys may have changed since; a token of now decides.
                    if is_fresh || error.is_retriable() { error } else { KafkaError::Connection(error.to_string()) }
                })
            }
        },
        Sasl::ScramSha256 { username, password } => {
            scram(connection, username, password, pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256)
        }
        Sasl::ScramSha512 { username, password } => {
            scram(connection, username, password, pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512, &digest::SHA512)
        }
    }
}

/// RFC 7628.
fn bear(connection: &mut Connection, token: &str, extensions: &[(String, String)]) -> Result<()> {
    let extensions: String = extensions.iter().map(|(name, value)| format!("{name}={value}\u{1}")).collect();
    let message = format!("n,,\u{1}auth=Bearer {token}\u{1}{extensions}\u{1}");
    let answer = exchange(connection, message.into_bytes())?;
    // A broker that refuses says why in a message, and wants a dummy answer before its error.
    if answer.is_empty() { Ok(()) } else { exchange(connection, vec![1]).map(|_| ()) }
}

fn exchange(connection: &mut Connection, message: Vec<u8>) -> Result<Bytes> {
    let version = connection.version_of::<SaslAuthenticateRequest>()?.min(1);
    let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
    let answer = connection.call_at(&request, version)?;
    match ResponseError::try_from_code(answer.error_code) {
        None => {
            if let Ok(lifetime_ms @ 1..) = u64::try_from(answer.session_lifetime_ms) {
                connection.session_begins(Duration::from_millis(lifetime_ms));
            }
            Ok(answer.auth_bytes)
        }
        Some(code) => {
            let reason = answer.error_message.map(|reason| format!(" ({})", reason.as_str())).unwrap_or_default();
            let what = format!("authentication at {}{reason}", connection.peer());
            Err(KafkaError::broker(code, what))
        }
    }
}

/// RFC 5802, as a client without channel binding.
fn scram(
    connection: &mut Connection,
    username: &str,
    password: &str,
    stretching: pbkdf2::Algorithm,
    mac: hmac::Algorithm,
    hash: &'static digest::Algorithm,
) -> Result<()> {
    let mut nonce = [0; 24];
    ring::rand::SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| KafkaError::Unusable("the system gives no random numbers".into()))?;
    let nonce = BASE64.encode(nonce);
    let name = username.replace('=', "=3D").replace(',', "=2C");
    let first = format!("n={name},r={nonce}");
    let challenge = exchange(connection, format!("n,,{first}").into_bytes())?;
    let nonsense = || KafkaError::Unusable("the broker's SCRAM message makes no sense".into());
    let challenge = std::str::from_utf8(&challenge).map_err(|_| nonsense())?;
    let field = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name));
    let combined = field("r=").filter(|combined| combined.starts_with(&nonce)).ok_or_else(nonsense)?;
    let salt = field("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or_else(nonsense)?;
    let iterations = field("i=")
        .and_then(|count| count.parse().ok())
        .filter(|count: &NonZeroU32| count.get() <= MAX_ITERATIONS)
        .ok_or_else(nonsense)?;

    let mut salted = vec![0; hash.output_len()];
    pbkdf2::derive(stretching, iterations, &salt, password.as_bytes(), &mut salted);
    let sign = |key: &[u8], message: &[u8]| hmac::sign(&hmac::Key::new(mac, key), message).as_ref().to_vec();
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(hash, &client_key);
    let without_proof = format!("c=biws,r={combined}");
    let signed = format!("{first},{challenge},{without_proof}");
    let signature = sign(stored_key.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, signature)| key ^ signature).collect();
    let last = exchange(connection, format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes())?;

    let server_key = sign(&salted, b"Server Key");
    let expected = BASE64.encode(sign(&server_key, signed.as_bytes()));
    let last = std::str::from_utf8(&last).map_err(|_| nonsense())?;
    let verified = last.split(',').find_map(|part| part.strip_prefix("v=")) == Some(expected.as_str());
    if verified {
        return Ok(());
    }
    Err(KafkaError::Unusable(format!("{} does not know the password that it asks for", connection.peer())))
}
