//! The daemon's routes that are measured or polled, over one [`Connection`].

use std::time::Duration;

use emberd_api::{BuildTemplate, CreateSandbox, CreatedSandbox, ErrorCode, ExecBody, ExecOutcome};
use emberd_api::{Info, STAGE_TOTAL, Sandbox, SandboxList, ServerTiming, Template, paths};
use emberd_api::{PolicySpec, Process, ProcessList, ProcessSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::connection::{Answer, CallError, Connection};

/// The latency of a call, and the daemon's own account of it.
#[derive(Debug, Clone, Default)]
pub struct Timing {
    /// From the request's first byte to the answer's last.
    pub latency: Duration,
    server_timing: ServerTiming,
}

impl Timing {
    fn of(answer: &Answer) -> Self {
        Self { latency: answer.latency, server_timing: answer.server_timing.clone() }
    }

    /// Returns the daemon's stages, in microseconds. The part of its total outside all stages is
    /// the stage `daemon`.
    pub fn stages(&self) -> Vec<(String, u64)> {
        let named = self.server_timing.stages.iter().filter(|stage| stage.name != STAGE_TOTAL);
        let named = named.filter_map(|stage| Some((stage.name.to_string(), stage.duration_us?)));
        let mut stages: Vec<_> = named.collect();
        if let Some(total) = self.server_timing.duration(STAGE_TOTAL) {
            let explained = stages.iter().map(|(_, us)| us).sum();
            let total = u64::try_from(total.as_micros()).unwrap_or(u64::MAX);
            stages.push(("daemon".to_owned(), total.saturating_sub(explained)));
        }
        stages
    }
}

impl Connection {
    /// Creates a sandbox of `pack` and returns its id.
    ///
    /// # Errors
    /// [`CallError`], as for all calls.
    pub fn create(&mut self, pack: &str) -> Result<(String, Timing), CallError> {
        self.create_with(pack, None)
    }

    /// Creates a sandbox of `pack` with a policy and returns its id.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn create_with(
        &mut self,
        pack: &str,
        egress: Option<PolicySpec>,
    ) -> Result<(String, Timing), CallError> {
        let language_pack = Some(pack.to_owned());
        self.create_as(&CreateSandbox { language_pack, egress, ..CreateSandbox::default() })
    }

    /// Creates a sandbox and returns its id.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn create_as(&mut self, wanted: &CreateSandbox) -> Result<(String, Timing), CallError> {
        let answer = self.call("POST", paths::SANDBOXES, &json(wanted))?;
        let created: CreatedSandbox = parsed("POST", paths::SANDBOXES, &answer)?;
        Ok((created.id, Timing::of(&answer)))
    }

    /// Runs code in a sandbox.
    ///
    /// # Errors
    /// [`CallError`]; a program that fails is not an error.
    pub fn exec(&mut self, id: &str, body: &ExecBody) -> Result<(ExecOutcome, Timing), CallError> {
        let path = paths::exec(id);
        let answer = self.call("POST", &path, &json(body))?;
        Ok((parsed("POST", &path, &answer)?, Timing::of(&answer)))
    }

    /// Starts a process; returns once it runs.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn start(&mut self, id: &str, spec: &ProcessSpec) -> Result<(u32, Duration), CallError> {
        let path = paths::processes(id);
        let answer = self.call("POST", &path, &json(spec))?;
        let process: Process = parsed("POST", &path, &answer)?;
        Ok((process.pid, answer.latency))
    }

    /// Returns the processes of a sandbox, including recently ended ones.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn processes(&mut self, id: &str) -> Result<Vec<Process>, CallError> {
        Ok(self.get::<ProcessList>(&paths::processes(id))?.processes)
    }

    /// Writes to the standard input of a process.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn stdin(&mut self, id: &str, pid: u32, bytes: &[u8]) -> Result<Duration, CallError> {
        let path = paths::process(paths::PROCESS_STDIN, id, pid);
        Ok(self.call("POST", &path, bytes)?.latency)
    }

    /// Kills a process and removes it from the list.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn kill(&mut self, id: &str, pid: u32) -> Result<Duration, CallError> {
        let path = paths::process(paths::PROCESS, id, pid);
        Ok(self.call("DELETE", &path, b"")?.latency)
    }

    /// Deletes a sandbox.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn delete(&mut self, id: &str) -> Result<Timing, CallError> {
        Ok(Timing::of(&self.call("DELETE", &paths::sandbox(id), b"")?))
    }

    /// Writes a file of a sandbox.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn write(&mut self, id: &str, path: &str, content: &[u8]) -> Result<Duration, CallError> {
        Ok(self.call("PUT", &files(paths::FILES, id, path), content)?.latency)
    }

    /// Reads a file of a sandbox.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn read(&mut self, id: &str, path: &str) -> Result<(Vec<u8>, Duration), CallError> {
        let answer = self.call("GET", &files(paths::FILES, id, path), b"")?;
        Ok((answer.body, answer.latency))
    }

    /// Removes a file of a sandbox, if it exists.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn remove(&mut self, id: &str, path: &str) -> Result<(), CallError> {
        self.call("DELETE", &files(paths::FILES, id, path), b"")?;
        Ok(())
    }

    /// Returns the attributes of a path in a sandbox.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn stat(&mut self, id: &str, path: &str) -> Result<Duration, CallError> {
        Ok(self.call("GET", &files(paths::FILES_STAT, id, path), b"")?.latency)
    }

    /// Returns the current state of a sandbox.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn sandbox(&mut self, id: &str) -> Result<Sandbox, CallError> {
        self.get(&paths::sandbox(id))
    }

    /// Returns the current state of all sandboxes.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn sandboxes(&mut self) -> Result<Vec<Sandbox>, CallError> {
        let list: SandboxList = self.get(paths::SANDBOXES)?;
        Ok(list.sandboxes)
    }

    /// Returns information about the daemon.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn info(&mut self) -> Result<Info, CallError> {
        self.get(paths::INFO)
    }

    /// Checks whether the daemon is running, which is the smallest request.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn healthz(&mut self) -> Result<Duration, CallError> {
        Ok(self.call("GET", paths::HEALTHZ, b"")?.latency)
    }

    /// Reads the metrics of the daemon.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn metrics(&mut self) -> Result<(String, Duration), CallError> {
        let answer = self.call("GET", paths::DAEMON_METRICS, b"")?;
        Ok((String::from_utf8_lossy(&answer.body).into_owned(), answer.latency))
    }

    /// Lists the templates, of which a daemon over the double has none.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn templates(&mut self) -> Result<Duration, CallError> {
        Ok(self.call("GET", paths::TEMPLATES, b"")?.latency)
    }

    /// Builds the template of `pack` if there is none, and waits for it. Does nothing if the
    /// daemon makes no templates.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn template(&mut self, pack: &str) -> Result<Option<Template>, CallError> {
        let path = paths::template(pack);
        match self.call("POST", &path, b"") {
            Ok(answer) => parsed("POST", &path, &answer).map(Some),
            Err(CallError::Refused { body, .. }) if body.code == ErrorCode::NoTemplates => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Builds and keeps the template of `pack` with a size, and as many microVMs of it as `wanted`
    /// names.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn template_of(&mut self, pack: &str, wanted: &BuildTemplate) -> Result<(), CallError> {
        self.call("POST", &paths::template(pack), &json(wanted))?;
        Ok(())
    }

    fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, CallError> {
        let answer = self.call("GET", path, b"")?;
        parsed("GET", path, &answer)
    }
}

fn files(route: &str, id: &str, path: &str) -> String {
    paths::files(route, id, &[("path", path.as_bytes())])
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("bodies have string keys only")
}

fn parsed<T: DeserializeOwned>(
    method: &'static str,
    path: &str,
    answer: &Answer,
) -> Result<T, CallError> {
    serde_json::from_slice(&answer.body).map_err(|source| CallError::Body {
        method,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_does_not_name_is_its_own_stage() {
        let timing =
            |header: &str| Timing { server_timing: header.parse().unwrap(), ..Timing::default() };
        let stages = |header| -> Vec<_> {
            let stages = timing(header).stages();
            stages.into_iter().map(|(name, us)| format!("{name} {us}")).collect()
        };
        let header = "boot-path;desc=\"x\", load;dur=12.5, guest;dur=30.000, total;dur=50";
        assert_eq!(stages(header), ["load 12500", "guest 30000", "daemon 7500"]);
        assert_eq!(stages("turn;dur=0.1"), ["turn 100"]);
        assert_eq!(stages(""), Vec::<String>::new());
    }
}
