//! From the views of sandboxes to the bodies of the API that mirror them.
//!
//! `From` cannot say this: views and bodies both belong to other crates, of which neither knows
//! the other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use emberd_api::{
    BootTimes, Context, ContextEvent, ContextState, EgressTotals, OnTimeout, Pool, Process,
    ProcessEvent, ProcessEventKind, Resources, RunEvent, Sandbox, SandboxEvent, SandboxEventKind,
    SandboxIdle, SandboxPhase, SandboxState, Template, TemplateState, Text, UnclaimedMicroVm,
};
use emberd_egress::Totals;
use emberd_sandbox::{
    ContextState as ContextStateView, ContextView, NumberedEvent, PhaseKind, PoolView,
    ProcessEvent as ProcessEventView, ProcessEventKind as ProcessEventKindView, ProcessView,
    RunEvent as RunEventView, SandboxEvent as SandboxEventView,
    SandboxEventKind as SandboxEventKindView, SandboxState as SandboxStateView, SandboxView,
    TemplateState as TemplateStateView, TemplateView, UnclaimedView,
};

/// A view that a body of the API mirrors.
pub trait IntoBody {
    /// The body.
    type Body;

    /// Converts the view.
    fn into_body(self) -> Self::Body;
}

impl IntoBody for SandboxView {
    type Body = Sandbox;

    fn into_body(self) -> Sandbox {
        let phase = self.state.phase().into_body();
        let state = match phase {
            SandboxPhase::Creating => SandboxState::Creating,
            SandboxPhase::Running | SandboxPhase::Frozen => SandboxState::Ready,
            SandboxPhase::Gone => SandboxState::Gone,
        };
        let unmet = (!self.is_reached).then(|| {
            "an earlier daemon started it, and its guest has not answered this one yet".to_owned()
        });
        let (reason, vmm_pid) = match self.state {
            SandboxStateView::Creating => (None, None),
            SandboxStateView::Ready { vmm_pid } | SandboxStateView::Frozen { vmm_pid } => {
                (unmet, Some(vmm_pid))
            }
            SandboxStateView::Gone(reason) => (Some(format!("its VMM {reason}")), None),
        };
        Sandbox {
            id: self.id.to_string(),
            language_pack: self.shape.pack.to_string(),
            state,
            phase,
            reason,
            created_at_ms: epoch_ms(self.created_at),
            boot_path: self.boot_path.map(|path| path.to_string()),
            boot: self.boot.map(|boot| BootTimes {
                vmm_us: micros(boot.vmm),
                load_us: boot.load.map(micros),
                guest_us: micros(boot.guest),
                renew_us: boot.renew.map(micros),
                warm_up_us: boot.warm_up.map(micros),
                kernel_us: boot.kernel.map(micros),
                init_us: boot.init.map(micros),
            }),
            vmm_pid,
            dir: self.dir.display().to_string(),
            timeout_ms: self.terms.timeout.map(millis),
            expires_at_ms: self.expires_at.map(epoch_ms),
            on_timeout: OnTimeout::Delete,
            idle: SandboxIdle {
                freeze_ms: self.terms.idle.freeze.map(millis),
                ignore_programs: self.terms.idle.ignore_programs,
            },
            auto_resume: self.terms.auto_resume,
            metadata: self.terms.metadata,
            resources: Resources {
                vcpus: Some(self.shape.size.vcpus.into()),
                memory_mib: Some(self.shape.size.memory_mib.into()),
                cpu_percent: self.cpu.percent,
                cpu_weight: self.cpu.weight,
                disk_mib: self.limits.disk_mib,
                pids: self.limits.pids,
            },
            env: self.env,
            owner: self.owner.map(|owner| owner.to_string()),
        }
    }
}

impl IntoBody for PhaseKind {
    type Body = SandboxPhase;

    fn into_body(self) -> SandboxPhase {
        match self {
            Self::Creating => SandboxPhase::Creating,
            Self::Running => SandboxPhase::Running,
            Self::Frozen => SandboxPhase::Frozen,
            Self::Gone => SandboxPhase::Gone,
        }
    }
}

impl IntoBody for &SandboxEventView {
    type Body = SandboxEvent;

    fn into_body(self) -> SandboxEvent {
        SandboxEvent {
            seq: self.seq,
            at_ms: epoch_ms(self.at),
            event: match self.kind {
                SandboxEventKindView::Created => SandboxEventKind::Created,
                SandboxEventKindView::Running => SandboxEventKind::Running,
                SandboxEventKindView::Frozen => SandboxEventKind::Frozen,
                SandboxEventKindView::Thawed => SandboxEventKind::Thawed,
                SandboxEventKindView::Expired => SandboxEventKind::Expired,
                SandboxEventKindView::Gone => SandboxEventKind::Gone,
                SandboxEventKindView::Deleted => SandboxEventKind::Deleted,
            },
            sandbox: self.id.to_string(),
            phase: self.phase.into_body(),
            reason: self.reason.map(|reason| format!("its VMM {reason}")),
            metadata: self.metadata.clone(),
        }
    }
}

impl IntoBody for TemplateView {
    type Body = Template;

    fn into_body(self) -> Template {
        Template {
            language_pack: self.shape.pack.to_string(),
            vcpus: self.shape.size.vcpus,
            memory_mib: self.shape.size.memory_mib,
            pinned: self.is_pinned,
            state: match self.state {
                TemplateStateView::Absent => TemplateState::Absent,
                TemplateStateView::Building => TemplateState::Building,
                TemplateStateView::Ready => TemplateState::Ready,
                TemplateStateView::Failed => TemplateState::Failed,
            },
            error: self.error,
            dir: self.dir.map(|dir| dir.display().to_string()),
            disk_bytes: self.disk_bytes,
            made_at_ms: self.made_at.map(epoch_ms),
        }
    }
}

impl IntoBody for Totals {
    type Body = EgressTotals;

    fn into_body(self) -> EgressTotals {
        let Self { opened, denied, failed, sent_bytes, received_bytes } = self;
        EgressTotals { opened, denied, failed, sent_bytes, received_bytes }
    }
}

impl IntoBody for PoolView {
    type Body = Pool;

    fn into_body(self) -> Pool {
        Pool {
            language_pack: self.shape.pack.to_string(),
            vcpus: self.shape.size.vcpus,
            memory_mib: self.shape.size.memory_mib,
            ready: self.ready,
            filling: self.filling,
            standing_by: self.standing_by,
            target: self.target,
            ceiling: self.ceiling,
            handed_out: self.handed_out,
            missed: self.missed,
            discarded: self.discarded,
        }
    }
}

impl IntoBody for UnclaimedView {
    type Body = UnclaimedMicroVm;

    fn into_body(self) -> UnclaimedMicroVm {
        let Self { dir, vmm_pid, why } = self;
        UnclaimedMicroVm { dir: dir.display().to_string(), vmm_pid, why }
    }
}

impl IntoBody for ProcessView {
    type Body = Process;

    fn into_body(self) -> Process {
        let Self { pid, argv, user, tty, started_at, next_seq, exit } = self;
        let started_at_ms = epoch_ms(started_at);
        Process { pid, argv, user, tty, started_at_ms, next_event: next_seq, exit }
    }
}

/// An event of the process `pid`.
impl IntoBody for (u32, ProcessEventView) {
    type Body = ProcessEvent;

    fn into_body(self) -> ProcessEvent {
        let (pid, event) = self;
        let kind = match event.kind {
            ProcessEventKindView::Started => ProcessEventKind::Started { pid },
            ProcessEventKindView::Stdout(bytes) => ProcessEventKind::Stdout(Text::new(&bytes)),
            ProcessEventKindView::Stderr(bytes) => ProcessEventKind::Stderr(Text::new(&bytes)),
            ProcessEventKindView::Exited(exit) => ProcessEventKind::Exit(exit),
            ProcessEventKindView::Gap { first_missing } => ProcessEventKind::Gap { first_missing },
        };
        ProcessEvent { id: event.seq, kind }
    }
}

impl IntoBody for ContextView {
    type Body = Context;

    fn into_body(self) -> Context {
        let (state, reason) = match self.state {
            ContextStateView::Idle => (ContextState::Idle, None),
            ContextStateView::Busy => (ContextState::Busy, None),
            ContextStateView::Dead(reason) => (ContextState::Dead, Some(reason)),
        };
        Context {
            id: self.id.to_string(),
            language: self.spec.language,
            cwd: self.spec.cwd,
            state,
            reason,
            execution_count: self.execution_count,
            next_event: self.next_seq,
            created_at_ms: epoch_ms(self.created_at),
        }
    }
}

impl IntoBody for RunEventView {
    type Body = RunEvent;

    fn into_body(self) -> RunEvent {
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        match self {
            Self::Started { execution_count } => RunEvent::Started { execution_count },
            Self::Stdout(bytes) => RunEvent::Stdout { text: text(bytes) },
            Self::Stderr(bytes) => RunEvent::Stderr { text: text(bytes) },
            Self::Display(data) => RunEvent::Display { data },
            Self::Result(data) => RunEvent::Result { data },
            Self::Error { name, value, traceback } => RunEvent::Error { name, value, traceback },
            Self::End(end) => RunEvent::End {
                execution_count: end.execution_count,
                timed_out: end.timed_out,
                truncated: end.truncated,
                duration_us: micros(end.duration),
                egress: end.egress,
            },
            Self::Gap { first_missing } => RunEvent::Gap { first_missing },
        }
    }
}

impl IntoBody for NumberedEvent {
    type Body = ContextEvent;

    fn into_body(self) -> ContextEvent {
        ContextEvent { id: self.seq, event: self.event.into_body() }
    }
}

/// Milliseconds since the Unix epoch.
fn epoch_ms(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
