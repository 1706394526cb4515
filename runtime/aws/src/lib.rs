//! How a client of any service of AWS, or of one that speaks its protocol, is made: credentials, region, address, time
//! limits, retries. One set of rules for all of them.

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use std::error::Error;
use std::time::Duration;
use weir_model::error_chain;
use weir_snapshot::storage::StorageOptions;

/// The first attempt included. All requests of a client draw retries from one budget (500 tokens, 5 for a retry, 10
/// after a timeout), which successes fill again: a service that is down is not hammered.
const ATTEMPTS: u32 = 5;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What compatible services take where nobody says a region.
const ANY_REGION: &str = "us-east-1";

/// What differs between services.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// That names its address alone: `AWS_ENDPOINT_URL_S3`.
    pub endpoint_variable: &'static str,
    /// Until an answer begins.
    pub attempt_timeout: Duration,
    /// With all retries.
    pub operation_timeout: Duration,
    /// The field of a spec that holds the region.
    pub region_field: &'static str,
}

/// What a service's client is made from.
#[derive(Debug)]
pub struct Loaded {
    /// With a region, and with the address if the spec says one.
    pub config: SdkConfig,
    /// Not AWS's own service: one that speaks its protocol.
    pub is_custom: bool,
}

/// Asks no service yet.
///
/// # Errors
/// What is missing: a region, a key.
pub async fn load(options: &StorageOptions, service: &Service) -> Result<Loaded, String> {
    let names_endpoint = options.endpoint.is_some()
        || [service.endpoint_variable, "AWS_ENDPOINT_URL"].iter().any(|name| std::env::var_os(name).is_some());
    // The SDK's own choice of client would bring a second crypto library.
    let http_client = Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        if let Some(sleep) = components.and_then(|components| components.sleep_impl()) {
            connector = connector.sleep_impl(sleep);
        }
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
    });
    // A version by name: with `latest` an update would change retries and time limits unseen.
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client)
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(ATTEMPTS)
                .with_initial_backoff(FIRST_BACKOFF)
                .with_max_backoff(MAX_BACKOFF),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(service.attempt_timeout)
                .operation_timeout(service.operation_timeout)
                .build(),
        );
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    } else if names_endpoint {
        // Not from the machine's metadata, which only the cloud's own machines have.
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
        let chain = chain.or_else(ProfileFileRegionProvider::new()).or_else(Region::from_static(ANY_REGION));
        loader = loader.region(chain);
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(secrets) = &options.credentials {
        let key = secrets.require("accessKeyId")?;
        let secret = secrets.require("secretAccessKey")?;
        let token = secrets.get("sessionToken").map(str::to_owned);
        loader = loader.credentials_provider(Credentials::new(key, secret, token, None, "StreamJob"));
    }
    let config = loader.load().await;
    // A profile may name an address too, which is known only when it has been loaded.
    let is_custom = names_endpoint || config.endpoint_url().is_some();
    let config = match config.region() {
        Some(_) => config,
        None if is_custom => config.into_builder().region(Region::from_static(ANY_REGION)).build(),
        None => return Err(format!("its region isn't known: write `{}`, or set AWS_REGION", service.region_field)),
    };
    Ok(Loaded { config, is_custom })
}

/// Why no answer came, or no request could be made.
#[derive(Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Another try would end the same way.
    pub is_final: bool,
    pub message: String,
}

/// `credentials_field`: of the spec, where they can be named.
pub fn unanswered(error: &dyn Error, credentials_field: &str) -> Unanswered {
    of_text(error_chain(error), credentials_field)
}

fn of_text(message: String, credentials_field: &str) -> Unanswered {
    let hint = format!(
        "name them in `{credentials_field}`, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or give the \
         pod's service account a role"
    );
    if message.contains("no credentials found in chain") {
        // Nothing to wait for: all places have been asked.
        Unanswered { is_final: true, message: format!("no credentials were found; {hint}") }
    } else if message.contains("loading credentials") {
        // A service that hands them out may be back in a moment; on a machine that has none it never is.
        Unanswered { is_final: false, message: format!("{message}; {hint}") }
    } else {
        Unanswered { is_final: false, message }
    }
}

/// An answer's code, reason, status and request as one text.
pub fn described(status: Option<u16>, code: Option<&str>, message: Option<&str>, request: Option<&str>) -> String {
    let mut text = match (code, message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(only), None) | (None, Some(only)) => only.to_owned(),
        (None, None) => "the service gave no reason".to_owned(),
    };
    if let Some(status) = status {
        text.push_str(&format!(" (HTTP {status}"));
        text.push_str(&request.map_or(")".to_owned(), |request| format!(", request {request})")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_credentials_are_not_waited_for() {
        let none =
            "dispatch failure: the credential provider was not enabled: no credentials found in chain. Attempted: x";
        let found = of_text(none.to_owned(), "storage.credentials");
        assert!(found.is_final);
        assert!(found.message.contains("AWS_ACCESS_KEY_ID") && found.message.contains("storage.credentials"));
        assert!(!of_text("an error occurred while loading credentials: timeout".to_owned(), "x").is_final);
    }

    #[test]
    fn an_answer_is_told_with_its_request() {
        let text = described(Some(403), Some("AccessDenied"), Some("Access Denied."), Some("42"));
        assert_eq!(text, "AccessDenied: Access Denied. (HTTP 403, request 42)");
    }
}
