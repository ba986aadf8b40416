//! Block devices of a guest. JSON, because commas in QEMU's own syntax would need escaping.

use serde_json::json;

/// The guest's own disk. A full disk of the host is an error for the guest; by default QEMU would
/// stop it.
pub(super) const DISK_DEVICE: &str = "virtio-blk-device,drive=disk,werror=report,rerror=report";

/// Name of the guest's own disk.
pub(super) const DISK_NODE: &str = "disk";

/// Returns the root image `file` as a block device nobody can write to. Many VMMs share the file,
/// so none locks it.
pub(super) fn root_image(file: &str) -> String {
    let file = json!({
        "driver": "file",
        "filename": file,
        "read-only": true,
        "locking": "off",
    });
    json!({ "driver": "raw", "node-name": "root", "read-only": true, "file": file }).to_string()
}

/// Returns the guest's own disk in `file`. A flush of the guest is not one of the host: the disk
/// does not outlive the VMM. Blocks that the guest discards become holes.
pub(super) fn own_disk(file: &str) -> String {
    let cache = json!({ "no-flush": true });
    let file = json!({
        "driver": "file",
        "filename": file,
        "locking": "off",
        "discard": "unmap",
        "cache": cache,
    });
    json!({
        "driver": "raw",
        "node-name": DISK_NODE,
        "discard": "unmap",
        "cache": cache,
        "file": file,
    })
    .to_string()
}
