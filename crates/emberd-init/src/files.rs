//! Operations on the guest's files.
//!
//! The agent has one thread, which must not wait for a disk. All file operations run on other
//! threads, and data crosses between the threads in pieces, a few at a time.

use emberd_proto::{FileOp, FileRequest, GuestMessage};

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError};

mod archive;
mod content;
mod copy;
mod entry;
mod errors;
mod listing;
mod place;
mod stream;
mod tree;
mod watch;

use place::Place;
use stream::Ending;

/// Executes `request` and answers it.
///
/// # Errors
/// If the host closes the connection or breaks the protocol. Errors of file operations are
/// refusals.
pub async fn run(
    agent: &Agent,
    connection: &mut Connection,
    request: FileRequest,
) -> Result<(), ConnectionError> {
    let home = agent.environment.home().to_owned();
    let place = move || Place::of(request.user.as_deref(), home);
    match request.op {
        FileOp::Stat { path } => {
            let work = move || entry::stat(&place()?, &path).map(GuestMessage::File);
            stream::answer(connection, work).await
        }
        FileOp::List { path, depth } => {
            let work = move |sink: &_| listing::list(&place()?, &path, depth, sink);
            stream::produce(connection, Ending::Done, work).await
        }
        FileOp::MakeDir { path, mode } => {
            let work = move || tree::make_dir(&place()?, &path, mode).map(GuestMessage::File);
            stream::answer(connection, work).await
        }
        FileOp::Move { from, to } => {
            let work = move || tree::rename(&place()?, &from, &to).map(GuestMessage::File);
            stream::answer(connection, work).await
        }
        FileOp::Remove { path } => {
            let work = move || tree::remove(&place()?, &path).map(|()| GuestMessage::Done);
            stream::answer(connection, work).await
        }
        FileOp::Read { path, offset, length } => {
            let work = move |sink: &_| content::read(&place()?, &path, offset, length, sink);
            stream::produce(connection, Ending::DataEnd, work).await
        }
        FileOp::Write { path, mode } => {
            let work = move |source: &mut _| {
                content::write(&place()?, &path, mode, source).map(GuestMessage::File)
            };
            stream::consume(connection, work).await
        }
        FileOp::Pack { path } => {
            let work = move |sink: &_| archive::pack(&place()?, &path, sink);
            stream::produce(connection, Ending::DataEnd, work).await
        }
        FileOp::Unpack { path } => {
            let work = move |source: &mut _| {
                archive::unpack(&place()?, &path, source).map(|()| GuestMessage::Done)
            };
            stream::consume(connection, work).await
        }
        FileOp::Watch { path, recursive } => {
            watch::watch(connection, move || Ok((place()?, path, recursive))).await
        }
    }
}
