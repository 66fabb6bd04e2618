//! Which decisions of a thread are noted: all while there are few, else one in a *step*, which doubles as often as it has
//! to. The distance from one note to the next is drawn, or whoever comes in the step's rhythm would be all that is seen; on average it
//! is the step, so that each decision counts as much as any other.

use std::time::Duration;

use crate::clock::Timestamp;

/// So many notes are made in a second at most, and half as many at least where there are more decisions than that. In a second
/// in which decisions become many there is a quarter more for each doubling of the step, six times as many in all.
pub(super) const NOTES_PER_SECOND: u32 = 1024;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pace {
    /// Decisions to the next note; it is made of the one with which this is 0.
    left: u32,
    /// The step that this was drawn by, and so what the note stands for.
    drawn_by: u32,
    /// The end of a second.
    ends: Timestamp,
    /// The step from now on.
    step: u32,
    /// The notes of this second, less those that the step was doubled for.
    notes: u32,
    /// What all notes of this second stand for.
    weight: u64,
}

impl Pace {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { left: 1, drawn_by: 1, ends: now + SECOND, step: 1, notes: 0, weight: 0 }
    }

    /// Takes a decision: the weight of its note, where it is noted.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<u32> {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 && now < self.ends {
            return None;
        }
        self.turn(now)
    }

    #[cold]
    fn turn(&mut self, now: Timestamp) -> Option<u32> {
        if now >= self.ends {
            self.begin_second(now);
        }
        if self.left > 0 {
            return None;
        }
        let weight = self.drawn_by;
        self.weight += u64::from(weight);
        self.notes += 1;
        if self.notes >= NOTES_PER_SECOND {
            self.notes -= NOTES_PER_SECOND / 4;
            self.step = (2 * self.step).min(STEP_MAX);
        }
        (self.left, self.drawn_by) = (drawn(self.step), self.step);
        Some(weight)
    }

    /// What came in a second is what is expected of the next one; after a silence, nothing.
    fn begin_second(&mut self, now: Timestamp) {
        let is_silent = now >= self.ends + SECOND;
        let expected = if is_silent { 0 } else { self.weight };
        let step = expected / u64::from(NOTES_PER_SECOND) + 1;
        self.step = u32::try_from(step).unwrap_or(STEP_MAX).min(STEP_MAX).next_power_of_two();
        if self.left > 0 && self.step < self.drawn_by {
            // By the old step it would be long to the next note, and so what comes now would be seen late or never.
            (self.left, self.drawn_by) = (drawn(self.step), self.step);
        }
        (self.ends, self.notes, self.weight) = (now + SECOND, 0, 0);
    }
}

/// A thousand million decisions a second, which no thread makes.
const STEP_MAX: u32 = 1 << 20;

/// 1 to twice the step, less 1.
fn drawn(step: u32) -> u32 {
    if step == 1 { 1 } else { fastrand::u32(1..2 * step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weights of the notes of so many decisions, evenly over a second.
    fn second(pace: &mut Pace, number: u64, decisions: u64) -> Vec<u32> {
        let at = |decision| Timestamp::from_nanos(number * 1_000_000_000 + decision * 1_000_000_000 / decisions);
        (0..decisions).filter_map(|decision| pace.take(at(decision))).collect()
    }

    fn sum(weights: &[u32]) -> u64 {
        weights.iter().map(|weight| u64::from(*weight)).sum()
    }

    #[test]
    fn while_there_are_few_each_is_noted_with_the_weight_of_one() {
        let mut pace = Pace::new(Timestamp::default());
        for number in 0..20 {
            assert_eq!(second(&mut pace, number, 1000), [1; 1000]);
        }
        for number in [30, 31, 35] {
            assert_eq!(second(&mut pace, number, 1), [1]);
        }
    }

    #[test]
    fn notes_of_a_second_are_bounded_and_stand_for_all_decisions() {
        fastrand::seed(7);
        for decisions in [3_000, 100_000, 1_500_000] {
            let mut pace = Pace::new(Timestamp::default());
            let first = second(&mut pace, 0, decisions);
            assert!(first.len() <= 6 * NOTES_PER_SECOND as usize, "{decisions}: {}", first.len());
            let (mut notes, mut weight) = (0, sum(&first));
            for number in 1..10 {
                let weights = second(&mut pace, number, decisions);
                assert!(weights.len() <= 5 * NOTES_PER_SECOND as usize / 4, "{decisions}: {}", weights.len());
                notes += weights.len();
                weight += sum(&weights);
            }
            assert!(notes > 9 * NOTES_PER_SECOND as usize / 3, "{decisions}: {notes}");
            let share = weight as f64 / (10 * decisions) as f64;
            assert!((share - 1.0).abs() < 0.03, "{decisions}: {share}");
        }
    }

    #[test]
    fn after_a_storm_each_is_noted_again_within_two_seconds() {
        fastrand::seed(7);
        let mut pace = Pace::new(Timestamp::default());
        second(&mut pace, 0, 1_000_000);
        let after = second(&mut pace, 1, 100);
        assert!(after.iter().all(|weight| *weight > 1), "nothing said that it is over: {after:?}");
        let quiet: Vec<_> = (2..5).flat_map(|number| second(&mut pace, number, 100)).collect();
        assert!(quiet.ends_with(&[1; 200]), "{quiet:?}");
    }

    /// Who comes in turn with others, as a probe does, is noted as often as they are.
    #[test]
    fn no_rhythm_of_decisions_is_that_of_notes() {
        fastrand::seed(7);
        let mut pace = Pace::new(Timestamp::default());
        let mut seen = [0_u64; 64];
        for decision in 0..64 * 100_000_u64 {
            let at = Timestamp::from_nanos(decision * 1_000);
            if let Some(weight) = pace.take(at) {
                seen[usize::try_from(decision % 64).unwrap()] += u64::from(weight);
            }
        }
        // 100 000 each, by some hundred notes.
        assert!(seen.iter().all(|weight| (50_000..150_000).contains(weight)), "{seen:?}");
    }
}
