//! Requests in the order of their begin. Envoy writes a line when a request ends, so that a long one comes late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Timestamp;

/// Holds the last so many items back, and lets the earliest of them go first.
#[derive(Debug)]
pub struct Ordered<T> {
    held: BinaryHeap<Reverse<Held<T>>>,
    held_max: usize,
    came: u64,
}

#[derive(Debug)]
struct Held<T> {
    at: Timestamp,
    /// Where times are the same, in the order that they came in.
    number: u64,
    item: T,
}

impl<T> Ordered<T> {
    pub fn new(held_max: usize) -> Self {
        Self { held: BinaryHeap::new(), held_max, came: 0 }
    }

    /// Takes one more. Gives the earliest, once enough are held.
    pub fn push(&mut self, at: Timestamp, item: T) -> Option<T> {
        self.held.push(Reverse(Held { at, number: self.came, item }));
        self.came += 1;
        if self.held.len() > self.held_max { self.pop() } else { None }
    }

    /// The earliest, when no more come.
    pub fn pop(&mut self) -> Option<T> {
        self.held.pop().map(|Reverse(held)| held.item)
    }
}

/// Several sequences as one, always the earliest of their next items first.
pub struct Merged<I: Iterator> {
    /// Each sequence with its next item, which came before the rest of it.
    heads: Vec<(I::Item, I)>,
    at: fn(&I::Item) -> Timestamp,
}

impl<I: Iterator> Merged<I> {
    pub fn new(sequences: impl IntoIterator<Item = I>, at: fn(&I::Item) -> Timestamp) -> Self {
        let head = |mut sequence: I| Some((sequence.next()?, sequence));
        Self { heads: sequences.into_iter().filter_map(head).collect(), at }
    }
}

impl<I: Iterator> Iterator for Merged<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let earliest = self.heads.iter().enumerate().min_by_key(|(_, (item, _))| (self.at)(item));
        let place = earliest.map(|(place, _)| place)?;
        let (item, sequence) = self.heads.get_mut(place)?;
        match sequence.next() {
            Some(next) => Some(std::mem::replace(item, next)),
            None => Some(self.heads.remove(place).0),
        }
    }
}

impl<T> PartialEq for Held<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Held<T> {}

impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Held<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: &u64) -> Timestamp {
        Timestamp::from_nanos(*nanos)
    }

    #[test]
    fn a_late_item_goes_first_while_it_is_within_those_that_are_held() {
        let mut ordered = Ordered::new(2);
        let mut out: Vec<u64> = [5, 3, 4, 9, 1, 8].iter().filter_map(|time| ordered.push(at(time), *time)).collect();
        assert_eq!(out, [3, 4, 1, 5], "1 is later than two others could wait");
        out.extend(std::iter::from_fn(|| ordered.pop()));
        assert_eq!(out[4..], [8, 9]);
    }

    #[test]
    fn equal_times_stay_in_the_order_they_came_in() {
        let mut ordered = Ordered::new(3);
        assert!(['a', 'b', 'c'].into_iter().all(|item| ordered.push(at(&7), item).is_none()));
        assert_eq!(ordered.push(at(&7), 'd'), Some('a'));
        assert_eq!(std::iter::from_fn(|| ordered.pop()).collect::<String>(), "bcd");
    }

    #[test]
    fn sequences_are_merged_by_their_next_items() {
        let sequences = [vec![1, 4, 6], vec![], vec![2, 3, 9], vec![5]].map(Vec::into_iter);
        assert_eq!(Merged::new(sequences, at).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 9]);
        let nothing: [std::vec::IntoIter<u64>; 0] = [];
        assert_eq!(Merged::new(nothing, at).next(), None);
    }
}
