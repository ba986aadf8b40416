//! Callers that do all that callers do, while their daemon ends again and again.
//!
//! Each caller knows what it was promised: the sandboxes that were created for it, and those that
//! are deleted; how often a program of its own ran to its end in each; what its terminals answered,
//! and every event of the programs that it watches. After each end the next daemon must keep every
//! promise. What a caller was in the middle of may have happened or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use emberd_api::{
    ContextRun, ContextSpec, CreateSandbox, ErrorCode, ExecBody, IdleOptions, RunEvent,
    UpdateSandbox,
};
use emberd_client::{Client, ClientError, FileOptions, Upload};
use emberd_proto::ExecSpec;
use fake_firecracker::Double;
use futures::stream;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use super::{Daemon, Room};
use crate::wait;
use watched::{Program, Watched};

mod watched;

/// Callers at once, and the most sandboxes of each.
const CALLERS: u64 = 4;
const SANDBOXES_MAX: usize = 3;

/// Size of a file that is uploaded whole, in bytes.
const UPLOAD_BYTES: usize = 1 << 20;

/// Size of an upload that an end of the daemon cuts, in pieces of [`UPLOAD_BYTES`]: 1 GiB.
const LARGE_PIECES: usize = 1024;

/// Time without use after which a sandbox is frozen, and the longest time that a caller lets all of
/// its sandboxes be, in milliseconds.
const FREEZE_MS: u64 = 1_000;
const REST_MS_MAX: u64 = 1_500;

/// Pause of a caller without a daemon.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Counts in a file, which is never seen half-written.
const COUNT: &str = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n.new; mv n.new n";

/// Numbers that look random (Knuth's generator).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % most
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(among.len()).unwrap();
        (count > 0).then(|| &among[usize::try_from(self.below(count)).unwrap()])
    }
}

/// The way in which a daemon ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By SIGKILL.
    Killed,
    /// In order; its sandboxes run on.
    Orderly,
}

/// A number that is known to have been reached, and one that may have been.
#[derive(Clone, Copy, Default)]
struct Count {
    known: u64,
    begun: u64,
}

impl Count {
    /// Sets both to the number that was `found`.
    fn found(&mut self, found: u64, what: &str) {
        let Self { known, begun } = *self;
        assert!((known..=begun).contains(&found), "{what}: {known} <= {found} <= {begun}");
        *self = Self { known: found, begun: found };
    }
}

/// A sandbox that a caller was promised.
struct Held {
    id: String,
    /// Programs that counted.
    programs: Count,
    /// Changes of its metadata.
    changes: Count,
    /// Programs that go on.
    watched: BTreeMap<Program, Watched>,
    /// A program whose start was not answered.
    starting: Option<Program>,
}

/// Number of the next key.
static NEXT_KEY: AtomicU64 = AtomicU64::new(0);

/// State that all callers share.
#[derive(Default)]
pub struct Tally {
    over: AtomicBool,
    /// Operations by kind: those that were answered, and those that the daemon's end cut.
    operations: Mutex<BTreeMap<&'static str, [usize; 2]>>,
}

impl Tally {
    fn note(&self, kind: &'static str, is_answered: bool) {
        self.operations.lock().entry(kind).or_default()[usize::from(!is_answered)] += 1;
    }

    /// Number of operations that were answered.
    pub fn answered(&self) -> usize {
        self.operations.lock().values().map(|[answered, _]| answered).sum()
    }
}

struct Caller {
    client: Client,
    ending: Ending,
    run_dir: PathBuf,
    dice: Dice,
    tally: Arc<Tally>,
    held: Vec<Held>,
    /// Key of a creation whose answer is not here yet.
    pending: Option<String>,
    /// Sandboxes that are deleted, and whether that was promised.
    deleted: BTreeMap<String, bool>,
}

/// The daemon ended in the middle.
struct Cut;

/// The answer. A daemon that stops in order may refuse; another error of the API is the daemon's
/// to explain.
fn answered<T>(outcome: Result<T, ClientError>) -> Result<T, Cut> {
    match outcome {
        Ok(answer) => Ok(answer),
        Err(ClientError::Api { status, body }) => {
            assert_eq!(body.code, ErrorCode::ShuttingDown, "{status}: {body:?}");
            Err(Cut)
        }
        Err(_) => Err(Cut),
    }
}

impl Caller {
    /// Runs a program in the directory of its sandbox: the double's guests have no files of their
    /// own. Returns what it prints.
    async fn run(&self, id: &str, code: &str) -> Result<String, Cut> {
        let cwd = Some(self.dir(id).display().to_string());
        let spec = ExecSpec { cwd, ..ExecSpec::new(code) };
        let body = ExecBody { spec, stdin: None, stdin_base64: None };
        let outcome = answered(self.client.exec(id, &body).await)?;
        assert_eq!((outcome.exit.exit_code, &*outcome.stderr), (0, ""), "{code}");
        Ok(outcome.stdout)
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.run_dir.join(id)
    }

    /// Goes on until it is over, and returns the sandboxes that it holds then.
    async fn go_on(mut self) -> Vec<String> {
        while !self.tally.over.load(SeqCst) {
            if let Err(Cut) = self.act().await {
                self.look_at_all().await;
            }
        }
        while self.pending.is_some() {
            self.create().await.ok();
        }
        self.look_at_all().await;
        self.held.into_iter().map(|held| held.id).collect()
    }

    async fn look_at_all(&mut self) {
        while self.verify().await.is_err() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn act(&mut self) -> Result<(), Cut> {
        let choice = self.dice.below(24);
        let may_have_more = self.held.len() < SANDBOXES_MAX;
        let index = usize::try_from(self.dice.below(self.held.len().max(1) as u64)).unwrap();
        let create = self.pending.is_some() || self.held.is_empty();
        let (kind, done) = match choice {
            _ if create => ("create", self.create().await),
            0 | 1 if may_have_more => ("create", self.create().await),
            2 => ("delete", self.delete(index).await),
            3 | 4 => ("upload", self.upload(index).await),
            // One that stops in order would wait for it.
            5 if self.ending == Ending::Killed => ("large upload", self.upload_much(index).await),
            6 | 7 => ("context run", self.run_context(index).await),
            8..=10 => ("terminal", self.follow(index, Program::Terminal).await),
            11..=13 => ("watch", self.follow(index, Program::Ticker).await),
            14 | 15 => ("change", self.change(index).await),
            16 => ("rest", self.rest().await),
            _ => ("exec", self.count(index).await),
        };
        self.tally.note(kind, done.is_ok());
        done
    }

    /// Creates a sandbox. A creation whose answer was lost is repeated with its key.
    async fn create(&mut self) -> Result<(), Cut> {
        let key = self.pending.get_or_insert_with(|| {
            format!("{}-{}", std::process::id(), NEXT_KEY.fetch_add(1, SeqCst))
        });
        let (freeze_ms, ignore_programs) = (Some(Some(FREEZE_MS)), Some(true));
        let idle = IdleOptions { freeze_ms, ignore_programs, ..IdleOptions::default() };
        let language_pack = Some("shell".to_owned());
        let wanted = CreateSandbox { language_pack, idle: Some(idle), ..CreateSandbox::default() };
        let created = answered(self.client.create_once(&wanted, Some(key)).await)?;
        self.pending = None;
        self.held.push(Held {
            id: created.answer.id,
            programs: Count::default(),
            changes: Count::default(),
            watched: BTreeMap::new(),
            starting: None,
        });
        Ok(())
    }

    async fn count(&mut self, index: usize) -> Result<(), Cut> {
        self.held[index].programs.begun += 1;
        self.run(&self.held[index].id, COUNT).await?;
        self.held[index].programs.known += 1;
        Ok(())
    }

    async fn upload(&mut self, index: usize) -> Result<(), Cut> {
        let id = &self.held[index].id;
        let content = Upload::bytes(vec![b'x'; UPLOAD_BYTES]);
        let path = self.dir(id).join("upload");
        answered(self.client.file_write(id, &path, content, &FileOptions::default()).await)?;
        assert_eq!(self.run(id, "wc -c < upload").await?.trim(), UPLOAD_BYTES.to_string());
        Ok(())
    }

    /// Uploads more than one life of a daemon is long.
    async fn upload_much(&mut self, index: usize) -> Result<(), Cut> {
        let id = &self.held[index].id;
        let piece = bytes::Bytes::from(vec![b'x'; UPLOAD_BYTES]);
        let tally = Arc::clone(&self.tally);
        let pieces = (0..LARGE_PIECES).map(move |_| {
            let is_over = tally.over.load(SeqCst);
            if is_over { Err(io::Error::other("its caller has left")) } else { Ok(piece.clone()) }
        });
        let (path, options) = (self.dir(id).join("large"), FileOptions::default());
        let upload = Upload::new(stream::iter(pieces));
        let written = answered(self.client.file_write(id, &path, upload, &options).await)?;
        assert_eq!(written.size, (LARGE_PIECES * UPLOAD_BYTES) as u64);
        answered(self.client.file_remove(id, &path, &options).await)
    }

    async fn run_context(&mut self, index: usize) -> Result<(), Cut> {
        let id = &self.held[index].id;
        let context = answered(self.client.open_context(id, &ContextSpec::default()).await)?.id;
        for code in ["x=7", "echo $x"] {
            let run = ContextRun { code: code.into(), ..ContextRun::default() };
            let mut events = answered(self.client.run_context(id, &context, &run).await)?;
            let mut text = String::new();
            while let Some(event) = answered(events.next().await)? {
                if let RunEvent::Stdout { text: piece } = event {
                    text.push_str(&piece);
                }
            }
            // A stream that was cut has no end, and then the daemon does not answer.
            if code == "echo $x" && text != "7\n" {
                answered(self.client.healthz().await)?;
                panic!("the context said {text:?}");
            }
        }
        answered(self.client.delete_context(id, &context).await)
    }

    /// Starts a program that goes on, or reads on from the last event that is known.
    async fn follow(&mut self, index: usize, program: Program) -> Result<(), Cut> {
        let Held { id, watched, starting, .. } = &mut self.held[index];
        if let Some(known) = watched.get_mut(&program) {
            return known.read_on(&self.client, id).await;
        }
        *starting = Some(program);
        let started = answered(self.client.start_process(id, &program.spec()).await)?;
        *starting = None;
        watched.insert(program, Watched::new(program, started.pid));
        Ok(())
    }

    /// Numbers the sandbox in its metadata.
    async fn change(&mut self, index: usize) -> Result<(), Cut> {
        let Held { id, changes, .. } = &mut self.held[index];
        changes.begun += 1;
        let number = Some(changes.begun.to_string());
        let metadata = BTreeMap::from([("number".to_owned(), number)]);
        let change = UpdateSandbox { metadata, ..UpdateSandbox::default() };
        answered(self.client.update(id, &change).await)?;
        changes.known = changes.begun;
        Ok(())
    }

    /// Lets its sandboxes be, for long enough that they are frozen now and then.
    async fn rest(&mut self) -> Result<(), Cut> {
        tokio::time::sleep(Duration::from_millis(self.dice.below(REST_MS_MAX))).await;
        Ok(())
    }

    async fn delete(&mut self, index: usize) -> Result<(), Cut> {
        let Held { id, .. } = self.held.remove(index);
        let deleted = answered(self.client.delete(&id).await);
        self.deleted.insert(id, deleted.is_ok());
        deleted
    }

    /// Looks at everything that was promised.
    async fn verify(&mut self) -> Result<(), Cut> {
        let listed = answered(self.client.list().await)?.sandboxes;
        for index in 0..self.held.len() {
            let id = self.held[index].id.clone();
            let found = listed.iter().find(|sandbox| sandbox.id == id);
            let sandbox = found.unwrap_or_else(|| panic!("{id} is lost"));
            let number = sandbox.metadata.get("number").map_or(0, |text| text.parse().unwrap());
            self.held[index].changes.found(number, &id);
            let count = self.run(&id, "cat n 2>/dev/null || echo 0").await?;
            let programs = &mut self.held[index].programs;
            if self.ending == Ending::Orderly {
                // What such a daemon does not answer, it has not done.
                programs.begun = programs.known;
            }
            programs.found(count.trim().parse().unwrap(), &id);
            self.verify_programs(index).await?;
            // The agent removes what is half there once it sees that its upload has no end.
            let dir = self.dir(&id);
            tokio::spawn(wait::until(async move || !has_half_files(&dir))).await.unwrap();
        }
        self.verify_deletions().await
    }

    /// Every program is there once, has gone on, and answers.
    async fn verify_programs(&mut self, index: usize) -> Result<(), Cut> {
        let Held { id, watched, starting, .. } = &mut self.held[index];
        let mut running = answered(self.client.processes(id).await)?.processes;
        running.retain(|process| process.exit.is_none());
        for known in watched.values() {
            let pid = known.pid();
            let at = running.iter().position(|process| process.pid == pid);
            running.remove(at.unwrap_or_else(|| panic!("{id}: process {pid} is lost")));
        }
        if let Some(program) = starting.take()
            && let Some(process) = running.pop()
        {
            assert_eq!(process.argv, program.spec().argv, "{id}");
            watched.insert(program, Watched::new(program, process.pid));
        }
        assert!(running.is_empty(), "{id}: nobody started {running:?}");
        for known in watched.values_mut() {
            known.read_on(&self.client, id).await?;
        }
        Ok(())
    }

    async fn verify_deletions(&mut self) -> Result<(), Cut> {
        for (id, is_promised) in self.deleted.clone() {
            // An answer may have been lost, with the deletion or without it.
            match self.client.delete(&id).await {
                Err(ClientError::Api { body, .. }) if body.code == ErrorCode::UnknownSandbox => {}
                outcome => {
                    if answered(outcome).is_err() {
                        self.deleted.insert(id, false);
                        return Err(Cut);
                    }
                    assert!(!is_promised, "{id} is back");
                }
            }
            self.deleted.remove(&id);
        }
        Ok(())
    }
}

/// Looks for the beginning of a file that an upload has left in `dir`.
fn has_half_files(dir: &Path) -> bool {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.into_iter().any(|name| name.to_string_lossy().starts_with(".emberd-unfinished-"))
}

/// All callers of one daemon after the other.
pub struct Callers {
    pub tally: Arc<Tally>,
    callers: Vec<JoinHandle<Vec<String>>>,
}

impl Callers {
    /// Has callers begin with `daemon`, whose successors listen at the same address.
    pub fn begin(room: &Room, daemon: &Daemon, ending: Ending, seed: u64) -> Self {
        let tally = Arc::new(Tally::default());
        let callers = (0..CALLERS).map(|number| {
            let caller = Caller {
                client: daemon.client.clone(),
                ending,
                run_dir: room.run_dir(),
                dice: Dice(seed + number + 1),
                tally: Arc::clone(&tally),
                held: Vec::new(),
                pending: None,
                deleted: BTreeMap::new(),
            };
            tokio::spawn(caller.go_on())
        });
        Self { callers: callers.collect(), tally }
    }

    /// Fails if one of them has.
    pub fn check(&self) {
        assert!(self.callers.iter().all(|caller| !caller.is_finished()), "a caller has failed");
    }

    /// Ends them, and looks for anything lost, doubled or left behind.
    pub async fn end(self, room: Room, daemon: Daemon) {
        self.tally.over.store(true, SeqCst);
        let mut held = BTreeSet::new();
        for caller in self.callers {
            held.extend(caller.await.unwrap());
        }
        let listed = daemon.client.list().await.unwrap().sandboxes;
        let ids: BTreeSet<_> = listed.iter().map(|sandbox| sandbox.id.clone()).collect();
        let pids: BTreeSet<_> = listed.iter().map(|sandbox| sandbox.vmm_pid.unwrap()).collect();
        assert_eq!((ids.len(), pids.len()), (listed.len(), listed.len()), "doubled");
        assert_eq!(ids, held, "lost, or created for nobody");
        for (kind, [answered, cut]) in &*self.tally.operations.lock() {
            println!("{kind}: {answered} answered, {cut} cut");
        }
        println!("{} operations, {} sandboxes held", self.tally.answered(), held.len());
        assert_eq!(daemon.client.info().await.unwrap().unclaimed, []);
        for id in &ids {
            daemon.client.delete(id).await.unwrap();
        }
        daemon.comes_to_rest().await;
        // What is in the pools, and what stands by for them.
        wait::until(async || wait::left_in(&room.run_dir()).len() == 2 * 2).await;
        assert_eq!(room.templates(), ["python", "shell"]);
        daemon.stop(Signal::INT).await;
        assert!(wait::left_in(&room.run_dir()).is_empty());
        wait::until(async || Double::processes_in(&room.run_dir()).is_empty()).await;
        room.close().await;
    }
}
