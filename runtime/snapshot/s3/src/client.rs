//! The client: credentials, region, endpoint, time limits, retries.

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Credentials, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use std::time::Duration;
use weir_snapshot::storage::StorageOptions;

/// The first attempt included. All requests of a client draw retries from one budget (500 tokens, 5 for a retry, 10
/// after a timeout), which successes fill again: a store that is down is not hammered.
const ATTEMPTS: u32 = 5;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until an answer begins: a part of 8 MiB over a link of 200 kB/s takes 40 s. A body that comes is watched by its speed.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// With all retries. Below the default timeout of a checkpoint.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(180);
/// What S3-compatible stores take where nobody says a region.
const ANY_REGION: &str = "us-east-1";

/// `Err`: what is missing.
pub(crate) async fn connect(options: &StorageOptions) -> Result<Client, String> {
    let loaded = load(options).await?;
    let is_custom = names_endpoint(options) || loaded.endpoint_url().is_some();
    let mut config = aws_sdk_s3::config::Builder::from(&loaded)
        // Hosts like `bucket.minio` exist only where somebody made them.
        .force_path_style(options.path_style.unwrap_or(is_custom));
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    if is_custom {
        // The default checksums travel in trailers, which many compatible stores don't understand.
        config = config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    match loaded.region() {
        Some(_) => {}
        None if is_custom => config = config.region(Region::from_static(ANY_REGION)),
        None => return Err("its region isn't known: write `storage.region`, or set AWS_REGION".to_owned()),
    }
    Ok(Client::from_conf(config.build()))
}

/// A profile may name one too, which is known only when it has been loaded.
fn names_endpoint(options: &StorageOptions) -> bool {
    let variables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
    options.endpoint.is_some() || variables.iter().any(|variable| std::env::var_os(variable).is_some())
}

async fn load(options: &StorageOptions) -> Result<SdkConfig, String> {
    // A version by name: with `latest` an update would change retries and time limits unseen.
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(ATTEMPTS)
                .with_initial_backoff(FIRST_BACKOFF)
                .with_max_backoff(MAX_BACKOFF),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        );
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    } else if names_endpoint(options) {
        // Not from the machine's metadata, which only the cloud's own machines have.
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
        let chain = chain.or_else(ProfileFileRegionProvider::new()).or_else(Region::from_static(ANY_REGION));
        loader = loader.region(chain);
    }
    if let Some(secrets) = &options.credentials {
        let key = secrets.require("accessKeyId")?;
        let secret = secrets.require("secretAccessKey")?;
        let token = secrets.get("sessionToken").map(str::to_owned);
        let credentials = Credentials::new(key, secret, token, None, "StreamJob");
        loader = loader.credentials_provider(SharedCredentialsProvider::new(credentials));
    }
    Ok(loader.load().await)
}

/// The SDK's own choice of client would bring a second crypto library.
fn http_client() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        if let Some(sleep) = components.and_then(|components| components.sleep_impl()) {
            connector = connector.sleep_impl(sleep);
        }
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
    })
}
