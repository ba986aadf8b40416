"""The simplest zygote there can be, and some that misbehave: `stand_in.py MODE`.

Runs programs well enough to test the agent, not well enough to tell them from `python3 FILE`.
"""

import json
import os
import select
import socket
import struct
import sys
import traceback

mode = sys.argv[1]
control = socket.socket(fileno=int(os.environ.pop("EMBERD_ZYGOTE_FD")))
os.set_inheritable(control.fileno(), False)


def say(message):
    control.send(json.dumps(message).encode())


def work(channel):
    head, fds, _, _ = socket.recv_fds(channel, 4, 3)
    if not head:
        os._exit(0)
    length, = struct.unpack(">I", head)
    order = json.loads(channel.recv(length, socket.MSG_WAITALL))
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = [order["file"], *order["args"]]
    code = 0
    try:
        exec(compile(open(order["file"]).read(), order["file"], "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    report = json.dumps({"exit": code}).encode()
    channel.send(struct.pack(">I", len(report)) + report)
    os._exit(code)


if mode == "silent":
    control.recv(1)
if mode == "dies":
    with open("lives", "a") as lives:
        print("one more", file=lives)
    sys.exit("cannot live")
print("words of the zygote", flush=True)
say({"ready": True})
poll = select.poll()
poll.register(control, select.POLLIN)
children = {}
while True:
    for ready, _ in poll.poll():
        if ready in children:
            pid = children.pop(ready)
            poll.unregister(ready)
            os.close(ready)
            _, status = os.waitpid(pid, 0)
            if mode == "forgetful" and status:
                sys.exit(1)
            say({"ended": pid, "status": status})
            continue
        message, fds, _, _ = socket.recv_fds(control, 4096, 2)
        if not message:
            sys.exit()
        number = json.loads(message)["fork"]
        if mode == "garbage":
            control.send(b"\xff")
        elif mode == "oversize":
            control.send(b" " * 5000)
        elif mode == "stranger":
            say({"forked": number + 1, "pid": os.getpid()})
        elif mode == "barren":
            say({"failed": number, "error": "no room"})
        else:
            pid = os.fork()
            if pid == 0:
                os.setsid()
                if mode != "clingy":
                    control.close()
                work(socket.socket(fileno=fds[0]))
            children[os.pidfd_open(pid)] = pid
            poll.register([*children][-1], select.POLLIN)
            say({"forked": number, "pid": pid})
        for fd in fds:
            os.close(fd)
