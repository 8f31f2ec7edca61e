//! Where a bucket is and how it is reached.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{BackoffConfig, RetryConfig};

use super::connector::Connector;
use super::error::Place;
use crate::{Clock, ConfigValue, Error, ErrorCode, Result, SystemClock};

/// Which bucket, and how it is reached. Debug shows no secret.
///
/// ```
/// use paas_core::{ConfigValue, S3Options};
/// let options = S3Options::new("my-platform", "blobs")
///     .at("https://minio.example.com:9000")
///     .with_credentials("platform", ConfigValue::new("a secret key")?);
/// # Ok::<(), paas_core::Error>(())
/// ```
#[derive(Clone)]
pub struct S3Options {
    bucket: String,
    prefix: String,
    endpoint: Option<String>,
    region: Option<String>,
    credentials: Option<(String, ConfigValue)>,
    patience: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl S3Options {
    /// This bucket, below this prefix; an empty one means all of the bucket.
    ///
    /// Without more it is Amazon's, and region and credentials are what the environment says (`AWS_REGION`,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …) or the machine's role gives.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            credentials: None,
            patience: Duration::from_secs(60),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// At this server, such as `https://minio.example.com:9000`; the bucket is then part of the path, not of the host's name.
    #[must_use]
    pub fn at(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// In this region.
    #[must_use]
    pub fn in_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// With this access key and its secret.
    #[must_use]
    pub fn with_credentials(mut self, access_key: impl Into<String>, secret: ConfigValue) -> Self {
        self.credentials = Some((access_key.into(), secret));
        self
    }

    /// How long a request is tried again, with growing pauses, while the server is away or overloaded; a minute by itself.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// By this clock, which tells which uploads died long ago; everything else goes by the object store's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    pub(super) fn connect(self) -> Result<(AmazonS3, Place)> {
        let wrong = |what: String| Error::new(ErrorCode::InvalidParams, what);
        let prefix = Path::parse(&self.prefix).map_err(|e| {
            wrong(format!("the prefix {:?} can't be the beginning of an object's name: {e}", self.prefix))
        })?;
        let mut s3 = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Not every server has the call for many at once.
            .with_disable_bulk_delete(true)
            .with_http_connector(Connector)
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: usize::MAX,
                retry_timeout: self.patience,
            });
        if let Some(endpoint) = &self.endpoint {
            let plain = endpoint.starts_with("http://");
            if !plain && !endpoint.starts_with("https://") {
                return Err(wrong(format!("{endpoint:?} is no address of a server: https://HOST[:PORT]")));
            }
            s3 = s3.with_endpoint(endpoint.trim_end_matches('/')).with_allow_http(plain);
        }
        if let Some(region) = &self.region {
            s3 = s3.with_region(region);
        }
        if let Some((access_key, secret)) = &self.credentials {
            s3 = s3.with_access_key_id(access_key).with_secret_access_key(secret.expose());
        }
        let s3 = s3.build().map_err(|e| wrong(format!("the object store can't be set up: {e}")))?;
        let endpoint = self.endpoint.unwrap_or_else(|| "Amazon S3".to_owned());
        Ok((s3, Place { endpoint, bucket: self.bucket, prefix }))
    }
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key", &self.credentials.as_ref().map(|(access_key, _)| access_key))
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
