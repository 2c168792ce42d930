//! A worker's connections by slot. A token names a slot and its generation, so that an event for a
//! connection that was closed earlier in the same turn does not reach the one that took its slot.

/// Names one connection of a worker, for as long as that connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Default for Token {
    /// Of nothing at all.
    fn default() -> Token {
        Token(u64::MAX)
    }
}

/// Set in tokens that are no connection's.
const OTHER: u64 = 1 << 63;

impl Token {
    /// Of something that is no connection: a listener, a waker.
    pub const fn other(number: u32) -> Token {
        Token(OTHER | number as u64)
    }

    /// From the number that an event carries.
    pub fn from_bits(bits: u64) -> Token {
        Token(bits)
    }

    /// The number that an event carries.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The number of something that is no connection.
    pub fn as_other(self) -> Option<u32> {
        (self.0 & OTHER != 0).then_some(self.0 as u32)
    }

    fn slot(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// The table.
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Put in what `make` makes of its token.
    pub fn insert(&mut self, make: impl FnOnce(Token) -> T) -> Token {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            u32::try_from(self.slots.len() - 1).expect("fewer connections than 2^32")
        });
        let generation = self.slots[slot as usize].generation;
        let token = Token(u64::from(generation) << 32 | u64::from(slot));
        self.slots[slot as usize].value = Some(make(token));
        token
    }

    /// Look up.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.slot())?;
        if slot.generation != token.generation() { None } else { slot.value.as_mut() }
    }

    /// Take out.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slots.get_mut(token.slot())?;
        if slot.generation != token.generation() {
            return None;
        }
        let value = slot.value.take()?;
        // The top bit marks what is no connection.
        slot.generation = slot.generation.wrapping_add(1) & (u32::MAX >> 1);
        self.free.push(token.0 as u32);
        Some(value)
    }

    /// All that are in.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// True when none is in.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_and_its_old_token_is_not() {
        let mut table = Table::default();
        let first = table.insert(|_| 'a');
        assert_eq!(table.remove(first), Some('a'));
        assert!(table.is_empty());
        let second = table.insert(|_| 'b');
        assert_eq!(first.slot(), second.slot());
        assert_eq!(table.get_mut(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get_mut(second), Some(&mut 'b'));
        assert_eq!(Token::from_bits(second.to_bits()), second);
        assert_eq!((second.as_other(), Token::other(4).as_other()), (None, Some(4)));
        assert_eq!(table.iter().count(), 1);
    }
}
