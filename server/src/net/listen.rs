//! The TCP addresses listened on, which `CONFIG SET port` and `CONFIG SET bind` may change.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::task::{Poll, Waker};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::config::{BindAddress, Config};
use crate::log::log;

/// The sockets that are open, each with its address.
#[derive(Default)]
pub(super) struct Listeners {
    open: RefCell<Vec<(SocketAddr, TcpListener)>>,
    /// Whoever waits for a connection.
    waker: RefCell<Option<Waker>>,
}

impl Listeners {
    /// Listens where the configuration says instead of where it was; if it cannot, where it was.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn listen(&self, config: &Config) -> Result<(), String> {
        let mut open = self.open.borrow_mut();
        let before: Vec<SocketAddr> = open.iter().map(|(address, _)| *address).collect();
        if before.iter().any(|address| address.port() == config.port) {
            // One address may contain another.
            open.clear();
        }
        let result = listen(config).map(|listeners| *open = listeners);
        if open.is_empty() && result.is_err() {
            for address in before {
                match listen_at(address, config.tcp_backlog) {
                    Ok(listener) => open.push((address, listener)),
                    Err(error) => log!(Warning, "Can't listen on {address} again: {error}"),
                }
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        result
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|context| {
            *self.waker.borrow_mut() = Some(context.waker().clone());
            let open = self.open.borrow();
            let mut accepted = open.iter().map(|(_, listener)| listener.poll_accept(context));
            accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }
}

fn listen(config: &Config) -> Result<Vec<(SocketAddr, TcpListener)>, String> {
    let port = config.port;
    if port == 0 {
        return Ok(Vec::new());
    }
    let mut listeners = Vec::new();
    for bind in &config.bind {
        match listen_on(bind, port, config.tcp_backlog) {
            Ok(listener) => listeners.push(listener),
            // An address that this machine does not have is no harm if it was said to be optional.
            Err(error) if bind.optional && error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) if bind.optional && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => {
                log!(Warning, "Could not create server TCP listening socket {}:{port}: bind: {error}", bind.host());
                return Err(format!("can't listen on {}:{port}: {error}", bind.host()));
            }
        }
    }
    if listeners.is_empty() && !config.bind.is_empty() {
        return Err(format!("none of the addresses to listen on exists here (port {port})"));
    }
    Ok(listeners)
}

fn listen_on(bind: &BindAddress, port: u16, backlog: u32) -> io::Result<(SocketAddr, TcpListener)> {
    let mut addresses = (bind.host(), port).to_socket_addrs()?;
    let address = addresses.next().ok_or(io::Error::other("the name has no address"))?;
    Ok((address, listen_at(address, backlog)?))
}

fn listen_at(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(backlog)
}
