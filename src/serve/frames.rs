//! Frames of HTTP/2, found in the bytes of a connection as they come.
//!
//! What most frames cost depends on nothing: whoever floods a port with them pays with the [turns](super::turns) of the
//! connection. Two go through all streams of the connection: SETTINGS, which changes the window of each (RFC 9113, section 6.9.2),
//! and GOAWAY (section 6.8). Where 4096 calls may be under way, fifteen bytes then cost as much as thousands of calls.

/// SETTINGS and GOAWAY that a connection may send with nothing else between them. Honest clients send a handful: the first
/// settings, an acknowledgement, and a GOAWAY or two at the end...
const COSTLY_MAX: u32 = 128;
/// ...and, on a connection that lives long, other windows as they learn how fast it is: one of them for so many other frames is
/// not counted.
const OTHERS_EACH: u32 = 64;

/// RFC 9113, section 3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Section 4.1: length, type, flags, stream.
const HEAD: usize = 9;
/// Section 6.5.
const SETTINGS: u8 = 4;
/// Section 6.8.
const GOAWAY: u8 = 7;

#[derive(Debug, Default)]
pub(super) struct Frames {
    next: Next,
    /// Of those that are counted, [`OTHERS_EACH`] for each.
    costly: u32,
}

/// What the next bytes are.
#[derive(Debug)]
enum Next {
    /// The preface, of which so much has come.
    Preface(usize),
    /// A frame's head, of which so much has come.
    Head([u8; HEAD], usize),
    /// So much of a frame's payload.
    Payload(usize),
    /// Another protocol.
    Other,
}

impl Default for Next {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Next {
    fn head() -> Self {
        Self::Head([0; HEAD], 0)
    }

    fn payload(length: u32) -> Self {
        match usize::try_from(length) {
            Ok(0) | Err(_) => Self::head(),
            Ok(length) => Self::Payload(length),
        }
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("more than {COSTLY_MAX} frames of SETTINGS and GOAWAY with too little between them")]
pub(super) struct TooMany;

impl Frames {
    /// Looks at what has come: the number of frames that begin in it. Fails where it is too much for a connection.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<usize, TooMany> {
        let mut begun = 0;
        while !bytes.is_empty() {
            match &mut self.next {
                Next::Preface(came) => {
                    let expected = PREFACE.get(*came..).unwrap_or_default();
                    let (part, rest) = bytes.split_at(bytes.len().min(expected.len()));
                    *came += part.len();
                    bytes = rest;
                    if !expected.starts_with(part) {
                        self.next = Next::Other;
                    } else if *came == PREFACE.len() {
                        self.next = Next::head();
                    }
                }
                Next::Head(head, came) => {
                    let missing = head.get_mut(*came..).unwrap_or_default();
                    let (part, rest) = bytes.split_at(bytes.len().min(missing.len()));
                    for (byte, new) in missing.iter_mut().zip(part) {
                        *byte = *new;
                    }
                    *came += part.len();
                    bytes = rest;
                    if *came == HEAD {
                        let [high, middle, low, kind, ..] = *head;
                        self.next = Next::payload(u32::from_be_bytes([0, high, middle, low]));
                        begun += 1;
                        self.count(kind)?;
                    }
                }
                Next::Payload(length) => {
                    let (part, rest) = bytes.split_at(bytes.len().min(*length));
                    bytes = rest;
                    *length -= part.len();
                    if *length == 0 {
                        self.next = Next::head();
                    }
                }
                Next::Other => return Ok(begun),
            }
        }
        Ok(begun)
    }

    fn count(&mut self, kind: u8) -> Result<(), TooMany> {
        self.costly = match kind {
            SETTINGS | GOAWAY => self.costly + OTHERS_EACH,
            _ => self.costly.saturating_sub(1),
        };
        if self.costly > COSTLY_MAX * OTHERS_EACH { Err(TooMany) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    /// What is said of bytes that come in pieces of such a length.
    fn read(bytes: &[u8], piece: usize) -> Result<usize, TooMany> {
        let mut frames = Frames::default();
        bytes.chunks(piece).map(|piece| frames.read(piece)).sum()
    }

    /// Says what a frame could begin with.
    fn other() -> Vec<u8> {
        frame(DATA, &frame(SETTINGS, &[]))
    }

    #[test]
    fn a_connection_may_send_so_many_settings_and_goaways_however_they_are_cut() {
        let [settings, goaway] = [frame(SETTINGS, &[0; 6]), frame(GOAWAY, &[0; 8])];
        let many = [&*settings, &goaway].concat().repeat(COSTLY_MAX as usize / 2);
        let [allowed, one_more] = [&[][..], &settings].map(|last| [PREFACE, &other(), &many, last].concat());
        for piece in (1..50).chain([8192, usize::MAX]) {
            assert_eq!(read(&allowed, piece), Ok(1 + COSTLY_MAX as usize), "{piece}");
            assert_eq!(read(&one_more, piece), Err(TooMany), "{piece}");
        }
    }

    #[test]
    fn a_connection_that_lives_long_may_change_its_windows_for_ever() {
        let used = |others: u32| [frame(SETTINGS, &[0; 6]), other().repeat(others as usize)].concat();
        let [enough, too_few] = [OTHERS_EACH, OTHERS_EACH / 2].map(used);
        let times = 3 * COSTLY_MAX as usize;
        let frames = times * (1 + OTHERS_EACH as usize);
        assert_eq!(read(&[PREFACE, &enough.repeat(times)].concat(), 8192), Ok(frames));
        assert_eq!(read(&[PREFACE, &too_few.repeat(times)].concat(), 8192), Err(TooMany));
    }

    #[test]
    fn what_is_no_http2_has_no_frames() {
        let settings = frame(SETTINGS, &[]).repeat(1000);
        for begin in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\rA", "P"] {
            for piece in [1, 7, 8192] {
                assert_eq!(read(&[begin.as_bytes(), &settings].concat(), piece), Ok(0));
            }
        }
    }
}
