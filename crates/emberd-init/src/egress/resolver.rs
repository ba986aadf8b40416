//! The resolver of the guest: answers what programs ask any name server, by asking the host.
//!
//! Nothing is cached: the addresses of a name depend on a policy that may change.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use emberd_proto::EgressReason;
use emberd_proto::egress::{
    EGRESS_ADDRESSES_MAX, EgressAnswer, EgressFamily, EgressRequest, encode_frame,
};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::dns::{Answer, Asked, Over, QUERY_BYTES_MAX, Query};
use super::frame::read_answer;
use super::names::Names;
use super::session::Sessions;

/// Maximum number of queries that are answered at once. Further datagrams fail at once; further
/// connections are closed.
const QUERIES_MAX: usize = 64;

/// Longest time of one lookup by the host, which gives up earlier.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// Longest time that a connection may be idle.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Answers queries.
#[derive(Debug)]
pub struct Resolver {
    sessions: Arc<Sessions>,
    names: Arc<Mutex<Names>>,
    permits: Arc<Semaphore>,
}

/// The sender of a datagram, and the name server that it was meant for.
#[derive(Debug, Clone, Copy)]
struct Route {
    from: SockaddrStorage,
    to: To,
}

#[derive(Debug, Clone, Copy)]
enum To {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Resolver {
    /// A resolver that has answered nothing yet.
    pub fn new(sessions: Arc<Sessions>, names: Arc<Mutex<Names>>) -> Self {
        Self { sessions, names, permits: Arc::new(Semaphore::new(QUERIES_MAX)) }
    }

    /// Answers the datagrams of `socket`, each from the address that it was sent to.
    ///
    /// # Errors
    /// If the runtime cannot watch the socket.
    pub async fn serve_datagrams(self: &Arc<Self>, socket: std::net::UdpSocket) -> io::Result<()> {
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let mut buffer = vec![0; QUERY_BYTES_MAX + 1];
        loop {
            let received =
                socket.async_io(Interest::READABLE, || receive(&socket, &mut buffer)).await;
            // An error of a datagram that could not be delivered, or of a sender that is gone.
            let Ok((bytes, Some(route))) = received else { continue };
            let query = buffer[..bytes].to_vec();
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                if let Some(answer) = fail(&query) {
                    send(&socket, &answer, &route);
                }
                continue;
            };
            let (resolver, socket) = (Arc::clone(self), Arc::clone(&socket));
            tokio::spawn(async move {
                if let Some(answer) = resolver.answer(&query, Over::Datagram).await {
                    send(&socket, &answer, &route);
                }
                drop(permit);
            });
        }
    }

    /// Answers the queries of a connection in the background, one after another.
    pub fn admit(self: &Arc<Self>, program: TcpStream) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let resolver = Arc::clone(self);
        tokio::spawn(async move {
            // A program that breaks off, or sends too much, is not an error of the agent.
            resolver.serve_connection(program).await.ok();
            drop(permit);
        });
    }

    async fn serve_connection(&self, mut program: TcpStream) -> io::Result<()> {
        program.set_nodelay(true)?;
        loop {
            let read = async {
                let mut query = vec![0; usize::from(program.read_u16().await?)];
                if query.len() > QUERY_BYTES_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                program.read_exact(&mut query).await?;
                io::Result::Ok(query)
            };
            let query = timeout(IDLE_MAX, read).await??;
            let Some(answer) = self.answer(&query, Over::Connection).await else {
                return Ok(());
            };
            let bytes = u16::try_from(answer.len()).expect("answers have few addresses");
            let message = [&bytes.to_be_bytes()[..], &answer].concat();
            timeout(IDLE_MAX, program.write_all(&message)).await??;
        }
    }

    /// Returns the encoded answer to `query`, or `None` if it deserves none.
    async fn answer(&self, query: &[u8], over: Over) -> Option<Vec<u8>> {
        let query = match Query::parse(query) {
            Ok(query) => query,
            Err(refusal) => return refusal,
        };
        let answer = match query.asked() {
            Asked::Known(answer) => answer,
            Asked::Name(address) => {
                let first = self.names.lock().of(address).into_iter().next();
                first.map_or(Answer::Nothing, Answer::Name)
            }
            Asked::Addresses(name, family) => {
                let asked = self.ask_host(&name, family).await;
                asked.unwrap_or(Answer::Failed)
            }
        };
        Some(query.encode(&answer, over))
    }

    /// Asks the host for the addresses of `name`, and notes them. `None` if there is no session,
    /// or it fails.
    async fn ask_host(&self, name: &str, family: EgressFamily) -> Option<Answer> {
        let session = self.sessions.current().await?;
        let request = EgressRequest::Resolve { name: name.to_owned(), family };
        let request = encode_frame(&request).ok()?;
        let ask = async {
            let (mut from_host, mut to_host) = session.open()?;
            to_host.send_all(&request).await.ok()?;
            // The host may answer, and be done with the stream, before it has seen the end.
            tokio::join!(to_host.finish(), read_answer(&mut from_host)).1.ok()
        };
        let answer = tokio::select! {
            answer = timeout(LOOKUP_MAX, ask) => answer.ok()??,
            () = session.ended() => return None,
        };
        let mut names = self.names.lock();
        Some(interpret(answer, family, |address| names.note(address, name)))
    }
}

/// Turns the host's answer into the program's; `note` is called with each address.
fn interpret(answer: EgressAnswer, family: EgressFamily, note: impl FnMut(IpAddr)) -> Answer {
    match answer {
        EgressAnswer::Resolved { mut addresses, ttl_s } => {
            addresses.retain(|address| address.is_ipv4() == (family == EgressFamily::V4));
            addresses.truncate(EGRESS_ADDRESSES_MAX);
            // The latest noted is the first that is claimed, and the first of the answer.
            addresses.iter().copied().for_each(note);
            Answer::Addresses(addresses, ttl_s)
        }
        EgressAnswer::Refused { reason } => match reason {
            EgressReason::NoSuchName => Answer::NoSuchName,
            EgressReason::LookupFailed
            | EgressReason::ConnectionLimit
            | EgressReason::RateLimit
            | EgressReason::Budget
            | EgressReason::Other => Answer::Failed,
            _ => Answer::Blocked,
        },
        EgressAnswer::Opened => Answer::Failed,
    }
}

/// The answer to a query that there is no room for.
fn fail(query: &[u8]) -> Option<Vec<u8>> {
    match Query::parse(query) {
        Ok(query) => Some(query.encode(&Answer::Failed, Over::Datagram)),
        Err(refusal) => refusal,
    }
}

/// Receives a datagram: its length, and where it came from and was sent to.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Option<Route>)> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(To::V4(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(To::V6(info)),
        _ => None,
    });
    let route = message.address.zip(to).map(|(from, to)| Route { from, to });
    Ok((message.bytes, route))
}

/// Sends an answer from the address that the query was sent to. One that cannot be sent is lost,
/// as datagrams may be.
fn send(socket: &UdpSocket, answer: &[u8], route: &Route) {
    let (mut v4, mut v6);
    let control = match route.to {
        To::V4(info) => {
            v4 = info;
            (v4.ipi_spec_dst, v4.ipi_ifindex) = (info.ipi_addr, 0);
            ControlMessage::Ipv4PacketInfo(&v4)
        }
        To::V6(info) => {
            v6 = info;
            v6.ipi6_ifindex = 0;
            ControlMessage::Ipv6PacketInfo(&v6)
        }
    };
    let parts = [IoSlice::new(answer)];
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let sent: Result<_, Errno> = sendmsg(fd, &parts, &[control], flags, Some(&route.from));
    sent.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: EgressAnswer, expect: &Answer, noted: usize) {
        let mut count = 0;
        let answer = interpret(answer, EgressFamily::V4, |_| count += 1);
        assert_eq!((&answer, count), (expect, noted));
    }

    #[test]
    fn host_s_answer_is_made_the_program_s() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let both = vec![ip("192.0.2.1"), ip("2001:db8::1")];
        let resolved = EgressAnswer::Resolved { addresses: both, ttl_s: 9 };
        check(resolved, &Answer::Addresses(vec![ip("192.0.2.1")], 9), 1);
        let many = EgressAnswer::Resolved { addresses: vec![ip("192.0.2.1"); 99], ttl_s: 9 };
        check(many, &Answer::Addresses(vec![ip("192.0.2.1"); 16], 9), 16);
        for (reason, expect) in [
            (EgressReason::NoSuchName, Answer::NoSuchName),
            (EgressReason::NoRule, Answer::Blocked),
            (EgressReason::PrivateAddress, Answer::Blocked),
            (EgressReason::LookupFailed, Answer::Failed),
            (EgressReason::RateLimit, Answer::Failed),
        ] {
            check(EgressAnswer::Refused { reason }, &expect, 0);
        }
    }
}
