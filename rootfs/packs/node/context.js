// A context: a JavaScript engine that keeps its variables between runs.
//
//     {"call":"run","code":…} ─▶ started ─▶ (display | output)* ─▶ result? or error ─▶ done
//     {"call":"interrupt"} ─▶ ends the run under way
//
// One line of JSON each, on descriptor 3. Code has the main thread to itself, and is evaluated as
// the console of a browser does it: `const` may be declared anew, `await` needs no function. A
// second thread talks to the host and, as a debugger would, ends what the main thread is doing,
// be it an endless loop. It hands over a run when the one before, and its interrupt, are over.
"use strict";

const { Worker, isMainThread, parentPort, workerData } = require("node:worker_threads");

if (isMainThread) evaluator();
else conversation();

// What is asked of the main thread, and what it says: the second thread.
function conversation() {
  const inspector = require("node:inspector");
  const net = require("node:net");

  // Pause between two interrupts of a run.
  const INTERRUPT_AGAIN_MS = 100;

  const session = new inspector.Session();
  session.connectToMainThread();
  const channel = new net.Socket({ fd: 3, readable: true, writable: true });
  const waiting = [];
  let count = 0;
  // Whether a run is under way, and whether an interrupt of it is.
  let busy = false;
  let interrupting = false;
  let again;

  const say = (event, written) => channel.write(`${JSON.stringify(event)}\n`, written);

  function next() {
    if (busy || interrupting || waiting.length === 0) return;
    busy = true;
    count += 1;
    say({ event: "started", execution_count: count, interrupted_by: "call" });
    parentPort.postMessage({ count, code: waiting.shift() });
  }

  function interrupt() {
    if (!busy || interrupting) return;
    clearTimeout(again);
    interrupting = true;
    session.post("Runtime.terminateExecution", () => {
      interrupting = false;
      if (!busy) return next();
      // A run that only waits is told; one that did not hear of it is told again.
      parentPort.postMessage({ count });
      again = setTimeout(interrupt, INTERRUPT_AGAIN_MS);
    });
  }

  const calls = {
    run({ code }) {
      waiting.push(code);
      next();
    },
    interrupt,
  };
  let received = "";
  channel.setEncoding("utf8");
  channel.on("data", (piece) => {
    received += piece;
    const lines = received.split("\n");
    received = lines.pop();
    for (const line of lines) {
      const call = JSON.parse(line);
      calls[call.call](call);
    }
  });
  // Whoever asked has left.
  const leave = () => process.kill(process.pid, "SIGKILL");
  channel.on("end", leave);
  channel.on("error", leave);

  const told = new Int32Array(workerData);
  const written = () => {
    Atomics.add(told, 0, 1);
    Atomics.notify(told, 0);
  };
  parentPort.on("message", ({ of, event }) => {
    // Of a run that is over, or of none.
    if (!busy || of !== count) return written();
    say(event, written);
    if (event.event === "done") {
      busy = false;
      clearTimeout(again);
      next();
    }
  });
  say({ event: "ready" });
}

// What runs code: the main thread. An interrupt may end any function here anywhere.
function evaluator() {
  const fs = require("node:fs");
  const inspector = require("node:inspector");
  const path = require("node:path");
  const util = require("node:util");
  const vm = require("node:vm");
  const { Writable } = require("node:stream");
  const { createRequire } = require("node:module");
  const { pathToFileURL } = require("node:url");

  // Most events that are on their way to the host before a run waits.
  const EVENTS_WAITING_MAX = 64;
  // Longest text of a value, and of an error, in characters.
  const TEXT_MAX = 1 << 20;
  // Pause before a full pipe is written to again, in milliseconds.
  const FULL_PAUSE_MS = 2;
  // A frame of a stack, and one of code that was run here.
  const FRAME = /^\s+at /;
  const FRAME_OF_CODE = /^\s+at .*\brun\d+:\d+:\d+\)?$/;
  // What evaluation fails with that was interrupted.
  const TERMINATED = /Execution was terminated/;

  const told = new Int32Array(new SharedArrayBuffer(4));
  const host = new Worker(__filename, { workerData: told.buffer });
  const session = new inspector.Session();
  session.connect();

  // The numbers of the last run that began, and of the last that is over.
  let begun = 0;
  let over = 0;
  // How many events were handed over.
  let said = 0;
  // What evaluation hands over: the inspector knows values by number only.
  let taken;
  const TAKE = Symbol.for("emberd.take");
  Object.defineProperty(globalThis, TAKE, { value: (value) => void (taken = value) });

  function send(event, of = begun) {
    host.postMessage({ of, event });
    said = (said + 1) | 0;
    for (;;) {
      const known = Atomics.load(told, 0);
      if (((said - known) | 0) <= EVENTS_WAITING_MAX) return;
      Atomics.wait(told, 0, known);
    }
  }

  // Writes all of it before it returns, unlike the streams of Node, which keep the rest in mind.
  function write(fd, data) {
    let rest = data;
    while (rest.length > 0) {
      try {
        rest = rest.subarray(fs.writeSync(fd, rest));
      } catch (error) {
        if (error.code !== "EAGAIN") throw error;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FULL_PAUSE_MS);
      }
    }
  }

  class Output extends Writable {
    constructor(fd) {
      super({ decodeStrings: true });
      this.fd = fd;
    }

    write(chunk, encoding, done) {
      const coding = typeof encoding === "string" ? encoding : "utf8";
      write(this.fd, typeof chunk === "string" ? Buffer.from(chunk, coding) : chunk);
      const callback = typeof encoding === "function" ? encoding : done;
      if (callback) process.nextTick(callback);
      return true;
    }
  }
  for (const [name, fd] of [["stdout", 1], ["stderr", 2]]) {
    const value = new Output(fd);
    Object.defineProperty(process, name, { value, configurable: true, enumerable: true });
  }

  function cut(text) {
    if (text.length <= TEXT_MAX) return text;
    return `${text.slice(0, TEXT_MAX)}… [${text.length - TEXT_MAX} more characters left out]`;
  }

  function forms(value) {
    return { "text/plain": cut(util.inspect(value)) };
  }

  // Shows a value; or, with `forms`, what it looks like by MIME type.
  globalThis.display = (value, shown) => {
    const data = shown ? { "text/plain": cut(util.inspect(value)), ...shown } : forms(value);
    send({ event: "display", data });
  };
  globalThis.require = createRequire(`${process.cwd()}/`);
  // Stands in for import(), which evaluated code has none of.
  globalThis.importModule = (name) => {
    const file = /^[./]/.test(name) ? path.resolve(name) : null;
    return import(file ? pathToFileURL(file) : name);
  };
  globalThis.module = { exports: {} };
  globalThis.exports = globalThis.module.exports;

  // A process that is asked to exit ends the run only.
  class Exit extends Error {
    constructor(code) {
      super(String(code ?? process.exitCode ?? 0));
      this.name = "Exit";
      this.stack = `Exit: ${this.message}`;
    }
  }
  process.exit = (code) => {
    throw new Exit(code);
  };

  function failed(error) {
    const isError = util.types.isNativeError(error) || error instanceof Error;
    const name = isError ? String(error.name) : typeof error;
    const value = isError ? String(error.message) : util.inspect(error);
    const stack = isError && typeof error.stack === "string" ? error.stack : `${name}: ${value}`;
    // What is below the last frame of the code is ours.
    const lines = stack.split("\n");
    const last = lines.findLastIndex((line) => FRAME_OF_CODE.test(line));
    let traceback = lines.filter((line, index) => index <= last || !FRAME.test(line)).join("\n");
    if (error?.code === "ERR_VM_DYNAMIC_IMPORT_CALLBACK_MISSING") {
      traceback += "\nhint: use require(), or await importModule(name)";
    }
    return { event: "error", name, value: cut(value), traceback: cut(traceback) };
  }

  // The value behind what the inspector says of it.
  function take({ objectId, value, unserializableValue }) {
    const plain = unserializableValue ? { unserializableValue } : { value };
    taken = undefined;
    session.post("Runtime.callFunctionOn", {
      functionDeclaration: 'function (value) { this[Symbol.for("emberd.take")](value) }',
      executionContextId,
      arguments: [objectId ? { objectId } : plain],
    });
    return taken;
  }

  let executionContextId;
  session.on("Runtime.executionContextCreated", ({ params }) => {
    executionContextId ??= params.context.id;
  });
  session.post("Runtime.enable");

  function run(count, code) {
    begun = count;
    const evaluation = {
      expression: `${asExpression(code)}\n//# sourceURL=run${count}`,
      replMode: true,
    };
    session.post("Runtime.evaluate", evaluation, (error, answer) => {
      // One that was interrupted may be heard of long after.
      if (count <= over) return;
      end(count, error && TERMINATED.test(error.message) ? INTERRUPTED : outcome(error, answer));
    });
  }

  // What comes of an evaluation, as an event; null for nothing.
  function outcome(error, answer) {
    try {
      if (error) throw Object.assign(error, { name: "EvaluationError" });
      if (answer.exceptionDetails) {
        const { exception, text } = answer.exceptionDetails;
        throw exception ? take(exception) : new Error(text);
      }
      const value = take(answer.result);
      if (value === undefined) return null;
      globalThis._ = value;
      return { event: "result", data: forms(value) };
    } catch (thrown) {
      return failed(thrown);
    }
  }

  const traceback = "interrupted";
  const INTERRUPTED = { event: "error", name: "KeyboardInterrupt", value: "", traceback };

  // Interrupted before it is through, it is called again.
  function end(count, event) {
    if (event) send(event, count);
    send({ event: "done", execution_count: count }, count);
    over = count;
  }

  // Braces around the whole are those of an object where they can be, not of a block.
  function asExpression(code) {
    if (!/^\s*\{.*\}\s*$/s.test(code)) return code;
    try {
      new vm.Script(`(${code}\n)`);
      return `(${code}\n)`;
    } catch {
      return code;
    }
  }

  host.on("message", ({ count, code }) => {
    if (code !== undefined) run(count, code);
    else if (count > over) end(count, INTERRUPTED);
  });
  // For what the code has started; the rest is told by the host.
  process.on("SIGINT", () => {});
  // What goes wrong after its run is said, and is no reason to end.
  process.on("uncaughtException", (error) => console.error(failed(error).traceback));
  process.on("unhandledRejection", (error) => console.error(failed(error).traceback));
}
