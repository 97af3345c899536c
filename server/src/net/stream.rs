//! A client's socket, of either kind.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection over TCP or through a Unix socket.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    #[inline]
    pub(super) fn poll_read(&mut self, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    #[inline]
    pub(super) fn poll_write(&mut self, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Mostly there is room, and nobody has to be woken when there is.
        let result = match self {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Unix(stream) => stream.try_write(bytes),
        };
        match (result, self) {
            (Err(error), Stream::Tcp(stream)) if error.kind() == io::ErrorKind::WouldBlock => {
                Pin::new(stream).poll_write(context, bytes)
            }
            (Err(error), Stream::Unix(stream)) if error.kind() == io::ErrorKind::WouldBlock => {
                Pin::new(stream).poll_write(context, bytes)
            }
            (result, _) => Poll::Ready(result),
        }
    }

    /// Bytes written that the other machine has not confirmed; what it has confirmed outlives this process.
    pub(super) fn unreceived_bytes(&self) -> u64 {
        let descriptor = match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        };
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `self`, and the call (SIOCOUTQ) writes one int.
        let result = unsafe { libc::ioctl(descriptor, libc::TIOCOUTQ, &raw mut bytes) };
        if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// Whether small writes go out at once; there is no other way over a Unix socket.
    pub(super) fn set_nodelay(&self, nodelay: bool) {
        if let Stream::Tcp(stream) = self {
            // This can only fail for a socket that is closed already.
            let _ = stream.set_nodelay(nodelay);
        }
    }

    /// Says why the connection is closed, as far as that gets.
    pub(super) fn refuse(&self, reason: &str) {
        let _ = match self {
            Stream::Tcp(stream) => stream.try_write(reason.as_bytes()),
            Stream::Unix(stream) => stream.try_write(reason.as_bytes()),
        };
    }

    pub(super) fn poll_write_vectored(&mut self, context: &mut Context, pieces: &[IoSlice]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }
}
