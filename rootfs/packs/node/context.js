// A context: a JavaScript engine that keeps its variables between runs.
//
//     {"call":"run","code":…} ─▶ started ─▶ (display | output)* ─▶ result? or error ─▶ done
//
// One line of JSON each, on descriptor 3. SIGINT is heeded between `started` and `done`. Code is
// evaluated as the console of a browser does it: `const` may be declared anew, `await` needs no
// function.
"use strict";

const fs = require("node:fs");
const inspector = require("node:inspector");
const net = require("node:net");
const path = require("node:path");
const util = require("node:util");
const vm = require("node:vm");
const { Writable } = require("node:stream");
const { createRequire } = require("node:module");
const { pathToFileURL } = require("node:url");

const CHANNEL_FD = 3;
// Longest text of a value, and of an error, in characters.
const TEXT_MAX = 1 << 20;
// Pause before a full pipe is written to again, in milliseconds.
const FULL_PAUSE_MS = 2;
// A frame of a stack, and one of code that was run here.
const FRAME = /^\s+at /;
const FRAME_OF_CODE = /^\s+at .*\brun\d+:\d+:\d+\)?$/;

const channel = new net.Socket({ fd: CHANNEL_FD, readable: true, writable: true });
const session = new inspector.Session();
session.connect();

let count = 0;
// What ends the run that is under way, from without.
let interrupt = null;
// What evaluation hands over: the inspector knows values by number only.
let taken;
const TAKE = Symbol.for("emberd.take");
Object.defineProperty(globalThis, TAKE, { value: (value) => void (taken = value) });

// Writes all of it before it returns. It keeps nothing in mind that an interrupt, which may end
// any function anywhere, could leave half done, as the streams of Node do.
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

function send(event) {
  write(CHANNEL_FD, Buffer.from(`${JSON.stringify(event)}\n`));
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
  const interrupted = error?.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED";
  if (interrupted) {
    const traceback = "interrupted";
    return { event: "error", name: "KeyboardInterrupt", value: "", traceback };
  }
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

function post(method, parameters) {
  return new Promise((resolve, reject) => {
    session.post(method, parameters, (error, answer) => {
      if (error) reject(Object.assign(new Error(error.message), { name: "EvaluationError" }));
      else resolve(answer);
    });
  });
}

// The value behind what the inspector says of it.
function take({ objectId, value, unserializableValue }) {
  const argument = objectId ? { objectId } : unserializableValue ? { unserializableValue } : { value };
  taken = undefined;
  session.post("Runtime.callFunctionOn", {
    functionDeclaration: 'function (value) { this[Symbol.for("emberd.take")](value) }',
    executionContextId,
    arguments: [argument],
  });
  return taken;
}

let executionContextId;
session.on("Runtime.executionContextCreated", ({ params }) => {
  executionContextId ??= params.context.id;
});
session.post("Runtime.enable");

// Begins to evaluate; an endless loop can be interrupted, for it happens inside a script of vm.
const evaluate = new vm.Script("begin()", { filename: "node:context" });

async function run(code) {
  count += 1;
  // An interrupt of the run before, or of none, that is on its way here comes first.
  for (let turn = 0; turn < 2; turn += 1) await new Promise(setImmediate);
  const stopped = new Promise((_, reject) => {
    interrupt = () => {
      reject(Object.assign(new Error(), { code: "ERR_SCRIPT_EXECUTION_INTERRUPTED" }));
    };
  });
  stopped.catch(() => {});
  try {
    let answer;
    globalThis.begin = () => {
      // Here, where an interrupt already counts. One at the very end of this may go amiss.
      send({ event: "started", execution_count: count, insist: true });
      answer = post("Runtime.evaluate", {
        expression: `${asExpression(code)}\n//# sourceURL=run${count}`,
        replMode: true,
      });
      answer.catch(() => {});
    };
    try {
      evaluate.runInThisContext({ breakOnSigint: true });
    } finally {
      delete globalThis.begin;
    }
    const { result, exceptionDetails } = await Promise.race([answer, stopped]);
    if (exceptionDetails) {
      const { exception, text } = exceptionDetails;
      throw exception ? take(exception) : new Error(text);
    }
    const value = take(result);
    if (value !== undefined) {
      globalThis._ = value;
      send({ event: "result", data: forms(value) });
    }
  } catch (error) {
    send(failed(error));
  }
  interrupt = null;
  send({ event: "done", execution_count: count });
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

process.on("SIGINT", () => interrupt?.());
// What goes wrong after its run is said, and is no reason to end.
process.on("uncaughtException", (error) => console.error(failed(error).traceback));
process.on("unhandledRejection", (error) => console.error(failed(error).traceback));

let waiting = Promise.resolve();
let received = "";
channel.setEncoding("utf8");
channel.on("data", (piece) => {
  received += piece;
  const lines = received.split("\n");
  received = lines.pop();
  for (const line of lines) {
    waiting = waiting.then(() => run(JSON.parse(line).code));
  }
});
// Whoever asked has left.
channel.on("end", () => process.reallyExit(0));
channel.on("error", () => process.reallyExit(0));
send({ event: "ready" });
