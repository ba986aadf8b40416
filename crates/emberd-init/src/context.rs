//! One context: the pack's interpreter of a language, and its messages to and from the host.
//!
//! ```text
//! Context ─▶ Started ─▶ (Data | Signal)* ▶ interpreter ▶ (Stdout | Stderr)* Data* ─▶ Exited
//! ```
//! The interpreter's standard input is a socket that carries lines in both directions. Output
//! that was printed before a line is sent before it, so that the event that ends a run comes
//! last.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use bytes::Bytes;
use emberd_proto::frame::encode_bulk;
use emberd_proto::{
    ContextProgram, ContextSpec, ExecExit, ExecSpec, Frame, GuestMessage, HostMessage, Kind,
    RefusalCode, StartedBy, chain,
};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError};
use crate::environment::Environment;
use crate::exec::{
    BACKLOG_BYTES_MAX, LaunchError, Leader, Program, Slot, check_directory, deliver, directory,
    elapsed_us, environment_of, exit_of, number_of, relay,
};
use crate::process::NewProcess;
use crate::process_tree::{Cgroup, ProcessTree};
use crate::programs::KeptProcess;
use crate::users::{self, User};
use crate::zygote::Work;

mod channel;

use channel::Channel;

/// Opens the context that `spec` describes and serves it until its interpreter ends.
///
/// Dropping the future, or an error, kills the whole process tree.
///
/// # Errors
/// If the host closes the connection or breaks the protocol.
pub async fn run(
    agent: &Agent,
    connection: &mut Connection,
    spec: &ContextSpec,
) -> Result<(), ConnectionError> {
    let outgoing = &mut connection.outgoing;
    if let Err(broken) = spec.check() {
        return outgoing.refuse(RefusalCode::Invalid, broken.to_string()).await;
    }
    let Some(program) = agent.pack.context(spec.language.as_deref()) else {
        return outgoing.refuse(RefusalCode::NotFound, no_such(agent, spec)).await;
    };
    let arrived = Instant::now();
    match launch(agent, program, spec).await {
        Ok(mut interpreter) => {
            let pid = interpreter.program.leader.pid();
            let started_by = Some(interpreter.program.started_by);
            connection.started(pid);
            if let Some(zygote) = &agent.zygote {
                zygote.replenish(agent);
            }
            let exit = attend(connection, &mut interpreter).await?;
            let exit = ExecExit { started_by, duration_us: elapsed_us(arrived), ..exit };
            connection.outgoing.push(&GuestMessage::Exited(exit));
            let delivered = deliver(connection, host_event).await;
            interpreter.program.leave(&agent.leftovers);
            delivered
        }
        Err(error) => {
            let code = match &error {
                LaunchError::Directory(_, source) => match source.kind() {
                    io::ErrorKind::NotADirectory => RefusalCode::WrongType,
                    _ => RefusalCode::NotFound,
                },
                other => other.refusal().unwrap_or(RefusalCode::Failed),
            };
            connection.outgoing.refuse(code, chain(&error)).await
        }
    }
}

fn no_such(agent: &Agent, spec: &ContextSpec) -> String {
    let pack = &agent.pack.name;
    let known = agent.pack.contexts.iter().filter_map(|context| context.languages.first());
    let known: Vec<_> = known.map(String::as_str).collect();
    match (&spec.language, known.as_slice()) {
        (_, []) => format!("the language pack {pack} has no contexts"),
        (Some(language), known) => {
            let known = known.join(", ");
            format!("the language pack {pack} has no context for {language}; it has {known}")
        }
        (None, _) => unreachable!("the first context is the pack's own"),
    }
}

/// A running interpreter.
struct Interpreter {
    program: Program,
    channel: Channel,
    _kept: KeptProcess,
}

async fn launch(
    agent: &Agent,
    context: &ContextProgram,
    spec: &ContextSpec,
) -> Result<Interpreter, LaunchError> {
    let user = spec.user.as_deref().map(users::find).transpose()?;
    let environment = environment_of(agent, user.as_ref()).overlaid(&spec.env);
    let directory = directory(spec.cwd.as_deref(), &environment, user.as_ref());
    check_directory(&directory)?;
    let mut interpreter = match fork(agent, context, spec, &environment, &directory).await? {
        Some(interpreter) => interpreter,
        None => spawn(agent, context, user.as_ref(), &environment, &directory)?,
    };
    interpreter.program.streams.input.close();
    interpreter.program.streams.unbounded();
    Ok(interpreter)
}

/// Starts the interpreter as a fork of the zygote; `None` if the pack does not want that or it is
/// not possible.
async fn fork(
    agent: &Agent,
    context: &ContextProgram,
    spec: &ContextSpec,
    environment: &Environment,
    directory: &Path,
) -> Result<Option<Interpreter>, LaunchError> {
    let Some(file) = &context.zygote_file else { return Ok(None) };
    let (env, user) = (spec.env.clone(), spec.user.clone());
    let process = ExecSpec { env, user, ..ExecSpec::new("") }.into();
    let Some(zygote) = agent.zygote.as_ref().filter(|zygote| zygote.suits(&process)) else {
        return Ok(None);
    };
    let Some(work) = Work::new(&[], environment, directory) else { return Ok(None) };
    let Some(spare) = zygote.spare(agent).await else { return Ok(None) };
    let (channel, theirs) = Channel::open().map_err(LaunchError::Pipes)?;
    let started = spare.set_to_file(&work, Path::new(file), theirs);
    Ok(started.map(|(slot, leader)| Interpreter {
        _kept: agent.kept.keep(leader.pid()),
        program: Program::new(slot, leader, StartedBy::Zygote),
        channel,
    }))
}

fn spawn(
    agent: &Agent,
    context: &ContextProgram,
    user: Option<&User>,
    environment: &Environment,
    directory: &Path,
) -> Result<Interpreter, LaunchError> {
    let mut slot = Slot::make(agent)?;
    if let Some(user) = user {
        slot.give_to(user)?;
    }
    let (channel, theirs) = Channel::open().map_err(LaunchError::Pipes)?;
    slot.stdio[0] = theirs;
    let refused = |source| LaunchError::Run(context.run[0].clone(), source);
    let procs = slot.cgroup.as_ref().map(Cgroup::procs).transpose();
    let procs = procs.map_err(LaunchError::Cgroup)?;
    let mut process =
        NewProcess::new(&context.run, environment, directory, slot.stdio()).map_err(refused)?;
    process.cgroup_procs = procs.as_ref().map(|file| file.as_fd());
    process.user = user;
    let (pid, exit) = agent.reaper.start(&process).map_err(refused)?;
    let leader = Leader::new(exit, ProcessTree { leader: pid, cgroup: slot.cgroup.take() });
    let (program, kept) = (Program::new(slot, leader, StartedBy::Spawn), agent.kept.keep(pid));
    Ok(Interpreter { program, channel, _kept: kept })
}

/// Moves lines and output until the interpreter ends.
async fn attend(
    connection: &mut Connection,
    interpreter: &mut Interpreter,
) -> Result<ExecExit, ConnectionError> {
    let Connection { incoming, outgoing, .. } = connection;
    let Interpreter { program, channel, .. } = interpreter;
    let Program { leader, streams, .. } = program;
    let (stdout, stderr) = (&mut streams.stdout, &mut streams.stderr);
    let end = loop {
        let room = outgoing.buffer.len() < BACKLOG_BYTES_MAX;
        tokio::select! {
            biased;
            end = leader.ended() => break end,
            frame = incoming.frame() => match host_event(frame?)? {
                HostEvent::Bytes(bytes) => channel.push(bytes)?,
                HostEvent::Signal(signal) => leader.interrupt(signal),
                HostEvent::Nothing => {}
            },
            ready = channel.writable() => { ready?; channel.write_some(); }
            ready = channel.readable(), if room => {
                ready?;
                let mut line = channel.read_some();
                // The output was written before the line.
                stdout.read_rest(&mut outgoing.buffer);
                stderr.read_rest(&mut outgoing.buffer);
                channel.answer(&mut line);
                encode_bulk(Kind::Data, &line, &mut outgoing.buffer);
            }
            relayed = relay(outgoing, [&mut *stdout, &mut *stderr], true) => relayed?,
        }
    };
    let mut lines = channel.read_rest();
    stdout.read_rest(&mut outgoing.buffer);
    stderr.read_rest(&mut outgoing.buffer);
    channel.answer(&mut lines);
    encode_bulk(Kind::Data, &lines, &mut outgoing.buffer);
    Ok(exit_of(end, false))
}

/// A request of the host for a context.
enum HostEvent {
    Bytes(Bytes),
    Signal(Signal),
    Nothing,
}

fn host_event(frame: Option<Frame>) -> Result<HostEvent, ConnectionError> {
    match frame {
        Some(Frame { kind: Kind::Data, payload }) => Ok(HostEvent::Bytes(payload)),
        Some(frame @ Frame { kind: Kind::Control, .. }) => match frame.message()? {
            HostMessage::Signal { signal } => Ok(HostEvent::Signal(number_of(signal))),
            // A context has no terminal.
            HostMessage::Resize(_) => Ok(HostEvent::Nothing),
            _ => Err(ConnectionError::Unexpected(Kind::Control)),
        },
        Some(Frame { kind, .. }) => Err(ConnectionError::Unexpected(kind)),
        None => Err(ConnectionError::HostLeft),
    }
}
