//! Keys and their cells, packed.
//!
//! The cells lie side by side in blocks, in no order and without gaps, and a hash table holds the place of each.
//! What a table keeps free is then places of 5 bytes, and what an allocator rounds up is a block and not a cell:
//!
//! | | bytes a key |
//! |---|---|
//! | key and cell | 160 |
//! | a block of 25 of them, in 4 KiB | 4 |
//! | its place, in a table that is 7/16 full after it was doubled at 7/8 | at most 12 |
//!
//! Without gaps, every place below [`Table::len`] holds a key: who goes through the places meets each key.

use hashbrown::HashTable;

use crate::limiter::algorithm::Cell;
use crate::limiter::key::CounterKey;

/// As many entries as 4 KiB hold, with some bytes to spare for an allocator that aligns.
const BLOCK_LEN: usize = 25;

#[derive(Default)]
pub(super) struct Table {
    places: HashTable<u32>,
    /// All blocks but the last that holds anything are full; those after it are empty.
    blocks: Vec<Vec<Entry>>,
}

pub(super) struct Entry {
    pub(super) key: CounterKey,
    pub(super) cell: Cell,
}

impl Table {
    /// The most that a place of 32 bits can tell apart.
    pub(super) const KEYS_MAX: usize = u32::MAX as usize;

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn find(&mut self, key: CounterKey) -> Option<&mut Cell> {
        let place = self.place(key)?;
        self.at(place).map(|entry| &mut entry.cell)
    }

    /// Where a key is, until another is removed.
    pub(super) fn place(&self, key: CounterKey) -> Option<usize> {
        self.places.find(hash(key), |place| is_at(&self.blocks, *place, key)).map(|place| *place as usize)
    }

    pub(super) fn at(&mut self, place: usize) -> Option<&mut Entry> {
        self.blocks.get_mut(place / BLOCK_LEN)?.get_mut(place % BLOCK_LEN)
    }

    /// Adds a key that is not there yet, to less than [`Self::KEYS_MAX`] others.
    pub(super) fn insert(&mut self, key: CounterKey, cell: Cell) {
        let place = self.len();
        let block = place / BLOCK_LEN;
        if block == self.blocks.len() {
            self.blocks.push(Vec::with_capacity(BLOCK_LEN));
        }
        if let Some(block) = self.blocks.get_mut(block) {
            block.push(Entry { key, cell });
            let hash_at = |place: &u32| key_at(&self.blocks, *place).map_or(0, hash);
            self.places.insert_unique(hash(key), place as u32, hash_at);
        }
    }

    /// False if the key was not there. The last entry moves to the place that becomes free.
    pub(super) fn remove(&mut self, key: CounterKey) -> bool {
        let last_place = self.len().saturating_sub(1) as u32;
        let Ok(found) = self.places.find_entry(hash(key), |place| is_at(&self.blocks, *place, key)) else {
            return false;
        };
        let (free_place, _) = found.remove();
        let last = self.blocks.get_mut(last_place as usize / BLOCK_LEN).and_then(Vec::pop);
        // Nothing to move where the last entry itself was removed: its place is gone.
        if let (Some(last), Some(free)) = (last, self.at(free_place as usize)) {
            let moved = last.key;
            *free = last;
            if let Some(place) = self.places.find_mut(hash(moved), |place| *place == last_place) {
                *place = free_place;
            }
        }
        true
    }

    /// Gives back the blocks that hold nothing any more.
    pub(super) fn shrink(&mut self) {
        self.blocks.truncate(self.len().div_ceil(BLOCK_LEN));
    }
}

fn is_at(blocks: &[Vec<Entry>], place: u32, key: CounterKey) -> bool {
    key_at(blocks, place) == Some(key)
}

fn key_at(blocks: &[Vec<Entry>], place: u32) -> Option<CounterKey> {
    let place = place as usize;
    blocks.get(place / BLOCK_LEN)?.get(place % BLOCK_LEN).map(|entry| entry.key)
}

/// A key is a hash already. Its low bits are used here, the high ones chose the shard.
fn hash(key: CounterKey) -> u64 {
    key.as_u128() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::Timestamp;
    use crate::limiter::fixture::{self, charge};

    #[test]
    fn a_key_takes_at_most_192_bytes() {
        let block = (BLOCK_LEN * size_of::<Entry>() + align_of::<Entry>()).next_power_of_two();
        let place = (size_of::<u32>() + 1) as f64 * 16.0 / 7.0;
        assert_eq!((size_of::<Entry>(), block), (160, 4096));
        assert!(block as f64 / BLOCK_LEN as f64 + place <= 176.0);
    }

    /// Keys come and go, several blocks of them; each cell is told by what it has counted.
    #[test]
    fn every_key_keeps_its_cell_while_others_come_and_go() {
        let now = Timestamp::from_nanos(1);
        let mut table = Table::default();
        let mut expected = BTreeMap::new();
        for step in 0..2000_u64 {
            let number = step * 7919 % 211;
            let charge = charge(number, "1000000/day");
            if expected.remove(&number).is_some() {
                assert!(table.remove(charge.key));
            } else {
                let mut cell = Cell::new(charge.rate, charge.algorithm, now);
                cell.charge(step as u32 + 1, now);
                table.insert(charge.key, cell);
                expected.insert(number, 999_999 - step as u32);
            }
            assert!(step % 5 != 0 || !table.remove(fixture::charge(1_000_000 + step, "1/day").key));
            assert_eq!(table.len(), expected.len());
            table.shrink();
        }
        for (number, remaining) in &expected {
            let charge = charge(*number, "1000000/day");
            let cell = table.find(charge.key).unwrap();
            assert_eq!(cell.judge(1_000_000, charge.algorithm, 1, now).remaining, *remaining);
        }
        assert_eq!((0..).take_while(|place| table.at(*place).is_some()).count(), expected.len());
    }

    #[test]
    fn what_is_removed_gives_its_blocks_back() {
        let mut table = Table::default();
        let charges: Vec<_> = (0..100).map(|key| charge(key, "1/day")).collect();
        for charge in &charges {
            table.insert(charge.key, Cell::new(charge.rate, charge.algorithm, Timestamp::default()));
        }
        assert_eq!(table.blocks.len(), 4);
        assert!(charges.iter().skip(25).all(|charge| table.remove(charge.key)));
        table.shrink();
        assert_eq!((table.len(), table.blocks.len()), (25, 1));
    }
}
