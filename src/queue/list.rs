//! Lists that are threaded through the places of a slab: to take a place out of the middle costs as much
//! as to take it from the front.
//!
//! Invariant: a place stands in at most one list of each [`Links`].

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// The neighbours of each place.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<(u32, u32)>);

/// First and last place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl List {
    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    pub(super) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn back(&self) -> Option<u32> {
        (self.tail != NONE).then_some(self.tail)
    }

    pub(super) fn push_back(&mut self, links: &mut Links, place: u32) {
        links.insert(self, (self.tail, NONE), place);
    }

    pub(super) fn push_front(&mut self, links: &mut Links, place: u32) {
        links.insert(self, (NONE, self.head), place);
    }

    /// Puts `place` behind `before`, which is in the list.
    pub(super) fn push_behind(&mut self, links: &mut Links, before: u32, place: u32) {
        let after = links.next(before);
        links.insert(self, (before, after.unwrap_or(NONE)), place);
    }

    pub(super) fn remove(&mut self, links: &mut Links, place: u32) {
        let (prev, next) = links.0[place as usize];
        match prev {
            NONE => self.head = next,
            prev => links.0[prev as usize].1 = next,
        }
        match next {
            NONE => self.tail = prev,
            next => links.0[next as usize].0 = prev,
        }
        links.0[place as usize] = (NONE, NONE);
    }

    pub(super) fn pop_front(&mut self, links: &mut Links) -> Option<u32> {
        let place = self.front()?;
        self.remove(links, place);
        Some(place)
    }
}

impl Links {
    pub(super) fn next(&self, place: u32) -> Option<u32> {
        Some(self.0[place as usize].1).filter(|next| *next != NONE)
    }

    fn insert(&mut self, list: &mut List, (prev, next): (u32, u32), place: u32) {
        if self.0.len() <= place as usize {
            self.0.resize(place as usize + 1, (NONE, NONE));
        }
        self.0[place as usize] = (prev, next);
        match prev {
            NONE => list.head = place,
            prev => self.0[prev as usize].1 = place,
        }
        match next {
            NONE => list.tail = place,
            next => self.0[next as usize].0 = place,
        }
    }
}

/// Values in numbered places that are used again.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(value);
                place
            }
            None => {
                self.places.push(Some(value));
                (self.places.len() - 1) as u32
            }
        }
    }

    pub(super) fn remove(&mut self, place: u32) -> Option<T> {
        let value = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(value)
    }

    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.places.get(place as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// How many places there are, used or free.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(i, value)| Some((i as u32, value.as_mut()?)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = T> {
        self.places.into_iter().flatten()
    }

    /// Gives memory back; nothing may be in it.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
