//! The seam between consumers and what sends.
//!
//! Not here: when to try again. Invariant: one call is one attempt, and dropping it stops it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::batch::SendFailure;
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::otlp::status::ExportResponse;
use crate::queue::Size;

use super::PrepareError;
use super::answer;

/// One request, ready to be sent; clones share the bytes.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    /// The signal of all items.
    pub(super) signal: Signal,
    /// Whose items they are; where tenants are merged, of some of them.
    pub(super) tenant: TenantId,
    /// Encoded requests that are one when put together.
    pub(super) parts: Vec<Bytes>,
    /// What the parts come to.
    pub(super) size: Size,
    /// How long the attempt may take; the caller stops it then.
    pub(super) timeout: Option<Duration>,
}

impl Outgoing {
    /// The parts as one piece.
    pub(super) fn whole(&self) -> Bytes {
        match &self.parts[..] {
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }
}

/// Headers whose value is the tenant's id.
#[derive(Debug, Clone, Default)]
pub(super) struct TenantHeaders(Vec<HeaderName>);

impl TenantHeaders {
    /// The headers with these names.
    pub(super) fn new(names: &[String]) -> Result<Self, PrepareError> {
        let name = |name: &String| {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| PrepareError::Header(name.clone()))
        };
        names.iter().map(name).collect::<Result<_, _>>().map(Self)
    }

    /// Sets them; another tenant's id never stays behind.
    pub(super) fn set(&self, headers: &mut HeaderMap, tenant: &TenantId) -> Result<(), SendError> {
        for name in &self.0 {
            // Every tenant id is a header value: its characters are a part of those that are allowed.
            let value = HeaderValue::from_str(tenant.as_str())
                .map_err(|_| answer::unusable(answer::INTERNAL, "the tenant's id is no header value"))?;
            headers.insert(name.clone(), value);
        }
        Ok(())
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SendError {
    /// The same request may succeed later.
    Retryable(SendFailure),
    /// The same request will fail again.
    Permanent(SendFailure),
}

/// Where requests go.
pub(super) trait Destination: Send + Sync + 'static {
    /// Sends once.
    ///
    /// # Cancel safety
    /// Dropped, the attempt is given up; the destination may have taken the request.
    fn send(&self, request: Outgoing) -> impl Future<Output = Result<ExportResponse, SendError>> + Send;
}
