//! The client: what is particular to S3 beside the rules that all services share.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use std::time::Duration;
use weir_aws::{Loaded, Service};
use weir_snapshot::storage::StorageOptions;

const S3: Service = Service {
    endpoint_variable: "AWS_ENDPOINT_URL_S3",
    // A part of 8 MiB over a link of 200 kB/s takes 40 s. A body that comes is watched by its speed.
    attempt_timeout: Duration::from_secs(60),
    // Below the default timeout of a checkpoint.
    operation_timeout: Duration::from_secs(180),
    region_field: "storage.region",
};

/// `Err`: what is missing.
pub(crate) async fn connect(options: &StorageOptions) -> Result<Client, String> {
    let Loaded { config, is_custom } = weir_aws::load(options, &S3).await?;
    let mut config = aws_sdk_s3::config::Builder::from(&config)
        // Hosts like `bucket.minio` exist only where somebody made them.
        .force_path_style(options.path_style.unwrap_or(is_custom));
    if is_custom {
        // The default checksums travel in trailers, which many compatible stores don't understand.
        config = config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    Ok(Client::from_conf(config.build()))
}
