//! Turns of a connection: what it reads in each is bounded, so that whoever sends without end leaves turns to others.
//!
//! A connection is asked for all that it can read, until tokio says that its task has had its share: after 128 reads, a
//! megabyte. That is thirteen thousand calls that are taken back as soon as they come, or a hundred thousand frames that say
//! nothing. With a dozen such connections on the runtime of a good one, it would wait for its next turn for as long as all of
//! these take.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::frames::Frames;
use super::protocol::Speaking;

/// What a connection may read in a turn, in bytes: 160 questions for decisions, more than are decided in one. What a last read
/// brings beyond it, the next turns go without.
const BYTES: isize = 64 * 1024;
/// As many bytes of a turn each frame of HTTP/2 counts, besides its own: it is looked at, whatever it says.
const FRAME_BYTES: usize = 128;

/// A connection that is spoken on in turns: one each time that its task is asked to go on.
pub(super) struct Turns<C> {
    /// On the heap: a future that holds this one would set aside room for it twice.
    speaking: Pin<Box<C>>,
    turn: Turn,
}

/// The bytes of a connection, some of which are left for this turn.
pub(super) struct InTurns<I> {
    io: I,
    turn: Turn,
    frames: Frames,
    activity: Arc<Activity>,
}

/// The turn that a connection has: the bytes that are left of it.
#[derive(Clone)]
pub(super) struct Turn(Arc<AtomicIsize>);

impl Turn {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicIsize::new(BYTES)))
    }

    /// True where more may have come than could be read.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= 0
    }

    fn begin(&self) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_add(BYTES).min(BYTES), Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub_unsigned(bytes), Ordering::Relaxed);
    }
}

/// Speaks on these bytes.
pub(super) fn take<I, C>(io: I, activity: &Arc<Activity>, speak: impl FnOnce(InTurns<I>) -> C) -> Turns<C> {
    let turn = Turn::new();
    let io = InTurns { io, turn: turn.clone(), frames: Frames::default(), activity: Arc::clone(activity) };
    Turns { speaking: Box::pin(speak(io)), turn }
}

impl<C: Future> Future for Turns<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        self.turn.begin();
        self.speaking.as_mut().poll(context)
    }
}

impl<C: Speaking> Turns<C> {
    pub(super) fn graceful_shutdown(&mut self) {
        self.speaking.as_mut().graceful_shutdown();
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for InTurns<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn.is_over() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        let frames = self.frames.read(new).map_err(io::Error::other)?;
        self.turn.take(new.len().saturating_add(frames.saturating_mul(FRAME_BYTES)));
        read
    }
}

impl<I> InTurns<I> {
    pub(super) fn turn(&self) -> Turn {
        self.turn.clone()
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.activity.note_unread(written.is_pending());
        written
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for InTurns<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.io).poll_flush(context);
        self.note(written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::serve::frames::PREFACE;

    /// The most that one read of the test brings.
    const READ: usize = 8 * 1024;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads all that it can, and knows how much that was.
    async fn read(mut io: InTurns<DuplexStream>, all: Arc<AtomicUsize>) -> io::Result<()> {
        let mut buffer = [0; READ];
        loop {
            match io.read(&mut buffer).await? {
                0 => return Ok(()),
                length => all.fetch_add(length, Ordering::Relaxed),
            };
        }
    }

    /// How much of this is read by the end of each turn.
    async fn read_in_turns<const TURNS: usize>(sent: &[u8]) -> [usize; TURNS] {
        let (mut client, server) = tokio::io::duplex(sent.len());
        client.write_all(sent).await.unwrap();
        let all = Arc::<AtomicUsize>::default();
        let mut turns = std::pin::pin!(take(server, &Arc::default(), |io| read(io, Arc::clone(&all))));
        let woken = Arc::<Woken>::default();
        let waker = Arc::clone(&woken).into();
        let mut turn = 0;
        [(); TURNS].map(|()| {
            assert!(turns.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            turn += 1;
            assert_eq!(woken.0.load(Ordering::Relaxed), turn, "it goes on by itself");
            all.load(Ordering::Relaxed)
        })
    }

    #[tokio::test]
    async fn a_connection_that_always_has_something_to_read_leaves_turns_to_others() {
        let turn = BYTES.unsigned_abs();
        assert_eq!(read_in_turns(&vec![b'a'; 4 * turn]).await, [turn, 2 * turn, 3 * turn]);
    }

    #[tokio::test]
    async fn the_more_frames_there_are_the_less_is_read_in_a_turn() {
        let (nothing, turns) = ([0, 0, 0, 0xbe, 0, 0, 0, 0, 0], 40);
        let sent = [PREFACE, &nothing.repeat(64 * 1024)].concat();
        let read = read_in_turns::<40>(&sent).await;
        let frames = read[turns - 1] / nothing.len();
        let allowed = (turns + 1) * BYTES.unsigned_abs() / (FRAME_BYTES + nothing.len()) + READ / nothing.len();
        assert!(frames <= allowed && frames > allowed / 2, "{frames} frames in {turns} turns");
        assert!(read.windows(2).any(|two| two[0] == two[1]), "what was too much in one turn the next goes without");
    }
}
