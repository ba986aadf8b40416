//! Keeps the templates within their disk space: those used longest ago go first.

use std::sync::Arc;

use super::store::{self, size_and_age};
use super::{Shape, Slot, State, Templates};

impl Slot {
    /// Bytes that the template takes on disk; 0 if there is none.
    fn disk_bytes(&self) -> u64 {
        let template = self.plan.borrow().state.ready().cloned();
        template.and_then(|template| size_and_age(&template).0).unwrap_or_default()
    }
}

impl Templates {
    /// Makes room for the template of `latest`, which was just made: removes those used longest
    /// ago, except the defaults and the pinned. If there is not room enough, `latest` goes.
    /// Removes files; the build lock must be held.
    pub(super) fn make_room(&self, latest: &Shape) {
        let slots = self.slots();
        let mut sizes: Vec<_> = slots.iter().map(|slot| (slot.disk_bytes(), slot)).collect();
        let mut total: u64 = sizes.iter().map(|(bytes, _)| bytes).sum();
        sizes.retain(|(bytes, slot)| *bytes > 0 && !slot.stays());
        // The latest last.
        sizes.sort_by_key(|(_, slot)| (slot.shape == *latest, *slot.used.lock()));
        for (bytes, slot) in sizes {
            if total <= self.disk_bytes_max {
                return;
            }
            self.evict(slot, slot.shape == *latest);
            total -= bytes;
        }
    }

    /// Removes the template of `slot`. The shape is forgotten, unless it `fits_not`: it would be
    /// built again and again.
    fn evict(&self, slot: &Arc<Slot>, fits_not: bool) {
        let (shape, limit_mib) = (&slot.shape, self.disk_bytes_max >> 20);
        tracing::info!(%shape, limit_mib, "removing a template: the disk space of templates is full");
        if fits_not {
            let error = format!("there is no room for it in the {limit_mib} MiB of templates");
            slot.plan.send_modify(|plan| plan.state = State::Failed(error, None));
        } else {
            self.shapes.lock().slots.remove(shape);
            slot.cancel();
        }
        if let Err(error) = store::remove(&self.store.path(&shape.pack, &slot.key)) {
            tracing::warn!(%error, %shape, "template not removed");
        }
    }
}
