//! How much a request may be and cost.

/// Limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest request, in bytes; above 1 GiB it counts as 1 GiB.
    pub max_bytes: usize,
    /// Estimated bytes the request would take decoded: its own length plus the size of every
    /// repeated message. What one batch can do to the memory of those who decode it; shorter requests
    /// have less.
    pub decoded_budget: usize,
    /// Bytes the [`Index`](super::Index) may take beyond the length of what was read so far. What a
    /// request of very many very small items does to our own memory.
    pub index_budget: usize,
    /// How many messages and groups may enclose another. Range: 16 (what OTLP itself needs, and a few
    /// levels of values) to 96 (decoders give up at 100); what lies outside counts as the nearer end.
    pub max_depth: usize,
}

impl Limits {
    /// The longest request there can be: offsets have 32 bits and a rewrite may grow.
    pub const MAX_BYTES: usize = 1 << 30;
    /// The deepest nesting there can be.
    pub const MAX_DEPTH: usize = 96;

    /// Decoded size of the largest request that is decoded at all, because of its odd shape: four times the
    /// default message size of gRPC.
    pub(super) const ODD_BUDGET: usize = 16 << 20;

    /// What a request of this many bytes may be decoded: sixteen times as much, at least 64 MiB. Ordinary
    /// requests need three times.
    pub(super) fn decoded_budget_of(bytes: usize) -> usize {
        const LEAST_BUDGET: usize = 64 << 20;
        bytes.saturating_mul(16).max(LEAST_BUDGET)
    }

    /// The room an index of a request of this many bytes has beyond them.
    pub(super) fn index_budget_of(bytes: usize) -> usize {
        const LEAST_INDEX: usize = 6 << 20;
        // An item takes 80 bytes of index, of which its own 50 pay as many.
        (bytes / 50).saturating_mul(30).max(LEAST_INDEX)
    }

    /// The limits that go with a message size: what a request of that size may be decoded; an index that
    /// has room for 75,000 items whatever their size, and for as many as fit the message if each has at
    /// least 50 bytes (identifiers, times and a name); and the deepest nesting.
    pub fn for_message_size(max_bytes: usize) -> Self {
        let decoded_budget = Self::decoded_budget_of(max_bytes);
        let index_budget = Self::index_budget_of(max_bytes);
        Self { max_bytes, decoded_budget, index_budget, max_depth: Self::MAX_DEPTH }
    }
}
