//! Where documents come from. A source hands over everything it holds, at a revision; it never says what
//! changed, because the difference is found where the last good set is known.

pub mod dir;
