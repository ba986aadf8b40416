//! Daemons that are killed at random moments of all that callers do, and what the callers find.
//!
//! Each caller knows what it was promised: the sandboxes that were created for it, and those that
//! are deleted; how often a program of its own ran to its end in each. After each kill the next
//! daemon must keep every promise. What a caller was in the middle of may have happened or not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use emberd_api::{ContextRun, ContextSpec, CreateSandbox, ErrorCode, ExecBody, RunEvent};
use emberd_client::{Client, ClientError, FileOptions, Upload};
use emberd_proto::ExecSpec;
use fake_firecracker::Double;
use rustix::process::Signal;

use super::{Daemon, Room};
use crate::wait;

/// How many daemons are killed, unless `EMBERD_TEST_KILLS` says otherwise.
const KILLS: usize = 15;

/// Callers at once, and the most sandboxes of each.
const CALLERS: u64 = 4;
const SANDBOXES_MAX: usize = 3;

/// Longest life of a daemon, in milliseconds.
const LIFE_MS_MAX: u64 = 1_000;

/// Size of an upload, in bytes.
const UPLOAD_BYTES: usize = 1 << 20;

/// Counts in a file, which is never seen half-written.
const COUNT: &str = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n.new; mv n.new n";

/// Numbers that look random (Knuth's generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % most
    }
}

/// A sandbox that a caller was promised.
struct Held {
    id: String,
    /// Programs that are known to have counted, and those that were begun.
    counted: u64,
    begun: u64,
}

/// Number of the next key.
static NEXT_KEY: AtomicUsize = AtomicUsize::new(0);

/// State that all callers share.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    operations: AtomicUsize,
}

struct Caller {
    client: Client,
    run_dir: PathBuf,
    dice: Dice,
    tally: Arc<Tally>,
    held: Vec<Held>,
    /// Key of a creation whose answer is not here yet.
    pending: Option<String>,
    /// Sandboxes that are deleted, and whether that was promised.
    deleted: BTreeMap<String, bool>,
}

/// The daemon was killed in the middle.
struct Cut;

/// The answer; an error of the API is the daemon's to explain.
fn answered<T>(outcome: Result<T, ClientError>) -> Result<T, Cut> {
    match outcome {
        Ok(answer) => Ok(answer),
        Err(ClientError::Api { status, body }) => panic!("{status}: {body:?}"),
        Err(_) => Err(Cut),
    }
}

impl Caller {
    /// Runs a program in the directory of its sandbox: the double's guests have no files of their
    /// own. Returns what it prints.
    async fn run(&self, id: &str, code: &str) -> Result<String, Cut> {
        let cwd = Some(self.run_dir.join(id).display().to_string());
        let spec = ExecSpec { cwd, ..ExecSpec::new(code) };
        let body = ExecBody { spec, stdin: None, stdin_base64: None };
        let outcome = answered(self.client.exec(id, &body).await)?;
        assert_eq!((outcome.exit.exit_code, &*outcome.stderr), (0, ""), "{code}");
        Ok(outcome.stdout)
    }

    /// Goes on until it is over, and returns what it holds then.
    async fn go_on(mut self) -> Vec<Held> {
        while !self.tally.over.load(SeqCst) {
            let done = self.act().await;
            self.tally.operations.fetch_add(1, SeqCst);
            if let Err(Cut) = done {
                while self.verify().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        while self.pending.is_some() {
            self.create().await.ok();
        }
        while self.verify().await.is_err() {}
        self.held
    }

    async fn act(&mut self) -> Result<(), Cut> {
        let choice = self.dice.below(12);
        if self.pending.is_some()
            || self.held.is_empty()
            || choice < 2 && self.held.len() < SANDBOXES_MAX
        {
            return self.create().await;
        }
        let index = usize::try_from(self.dice.below(self.held.len() as u64)).unwrap();
        match choice {
            3 => self.delete(index).await,
            4 | 5 => self.upload(index).await,
            6 => self.run_context(index).await,
            _ => self.count(index).await,
        }
    }

    /// Creates a sandbox. A creation whose answer was lost is repeated with its key.
    async fn create(&mut self) -> Result<(), Cut> {
        let key = self.pending.get_or_insert_with(|| {
            format!("{}-{}", std::process::id(), NEXT_KEY.fetch_add(1, SeqCst))
        });
        let language_pack = Some("shell".to_owned());
        let wanted = CreateSandbox { language_pack, ..CreateSandbox::default() };
        let created = answered(self.client.create_once(&wanted, Some(key)).await)?;
        self.pending = None;
        self.held.push(Held { id: created.answer.id, counted: 0, begun: 0 });
        Ok(())
    }

    async fn count(&mut self, index: usize) -> Result<(), Cut> {
        self.held[index].begun += 1;
        self.run(&self.held[index].id, COUNT).await?;
        self.held[index].counted += 1;
        Ok(())
    }

    async fn upload(&mut self, index: usize) -> Result<(), Cut> {
        let id = &self.held[index].id;
        let content = Upload::bytes(vec![b'x'; UPLOAD_BYTES]);
        let options = FileOptions::default();
        let path = self.run_dir.join(id).join("upload");
        answered(self.client.file_write(id, &path, content, &options).await)?;
        assert_eq!(self.run(id, "wc -c < upload").await?.trim(), UPLOAD_BYTES.to_string());
        Ok(())
    }

    async fn run_context(&mut self, index: usize) -> Result<(), Cut> {
        let id = &self.held[index].id;
        let context = answered(self.client.open_context(id, &ContextSpec::default()).await)?.id;
        for code in ["x=7", "echo $x"] {
            let run = ContextRun { code: code.into(), timeout_ms: None };
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

    async fn delete(&mut self, index: usize) -> Result<(), Cut> {
        let Held { id, .. } = self.held.remove(index);
        let deleted = answered(self.client.delete(&id).await);
        self.deleted.insert(id, deleted.is_ok());
        deleted
    }

    /// Looks at everything that was promised.
    async fn verify(&mut self) -> Result<(), Cut> {
        let listed = answered(self.client.list().await)?.sandboxes;
        let ids: BTreeSet<_> = listed.into_iter().map(|sandbox| sandbox.id).collect();
        for index in 0..self.held.len() {
            let Held { id, counted, begun } = &self.held[index];
            assert!(ids.contains(id), "{id} is lost");
            let count = self.run(id, "cat n 2>/dev/null || echo 0").await?;
            let count: u64 = count.trim().parse().unwrap();
            assert!((*counted..=*begun).contains(&count), "{id}: {counted} <= {count} <= {begun}");
            let held = &mut self.held[index];
            (held.counted, held.begun) = (count, count);
        }
        for (id, is_promised) in self.deleted.clone() {
            // An answer may have been lost, with the deletion or without it.
            match self.client.delete(&id).await {
                Err(ClientError::Api { body, .. }) => {
                    assert_eq!(body.code, ErrorCode::UnknownSandbox, "{body:?}");
                }
                Ok(()) => assert!(!is_promised, "{id} is back"),
                Err(_) => {
                    self.deleted.insert(id, false);
                    return Err(Cut);
                }
            }
            self.deleted.remove(&id);
        }
        Ok(())
    }
}

fn kills() -> usize {
    std::env::var("EMBERD_TEST_KILLS").map_or(KILLS, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_killed_at_random_lose_leak_and_double_nothing() {
    let room = Room::new();
    let addr = format!("unix:{}", room.path("emberd.sock").display());
    let start = || Daemon::spawn(room.command_with_pools_on(&addr, 1));
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut daemon = start();
    let tally = Arc::new(Tally::default());
    let callers = (0..CALLERS).map(|number| {
        let caller = Caller {
            client: daemon.client.clone(),
            run_dir: room.run_dir(),
            dice: Dice(seed + number + 1),
            tally: Arc::clone(&tally),
            held: Vec::new(),
            pending: None,
            deleted: BTreeMap::new(),
        };
        tokio::spawn(caller.go_on())
    });
    let callers: Vec<_> = callers.collect();
    for _ in 0..kills() {
        tokio::time::sleep(Duration::from_millis(dice.below(LIFE_MS_MAX))).await;
        daemon.crash().await;
        daemon = start();
        assert!(callers.iter().all(|caller| !caller.is_finished()), "a caller has failed");
    }
    tally.over.store(true, SeqCst);
    let mut held = BTreeSet::new();
    for caller in callers {
        held.extend(caller.await.unwrap().into_iter().map(|held| held.id));
    }
    let listed = daemon.client.list().await.unwrap().sandboxes;
    let ids: BTreeSet<_> = listed.iter().map(|sandbox| sandbox.id.clone()).collect();
    let pids: BTreeSet<_> = listed.iter().map(|sandbox| sandbox.vmm_pid.unwrap()).collect();
    assert_eq!((ids.len(), pids.len()), (listed.len(), listed.len()), "doubled");
    assert_eq!(ids, held, "lost, or created for nobody");
    let operations = tally.operations.load(SeqCst);
    println!("{} kills, {operations} operations, {} sandboxes held", kills(), held.len());
    assert_eq!(daemon.client.info().await.unwrap().unclaimed, []);
    for id in &ids {
        daemon.client.delete(id).await.unwrap();
    }
    daemon.comes_to_rest().await;
    // What is in the pools, and what stands by for them.
    wait::until(async || wait::left_in(&room.run_dir()).len() == 2 * 2).await;
    daemon.stop(Signal::TERM).await;
    assert!(wait::left_in(&room.run_dir()).is_empty());
    wait::until(async || Double::processes_in(&room.run_dir()).is_empty()).await;
    room.close().await;
}
