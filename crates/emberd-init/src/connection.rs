//! One connection from the host: a hello, then one operation at a time.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use emberd_proto::frame::{self, BULK_BYTES_MAX};
use emberd_proto::message::GENERATION;
use emberd_proto::{
    Decoder, EgressCapture, Frame, FrameError, GuestMessage, HostMessage, Kind, Metrics, Refusal,
    RefusalCode, Renewed, Settled, Welcome, chain,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::agent::Agent;
use crate::duplex::Duplex;
use crate::exec::{self, Mode};
use crate::machine::{self, RenewError};
use crate::residents::{self, Resident, Work};
use crate::{dial, files};

/// Minimum number of bytes that a read has room for (4 KiB): most requests are shorter.
const ROOM_BYTES_MIN: usize = 4 << 10;

/// Why a connection was closed before the host closed it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The transport failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The host's bytes are not a sequence of frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The host sent a frame that is not valid at that point.
    #[error("unexpected {0:?} frame")]
    Unexpected(Kind),
    /// The host sent more standard input than allowed.
    #[error("too much standard input")]
    TooMuchStdin,
    /// The host sent more data for a port or a context than its window allows.
    #[error("too much data for a port or a context")]
    TooMuchData,
    /// The host closed the connection during an operation.
    #[error("the host closed the connection")]
    HostLeft,
    /// The host speaks another generation of the protocol.
    #[error("the host speaks generation {0}")]
    Generation(u32),
}

/// The two directions of a connection, separate so that both can be awaited at once.
pub struct Connection {
    /// From the host.
    pub incoming: Incoming,
    /// To the host.
    pub outgoing: Outgoing,
    /// The program whose task this connection belongs to.
    pub program: Option<Arc<Resident>>,
    /// A number that no other connection has.
    number: u64,
}

impl Connection {
    /// A connection over `stream`.
    pub fn new(stream: Box<dyn Duplex>, number: u64) -> Self {
        let (stream, writer) = tokio::io::split(stream);
        Self {
            incoming: Incoming { stream, decoder: Decoder::default(), room: ROOM_BYTES_MIN },
            outgoing: Outgoing { stream: writer, buffer: BytesMut::new() },
            program: None,
            number,
        }
    }

    /// Tells the host that its program was started.
    pub fn started(&mut self, pid: u32) {
        self.outgoing.push(&GuestMessage::Started { pid });
        if let Some(program) = &self.program {
            program.started(pid);
        }
    }
}

/// Frames from the host.
pub struct Incoming {
    stream: ReadHalf<Box<dyn Duplex>>,
    decoder: Decoder,
    /// Number of bytes that the next read has room for.
    room: usize,
}

impl Incoming {
    /// Returns the next frame; `None` if the host closed the connection between two frames.
    /// Cancel safe.
    pub async fn frame(&mut self) -> Result<Option<Frame>, ConnectionError> {
        loop {
            if let Some(frame) = self.waiting_frame()? {
                return Ok(Some(frame));
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(self.room);
            let bytes = self.stream.read_buf(buffer).await?;
            if bytes == 0 {
                let whole = self.decoder.finish();
                return whole.map(|()| None).map_err(|_truncated| ConnectionError::HostLeft);
            }
            // The streams of the mux write zeros over all the room before each read.
            self.room = (2 * bytes).clamp(ROOM_BYTES_MIN, BULK_BYTES_MAX);
        }
    }

    /// Returns the next frame if the host has already sent all of it.
    fn waiting_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.decoder.next_frame()
    }
}

/// Output buffer of a connection.
pub struct Outgoing {
    stream: WriteHalf<Box<dyn Duplex>>,
    /// Encoded frames that have not been written yet.
    pub buffer: BytesMut,
}

impl Outgoing {
    /// Appends a control frame.
    pub fn push(&mut self, message: &GuestMessage) {
        frame::encode_message(message, &mut self.buffer);
    }

    /// Writes part of the buffer. Cancel safe.
    pub async fn write_some(&mut self) -> Result<(), ConnectionError> {
        match self.stream.write_buf(&mut self.buffer).await? {
            0 => Err(ConnectionError::HostLeft),
            _ => Ok(()),
        }
    }

    /// Writes the buffer and one message.
    pub async fn send(&mut self, message: &GuestMessage) -> Result<(), ConnectionError> {
        self.push(message);
        self.write_all().await
    }

    async fn write_all(&mut self) -> Result<(), ConnectionError> {
        while !self.buffer.is_empty() {
            self.write_some().await?;
        }
        Ok(())
    }

    /// Answers that an operation is refused.
    pub async fn refuse(
        &mut self,
        code: RefusalCode,
        message: String,
    ) -> Result<(), ConnectionError> {
        self.send(&GuestMessage::Refused(Refusal { code, message })).await
    }
}

/// Serves `stream` until the host closes it or breaks the protocol.
pub async fn serve(
    agent: Arc<Agent>,
    stream: Box<dyn Duplex>,
    number: u64,
) -> Result<(), ConnectionError> {
    let mut connection = Connection::new(stream, number);
    let Some(first) = connection.incoming.frame().await? else { return Ok(()) };
    greet(&agent, &mut connection.outgoing, &first).await?;
    while let Some(frame) = next(&mut connection).await? {
        match frame.kind {
            Kind::Control if is_egress(&frame) => match egress(&agent, connection).await? {
                Some(idle) => connection = idle,
                None => return Ok(()),
            },
            Kind::Control => operate(&agent, &mut connection, &frame).await?,
            // The rest of the input of a program that ended or was refused early.
            Kind::Stdin | Kind::StdinEnd | Kind::Data => {}
            Kind::Stdout | Kind::Stderr | Kind::DataEnd => {
                return Err(ConnectionError::Unexpected(frame.kind));
            }
        }
    }
    Ok(())
}

fn is_egress(frame: &Frame) -> bool {
    matches!(frame.message(), Ok(HostMessage::Egress))
}

/// Answers what the guest does with connections of its programs, and carries them over the
/// connection from then on. Returns the connection if they are not captured.
async fn egress(
    agent: &Agent,
    mut connection: Connection,
) -> Result<Option<Connection>, ConnectionError> {
    let capture = agent.egress.capture();
    let ready = capture == EgressCapture::Ready;
    connection.outgoing.send(&GuestMessage::Egress(capture)).await?;
    if !ready {
        return Ok(Some(connection));
    }
    let Connection { mut incoming, outgoing, .. } = connection;
    if !incoming.decoder.buffer().is_empty() {
        // The host speaks after the answer, and in the session only when it is spoken to.
        return Err(ConnectionError::TooMuchData);
    }
    agent.egress.carry(incoming.stream.unsplit(outgoing.stream)).await;
    Ok(None)
}

/// Returns the next frame. Buffered output is written before this waits, so that a host that
/// sends two requests at once gets both answers without delay.
async fn next(connection: &mut Connection) -> Result<Option<Frame>, ConnectionError> {
    if let Some(frame) = connection.incoming.waiting_frame()? {
        return Ok(Some(frame));
    }
    connection.outgoing.write_all().await?;
    connection.incoming.frame().await
}

async fn greet(
    agent: &Agent,
    outgoing: &mut Outgoing,
    first: &Frame,
) -> Result<(), ConnectionError> {
    let HostMessage::Hello { generation, newest } = parse(outgoing, first).await? else {
        let message = "a connection opens with hello".to_owned();
        outgoing.refuse(RefusalCode::Invalid, message).await?;
        return Err(ConnectionError::Unexpected(first.kind));
    };
    let newest = newest.unwrap_or(generation);
    if !(generation..=newest).contains(&GENERATION) {
        let message = format!("host speaks generation {newest}, guest speaks {GENERATION}");
        outgoing.refuse(RefusalCode::Generation, message).await?;
        return Err(ConnectionError::Generation(newest));
    }
    let welcome = Welcome {
        generation: GENERATION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        init_started_us: agent.boot_times.map(|times| times.init_started_us),
        serving_us: agent.boot_times.map(|times| times.serving_us),
    };
    outgoing.push(&GuestMessage::Welcome(welcome));
    Ok(())
}

/// Executes the operation of a control frame.
async fn operate(
    agent: &Arc<Agent>,
    connection: &mut Connection,
    frame: &Frame,
) -> Result<(), ConnectionError> {
    let message = parse(&mut connection.outgoing, frame).await?;
    if changes_machine(&message) {
        agent.use_machine();
    }
    match message {
        HostMessage::Ping => connection.outgoing.send(&GuestMessage::Pong).await,
        HostMessage::Exec(spec) => match spec.check() {
            Ok(()) => exec::run(agent, connection, &spec.into(), Mode::Exec).await,
            Err(broken) => {
                connection.outgoing.refuse(RefusalCode::Invalid, broken.to_string()).await
            }
        },
        HostMessage::Context(spec) => {
            residents::start(agent, connection, Work::Context(spec)).await
        }
        HostMessage::Start(spec) => match spec.check() {
            Ok(()) => residents::start(agent, connection, Work::Process(spec)).await,
            Err(broken) => {
                connection.outgoing.refuse(RefusalCode::Invalid, broken.to_string()).await
            }
        },
        HostMessage::Attach { id, seq } => residents::resume(agent, connection, id, seq).await,
        HostMessage::List => residents::list(agent, connection).await,
        HostMessage::Delete { id } => {
            agent.residents.delete(id);
            connection.outgoing.send(&GuestMessage::Done).await
        }
        HostMessage::Adopt { epoch } => {
            agent.adoption.adopt(epoch, connection.number);
            connection.outgoing.send(&GuestMessage::Done).await
        }
        // The process or context has just ended.
        HostMessage::Signal { .. } | HostMessage::Resize(_) | HostMessage::Note { .. } => Ok(()),
        HostMessage::Renew(renewal) => tell_renewed(connection, agent.renew(&renewal)).await,
        HostMessage::SetClock { wall_clock_us } => {
            tell_renewed(connection, agent.set_clock(wall_clock_us)).await
        }
        HostMessage::Limit(limits) => match agent.limit(limits).await {
            Ok(()) => connection.outgoing.send(&GuestMessage::Done).await,
            Err(message) => connection.outgoing.refuse(RefusalCode::Invalid, message).await,
        },
        HostMessage::Settle => {
            let settled = Settled { zygote_ready: agent.settle().await };
            connection.outgoing.send(&GuestMessage::Settled(settled)).await
        }
        HostMessage::File(request) => files::run(agent, connection, request).await,
        HostMessage::Hello { .. } => {
            let message = "unexpected second hello".to_owned();
            connection.outgoing.refuse(RefusalCode::Invalid, message).await
        }
        HostMessage::Dial { port } => dial::run(connection, port).await,
        HostMessage::Metrics => {
            let program_count = Some(agent.kept.program_count());
            let metrics = Metrics { program_count, ..agent.usage.metrics() };
            connection.outgoing.send(&GuestMessage::Metrics(metrics)).await
        }
        HostMessage::Egress | HostMessage::Unknown => {
            let message = "this guest does not know the operation".to_owned();
            connection.outgoing.refuse(RefusalCode::UnknownOperation, message).await
        }
    }
}

/// Answers what became of a renewal.
async fn tell_renewed(
    connection: &mut Connection,
    outcome: Result<(), RenewError>,
) -> Result<(), ConnectionError> {
    match outcome {
        Ok(()) => {
            let renewed = Renewed { wall_clock_us: Some(machine::wall_clock_us()) };
            connection.outgoing.send(&GuestMessage::Renewed(renewed)).await
        }
        Err(error) => {
            let code = match error {
                RenewError::Invalid(_) => RefusalCode::Invalid,
                RenewError::Step { .. } => RefusalCode::Failed,
            };
            connection.outgoing.refuse(code, chain(&error)).await
        }
    }
}

/// Returns whether an operation runs a program or accesses files, which may be those of the
/// machine's identity.
fn changes_machine(message: &HostMessage) -> bool {
    match message {
        HostMessage::Exec(_)
        | HostMessage::Context(_)
        | HostMessage::Start(_)
        | HostMessage::File(_)
        | HostMessage::Dial { .. } => true,
        HostMessage::Ping
        | HostMessage::Signal { .. }
        | HostMessage::Resize(_)
        | HostMessage::Attach { .. }
        | HostMessage::Note { .. }
        | HostMessage::List
        | HostMessage::Delete { .. }
        | HostMessage::Adopt { .. }
        | HostMessage::Renew(_)
        | HostMessage::SetClock { .. }
        | HostMessage::Limit(_)
        | HostMessage::Settle
        | HostMessage::Hello { .. }
        | HostMessage::Egress
        | HostMessage::Metrics
        | HostMessage::Unknown => false,
    }
}

/// Parses a control frame, and reports a parse error to the host before failing.
async fn parse(outgoing: &mut Outgoing, frame: &Frame) -> Result<HostMessage, ConnectionError> {
    match frame.message() {
        Ok(message) => Ok(message),
        Err(error) => {
            outgoing.refuse(RefusalCode::Invalid, chain(&error)).await?;
            Err(error.into())
        }
    }
}
