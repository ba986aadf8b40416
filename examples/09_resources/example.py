#!/usr/bin/env python3
"""Shows sandboxes of another size, with a limit of processes and of processor time."""

import emberd

PRINT_SIZE = """
import os, shutil
pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
print(os.cpu_count(), pages >> 20, shutil.disk_usage('/').total >> 20)
"""

MANY = """
import subprocess
children = []
try:
    while len(children) < 100:
        children.append(subprocess.Popen(['sleep', '100']))
except OSError as error:
    print(error.strerror)
for child in children:
    child.kill()
"""

size = {"vcpus": 1, "memory_mib": 512, "disk_mib": 4096, "pids": 64}
with emberd.Sandbox.create("python", resources=size) as sandbox:
    vcpus, memory_mib, disk_mib = map(int, sandbox.exec(PRINT_SIZE).check().stdout.split())
    # The kernel and the file system take a part.
    assert vcpus == 1 and 400 < memory_mib <= 512 and 3500 < disk_mib <= 4096
    print(f"{vcpus} processor, {memory_mib} MiB of memory, {disk_mib} MiB of disk")

    said = sandbox.exec(MANY).check().stdout
    assert "unavailable" in said, said
    print("more than 64 processes:", said.strip())

    # The host limits processor time if it has a cgroup for that, and refuses where it cannot.
    try:
        changed = sandbox.change({"resources": {"cpu_percent": 50}})
        assert changed["resources"]["cpu_percent"] == 50, changed
        print("half of one processor")
    except emberd.Conflict as refused:
        assert refused.code == "limit_unavailable", refused
        print(refused)

try:
    emberd.Sandbox.create(memory_mib=1)
    raise AssertionError("a sandbox of 1 MiB")
except emberd.InvalidRequest as refused:
    print(refused)
