//! What a client is told: the one table from refusals to gRPC codes and HTTP statuses.
//!
//! | told | gRPC | HTTP | client tries again |
//! |---|---|---|---|
//! | broken data | INVALID_ARGUMENT | 400 | no |
//! | tenant over its limit | RESOURCE_EXHAUSTED with RetryInfo | 429 with Retry-After | yes |
//! | tenant over it for too long | RESOURCE_EXHAUSTED without RetryInfo | 429 with a long Retry-After | no |
//! | too large, for good | RESOURCE_EXHAUSTED without RetryInfo | 413 | no |
//! | the tenant has its share | RESOURCE_EXHAUSTED with RetryInfo | 429 with Retry-After | yes |
//! | overloaded, shutting down | UNAVAILABLE with RetryInfo | 503 with Retry-After | yes |
//! | credentials missing or not valid | UNAUTHENTICATED | 401 | no |
//! | tenant not allowed | PERMISSION_DENIED | 403 | no |
//! | too late | DEADLINE_EXCEEDED | 503 | yes |

use std::time::Duration;

use http::StatusCode;
use tonic::Code;

use super::grpc::BadFrame;
use crate::otlp::Malformed;
use crate::otlp::json::JsonError;
use crate::pipeline::Refusal;
use crate::tenant::LimitRefused;

/// When HTTP clients of a tenant that has been over its limit for long may come back: longer than
/// clients keep trying.
const SUSTAINED_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Everything that can stand between a request and success.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The pipeline's word.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Larger than this listener takes, as sent or decompressed.
    #[error("the request is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// Not JSON of the signal.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The body is not what its encoding says.
    #[error("the body is not valid {encoding}")]
    Decompress {
        /// The content encoding.
        encoding: &'static str,
    },
    /// Not one gRPC frame.
    #[error(transparent)]
    Frame(#[from] BadFrame),
    /// The flag says compressed, the headers do not say how.
    #[error("the message is compressed, but grpc-encoding is missing")]
    CompressedHow,
    /// An encoding that is not taken.
    #[error("this encoding of the body is not supported; supported are {supported}")]
    Encoding {
        /// As `Accept-Encoding` lists them.
        supported: &'static str,
    },
    /// A content type that is not taken.
    #[error("the content type must be application/x-protobuf or application/json")]
    MediaType,
    /// Only POST and, with CORS, OPTIONS.
    #[error("the method must be POST")]
    Method,
    /// No signal is taken there.
    #[error("nothing is served here")]
    NotFound,
    /// No method has this name.
    #[error("no such method")]
    NoSuchMethod,
    /// gRPC needs HTTP/2.
    #[error("gRPC needs HTTP/2")]
    Version,
    /// Not a timeout.
    #[error("{header} is malformed")]
    Timeout {
        /// Which header it is.
        header: &'static str,
    },
    /// The client stopped in the middle of its body.
    #[error("the body stopped arriving")]
    Stalled,
    /// The client went away in the middle of its body.
    #[error("the body broke off")]
    Broken,
}

/// What a fault means on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) code: Code,
    pub(super) http: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// Whether the data itself is at fault, for the counters and for BadRequest.
    pub(super) malformed: bool,
    /// Whether gRPC clients are not told to come back: HTTP has no way to say so.
    pub(super) is_final: bool,
}

impl Verdict {
    fn malformed(code: Code, http: StatusCode) -> Self {
        Self { code, http, retry_after: None, malformed: true, is_final: false }
    }

    fn refused(code: Code, http: StatusCode, retry_after: Option<Duration>) -> Self {
        Self { code, http, retry_after, malformed: false, is_final: false }
    }

    /// The same as gRPC clients are told.
    pub(super) fn in_grpc(self) -> Self {
        Self { retry_after: self.retry_after.filter(|_| !self.is_final), ..self }
    }
}

impl Fault {
    /// The table.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Fault::Refused(refusal) => of_refusal(refusal),
            Fault::TooLarge { .. } | Fault::Json(JsonError::TooLarge { .. }) => {
                Verdict::malformed(Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE)
            }
            Fault::Json(JsonError::Malformed { .. })
            | Fault::Decompress { .. }
            | Fault::Frame(_)
            | Fault::Timeout { .. }
            | Fault::Version => Verdict::malformed(Code::InvalidArgument, StatusCode::BAD_REQUEST),
            Fault::CompressedHow => Verdict::malformed(Code::Internal, StatusCode::BAD_REQUEST),
            Fault::Encoding { .. } | Fault::MediaType => {
                Verdict::malformed(Code::Unimplemented, StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            Fault::Method => Verdict::malformed(Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED),
            Fault::NotFound | Fault::NoSuchMethod => {
                Verdict::malformed(Code::Unimplemented, StatusCode::NOT_FOUND)
            }
            Fault::Stalled => Verdict::refused(Code::DeadlineExceeded, StatusCode::SERVICE_UNAVAILABLE, None),
            Fault::Broken => Verdict::refused(Code::Cancelled, StatusCode::BAD_REQUEST, None),
        }
    }
}

fn of_refusal(refusal: &Refusal) -> Verdict {
    match refusal {
        Refusal::Malformed(Malformed::Budget { .. } | Malformed::TooDense) => {
            Verdict::malformed(Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE)
        }
        Refusal::Malformed(_) => Verdict::malformed(Code::InvalidArgument, StatusCode::BAD_REQUEST),
        Refusal::NeverFits { .. } => {
            Verdict::refused(Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE, None)
        }
        Refusal::QueueShare { retry_after, .. } => {
            Verdict::refused(Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, Some(*retry_after))
        }
        Refusal::QueueFull { retry_after, .. }
        | Refusal::MemoryPressure { retry_after }
        | Refusal::Storage { retry_after, .. }
        | Refusal::Unverifiable { retry_after }
        | Refusal::ShuttingDown { retry_after } => {
            Verdict::refused(Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, Some(*retry_after))
        }
        Refusal::Limited(limited) => of_limit(limited),
        Refusal::Anonymous | Refusal::Unauthenticated => {
            Verdict::refused(Code::Unauthenticated, StatusCode::UNAUTHORIZED, None)
        }
        Refusal::DuplicateTenantHeader { .. } | Refusal::TenantNotAllowed => {
            Verdict::refused(Code::PermissionDenied, StatusCode::FORBIDDEN, None)
        }
        Refusal::BadTenant(_) => Verdict::refused(Code::InvalidArgument, StatusCode::BAD_REQUEST, None),
        Refusal::DeadlineExceeded => {
            Verdict::refused(Code::DeadlineExceeded, StatusCode::SERVICE_UNAVAILABLE, None)
        }
        Refusal::NoPipeline(_) => Verdict::refused(Code::Unimplemented, StatusCode::NOT_FOUND, None),
        Refusal::Destination(failure) => {
            let code = match Code::from_i32(failure.code) {
                // A failure with the code of success would be read as success.
                Code::Ok => Code::Unknown,
                code => code,
            };
            Verdict::refused(code, http_status(code, failure.retry_after), failure.retry_after)
        }
    }
}

fn of_limit(refused: &LimitRefused) -> Verdict {
    match refused {
        LimitRefused::OverRate { retry_after, .. } => {
            Verdict::refused(Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, Some(*retry_after))
        }
        LimitRefused::Sustained { .. } => {
            let told = Verdict::refused(
                Code::ResourceExhausted,
                StatusCode::TOO_MANY_REQUESTS,
                Some(SUSTAINED_RETRY_AFTER),
            );
            Verdict { is_final: true, ..told }
        }
        LimitRefused::NeverFits { .. } => {
            Verdict::refused(Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE, None)
        }
    }
}

/// The HTTP status that makes an HTTP client do what a gRPC client does with the code.
fn http_status(code: Code, retry_after: Option<Duration>) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => StatusCode::SERVICE_UNAVAILABLE,
        // Without a delay it is not to be sent again, but 429 always is.
        Code::ResourceExhausted if retry_after.is_none() => StatusCode::PAYLOAD_TOO_LARGE,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unimplemented => StatusCode::NOT_FOUND,
        Code::Unknown | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Internal => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// `Retry-After`: whole seconds, rounded up, at least one.
pub(super) fn retry_after_seconds(retry_after: Duration) -> u64 {
    let whole = retry_after.as_secs();
    (if retry_after.subsec_nanos() > 0 { whole + 1 } else { whole }).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::SendFailure;
    use crate::identity::BadTenantId;
    use crate::otlp::Signal;

    #[test]
    fn every_fault_has_one_answer_on_each_transport() {
        const SECOND: Option<Duration> = Some(Duration::from_secs(1));
        let check = |fault: Fault, code: Code, http: u16, retry_after: Option<Duration>| {
            let verdict = fault.verdict();
            let told = (verdict.code, verdict.http.as_u16(), verdict.retry_after);
            assert_eq!(told, (code, http, retry_after), "{fault}");
        };
        let retry_after = Duration::from_secs(1);
        let exporter = || "otlp_grpc".to_owned();
        let refused =
            |refusal: Refusal, code, http, retry_after| check(refusal.into(), code, http, retry_after);
        refused(Malformed::Truncated.into(), Code::InvalidArgument, 400, None);
        refused(Malformed::Budget { limit: 1 }.into(), Code::ResourceExhausted, 413, None);
        refused(Malformed::TooDense.into(), Code::ResourceExhausted, 413, None);
        refused(Refusal::NeverFits { exporter: exporter() }, Code::ResourceExhausted, 413, None);
        refused(Refusal::QueueFull { exporter: exporter(), retry_after }, Code::Unavailable, 503, SECOND);
        let exhausted = Code::ResourceExhausted;
        refused(Refusal::QueueShare { exporter: exporter(), retry_after }, exhausted, 429, SECOND);
        refused(Refusal::MemoryPressure { retry_after }, Code::Unavailable, 503, SECOND);
        let (exporter, problem) = ("otlp_grpc".to_owned(), "the disk is full".to_owned());
        refused(Refusal::Storage { exporter, problem, retry_after }, Code::Unavailable, 503, SECOND);
        refused(Refusal::ShuttingDown { retry_after }, Code::Unavailable, 503, SECOND);
        refused(Refusal::Anonymous, Code::Unauthenticated, 401, None);
        let (tenant, limit) = (crate::identity::TenantId::unattributed(), "spans_per_second");
        let over = LimitRefused::OverRate { tenant: tenant.clone(), limit, retry_after };
        refused(over.into(), Code::ResourceExhausted, 429, SECOND);
        let sustained = LimitRefused::Sustained { tenant: tenant.clone(), limit };
        let in_grpc = Fault::from(Refusal::from(sustained.clone())).verdict().in_grpc();
        assert_eq!(in_grpc.retry_after, None);
        refused(sustained.into(), Code::ResourceExhausted, 429, Some(SUSTAINED_RETRY_AFTER));
        let never = LimitRefused::NeverFits { tenant, limit, most: 1 };
        refused(never.into(), Code::ResourceExhausted, 413, None);
        refused(Refusal::Unauthenticated, Code::Unauthenticated, 401, None);
        refused(Refusal::Unverifiable { retry_after }, Code::Unavailable, 503, SECOND);
        refused(Refusal::TenantNotAllowed, Code::PermissionDenied, 403, None);
        let header = "x-tenant-id".to_owned();
        refused(Refusal::DuplicateTenantHeader { header }, Code::PermissionDenied, 403, None);
        refused(BadTenantId::Empty.into(), Code::InvalidArgument, 400, None);
        refused(Refusal::DeadlineExceeded, Code::DeadlineExceeded, 503, None);
        refused(Refusal::NoPipeline(Signal::Logs), Code::Unimplemented, 404, None);

        check(Fault::TooLarge { limit: 1 }, Code::ResourceExhausted, 413, None);
        check(Fault::Json(JsonError::TooLarge { limit: 1 }), Code::ResourceExhausted, 413, None);
        check(Fault::Decompress { encoding: "gzip" }, Code::InvalidArgument, 400, None);
        check(Fault::Frame(BadFrame::Short), Code::InvalidArgument, 400, None);
        check(Fault::Timeout { header: "grpc-timeout" }, Code::InvalidArgument, 400, None);
        check(Fault::Version, Code::InvalidArgument, 400, None);
        check(Fault::CompressedHow, Code::Internal, 400, None);
        check(Fault::Encoding { supported: "gzip" }, Code::Unimplemented, 415, None);
        check(Fault::MediaType, Code::Unimplemented, 415, None);
        check(Fault::Method, Code::Unimplemented, 405, None);
        check(Fault::NotFound, Code::Unimplemented, 404, None);
        check(Fault::NoSuchMethod, Code::Unimplemented, 404, None);
        check(Fault::Stalled, Code::DeadlineExceeded, 503, None);
        check(Fault::Broken, Code::Cancelled, 400, None);
    }

    #[test]
    fn what_a_destination_answered_is_handed_on() {
        let check = |code: i32, retry_after: Option<Duration>, expected: (Code, u16)| {
            let failure = SendFailure { code, message: "no".into(), retry_after };
            let verdict = Fault::from(Refusal::Destination(failure)).verdict();
            assert_eq!((verdict.code, verdict.http.as_u16()), expected, "{code}");
            assert_eq!(verdict.retry_after, retry_after);
        };
        check(0, None, (Code::Unknown, 500));
        check(3, None, (Code::InvalidArgument, 400));
        check(7, None, (Code::PermissionDenied, 403));
        check(8, None, (Code::ResourceExhausted, 413));
        check(8, Some(Duration::from_secs(3)), (Code::ResourceExhausted, 429));
        check(12, None, (Code::Unimplemented, 404));
        check(13, None, (Code::Internal, 500));
        check(14, None, (Code::Unavailable, 503));
        check(16, None, (Code::Unauthenticated, 401));
        for retried in [1, 4, 10, 11, 15] {
            check(retried, None, (Code::from_i32(retried), 503));
        }
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        let check = |ms: u64, expected: u64| {
            assert_eq!(retry_after_seconds(Duration::from_millis(ms)), expected, "{ms} ms");
        };
        check(0, 1);
        check(1, 1);
        check(1000, 1);
        check(1001, 2);
    }
}
