//! Cuts batches that are larger than a request may be, between items.
//!
//! Not here: merging what is smaller (`queue`). Invariant: the pieces have the items of the whole, in their
//! order; one item is never cut.

use bytes::Bytes;

use crate::batch::Batch;
use crate::otlp::{Draft, Edits, Index, ItemId, Limits, Signal};
use crate::queue::{Sizer, Wanted};

/// The batches, those above `wanted.max` in pieces.
pub(super) fn cut(batches: Vec<Batch>, wanted: &Wanted) -> Vec<Batch> {
    let is_above = |batch: &Batch| is_above(wanted, batch.items(), batch.size());
    if !batches.iter().any(is_above) {
        return batches;
    }
    let mut all = Vec::with_capacity(batches.len() + 1);
    let mut knife = Knife::default();
    for batch in batches {
        if is_above(&batch) {
            let pieces = knife.pieces(&batch, wanted);
            all.extend(batch.cut(pieces));
        } else {
            all.push(batch);
        }
    }
    all
}

fn is_above(wanted: &Wanted, items: u64, bytes: u64) -> bool {
    let size = match wanted.sizer {
        Sizer::Items => items,
        Sizer::Bytes => bytes,
        Sizer::Requests => return false,
    };
    size > wanted.max && items > 1
}

/// Arrays that are used for every cut.
#[derive(Default)]
struct Knife {
    index: Index,
    edits: Edits,
}

impl Knife {
    /// Halves until nothing is above the bound.
    fn pieces(&mut self, batch: &Batch, wanted: &Wanted) -> Vec<(u64, Bytes)> {
        let mut pieces = Vec::new();
        let mut left = vec![(batch.items(), batch.encoded())];
        while let Some((items, bytes)) = left.pop() {
            let half = match wanted.sizer {
                // All but the last piece are full.
                Sizer::Items => items.div_ceil(wanted.max.max(1)) / 2 * wanted.max,
                Sizer::Bytes | Sizer::Requests => items / 2,
            };
            let halves = is_above(wanted, items, bytes.len() as u64)
                .then(|| self.halves(batch.signal(), &bytes, half))
                .flatten();
            match halves {
                Some((first, second)) => left.extend([(items - half, second), (half, first)]),
                None => pieces.push((items, bytes)),
            }
        }
        pieces
    }

    /// The first items and the others; `None` if it cannot be read, which was checked before.
    fn halves(&mut self, signal: Signal, bytes: &Bytes, first: u64) -> Option<(Bytes, Bytes)> {
        let body = self.index.read(signal, bytes, &Limits::CHECKED).ok()?;
        let mut emit = |is_left_out: &dyn Fn(u64) -> bool| {
            let mut draft = Draft::new(&self.index, &body, &mut self.edits);
            let items: Vec<ItemId> =
                draft.parts().flat_map(|part| draft.items(part).collect::<Vec<_>>()).collect();
            let numbered = items.into_iter().zip(0..);
            numbered.filter(|(_, n)| is_left_out(*n)).for_each(|(item, _)| draft.leave_out(item));
            draft.emit(0)
        };
        Some((emit(&|n| n >= first)?, emit(&|n| n < first)?))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message;

    use super::*;
    use crate::identity::TenantId;
    use crate::outcome::Account;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

    /// Two resources with spans that are named by their numbers.
    fn request(counts: [u64; 2]) -> ExportTraceServiceRequest {
        let mut numbers = 0..;
        let mut resource = |count: u64| {
            let span = |n: u64| Span { name: format!("{n:05}"), ..Span::default() };
            let spans = numbers.by_ref().take(count as usize).map(span).collect();
            let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
            ResourceSpans { scope_spans, ..ResourceSpans::default() }
        };
        ExportTraceServiceRequest { resource_spans: counts.map(&mut resource).into() }
    }

    fn names(bytes: &Bytes) -> Vec<String> {
        let request = ExportTraceServiceRequest::decode(bytes.clone()).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
    }

    fn cut_up(counts: [u64; 2], sizer: Sizer, max: u64) -> Vec<Vec<String>> {
        let account: Arc<Account> = Account::detached(TenantId::unattributed());
        let items = counts.iter().sum();
        account.signal(Signal::Traces).add_received(items);
        let data = (items, request(counts).encode_to_vec().into());
        let batch = Batch::new(Signal::Traces, TenantId::unattributed(), account.clone(), data);
        let wanted = Wanted { sizer, max, ..Wanted::up_to(u64::MAX) };
        let pieces = cut(vec![batch], &wanted);
        let read: Vec<_> = pieces.iter().map(|piece| names(&piece.encoded())).collect();
        for (piece, names) in pieces.iter().zip(&read) {
            assert_eq!(piece.items(), names.len() as u64);
        }
        pieces.into_iter().for_each(|piece| piece.sent(0));
        let books = account.signal(Signal::Traces).read();
        assert!(books.balanced() && books.sent == items, "{books:?}");
        read
    }

    #[test]
    fn pieces_are_full_and_have_all_items_in_their_order() {
        for (counts, max) in [([10, 0], 10), ([7, 4], 3), ([1000, 1], 1), ([5, 995], 128), ([3, 3], 4)] {
            let pieces = cut_up(counts, Sizer::Items, max);
            let all = counts[0] + counts[1];
            assert_eq!(pieces.len() as u64, all.div_ceil(max), "{counts:?} {max}");
            assert!(pieces[..pieces.len() - 1].iter().all(|piece| piece.len() as u64 == max));
            let expected: Vec<_> = (0..all).map(|n| format!("{n:05}")).collect();
            assert_eq!(pieces.concat(), expected);
        }
    }

    #[test]
    fn bytes_are_kept_to_as_far_as_one_item_is_not_cut() {
        let pieces = cut_up([100, 100], Sizer::Bytes, 200);
        assert!(pieces.len() > 8 && pieces.iter().all(|piece| piece.len() < 25), "{}", pieces.len());
        assert_eq!(cut_up([2, 1], Sizer::Bytes, 1).len(), 3);
    }
}
