// Runs a page's script as a browser would, with a recording for a microphone:
// node browser_stand_in.mjs SCRIPT RAW_FILE RATE. Clicks the page's button, talks, clicks again, and
// when the page has closed its WebSocket prints what its list and then its button say.
//
// Only a context of the microphone's own rate takes a microphone here, as in Firefox.

import { resolveObjectURL } from "node:buffer";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [script, recording, rate] = process.argv.slice(2);
const BLOCK = 128; // samples, as in every browser

class Element {
  textContent = "";
  disabled = false;
}

const button = new Element();
const items = [];
const list = Object.assign(new Element(), { append: (item) => items.push(item) });
globalThis.document = {
  querySelector: (name) => (name === "button" ? button : list),
  getElementById: (id) => (id ? items.find((item) => item.id === id) : undefined),
  createElement: () =>
    Object.assign(new Element(), {
      after(item) {
        items.splice(items.indexOf(this) + 1, 0, item);
      },
    }),
};
const token = process.env.ACCESS_TOKEN;
globalThis.location = { hash: `#client=ann${token ? `&token=${token}` : ""}` };

let stopped = false;
const microphone = { getTracks: () => [{ stop: () => (stopped = true) }] };
Object.defineProperty(globalThis.navigator, "mediaDevices", { value: { getUserMedia: async () => microphone } });

let processor = null; // of the audio thread
let playing = false;

globalThis.AudioContext = class {
  constructor({ sampleRate = Number(rate) } = {}) {
    this.sampleRate = sampleRate;
    this.destination = "loudspeaker";
  }
  createMediaStreamSource(stream) {
    if (stream !== microphone) throw new TypeError("no microphone");
    if (this.sampleRate !== Number(rate)) throw new DOMException("another rate", "NotSupportedError");
    return { connect: (node) => node };
  }
  audioWorklet = {
    addModule: async (url) => {
      const code = await resolveObjectURL(url).text();
      class AudioWorkletProcessor {
        port = { postMessage: (data) => setImmediate(() => this.port.deliver({ data })), deliver() {} };
      }
      const register = (_name, Processor) => (processor = new Processor());
      new Function("registerProcessor", "AudioWorkletProcessor", "sampleRate", code)(
        register,
        AudioWorkletProcessor,
        this.sampleRate,
      );
    },
  };
  close() {}
};
globalThis.AudioWorkletNode = class {
  port = {
    set onmessage(handler) {
      processor.port.deliver = handler ?? (() => {});
    },
  };
  connect(destination) {
    playing = destination === "loudspeaker";
  }
};

async function until(condition) {
  while (!condition()) await sleep(10);
}

await import(pathToFileURL(script));
button.onclick();
await until(() => playing);
const samples = readFileSync(recording);
for (let at = 0; at + 2 * BLOCK <= samples.length; at += 2 * BLOCK) {
  const block = new Float32Array(BLOCK).map((_, index) => samples.readInt16LE(at + 2 * index) / 32768);
  if (!processor.process([[block]], [[new Float32Array(BLOCK)]])) throw new Error("the processor wants no more");
  if (at % (200 * BLOCK) === 0) await sleep(10);
}
await sleep(50);
button.onclick();
await until(() => stopped && !button.disabled);
for (const { textContent } of [...items, button]) console.log(textContent);
process.exit(0);
