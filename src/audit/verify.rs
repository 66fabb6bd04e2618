//! Whether the lines of audit logs follow each other, as [`chain`](super::chain) says that they do.

use std::fmt;
use std::io::{self, BufRead};

use super::chain::{Chain, Said, read_line};

/// Reads files in the order in which they were written.
#[derive(Default)]
pub struct Verification {
    chain: Chain,
    /// The hash that the first line is to say, where it is known.
    after: Option<String>,
    /// A hash that a line has to have.
    expected: Option<String>,
    expected_at: Option<Place>,
    /// The first line that says a hash.
    begin: Option<Place>,
    /// The first of the lines without a hash since the last one with a hash, and whether it is more than a line cut off.
    loose: Option<(Place, Said)>,
    lines: u64,
    last_hash: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    /// The first one is 1.
    pub line: u64,
}

/// What is known of lines that follow each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    /// The number of those that say a hash.
    pub lines: u64,
    pub begin: Place,
    /// The hash of the last of them.
    pub last_hash: String,
    /// The line that has the hash that was expected.
    pub expected_at: Option<Place>,
}

#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(
        "{place}: it does not follow: it says that {said} stands before it, and what stands there is {found}. The line before it was changed or put in, or lines between them were taken out or put elsewhere"
    )]
    DoesNotFollow { place: Place, said: String, found: String },
    #[error("{place}: it does not follow: it says no hash of what stands before it")]
    SaysNothing { place: Place },
    #[error("no line says a hash of what stands before it: nothing is known of who wrote them")]
    Nothing,
    #[error("no line has the hash {0}: the end was taken away, or it is another log")]
    Cut(String),
    #[error("{file}: {error}")]
    Unreadable { file: String, error: io::Error },
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} line {}", self.file, self.line)
    }
}

impl Verification {
    pub fn new(after: Option<&str>, expected: Option<&str>) -> Self {
        let lower = |hash: &str| hash.to_ascii_lowercase();
        Self { after: after.map(lower), expected: expected.map(lower), ..Self::default() }
    }

    /// Reads the next file. What is worth knowing although it breaks nothing is told.
    pub fn file(&mut self, file: &str, mut reader: impl BufRead, tell: &mut dyn FnMut(String)) -> Result<(), Broken> {
        let (mut line, mut number) = (Vec::new(), 0);
        let unreadable = |error| Broken::Unreadable { file: file.to_owned(), error };
        while read_line(&mut reader, &mut line).map_err(unreadable)? {
            number += 1;
            self.line(&line, Place { file: file.to_owned(), line: number }, tell)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], place: Place, tell: &mut dyn FnMut(String)) -> Result<(), Broken> {
        let before = self.chain.clone();
        match self.chain.follow(line) {
            Said::Previous(said) => {
                self.check(&before, &place, said, tell)?;
                self.tell_of_loose(&place, tell);
                self.begin.get_or_insert(place.clone());
                self.lines += 1;
                self.last_hash = Some(self.chain.hash());
            }
            // A line that is cut off does not end, either.
            Said::Unreadable if line.ends_with(b"\n") => self.note_loose(&place, Said::Nothing),
            said => self.note_loose(&place, said),
        }
        if self.expected_at.is_none() && self.expected.as_ref() == Some(&self.chain.hash()) {
            self.expected_at = Some(place);
        }
        Ok(())
    }

    fn check(&self, before: &Chain, place: &Place, said: String, tell: &mut dyn FnMut(String)) -> Result<(), Broken> {
        let found = match &self.after {
            Some(after) if before.is_empty() => after.clone(),
            _ => before.hash(),
        };
        if said == found {
            return Ok(());
        }
        if before.is_empty() && self.after.is_none() {
            tell(format!("{place} follows one that is not here, with the hash {said}"));
            return Ok(());
        }
        Err(Broken::DoesNotFollow { place: place.clone(), said, found })
    }

    fn note_loose(&mut self, place: &Place, said: Said) {
        match &mut self.loose {
            // More than one line: it is not the end of a run that crashed.
            Some((_, earlier)) => *earlier = Said::Nothing,
            None => self.loose = Some((place.clone(), said)),
        }
    }

    /// Lines without a hash that the next one vouches for.
    fn tell_of_loose(&mut self, place: &Place, tell: &mut dyn FnMut(String)) {
        let Some((first, _)) = self.loose.take() else { return };
        let since = if self.begin.is_some() { "" } else { ": the chain begins there" };
        tell(format!("from {first} on lines say no hash; {place} says that of all of them{since}"));
    }

    /// What all files together come to.
    pub fn end(self, tell: &mut dyn FnMut(String)) -> Result<Verified, Broken> {
        let (Some(begin), Some(last_hash)) = (self.begin, self.last_hash) else { return Err(Broken::Nothing) };
        match self.loose {
            Some((place, Said::Unreadable)) if self.expected_at.is_some() => {
                tell(format!("{place} is cut off: nobody was told that it is noted"));
            }
            Some((place, Said::Unreadable)) => tell(format!(
                "{place} is cut off, as a run that ended in the middle of it leaves it, or somebody who took an end away: \
                 --expect with the last hash that is known elsewhere finds that"
            )),
            Some((place, _)) => return Err(Broken::SaysNothing { place }),
            None => {}
        }
        if let Some(expected) = self.expected.filter(|_| self.expected_at.is_none()) {
            return Err(Broken::Cut(expected));
        }
        Ok(Verified { lines: self.lines, begin, last_hash, expected_at: self.expected_at })
    }
}
