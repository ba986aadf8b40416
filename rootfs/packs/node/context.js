// A context: a JavaScript engine that keeps its variables between runs.
//
//     {"call":"run","code":…} ─▶ started ─▶ (display | output)* ─▶ result? or error ─▶ done
//     {"call":"interrupt"} ─▶ ends the run under way
//
// One line of JSON each, on descriptor 3. Code runs in the main thread, and is evaluated as in the
// console of a browser: `const` may be declared again, and `await` works at the top level. A second
// thread communicates with the host. It interrupts the main thread as a debugger does, even in an
// endless loop, and starts a run after the previous one and its interrupt have ended. It also
// encodes JSON, because changes to prototypes and globals do not affect it.
"use strict";

const { MessageChannel, Worker, isMainThread, workerData } = require("node:worker_threads");

// Saved before any code can replace them. The receiver of a method becomes its first argument.
const { bind, call } = Function.prototype;
const uncurry = bind.bind(call);
const slice = uncurry(String.prototype.slice);
const indexOf = uncurry(String.prototype.indexOf);
const exec = uncurry(RegExp.prototype.exec);
// Maximum length of a value's text, and of an error's, in characters.
const TEXT_MAX = 1 << 20;
// A frame of a stack, and a frame of a run's code.
const FRAME = /^\s+at /;
const FRAME_OF_CODE = /^\s+at .*\brun\d+:\d+:\d+\)?$/;
// Asks the agent to read standard output and error, and the answer. JSON does not use these bytes.
const ORDER = "\x16";
const ORDERED = "\x06";

if (isMainThread) evaluator();
else conversation();

function cut(text) {
  if (text.length <= TEXT_MAX) return text;
  return `${slice(text, 0, TEXT_MAX)}… [${text.length - TEXT_MAX} more characters left out]`;
}

// Returns a stack without the frames of this program, below the last one of the code.
function trimmed(stack) {
  // All lines so far, and those to keep if no further frame of the code follows.
  let all = "";
  let kept = "";
  for (let begin = 0, end; begin <= stack.length; begin = end + 1) {
    end = indexOf(stack, "\n", begin);
    if (end < 0) end = stack.length;
    const line = slice(stack, begin, end);
    const ours = exec(FRAME, line) !== null && exec(FRAME_OF_CODE, line) === null;
    const next = begin === 0 ? line : `\n${line}`;
    all += next;
    if (exec(FRAME_OF_CODE, line) !== null) kept = all;
    else if (!ours) kept += next;
  }
  return kept;
}

// The second thread: sends calls to the main thread, and receives its events.
function conversation() {
  const inspector = require("node:inspector");
  const net = require("node:net");

  // Pause between two interrupts of a run.
  const INTERRUPT_AGAIN_MS = 100;
  // Maximum size of a form of a value, and of all its forms, in bytes: the host accepts lines of
  // 32 MiB.
  const FORM_BYTES_MAX = 8 << 20;
  const FORMS_BYTES_MAX = 24 << 20;
  // Maximum depth of a form, because JSON readers have limits.
  const DEPTH_MAX = 100;
  const TOKENS = /"(?:[^"\\]|\\.)*"|[[\]{}]/g;

  const { told, port } = workerData;
  const session = new inspector.Session();
  session.connectToMainThread();
  const channel = new net.Socket({ fd: 3, readable: true, writable: true });
  const waiting = [];
  let count = 0;
  // Whether a run is in progress, and whether it is being interrupted.
  let busy = false;
  let interrupting = false;
  let again;

  const say = (event, written) => channel.write(`${json(event)}\n`, written);

  // An unpaired surrogate is not valid Unicode, and becomes U+FFFD.
  function json(value) {
    return JSON.stringify(value, (_, part) =>
      typeof part === "string" && /\p{Surrogate}/u.test(part) ? Buffer.from(part).toString() : part,
    );
  }

  // Returns the forms that fit a line, with notes on omitted ones.
  function bounded(forms) {
    const kept = { "text/plain": "" };
    const notes = [];
    let total = 0;
    for (const [mime, form] of Object.entries(forms)) {
      const { text, fault } = form === undefined ? {} : encoded(form);
      const bytes = text === undefined ? 0 : Buffer.byteLength(text);
      if (fault) notes.push(`${mime} left out: ${fault}`);
      else if (bytes > FORM_BYTES_MAX || total + bytes > FORMS_BYTES_MAX) {
        notes.push(`${mime} left out: it has ${bytes} bytes, over the limit of ${FORM_BYTES_MAX}`);
      } else if (text !== undefined) {
        total += bytes;
        kept[mime] = JSON.parse(text);
      }
    }
    if (notes.length > 0) kept["text/plain"] += `\n[${notes.join("]\n[")}]`;
    return kept;
  }

  function encoded(form) {
    try {
      const text = json(form);
      if (typeof form === "string" || text === undefined) return { text };
      let depth = 0;
      for (const [token] of text.matchAll(TOKENS)) {
        if (token === "[" || token === "{") depth += 1;
        else if (token === "]" || token === "}") depth -= 1;
        if (depth > DEPTH_MAX) return { fault: "it is nested too deep" };
      }
      return { text };
    } catch (error) {
      return { fault: error.message };
    }
  }

  function next() {
    if (busy || interrupting || waiting.length === 0) return;
    busy = true;
    count += 1;
    say({ event: "started", execution_count: count, interrupted_by: "call" });
    port.postMessage({ count, ...waiting.shift() });
  }

  function interrupt() {
    if (!busy || interrupting) return;
    clearTimeout(again);
    interrupting = true;
    session.post("Runtime.terminateExecution", () => {
      interrupting = false;
      if (!busy) return next();
      // Notifies a run that only waits; repeated in case it missed the first notification.
      port.postMessage({ count });
      again = setTimeout(interrupt, INTERRUPT_AGAIN_MS);
    });
  }

  const calls = {
    run({ code, traceparent }) {
      waiting.push({ code, traceparent });
      next();
    },
    interrupt,
  };
  let received = "";
  channel.setEncoding("utf8");
  channel.on("data", (piece) => {
    const parts = piece.split(ORDERED);
    for (let answers = parts.length - 1; answers > 0; answers -= 1) tell(1);
    received += parts.join("");
    const lines = received.split("\n");
    received = lines.pop();
    for (const line of lines) {
      const call = JSON.parse(line);
      calls[call.call](call);
    }
  });
  // The host closed the channel.
  const leave = () => process.kill(process.pid, "SIGKILL");
  channel.on("end", leave);
  channel.on("error", leave);

  // Counts what the main thread waits for: sent events, and answers to ORDER.
  function tell(which) {
    Atomics.add(told, which, 1);
    Atomics.notify(told, which);
  }
  const written = () => tell(0);
  port.on("message", ({ of, event, order }) => {
    if (order) return channel.write(ORDER);
    // It belongs to a run that has ended, or to none.
    if (!busy || of !== count) return written();
    if (event.data) event.data = bounded(event.data);
    say(event, written);
    if (event.event === "done") {
      busy = false;
      clearTimeout(again);
      next();
    }
  });
  say({ event: "ready" });
}

// The main thread, which runs code. An interrupt may end any function here at any point.
function evaluator() {
  const fs = require("node:fs");
  const path = require("node:path");
  const util = require("node:util");
  const vm = require("node:vm");
  const { Writable } = require("node:stream");
  const { createRequire } = require("node:module");
  const { pathToFileURL } = require("node:url");

  // Maximum number of unsent events before a run waits.
  const EVENTS_WAITING_MAX = 64;
  // Maximum number of failures between runs that are kept until the next run reports them.
  const LATE_MAX = 64;
  // Maximum number of causes of an error that are reported.
  const CAUSES_MAX = 8;
  // Pause before writing to a full pipe again, in milliseconds.
  const FULL_PAUSE_MS = 2;
  // Error of an interrupted evaluation.
  const TERMINATED = /Execution was terminated/;
  // Variable of the span that a run belongs to.
  const PARENT = "TRACEPARENT";
  // Code in braces, which is an object or a block.
  const BRACES = /^\s*\{.*\}\s*$/s;

  const { inspect } = util;
  const { isNativeError } = util.types;
  const { writeSync } = fs;
  const { load, wait } = Atomics;
  const { parse, stringify } = JSON;
  const { defineProperty, hasOwn, setPrototypeOf } = Object;
  const { from: bufferFrom } = Buffer;
  const { Script } = vm;
  const { env, nextTick } = process;
  const [ErrorClass, BigIntClass, soon] = [Error, BigInt, setImmediate];
  const post = uncurry(MessagePort.prototype.postMessage);
  // The inspector's internal connection: the public module serialises objects of this realm.
  const { Connection } = process.binding("inspector");

  const told = new Int32Array(new SharedArrayBuffer(8));
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const { port1: port, port2 } = new MessageChannel();
  new Worker(__filename, { workerData: { told, port: port2 }, transferList: [port2] });

  // The numbers of the last run that began, and of the last that ended.
  let begun = 0;
  let over = 0;
  // Number of events passed to the other thread, and of ORDER requests.
  let said = 0;
  let asked = 0;
  // The descriptor of the last write.
  let lastWritten = 0;
  // Failures between runs.
  let late = [];

  // An object without a prototype, and so without getters or setters.
  const bare = (object) => setPrototypeOf(object, null);
  const define = (object, name, value) => {
    const property = { value, configurable: true, enumerable: true, writable: true };
    defineProperty(object, name, bare(property));
  };

  function send(event, of = begun) {
    post(port, { of, event });
    said = (said + 1) | 0;
    awaitTold(0, said, EVENTS_WAITING_MAX);
  }

  // Waits until the other thread has counted to `count`, minus the allowed backlog.
  function awaitTold(which, count, open) {
    for (;;) {
      const known = load(told, which);
      if (((count - known) | 0) <= open) return;
      wait(told, which, known);
    }
  }

  // Writes everything before it returns, unlike Node's streams, which buffer the rest. The agent
  // reads the pipes separately, so data in one is read before the other is written to.
  function write(fd, data) {
    if (lastWritten !== fd) {
      if (lastWritten !== 0) {
        post(port, { order: true });
        asked = (asked + 1) | 0;
        awaitTold(1, asked, 0);
      }
      lastWritten = fd;
    }
    for (let at = 0, end = data.byteLength; at < end; ) {
      try {
        at += writeSync(fd, data, at, end - at);
      } catch (error) {
        if (error.code !== "EAGAIN") throw error;
        wait(pause, 0, 0, FULL_PAUSE_MS);
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
      write(this.fd, typeof chunk === "string" ? bufferFrom(chunk, coding) : chunk);
      const callback = typeof encoding === "function" ? encoding : done;
      if (callback) nextTick(callback);
      return true;
    }
  }
  for (const [name, fd] of [["stdout", 1], ["stderr", 2]]) {
    const value = new Output(fd);
    Object.defineProperty(process, name, { value, configurable: true, enumerable: true });
  }

  function forms(value) {
    return { "text/plain": cut(inspect(value)) };
  }

  // Displays a value, or the given `forms` by MIME type.
  globalThis.display = (value, shown) => {
    send({ event: "display", data: shown ? { ...forms(value), ...shown } : forms(value) });
  };
  globalThis.require = createRequire(`${process.cwd()}/`);
  // Replaces import(), which evaluated code does not have.
  globalThis.importModule = (name) => {
    const file = /^[./]/.test(name) ? path.resolve(name) : null;
    return import(file ? pathToFileURL(file) : name);
  };
  globalThis.module = { exports: {} };
  globalThis.exports = globalThis.module.exports;
  // The last value, unless the code defines its own `_`.
  let latest;
  // The span in the environment that the code has not set.
  let given;
  Object.defineProperty(globalThis, "_", {
    configurable: true,
    get: () => latest,
    set: (value) => define(globalThis, "_", value),
  });

  // process.exit() ends only the run.
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

  // Returns a thrown value as an event. The value is untrusted: it may be a proxy or have getters.
  function failed(thrown, depth = 0) {
    let name = "Error";
    let value = "an error that cannot be shown";
    let stack;
    let cause;
    try {
      if (isNativeError(thrown) || thrown instanceof ErrorClass) {
        name = `${thrown.name}`;
        value = `${thrown.message}`;
        stack = thrown.stack;
        cause = hasOwn(thrown, "cause") ? thrown.cause : undefined;
      } else {
        name = typeof thrown;
        value = inspect(thrown);
      }
    } catch {
      // Reports what is known so far.
    }
    let traceback = typeof stack === "string" ? trimmed(stack) : `${name}: ${value}`;
    if (cause !== undefined && depth < CAUSES_MAX) {
      traceback += `\n[cause]: ${failed(cause, depth + 1).traceback}`;
    }
    if (hasCode(thrown, "ERR_VM_DYNAMIC_IMPORT_CALLBACK_MISSING")) {
      traceback += "\nhint: use require(), or await importModule(name)";
    }
    return { event: "error", name: cut(name), value: cut(value), traceback: cut(traceback) };
  }

  function hasCode(thrown, code) {
    try {
      return thrown?.code === code;
    } catch {
      return false;
    }
  }

  // Reports uncaught errors on standard error; between runs, with the next run.
  function tell(thrown) {
    const { traceback } = failed(thrown);
    if (over < begun) write(2, bufferFrom(`Uncaught ${traceback}\n`));
    else if (late.length < LATE_MAX) define(late, late.length, traceback);
  }

  // --- The inspector, with messages built from strings only.

  const answers = bare({});
  let questions = 0;
  const connection = new Connection((message) => {
    const answer = bare(parse(message));
    const hear = answers[answer.id];
    delete answers[answer.id];
    hear?.(answer.error && bare(answer.error), answer.result && bare(answer.result));
  });
  const dispatch = connection.dispatch.bind(connection);

  function ask(method, parameters, hear) {
    questions += 1;
    if (hear) answers[questions] = hear;
    dispatch(`{"id":${questions},"method":"Runtime.${method}","params":{${parameters}}}`);
  }

  // Evaluation passes values through this function that the inspector knows only by number.
  let taken;
  let take;
  globalThis.take = (value) => void (taken = value);
  ask("evaluate", '"expression":"take"', (_, { result }) => {
    take = result.objectId;
  });
  delete globalThis.take;

  // Returns the value for an inspector's description.
  function valueOf(remote) {
    bare(remote);
    if (remote.objectId !== undefined) {
      taken = undefined;
      ask(
        "callFunctionOn",
        `"objectId":${stringify(take)},"functionDeclaration":"function (it) { this(it) }",` +
          `"arguments":[{"objectId":${stringify(remote.objectId)}}]`,
      );
      return taken;
    }
    const special = remote.unserializableValue;
    if (special === undefined) return remote.subtype === "null" ? null : remote.value;
    return remote.type === "bigint" ? BigIntClass(slice(special, 0, -1)) : +special;
  }

  // The span that the run belongs to, in the environment. A variable that code has set stays.
  function enter(span) {
    const found = env[PARENT];
    if (found !== undefined && found !== given) return;
    given = span;
    if (span !== undefined) env[PARENT] = span;
    else delete env[PARENT];
  }

  function run(count, code) {
    begun = count;
    lastWritten = 0;
    const before = late;
    late = [];
    for (let at = 0; at < before.length; at += 1) write(2, bufferFrom(`Uncaught ${before[at]}\n`));
    const expression = `${asExpression(code)}\n//# sourceURL=run${count}`;
    const parameters = `"expression":${stringify(expression)},"replMode":true,"objectGroup":"run"`;
    ask("evaluate", parameters, (error, answer) => {
      // An interrupted evaluation may be answered much later.
      if (count <= over) return;
      const event = error && exec(TERMINATED, error.message) ? INTERRUPTED : outcome(error, answer);
      ask("releaseObjectGroup", '"objectGroup":"run"');
      // Failures of promises that are not awaited are reported first.
      soon(() => {
        if (count > over) end(count, event);
      });
    });
  }

  // Returns the result of an evaluation as an event; null for none.
  function outcome(error, answer) {
    try {
      if (error) {
        const { message } = error;
        return { event: "error", name: "EvaluationError", value: message, traceback: message };
      }
      if (answer.exceptionDetails) {
        const { exception, text } = bare(answer.exceptionDetails);
        throw exception ? valueOf(exception) : new ErrorClass(text);
      }
      const value = valueOf(answer.result);
      if (value === undefined) return null;
      const event = { event: "result", data: forms(value) };
      latest = value;
      return event;
    } catch (thrown) {
      return failed(thrown);
    }
  }

  const traceback = "interrupted";
  const INTERRUPTED = { event: "error", name: "KeyboardInterrupt", value: "", traceback };

  // Called again if it is interrupted before it has finished.
  function end(count, event) {
    if (event) send(event, count);
    send({ event: "done", execution_count: count }, count);
    over = count;
  }

  // Braces around the whole code are an object if possible, else a block.
  function asExpression(code) {
    if (exec(BRACES, code) === null) return code;
    try {
      new Script(`(${code}\n)`);
      return `(${code}\n)`;
    } catch {
      return code;
    }
  }

  port.on("message", ({ count, code, traceparent }) => {
    if (code !== undefined) {
      enter(traceparent);
      run(count, code);
    } else if (count > over) end(count, INTERRUPTED);
  });
  // Interrupts programs that the code started; the host handles the rest.
  process.on("SIGINT", () => {});
  // Errors after a run are reported, and do not end the process.
  process.on("uncaughtException", tell);
  process.on("unhandledRejection", tell);
}
