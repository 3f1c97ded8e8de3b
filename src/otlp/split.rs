//! Cuts a resource whose items differ into pieces with resource edits of their own.
//!
//! Every piece gets a copy of what its items share (resource, scope names, metric names), so a small
//! request could become a huge one; the copies are bounded by the size of the request itself.

use super::draft::{Draft, ItemId, PartId};
use super::edits::Part;

/// What a part was cut into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// The number of each piece, ascending, and its part. The first keeps the part that was cut.
    pub made: Vec<(u16, PartId)>,
    /// The part with the items of all further pieces, when copies for them would cost too much.
    pub overflow: Option<PartId>,
}

impl Draft<'_> {
    /// What copies may cost beyond the length of the request.
    const FREE_COPIES: usize = 1 << 20;

    /// Cuts a part by the number `piece_of` gives each of its items.
    ///
    /// Pieces take over the group and the resource edits made so far. Items left out belong to no
    /// piece. If all numbers are equal nothing changes. The copies of what items share are limited to
    /// the request's length and 1 MiB; [`Pieces::overflow`] has the rest.
    pub fn split(&mut self, part: PartId, mut piece_of: impl FnMut(&Self, ItemId) -> u16) -> Pieces {
        let mut numbered: Vec<(u16, u32)> =
            self.items(part).map(|item| (piece_of(self, item), item.0)).collect();
        let first = numbered.first().map_or(0, |(number, _)| *number);
        if numbered.iter().all(|(number, _)| *number == first) {
            return Pieces { made: vec![(first, part)], overflow: None };
        }
        numbered.sort_by_key(|(number, _)| *number);
        let most = self.most_pieces(part);
        let mut pieces = Pieces { made: Vec::new(), overflow: None };
        let mut rest = numbered.as_slice();
        while let Some((number, _)) = rest.first() {
            let is_overflow = pieces.made.len() >= most;
            let end =
                if is_overflow { rest.len() } else { rest.partition_point(|(other, _)| other == number) };
            let (here, later) = rest.split_at(end);
            let id = if pieces.made.is_empty() { Some(part) } else { None };
            let id = self.add_piece(part, id, here);
            if is_overflow {
                pieces.overflow = Some(id);
            } else {
                pieces.made.push((*number, id));
            }
            rest = later;
        }
        self.edits.is_touched = true;
        self.edits.disarrange();
        pieces
    }

    /// How many pieces a part may be cut into, not counting the overflow.
    fn most_pieces(&self, part: PartId) -> usize {
        let resource = self.edits.parts.get(part.0 as usize).map_or(0, |part| part.resource);
        let Some(at) = self.index.resources.get(resource as usize) else { return 1 };
        let items = self.index.items.get(at.items.start as usize..at.items.end as usize).unwrap_or_default();
        let of_items: usize = items.iter().map(|item| (item.frame.end - item.frame.outer) as usize).sum();
        let shared = (at.frame.end - at.frame.outer) as usize - of_items;
        1 + (self.request.len() + Self::FREE_COPIES) / shared.max(1)
    }

    /// Makes `items` a piece: `part` itself, or a new part like it.
    fn add_piece(&mut self, part: PartId, itself: Option<PartId>, items: &[(u16, u32)]) -> PartId {
        let id = itself.unwrap_or(PartId(self.edits.parts.len() as u32));
        let start = self.edits.lists.len();
        // Sorting by number was stable, so items of equal number still ascend; an overflow's may not.
        self.edits.lists.extend(items.iter().map(|(_, item)| *item));
        if let Some(list) = self.edits.lists.get_mut(start..) {
            list.sort_unstable();
        }
        let list = start..self.edits.lists.len();
        if self.edits.owners.is_empty() {
            self.edits.owners.extend(self.index.items.iter().map(|item| item.resource));
        }
        for (_, item) in items {
            if let Some(owner) = self.edits.owners.get_mut(*item as usize) {
                *owner = id.0;
            }
        }
        let Some(like) = self.edits.parts.get(part.0 as usize).cloned() else { return id };
        let edits = if itself.is_some() { like.edits } else { self.edits.copy_list(like.edits) };
        let piece = Part { left: items.len() as u32, edits, list: Some(list), ..like };
        match self.edits.parts.get_mut(id.0 as usize) {
            Some(part) => *part = piece,
            None => self.edits.parts.push(piece),
        }
        id
    }
}
