//! The lanes of a puller, by shard. They come and go between its steps.
//!
//! A lane is shown the looks of those rounds alone that have begun since it is here: an earlier
//! look may not cover its shard, and tells of a time before its beginning. One that has ended is
//! shown none, and stays until it is dropped.

use super::lane::Lane;
use std::ops::{Index, IndexMut, Range};

struct Place<'s> {
    lane: Lane<'s>,
    /// The first round whose look it is shown.
    looks_from: u64,
    has_ended: bool,
}

/// See the module.
pub struct Lanes<'s> {
    places: Vec<Option<Box<Place<'s>>>>,
    span: Range<usize>,
}

impl<'s> Lanes<'s> {
    /// None yet, of a store with so many shards.
    pub fn new(shards: usize) -> Lanes<'s> {
        Lanes { places: (0..shards).map(|_| None).collect(), span: 0..0 }
    }

    /// From the first lane's shard to the last one's: what a look has to cover.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// A lane of a shard that has none. The first look that it is shown is that of round
    /// `looks_from`.
    pub fn add(&mut self, shard: usize, lane: Lane<'s>, looks_from: u64) {
        let place = Place { lane, looks_from, has_ended: false };
        let before = self.places[shard].replace(Box::new(place));
        assert!(before.is_none(), "shard {shard} has a lane");
        self.find_span();
    }

    /// The lane of this shard, if there is one, is here no more.
    pub fn remove(&mut self, shard: usize) -> Option<Lane<'s>> {
        let place = self.places.get_mut(shard)?.take()?;
        self.find_span();
        Some(place.lane)
    }

    fn find_span(&mut self) {
        let first = self.places.iter().position(Option::is_some);
        let last = self.places.iter().rposition(Option::is_some);
        self.span = first.zip(last).map_or(0..0, |(first, last)| first..last + 1);
    }

    /// The lane of this shard has ended.
    pub fn end(&mut self, shard: usize) {
        self.places[shard].as_mut().expect("a lane that ends is here").has_ended = true;
    }

    /// The lane of a shard, ended or not.
    pub fn get(&self, shard: usize) -> Option<&Lane<'s>> {
        Some(&self.places.get(shard)?.as_ref()?.lane)
    }

    /// The same.
    pub fn get_mut(&mut self, shard: usize) -> Option<&mut Lane<'s>> {
        Some(&mut self.places.get_mut(shard)?.as_mut()?.lane)
    }

    /// The lane of a shard, if it has not ended.
    pub fn live(&mut self, shard: usize) -> Option<&mut Lane<'s>> {
        self.shown(shard, u64::MAX)
    }

    /// The lane of a shard, if it has not ended and is shown the look of this round.
    pub fn shown(&mut self, shard: usize, round: u64) -> Option<&mut Lane<'s>> {
        let place = self.places[shard].as_mut()?;
        (!place.has_ended && place.looks_from <= round).then_some(&mut place.lane)
    }
}

/// A lane that is known to be there.
impl<'s> Index<usize> for Lanes<'s> {
    type Output = Lane<'s>;
    fn index(&self, shard: usize) -> &Lane<'s> {
        self.get(shard).expect("a lane that is awake is here")
    }
}

impl<'s> IndexMut<usize> for Lanes<'s> {
    fn index_mut(&mut self, shard: usize) -> &mut Lane<'s> {
        &mut self.places[shard].as_mut().expect("a lane that is awake is here").lane
    }
}
