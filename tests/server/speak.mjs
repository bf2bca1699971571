// Speaks to a scripted server through the JavaScript client and prints each event as a line of JSON.
// Arguments: the servers as JSON, how many samples, options as JSON (with `configure`: values to ask for at first).
import { openStream } from "../../clients/javascript/trio-stt-client.mjs";

const PIECE = 40;
const [servers, count, { configure, finalize, pauseMs = 2, piece = PIECE, tokens, ...options }] = process.argv
  .slice(2)
  .map((each) => JSON.parse(each));
if (tokens) {
  let issued = 0;
  options.token = async () => `bearer-${++issued}`;
}
const request = { client_id: "anna", session_id: "call-1", language: "en", encoding: "mulaw", sample_rate: 8000 };
const stream = openStream(servers, request, options);

async function speak() {
  if (configure) stream.configure(configure);
  for (let start = 0; start < count; start += piece) {
    const samples = Uint8Array.from({ length: Math.min(piece, count - start) }, (_, offset) => (start + offset) % 251);
    await stream.send(samples);
    if (pauseMs) await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  if (finalize) stream.finalize(finalize);
  stream.end();
}

const speaking = speak().catch((error) => {
  if (!stream.ended) throw error;
});
for await (const event of stream) console.log(JSON.stringify(event));
await speaking;
process.exit(0);
