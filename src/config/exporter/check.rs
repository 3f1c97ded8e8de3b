//! What a schema cannot say about exporters.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::{
    BadEndpoint, Batching, Compression, Endpoint, File, FileFormat, Headers, OtlpGrpc, OtlpHttp,
    RetryOnFailure, SendingQueue, Sizer,
};
use crate::config::tls::{self, TlsClient};
use crate::units::ByteSize;

/// A problem of the keys of an exporter and where it is.
pub type Found = crate::config::found::Found<Problem>;

/// What is wrong with the keys of an exporter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not a place to send to.
    #[error(transparent)]
    Endpoint(#[from] BadEndpoint),
    /// A key Tollgate will honour in a later version.
    #[error("{0} not yet available in Tollgate")]
    NotYet(&'static str),
    /// A key Tollgate does not honour.
    #[error("{0} not available in Tollgate")]
    NotAvailable(&'static str),
    /// A value outside what works.
    #[error("{value} is outside {range}")]
    Range {
        /// What is written.
        value: String,
        /// What works.
        range: &'static str,
    },
    /// A duration that must not be 0.
    #[error("must be longer than 0")]
    Zero,
    /// Two keys that cannot both be as they are.
    #[error("{0}")]
    Contradiction(&'static str),
    /// Not a header, or one that is Tollgate's to set.
    #[error("`{0}` cannot be set as a header")]
    Header(String),
    /// A key that is needed.
    #[error("is required")]
    Required,
    /// TLS keys.
    #[error(transparent)]
    Tls(#[from] tls::Problem),
}

impl Problem {
    /// Whether the program cannot start with it; otherwise it is a warning.
    pub fn is_error(&self) -> bool {
        match self {
            Problem::Tls(problem) => problem.is_error(),
            _ => true,
        }
    }
}

/// Headers that say how the request is framed; setting them would break it.
const OWN_HEADERS: [&str; 10] = [
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "te",
    "upgrade",
    "grpc-encoding",
    "grpc-timeout",
    "grpc-accept-encoding",
];

/// Every problem of a queue and of retries that stand on their own.
pub(in crate::config) fn check_queue(queue: &SendingQueue, retry: &RetryOnFailure) -> Vec<Found> {
    let mut found = Findings::default();
    found.queue(queue);
    found.retry(retry);
    found.0
}

#[derive(Default)]
struct Findings(Vec<Found>);

impl OtlpGrpc {
    /// Every problem of this exporter, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::default();
        if let Err(bad) = Endpoint::grpc(&self.endpoint) {
            found.add("endpoint", bad);
        }
        found.tls(&self.tls);
        found.headers(&self.headers);
        found.tenant_headers(&self.tenant_headers, &self.headers);
        found.add_if(
            !self.authority.is_empty() && self.authority.parse::<http::uri::Authority>().is_err(),
            "authority",
            Problem::Range { value: self.authority.clone(), range: "host or host:port" },
        );
        found.user_agent(&self.user_agent);
        if !["", "round_robin", "pick_first"].contains(&self.balancer_name.as_str()) {
            let range = "round_robin, pick_first";
            found.add("balancer_name", Problem::Range { value: self.balancer_name.clone(), range });
        }
        if let Some(keepalive) = &self.keepalive {
            found.positive("keepalive.time", keepalive.time);
            found.positive("keepalive.timeout", keepalive.timeout);
        }
        found.max_request_size(self.max_request_size);
        found.queue(&self.sending_queue);
        found.retry(&self.retry_on_failure);
        found.not_available(self.auth.is_some(), self.middlewares.is_some());
        found.0
    }
}

impl OtlpHttp {
    /// Every problem of this exporter, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::default();
        let own = [
            ("traces_endpoint", &self.traces_endpoint),
            ("metrics_endpoint", &self.metrics_endpoint),
            ("logs_endpoint", &self.logs_endpoint),
        ];
        for (key, text) in own.into_iter().filter(|(_, text)| !text.is_empty()) {
            if let Err(bad) = Endpoint::http(text) {
                found.add(key, bad);
            }
        }
        let needs_base = own.iter().all(|(_, text)| text.is_empty());
        match Endpoint::http(&self.endpoint) {
            Err(BadEndpoint::Empty(_)) if !needs_base => {}
            Err(bad) => found.add("endpoint", bad),
            Ok(_) => {}
        }
        found.tls(&self.tls);
        found.headers(&self.headers);
        found.tenant_headers(&self.tenant_headers, &self.headers);
        found.level(self.compression, self.compression_params.level);
        found.max_request_size(self.max_request_size);
        found.queue(&self.sending_queue);
        found.retry(&self.retry_on_failure);
        found.not_available(self.auth.is_some(), self.middlewares.is_some());
        let proxy = !self.proxy_url.reveal().is_empty();
        found.add_if(proxy, "proxy_url", Problem::NotAvailable("a proxy is"));
        let cookies = self.cookies.as_ref().is_some_and(|cookies| cookies.enabled);
        found.add_if(cookies, "cookies.enabled", Problem::NotAvailable("cookies are"));
        let profiles = !self.profiles_endpoint.is_empty();
        found.add_if(profiles, "profiles_endpoint", Problem::NotAvailable("profiles are"));
        found.0
    }
}

impl File {
    /// Every problem of this exporter, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Findings::default();
        found.add_if(self.path.as_os_str().is_empty(), "path", Problem::Required);
        if let Some(rotation) = &self.rotation {
            let both = "`append` and `rotation` exclude each other";
            found.add_if(self.append, "append", Problem::Contradiction(both));
            let range = Problem::Range { value: "0".into(), range: "1 and more" };
            found.add_if(rotation.max_megabytes == 0, "rotation.max_megabytes", range);
            let local = Problem::NotAvailable("local time is");
            found.add_if(rotation.localtime, "rotation.localtime", local);
        }
        let proto = Problem::NotAvailable("the format proto is");
        found.add_if(self.format == FileFormat::Proto, "format", proto);
        let compression = Problem::NotAvailable("compression of files is");
        found.add_if(!self.compression.is_empty(), "compression", compression);
        let encoding = Problem::NotAvailable("an encoding extension is");
        found.add_if(self.encoding.is_some(), "encoding", encoding);
        found.add_if(self.group_by.is_some(), "group_by", Problem::NotAvailable("grouping is"));
        found.0
    }
}

impl Findings {
    fn add(&mut self, key: &str, problem: impl Into<Problem>) {
        self.0.push(Found { at: key.to_owned(), problem: problem.into() });
    }

    fn add_if(&mut self, wrong: bool, key: &str, problem: Problem) {
        if wrong {
            self.add(key, problem);
        }
    }

    fn tls(&mut self, tls: &TlsClient) {
        for (key, problem) in tls.check() {
            let dot = if key.is_empty() { "" } else { "." };
            self.add(&format!("tls{dot}{key}"), problem);
        }
    }

    fn headers(&mut self, headers: &Headers) {
        for (name, value) in headers.iter() {
            let own = OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name));
            let valid = HeaderName::from_bytes(name.as_bytes()).is_ok()
                && HeaderValue::from_str(value.reveal()).is_ok();
            self.add_if(own || !valid, "headers", Problem::Header(name.to_owned()));
        }
    }

    fn tenant_headers(&mut self, names: &[String], headers: &Headers) {
        for (index, name) in names.iter().enumerate() {
            let at = format!("tenant_headers[{index}]");
            let is_same = |other: &str| other.eq_ignore_ascii_case(name);
            let own = OWN_HEADERS.iter().any(|own| is_same(own)) || is_same("user-agent");
            // gRPC would take the value of such a header for base64.
            let binary = name.to_ascii_lowercase().ends_with("-bin");
            let valid = HeaderName::from_bytes(name.as_bytes()).is_ok() && !own && !binary;
            self.add_if(!valid, &at, Problem::Header(name.clone()));
            let twice = names[..index].iter().any(|other| is_same(other))
                || headers.iter().any(|(other, _)| is_same(other));
            let both = "the header is set twice; leave one of them away";
            self.add_if(twice, &at, Problem::Contradiction(both));
        }
    }

    fn user_agent(&mut self, text: &str) {
        let bad = HeaderValue::from_str(text).is_err();
        self.add_if(bad, "user_agent", Problem::Header(text.to_owned()));
    }

    fn level(&mut self, compression: Compression, level: i32) {
        let range = match compression {
            Compression::Gzip => (-1..=9, "-1 to 9"),
            Compression::Zstd => (-7..=22, "-7 to 22"),
            Compression::None | Compression::Empty => return,
        };
        let problem = Problem::Range { value: level.to_string(), range: range.1 };
        self.add_if(!range.0.contains(&level), "compression_params.level", problem);
    }

    fn max_request_size(&mut self, ByteSize(size): ByteSize) {
        let problem = Problem::Range { value: size.to_string(), range: "1KiB to 2GiB" };
        // The length of a gRPC message has 32 bits.
        self.add_if(!(1 << 10..=1 << 31).contains(&size), "max_request_size", problem);
    }

    fn positive(&mut self, key: &str, value: Duration) {
        self.add_if(value.is_zero(), key, Problem::Zero);
    }

    fn not_available(&mut self, auth: bool, middlewares: bool) {
        self.add_if(auth, "auth", Problem::NotYet("authentication is"));
        self.add_if(middlewares, "middlewares", Problem::NotAvailable("middlewares are"));
    }

    fn queue(&mut self, queue: &SendingQueue) {
        let max_bytes = queue.memory_bytes().0;
        let range = Problem::Range { value: max_bytes.to_string(), range: "1KiB and more" };
        self.add_if(max_bytes < 1024, "sending_queue.max_bytes", range);
        self.storage(queue);
        // The Collector, too, does not look at the other keys then.
        if !queue.enabled {
            return;
        }
        let value = queue.num_consumers.to_string();
        let range = Problem::Range { value, range: "1 to 1000" };
        self.add_if(!(1..=1000).contains(&queue.num_consumers), "sending_queue.num_consumers", range);
        let range = Problem::Range { value: "0".into(), range: "1 and more" };
        self.add_if(queue.queue_size == Some(0), "sending_queue.queue_size", range);
        if let Some(batch) = &queue.batch {
            self.batch(batch, queue);
        }
    }

    fn storage(&mut self, queue: &SendingQueue) {
        let is_named = queue.storage.as_ref().is_some_and(|storage| !storage.is_empty());
        let off = "there is no queue to keep on disk; write `enabled: true`, or leave `storage` out";
        self.add_if(is_named && !queue.enabled, "sending_queue.storage", Problem::Contradiction(off));
        let waits = "senders who wait for the destination need nothing kept on disk; leave out one of \
                     `wait_for_result` and `storage`";
        let wrong = queue.storage().is_some() && queue.wait_for_result;
        self.add_if(wrong, "sending_queue.wait_for_result", Problem::Contradiction(waits));
    }

    fn batch(&mut self, batch: &Batching, queue: &SendingQueue) {
        self.positive("sending_queue.batch.flush_timeout", batch.flush_timeout);
        let max = "max_size must be 0 or at least min_size";
        let wrong = batch.max_size != 0 && batch.max_size < batch.min_size;
        self.add_if(wrong, "sending_queue.batch.max_size", Problem::Contradiction(max));
        let requests = Problem::Range { value: "requests".into(), range: "items, bytes" };
        self.add_if(batch.sizer == Sizer::Requests, "sending_queue.batch.sizer", requests);
        let fits = "min_size is more than the queue holds: it would never be reached";
        let most = queue.capacity(queue.storage().map(|_| u64::MAX));
        let wrong = batch.sizer == queue.sizer && batch.min_size > most;
        self.add_if(wrong, "sending_queue.batch.min_size", Problem::Contradiction(fits));
        let partition = !batch.partition.metadata_keys.is_empty();
        let at = "sending_queue.batch.partition.metadata_keys";
        self.add_if(partition, at, Problem::NotYet("partitions are"));
    }

    fn retry(&mut self, retry: &RetryOnFailure) {
        if !retry.enabled {
            return;
        }
        self.positive("retry_on_failure.initial_interval", retry.initial_interval);
        self.positive("retry_on_failure.max_interval", retry.max_interval);
        let factor = retry.randomization_factor;
        let range = Problem::Range { value: factor.to_string(), range: "0 to 1" };
        self.add_if(!(0.0..=1.0).contains(&factor), "retry_on_failure.randomization_factor", range);
        let range = Problem::Range { value: retry.multiplier.to_string(), range: "1 and more" };
        let wrong = !retry.multiplier.is_finite() || retry.multiplier < 1.0;
        self.add_if(wrong, "retry_on_failure.multiplier", range);
        let short = "max_elapsed_time must be 0 or at least initial_interval and max_interval";
        let longest = retry.initial_interval.max(retry.max_interval);
        let wrong = retry.max_elapsed_time.is_some_and(|most| !most.is_zero() && most < longest);
        self.add_if(wrong, "retry_on_failure.max_elapsed_time", Problem::Contradiction(short));
    }
}
