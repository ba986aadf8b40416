//! Runs scenarios, each over its own daemon, which must leave nothing behind.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use emberd_api::Address;
use emberd_keys::Secret;
use tempfile::TempDir;

mod agent;
mod calls;
mod connection;
mod daemon;
mod double;
mod error;
mod events;
mod flags;
mod floors;
mod host;
mod idle;
mod interrupt;
mod noise;
mod proc;
mod programs;
mod record;
mod rig;
mod scenarios;

use connection::Connection;
use daemon::Daemon;
use double::DoubleRoom;
use error::MeasureError;
use noise::Noise;
use rig::Rig;

pub use daemon::{StartError, beside};
pub use host::Host;
pub use interrupt::Interrupt;
pub use record::{Check, Record};
pub use scenarios::{SCENARIOS, Scenario, Start};

/// Flag of the operator's file for egress.
const EGRESS_POLICY_FLAG: &str = "--egress-policy";

/// Flag that serves requests over TCP without a key although there are keys.
const NO_AUTH_FLAG: &str = "--insecure-no-auth";

/// Directory of templates for the daemons of a run, so that each template is built once.
const TEMPLATE_DIR_FLAG: &str = "--template-dir";

/// The scenarios to run, and on what.
#[derive(Debug)]
pub struct Plan {
    /// The scenarios, in order.
    pub scenarios: Vec<&'static Scenario>,
    /// Number of iterations; by default each scenario's own.
    pub iterations: Option<usize>,
    /// The language packs.
    pub packs: Vec<String>,
    /// The source of sandboxes.
    pub daemons: Daemons,
    /// Whether to measure access keys, where a scenario can.
    pub key: bool,
}

/// The source of sandboxes.
#[derive(Debug)]
pub enum Daemons {
    /// Daemons that the bench starts.
    Own {
        /// Path of the daemon.
        binary: PathBuf,
        /// Flags for every daemon.
        flags: Vec<OsString>,
        /// Whether all of them use the double.
        double: bool,
    },
    /// A running daemon, as it is configured.
    Running(Address),
}

/// The result of one scenario.
#[derive(Debug)]
pub struct Outcome {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// Whether its sandboxes were the double's.
    pub is_double: bool,
    /// Series, doubts and checks; incomplete if the scenario failed.
    pub record: Record,
    /// The failure, if any.
    pub failure: Option<MeasureError>,
}

/// Runs `plan`. After an interrupt, the remaining scenarios are missing from the result.
///
/// # Errors
/// Errors of the whole run only: a directory or the double is missing.
pub fn run(
    plan: &Plan,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(&dyn fmt::Display),
) -> Result<(Host, Vec<Outcome>), StartError> {
    let mut host = Host::before();
    let house = House::new(plan)?;
    let mut outcomes = Vec::new();
    for scenario in &plan.scenarios {
        if interrupt.check().is_err() {
            break;
        }
        progress(&format_args!("{}: {}", scenario.name, scenario.about));
        let everywhere = matches!(plan.daemons, Daemons::Own { double: true, .. });
        let is_double = everywhere || scenario.start.is_double();
        let record = Record::default();
        let trial = Trial { plan, scenario, interrupt, host: &mut host, is_double, record };
        outcomes.push(trial.measure(&house));
    }
    host.load_after = proc::load().unwrap_or_default();
    Ok((host, outcomes))
}

/// Returns the reasons to doubt all figures of a run on `host`.
pub fn doubts(host: &Host) -> Vec<String> {
    let debug = (host.build == "debug").then(|| "this is a debug build".to_owned());
    debug.into_iter().chain(noise::load_doubt(host.load_before, host.cores)).collect()
}

/// State that the daemons of several scenarios share.
struct House {
    templates: TempDir,
    double: Option<DoubleRoom>,
    /// Secret of an access key in the data directory of the double.
    key: Option<Secret>,
}

impl House {
    fn new(plan: &Plan) -> Result<Self, StartError> {
        let needs_double = |double: bool| {
            double || plan.scenarios.iter().any(|scenario| scenario.start.is_double())
        };
        let double = match plan.daemons {
            Daemons::Own { double, .. } if needs_double(double) => Some(DoubleRoom::new()?),
            _ => None,
        };
        let templates = tempfile::Builder::new().prefix("bench").tempdir()?;
        let key = double.as_ref().filter(|_| plan.key).map(DoubleRoom::key).transpose()?;
        let house = Self { templates, double, key };
        // A host without such an address cannot run the scenario that needs the file.
        let private =
            scenarios::own_address().map(|address| format!("private = [\"{address}/32\"]\n"));
        fs::write(house.egress_policy(), private.unwrap_or_default())?;
        Ok(house)
    }

    /// Path of the operator's file, beside the templates.
    fn egress_policy(&self) -> PathBuf {
        self.templates.path().join("egress.toml")
    }

    /// Returns all flags of a daemon. Flags of the scenario and the double take precedence over
    /// the user's, and those over the defaults.
    fn flags(&self, start: Start, wanted: &[OsString], is_double: bool) -> Vec<OsString> {
        let mut needed: Vec<_> = start.flags().iter().map(OsString::from).collect();
        needed.extend(self.double.iter().filter(|_| is_double).flat_map(DoubleRoom::flags));
        let mut flags = flags::without(wanted, &needed);
        flags.extend(needed);
        if is_double && self.key.is_some() {
            // A request without a key is still served, to compare with.
            flags.push(NO_AUTH_FLAG.into());
        }
        if start == Start::Reaching {
            flags.extend([EGRESS_POLICY_FLAG.into(), self.egress_policy().into()]);
        }
        let makes_templates = !matches!(start, Start::Cold | Start::Roomy);
        if makes_templates && !flags::names(&flags).any(|name| name == TEMPLATE_DIR_FLAG) {
            flags.extend([TEMPLATE_DIR_FLAG.into(), self.templates.path().into()]);
        }
        flags
    }
}

/// A running scenario.
struct Trial<'a> {
    plan: &'a Plan,
    scenario: &'static Scenario,
    interrupt: &'a Interrupt,
    host: &'a mut Host,
    is_double: bool,
    record: Record,
}

impl Trial<'_> {
    fn measure(mut self, house: &House) -> Outcome {
        let before = Noise::sample();
        let start = self.scenario.start;
        let result = match &self.plan.daemons {
            Daemons::Running(_) if start != Start::Pooled => {
                Err(MeasureError::NotHere("the scenario needs a daemon with its own flags"))
            }
            Daemons::Running(address) => self.on(address, None, None, None),
            Daemons::Own { binary, flags, .. } => {
                let key = house.key.as_ref().filter(|_| self.is_double);
                self.on_own(binary, &house.flags(start, flags, self.is_double), key)
            }
        };
        self.record.doubts.extend(before.doubts(&Noise::sample()));
        self.record.doubt_strays();
        let Self { scenario, is_double, record, .. } = self;
        Outcome { scenario, is_double, record, failure: result.err() }
    }

    fn on_own(
        &mut self,
        binary: &Path,
        flags: &[OsString],
        key: Option<&Secret>,
    ) -> Result<(), MeasureError> {
        let mut daemon = Daemon::start(binary, flags, !self.is_double)?;
        let own = Some((binary, flags));
        let result = self.on(&daemon.address.clone(), Some(&mut daemon), own, key);
        if result.is_err() {
            self.record.doubt(format!("the end of the daemon's log: {}", daemon.log_end()));
        }
        let left = daemon.stop()?;
        let seen = if left.is_empty() { "nothing".to_owned() } else { left.join(", ") };
        self.record.check("left behind by the daemon", left.is_empty(), seen);
        result
    }

    fn on(
        &mut self,
        address: &Address,
        home: Option<&mut Daemon>,
        own: Option<(&Path, &[OsString])>,
        key: Option<&Secret>,
    ) -> Result<(), MeasureError> {
        let mut connection = Connection::open(address)?;
        self.host.describe(&connection.info()?, self.is_double);
        for pack in &self.plan.packs {
            connection.template(pack)?;
        }
        let mut rig = Rig {
            connection,
            address: address.clone(),
            packs: &self.plan.packs,
            iterations: self.plan.iterations.unwrap_or(self.scenario.iterations),
            record: &mut self.record,
            home,
            own,
            interrupt: self.interrupt,
            stands_by: true,
            key,
        };
        rig.settle()?;
        (self.scenario.run)(&mut rig)
    }
}
