// Runs the JavaScript client with sockets, clock and dice that a simulation moves: one JSON command a line on stdin,
// answered by one line that tells what the client did.
import { createInterface } from "node:readline";
import { openStream } from "../../clients/javascript/trio-stt-client.mjs";

let time = 0;
let dice = 1;
let timers = new Map();
let sockets = [];
let done;
let stream;

globalThis.performance.now = () => time * 1000;
Math.random = () => (dice = (dice * 48271) % 2147483647) / 2147483647;
globalThis.setTimeout = (call, ms) => {
  const id = Symbol("timer");
  timers.set(id, { call, at: time + ms / 1000 });
  return id;
};
globalThis.clearTimeout = (id) => timers.delete(id);
globalThis.WebSocket = class {
  bufferedAmount = 0;
  constructor(url) {
    this.number = sockets.push(this);
    done.opened.push([this.number, url]);
  }
  send(message) {
    done.sent.push([this.number, typeof message === "string" ? message : Buffer.from(message).toString("base64")]);
  }
  close() {
    done.closed.push(this.number);
  }
};

const commands = {
  start({ seed, live, request }) {
    [time, dice, timers, sockets] = [0, seed, new Map(), []];
    const onEvent = (event) => done.events.push(event);
    stream = openStream("ws://model", request, { onEvent, live, roomSeconds: 100000 });
  },
  time({ now }) {
    time = now;
    for (const [id, timer] of [...timers]) {
      if (timer.at <= time && timers.delete(id)) timer.call();
    }
  },
  open: ({ number }) => sockets[number - 1].onopen?.(),
  close: ({ number, code }) => sockets[number - 1].onclose?.({ code, reason: "" }),
  message: ({ number, data }) => sockets[number - 1].onmessage?.({ data }),
  add: ({ samples }) => stream.send(Buffer.from(samples, "base64")),
  finalize: ({ id }) => stream.finalize(id),
  configure: ({ changes }) => stream.configure(changes),
  end: () => stream.end(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line);
  done = { opened: [], sent: [], closed: [], events: [] };
  await commands[command](rest);
  await new Promise((resolve) => setImmediate(resolve));
  process.stdout.write(`${JSON.stringify(done)}\n`);
}
