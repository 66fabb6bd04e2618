//! The bytes of a connection that leave from one buffer.
//!
//! Where pieces of memory can be written together, h2 hands on each DATA frame of 256 bytes and more as a piece of its own,
//! and takes no other frame before that is written: each denial, with its body, is then a system call, which takes longer
//! than the decision. Where they cannot, only what has 1024 bytes is handed on so. The rest is copied behind the answers
//! before it, and all that are ready leave in one write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Says of itself that it writes no pieces together: [`AsyncWrite::is_write_vectored`] is false unless it is said otherwise.
pub(super) struct OneBuffer<Io>(pub(super) Io);

impl<Io: AsyncRead + Unpin> AsyncRead for OneBuffer<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for OneBuffer<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::DuplexStream;

    use super::*;

    /// As long as a denial with its body.
    const ANSWER: &[u8] = &[b'x'; 400];
    const CALLS: usize = 20;

    /// A transport that counts its writes, and can write pieces together.
    struct Counted {
        io: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, c: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(c, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, c: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.io).poll_write(c, bytes)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            c: &mut Context<'_>,
            pieces: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.io).poll_write_vectored(c, pieces)
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, c: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(c)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, c: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(c)
        }
    }

    /// The writes that it takes a server to answer calls that come together.
    async fn writes<Io: AsyncRead + AsyncWrite + Unpin + Send + 'static>(over: fn(Counted) -> Io) -> usize {
        let (near, far) = tokio::io::duplex(1 << 20);
        let writes = Arc::<AtomicUsize>::default();
        let io = TokioIo::new(over(Counted { io: near, writes: Arc::clone(&writes) }));
        let answer = service_fn(async |_: http::Request<Incoming>| {
            Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from_static(ANSWER))))
        });
        tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer));
        let (mut send, connection) = h2::client::handshake(far).await.unwrap();
        tokio::spawn(connection);
        // The handshake's own writes are over with the first answer.
        for count in [1, CALLS] {
            writes.store(0, Ordering::Relaxed);
            let mut answers = Vec::new();
            for _ in 0..count {
                send = send.ready().await.unwrap();
                answers.push(send.send_request(http::Request::new(()), true).unwrap().0);
            }
            for answer in answers {
                let mut body = answer.await.unwrap().into_body();
                let mut length = 0;
                while let Some(data) = body.data().await {
                    length += data.unwrap().len();
                }
                assert_eq!(length, ANSWER.len());
            }
        }
        writes.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn denials_that_are_ready_together_leave_together() {
        let [pieces, one] = [writes(|io| io).await, writes(OneBuffer).await];
        assert!(pieces >= CALLS, "{pieces} writes: h2 does not need this any more");
        assert!(one <= 2, "{one} writes");
    }
}
