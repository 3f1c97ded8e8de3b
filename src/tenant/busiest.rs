//! The busiest of many, in bounded memory: the Space-Saving sketch of Metwally, Agrawal and El Abbadi.
//!
//! Invariant: whoever made more than one in [`FOLLOWED`] of all requests is among those followed.

use std::collections::HashMap;

use crate::identity::TenantId;

/// How many are followed. A newcomer looks through all of them for the least busy.
const FOLLOWED: usize = 256;

/// Counts requests by tenant.
#[derive(Debug, Default)]
pub(super) struct Busiest {
    counts: Vec<Count>,
    places: HashMap<TenantId, usize>,
}

#[derive(Debug)]
struct Count {
    id: TenantId,
    requests: u64,
    /// What of `requests` may have been another's.
    inherited: u64,
}

impl Busiest {
    /// More requests of a tenant.
    pub(super) fn count(&mut self, id: &TenantId, more: u64) {
        if let Some(place) = self.places.get(id) {
            self.counts[*place].requests += more;
            return;
        }
        if self.counts.len() < FOLLOWED {
            self.places.insert(id.clone(), self.counts.len());
            self.counts.push(Count { id: id.clone(), requests: more, inherited: 0 });
            return;
        }
        let least = self.counts.iter().enumerate().min_by_key(|(_, count)| count.requests);
        let Some((place, least)) = least else { return };
        let inherited = least.requests;
        self.places.remove(&least.id);
        self.places.insert(id.clone(), place);
        self.counts[place] = Count { id: id.clone(), requests: inherited + more, inherited };
    }

    /// How many are followed now.
    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Everybody with the requests that were certainly theirs, the busiest first; starts anew.
    pub(super) fn take(&mut self) -> Vec<(TenantId, u64)> {
        self.places.clear();
        let counts = std::mem::take(&mut self.counts).into_iter();
        let mut all: Vec<_> = counts.map(|count| (count.id, count.requests - count.inherited)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_are_found_among_many_more_than_are_followed() {
        let mut busiest = Busiest::default();
        let id = |text: &str| TenantId::new(text).unwrap();
        for n in 0..5000 {
            busiest.count(&id(&format!("once-{n}")), 1);
            if n % 10 == 0 {
                busiest.count(&id("busy"), 1);
            }
            if n % 20 == 0 {
                busiest.count(&id("less-busy"), 1);
            }
        }
        assert_eq!(busiest.len(), FOLLOWED);
        let all = busiest.take();
        assert_eq!([all[0].0.as_str(), all[1].0.as_str()], ["busy", "less-busy"]);
        assert!(all[0].1 >= 480 && all[0].1 <= 500, "{}", all[0].1);
        assert!(all[2].1 < 30, "who came once is not taken for busy: {:?}", all[2]);
        assert_eq!(busiest.len(), 0);
    }
}
