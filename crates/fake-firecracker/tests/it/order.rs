//! What may be called when.

use std::fs;

use serde_json::{Value, json};

use crate::rig::{Dir, Vmm};

const PRE_BOOT_ONLY: &str = "The requested operation is not supported after starting the microVM.";
const POST_BOOT_ONLY: &str =
    "The requested operation is not supported before starting the microVM.";

fn snapshot() -> Value {
    json!({ "snapshot_path": "s", "mem_file_path": "m" })
}

fn load() -> Value {
    json!({
        "snapshot_path": "s",
        "mem_backend": { "backend_type": "File", "backend_path": "m" },
    })
}

#[test]
fn a_vm_that_is_not_started_cannot_be_run() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    let refused = |answer: crate::rig::Answer| assert_eq!(answer.fault_message(), POST_BOOT_ONLY);
    refused(vmm.patch("/vm", &json!({ "state": "Paused" })));
    refused(vmm.patch("/vm", &json!({ "state": "Resumed" })));
    refused(vmm.put("/snapshot/create", &snapshot()));
    refused(vmm.patch("/drives/rootfs", &json!({ "drive_id": "rootfs" })));
    refused(vmm.put("/actions", &json!({ "action_type": "FlushMetrics" })));
    refused(vmm.put("/actions", &json!({ "action_type": "SendCtrlAltDel" })));
}

#[test]
fn a_started_vm_cannot_be_configured() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let refused = |path: &str, body| {
        assert_eq!(vmm.put(path, &body).fault_message(), PRE_BOOT_ONLY, "{path}");
    };
    refused("/actions", json!({ "action_type": "InstanceStart" }));
    refused("/boot-source", json!({ "kernel_image_path": "vmlinux" }));
    refused("/machine-config", json!({ "vcpu_count": 1, "mem_size_mib": 64 }));
    refused("/vsock", json!({ "guest_cid": 3, "uds_path": "w.sock" }));
    refused("/entropy", json!({}));
    refused("/logger", json!({}));
    refused("/metrics", json!({ "metrics_path": "m" }));
    refused("/serial", json!({}));
    refused("/snapshot/load", load());
    assert!(!vmm.path("w.sock").exists());
}

#[test]
fn drives_of_a_running_vm_change_but_do_not_come_and_go() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let drive = json!({ "drive_id": "b", "is_root_device": false, "path_on_host": "pack.json" });
    assert_eq!(vmm.put("/drives/b", &drive).fault_message(), "PCI is not enabled");
    fs::copy(vmm.path("pack.json"), vmm.path("other")).unwrap();
    let change = |id: &str, path: &str| {
        vmm.patch(&format!("/drives/{id}"), &json!({ "drive_id": id, "path_on_host": path }))
    };
    change("rootfs", "other").done();
    assert_eq!(vmm.get("/vm/config").json()["drives"][0]["path_on_host"], "other");
    assert!(change("rootfs", "missing").fault_message().contains("No such file"));
    assert!(change("none", "other").fault_message().contains("not found"));
}

#[test]
fn a_start_needs_a_kernel() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    assert_eq!(
        vmm.start_instance().fault_message(),
        "Start microvm error: Cannot start microvm without kernel configuration."
    );
    vmm.put("/boot-source", &json!({ "kernel_image_path": "pack.json" })).done();
    assert!(vmm.start_instance().fault_message().contains("failed to load ELF kernel image"));
    assert_eq!(vmm.state(), "Not started");
}

#[test]
fn nothing_is_loaded_into_a_configured_vm() {
    let (dir, kernel) = (Dir::new(), json!({ "kernel_image_path": "missing" }));
    let vmm = dir.start(&[]);
    // It counts that it was tried.
    vmm.put("/boot-source", &kernel).fault_message();
    let message = vmm.put("/snapshot/load", &load()).fault_message();
    assert!(message.contains("not allowed after configuring boot-specific resources"), "{message}");
    assert_eq!(vmm.state(), "Not started", "this refusal is not fatal");
}

#[test]
fn logger_metrics_and_serial_do_not_prevent_a_load() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.put("/logger", &json!({ "log_path": "log", "level": "Info" })).done();
    vmm.put("/metrics", &json!({ "metrics_path": "metrics" })).done();
    vmm.put("/serial", &json!({ "serial_out_path": "serial" })).done();
    let message = vmm.put("/snapshot/load", &load()).fault_message();
    assert!(message.contains("Failed to open snapshot file"), "{message}");
    assert!(fs::read_to_string(dir.path("log")).unwrap().contains("Failed to open"));
}

#[test]
fn pause_and_resume_change_the_state_and_repeat_harmlessly() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let check = |state: &str, change: fn(&Vmm)| {
        for _ in 0..2 {
            change(&vmm);
            assert_eq!(vmm.state(), state);
        }
    };
    check("Running", Vmm::resume);
    check("Paused", Vmm::pause);
    check("Running", Vmm::resume);
}
