//! What exists when somebody asks: sandboxes, pools, templates, and the VMMs of the sandboxes.

use std::sync::atomic::AtomicU64;

use emberd_sandbox::{PhaseKind, PoolView, SandboxView, Sandboxes, Shape, TemplateState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::vmms::Vmms;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    pack: String,
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPack {
    pack: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfShape {
    pack: String,
    vcpus: u8,
    memory_mib: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    pack: String,
    vcpus: u8,
    memory_mib: u32,
    state: &'static str,
}

/// A figure of a pool: its name, what it says, and how it is read.
type Figure<T> = (&'static str, &'static str, fn(&PoolView) -> T);

impl OfShape {
    fn of(shape: &Shape) -> Self {
        let size = shape.size;
        Self { pack: shape.pack.to_string(), vcpus: size.vcpus, memory_mib: size.memory_mib }
    }
}

/// Counts what exists now: the `views` of all sandboxes, and what else the daemon holds.
pub fn register(
    registry: &mut Registry,
    sandboxes: &Sandboxes,
    views: &[SandboxView],
    vmms: &Vmms,
) {
    daemon(registry, sandboxes);
    count_sandboxes(registry, views);
    count_pools(registry, &sandboxes.pools());
    count_templates(registry, sandboxes);
    weigh(registry, views, vmms);
}

fn daemon(registry: &mut Registry, sandboxes: &Sandboxes) {
    let config = sandboxes.config();
    let figures: [(&str, &str, u64); 6] = [
        ("sandboxes_max", "Most sandboxes at once", config.sandboxes_max as u64),
        (
            "sandboxes_memory_bytes",
            "Memory of the guests of all sandboxes",
            sandboxes.memory_mib() << 20,
        ),
        (
            "sandboxes_memory_max_bytes",
            "Most memory of the guests of all sandboxes",
            config.memory_mib_total << 20,
        ),
        ("reaping", "MicroVMs that are being removed", sandboxes.reaping() as u64),
        ("draining", "1 if no sandbox is created any more", sandboxes.is_draining().into()),
        (
            "unclaimed",
            "MicroVMs of earlier daemons that are left alone",
            sandboxes.unclaimed().len() as u64,
        ),
    ];
    for (name, help, value) in figures {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}

fn count_sandboxes(registry: &mut Registry, views: &[SandboxView]) {
    let counts = Family::<InPhase, Gauge>::default();
    for view in views {
        let phase = match view.state.phase() {
            PhaseKind::Creating => "creating",
            PhaseKind::Running => "running",
            PhaseKind::Frozen => "frozen",
            PhaseKind::Gone => "gone",
        };
        counts.get_or_create(&InPhase { pack: view.shape.pack.to_string(), phase }).inc();
    }
    registry.register("sandboxes", "Sandboxes", counts);
}

fn count_pools(registry: &mut Registry, pools: &[PoolView]) {
    let gauges: [Figure<usize>; 4] = [
        ("pool_ready", "MicroVMs that are ready to be handed out", |pool| pool.ready),
        ("pool_filling", "MicroVMs that are being made ready", |pool| pool.filling),
        ("pool_standing_by", "VMMs that have not loaded their template", |pool| pool.standing_by),
        ("pool_target", "MicroVMs to keep ready", |pool| pool.target),
    ];
    for (name, help, value) in gauges {
        let family = Family::<OfShape, Gauge<u64, AtomicU64>>::default();
        for pool in pools {
            family.get_or_create(&OfShape::of(&pool.shape)).set(value(pool) as u64);
        }
        registry.register(name, help, family);
    }
    let counters: [Figure<u64>; 3] = [
        ("pool_handed_out", "Sandboxes that the pool has given", |pool| pool.handed_out),
        ("pool_missed", "Sandboxes asked for while the pool was empty", |pool| pool.missed),
        ("pool_discarded", "MicroVMs that ended in the pool", |pool| pool.discarded),
    ];
    for (name, help, value) in counters {
        let family = Family::<OfShape, Counter>::default();
        for pool in pools {
            family.get_or_create(&OfShape::of(&pool.shape)).inc_by(value(pool));
        }
        registry.register(name, help, family);
    }
}

fn count_templates(registry: &mut Registry, sandboxes: &Sandboxes) {
    let states = Family::<InState, Gauge>::default();
    let disk = Family::<OfShape, Gauge<u64, AtomicU64>>::default();
    for template in sandboxes.templates() {
        let state = match template.state {
            TemplateState::Absent => "absent",
            TemplateState::Building => "building",
            TemplateState::Ready => "ready",
            TemplateState::Failed => "failed",
        };
        let shape = OfShape::of(&template.shape);
        if let Some(bytes) = template.disk_bytes {
            disk.get_or_create(&shape).set(bytes);
        }
        let OfShape { pack, vcpus, memory_mib } = shape;
        states.get_or_create(&InState { pack, vcpus, memory_mib, state }).set(1);
    }
    registry.register("template_state", "1 for the state that the template is in", states);
    registry.register("template_disk_bytes", "Disk space of the template", disk);
}

fn weigh(registry: &mut Registry, views: &[SandboxView], vmms: &Vmms) {
    let resident = Family::<OfPack, Gauge<u64, AtomicU64>>::default();
    let processor = Family::<OfPack, Counter<f64, AtomicU64>>::default();
    for (pack, usage) in vmms.usage(views) {
        let pack = OfPack { pack };
        resident.get_or_create(&pack).set(usage.resident_bytes);
        processor.get_or_create(&pack).inc_by(usage.processor.as_secs_f64());
    }
    let help = "Memory of the VMMs of sandboxes that is in RAM, shared pages included";
    registry.register("vmm_resident_bytes", help, resident);
    let help = "Processor time of the VMMs of sandboxes, as far as it was seen";
    registry.register("vmm_processor_seconds", help, processor);
}
