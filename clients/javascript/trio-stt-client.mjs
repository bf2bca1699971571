// A client of trio-stt for browsers, and for Node from version 22 on (both have WebSocket built in). No dependencies.
//
//   const stream = openStream("wss://captions.example.org", { client_id: "anna", session_id: "call-1" });
//   stream.send(int16Samples);                     // whenever there are some; never waits for the network
//   for await (const event of stream) { … }        // or openStream(…, { onEvent: (event) => … })
//   stream.end();                                  // last finals follow, then { type: "ended" }
//
// The stream survives its connections: what the server has not dealt with yet is held and sent again, to another
// instance if need be, and every final comes once and in order. docs/resume.md has the rules, docs/wire.md the messages.
//
// Events are the server's messages, and:
//   { type: "interrupted", why }                   no connection (any more); captions stall, samples are held
//   { type: "resumed", ready, stall_s, replayed_samples }
//   { type: "restarted", ready, stall_s, at_sample }   not resumable: a new stream, whose sample 0 is at_sample
//   { type: "lost", from_sample, to_sample }       these were dropped for want of room and will not be captioned
//   { type: "resume_unavailable", why }            this server resumes no streams
//   { type: "ended", reason, code?, message? }     the last one: finished, unauthorised, replaced, closed, unreachable,
//                                                  refused (by the browser itself), or left (by close())
// Positions count the samples given to send(), through all connections and streams.

const HEADER_BYTES = 12;
const FRAME_BYTES = 64 * 1024; // of samples; the server takes 256 KiB
const MOST_BUFFERED_BYTES = 256 * 1024; // in the WebSocket: what is beyond its reach is not sent twice after a loss
const BUFFER_POLL_S = 0.05; // WebSocket does not tell when it has sent what it buffered
const LEAST_ROOM_S = 120;
const SLACK = 1.25; // a live source may fill so many times its room before a slow connection is given up
const MISSED_HEARTBEATS = 3;
const STEADY_S = 5; // a connection that lasted so long was a good one
const FIRST_BACK_OFF_S = 0.1;
const FIRST_LIMIT_S = 1;
const LONGEST_WAIT_S = 10; // of back-off, and of a limit
const MOST_HISTORY = 200;
const REMEMBERED_CAPTIONS = 12288;
const JOINED_SLACK_S = 2; // between the clocks of two instances
const RESUMABLE_CLOSES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4008]);
const CONFIGURABLE = ["transcript", "translation", "language", "read_language", "target", "partials"];
const BYTES_PER_SAMPLE = { pcm_s16le: 2, mulaw: 1, alaw: 1 };

/**
 * Opens a stream; returns at once, and what comes of it is told by events.
 *
 * @param {string | string[]} servers  `wss://HOST` or `ws://HOST:PORT`, or several, which are tried in turn
 * @param {object} request  the parameters of docs/wire.md, by their names; framing and resume are seen to here
 * @param {object} [options]
 * @param {(event: object) => void} [options.onEvent]  is called with each event; without it, iterate the stream
 * @param {string | (() => string | Promise<string>)} [options.token]  the access token, or what gets one: it is called
 *   for each connection, since a browser does not tell why one was refused
 * @param {boolean} [options.live]  true: where there is no room the oldest samples give way; false: send() waits
 * @param {number} [options.roomSeconds]  how much is held at most; 120 or more
 * @param {number} [options.patienceSeconds]  how long there may be no server before the stream ends
 */
export function openStream(servers, request, options = {}) {
  return new ResumingStream([servers].flat(), request, options);
}

export class ResumingStream {
  #servers;
  #request;
  #options;
  #bytesPerSample;
  #roomSamples;
  #live;
  #held;
  #commands = []; // finalize, configure, eof: until they are answered
  #events = [];
  #listeners = []; // who waits for an event, or for room
  #taken = new Set(); // finals, by segment and language
  #doubts = []; // dropped samples of which nothing is known: [from, to]
  // Of the stream that goes on; all positions are the user's.
  #streamId = null;
  #firstSample = 0;
  #token = null;
  #acked = 0;
  #accepted = 0;
  #sent = 0;
  // Of its connections.
  #try = null; // whose upgrade is not answered yet
  #connection = null; // the one in use
  #tryAt;
  #stalledSince;
  #stallTold = false;
  #joinedAt = Infinity; // on the servers' clock
  #abandoned = 0; // tries without a ready: a late one may yet replace a later one
  #turn = 0;
  #tries = 0;
  #slowTries = 0;
  #resumeUnavailable = false;
  #ending = false;
  #ended = null;
  #timer = null;

  constructor(servers, request, options) {
    if (servers.length === 0) throw new RangeError("no server is given; expected one address at least");
    for (const server of servers) {
      if (!/^wss?:\/\/[^/?#]+/.test(server)) throw new RangeError(`${server} is no address; expected wss://HOST`);
    }
    const roomSeconds = options.roomSeconds ?? LEAST_ROOM_S;
    if (!(roomSeconds >= LEAST_ROOM_S)) throw new RangeError(`roomSeconds is ${roomSeconds}; expected 120 or more`);
    this.#servers = servers;
    this.#request = { ...request, framing: "seq" };
    this.#options = options;
    this.#bytesPerSample = BYTES_PER_SAMPLE[request.encoding ?? "pcm_s16le"];
    this.#roomSamples = Math.floor(roomSeconds * (request.sample_rate ?? 16000));
    this.#live = options.live ?? true;
    this.#held = new HeldSamples(this.#bytesPerSample);
    this.#tryAt = this.#stalledSince = now();
    this.#step();
  }

  // ── the user's side ──

  /** How many samples were given so far: the position of the next one. */
  get givenSamples() {
    return this.#held.newest;
  }

  /** Why the stream is over: its last event; null while it is not. */
  get ended() {
    return this.#ended;
  }

  /**
   * Takes samples: an Int16Array, or bytes in the request's encoding. With `live` they are taken at once and the
   * promise need not be awaited; else it waits while there is no room. Rejects once the stream is over or told to end.
   */
  async send(samples) {
    this.#mustGoOn();
    if (this.#request.speak === false) throw new Error("a stream that was opened with speak: false takes no samples");
    const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength).slice();
    if (bytes.length % this.#bytesPerSample) throw new RangeError(`${bytes.length} bytes are not whole samples`);
    for (let start = 0; start < bytes.length; start += FRAME_BYTES) {
      const piece = bytes.subarray(start, start + FRAME_BYTES);
      while (!this.#live && piece.length / this.#bytesPerSample > this.#room()) {
        await this.#happened();
        this.#mustGoOn();
      }
      this.#held.add(piece);
      this.#makeRoom();
    }
    this.#step();
  }

  /**
   * Asks for the finals of all given before, then an `ack` with `from_finalize` and this id: up to 128 characters, or a
   * whole number.
   */
  finalize(id) {
    const isGood = typeof id === "string" ? id.length <= 128 : id === undefined || Number.isSafeInteger(id);
    if (!isGood) throw new RangeError("an id of finalize is a string of up to 128 characters, or a whole number");
    this.#command({ type: "finalize", ...(id === undefined ? {} : { id }) });
  }

  /** Asks for new values, such as `{ target: ["de"] }`; `configured` or an `error` answers. */
  configure(changes) {
    this.#command({ ...changes, type: "configure" });
  }

  /** Says that no more audio comes: last finals follow, then `ended`. */
  end() {
    this.#command({ type: "eof" });
    this.#ending = true;
  }

  /** Leaves at once, without waiting for anything. */
  close() {
    if (!this.#ended) this.#end({ reason: "left" });
  }

  /** The events, one after the other, up to `ended`. */
  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#events.length) {
        const event = this.#events.shift();
        yield event;
        if (event.type === "ended") return;
      }
      if (this.#ended) return;
      await this.#happened();
    }
  }

  #command(message) {
    this.#mustGoOn();
    this.#commands.push({ message, at: this.#held.newest, sentOn: null });
    this.#step();
  }

  #mustGoOn() {
    if (this.#ended) throw new Error(`the stream is over: ${this.#ended.reason}`);
    if (this.#ending) throw new Error("the stream was told to end; nothing may follow");
  }

  #tell(event) {
    if (this.#options.onEvent) {
      queueMicrotask(() => this.#options.onEvent(event));
      return;
    }
    const last = this.#events.at(-1);
    if (last?.is_final === false && last.type === event.type && captionKey(last) === captionKey(event)) {
      this.#events.pop();
    }
    this.#events.push(event);
  }

  #happened() {
    return new Promise((resolve) => this.#listeners.push(resolve));
  }

  // ── time ──

  /** Does whatever is due now, sends what can be sent, and sees to it that this is called when more is due. */
  #step() {
    if (!this.#ended) {
      this.#giveUpWhatTakesTooLong(now());
      if (!this.#ended && !this.#try && this.#tryAt !== null && now() >= this.#tryAt) this.#connect();
      const isBuffered = this.#pump();
      const due = Math.min(this.#wakesAt(), isBuffered ? now() + BUFFER_POLL_S : Infinity);
      clearTimeout(this.#timer);
      if (!this.#ended && due < Infinity) {
        this.#timer = setTimeout(() => this.#step(), Math.max(0, (due - now()) * 1000));
      }
    }
    for (const resolve of this.#listeners.splice(0)) resolve();
  }

  #wakesAt() {
    const connection = this.#connection;
    return Math.min(
      this.#try ? this.#try.until : (this.#tryAt ?? Infinity),
      connection ? (connection.ready ? this.#silentAt(connection) : connection.until) : Infinity,
      this.#patienceUntil(),
    );
  }

  #silentAt(connection) {
    const heartbeat = connection.ready.heartbeat_ms / 1000;
    return heartbeat > 0 ? connection.heardAt + MISSED_HEARTBEATS * heartbeat : Infinity;
  }

  #patienceUntil() {
    const patience = this.#options.patienceSeconds;
    return patience === undefined || this.#stalledSince === null ? Infinity : this.#stalledSince + patience;
  }

  #giveUpWhatTakesTooLong(time) {
    if (this.#try && time >= this.#try.until) {
      const { server } = this.#try;
      hangUp(this.#try);
      this.#try = null;
      this.#abandon(server, time);
    }
    const connection = this.#connection;
    if (connection && !connection.ready && time >= connection.until) {
      hangUp(connection);
      this.#connection = null;
      this.#abandon(connection.server, time);
    } else if (connection?.ready && connection.cursor < this.#held.oldest) {
      this.#interrupt("too slow for a live source");
    } else if (connection?.ready && time >= this.#silentAt(connection)) {
      this.#interrupt("no heartbeat");
    }
    if (time >= this.#patienceUntil()) this.#end({ reason: "unreachable" });
  }

  // ── samples ──

  #settled() {
    return Math.max(this.#accepted, this.#acked);
  }

  /** The oldest sample that the connection will still want. */
  #pinned() {
    const connection = this.#connection;
    if (!connection) return Infinity;
    return connection.ready ? connection.cursor : connection.resumesFrom;
  }

  #room() {
    const droppable = Math.min(this.#accepted, this.#pinned());
    return this.#roomSamples - (this.#held.newest - Math.max(this.#held.oldest, droppable));
  }

  #makeRoom() {
    const keepFrom = this.#held.newest - this.#roomSamples;
    if (keepFrom <= this.#held.oldest) return;
    const hasSlack = this.#held.newest - this.#held.oldest <= SLACK * this.#roomSamples;
    if (!this.#live) this.#held.dropBefore(Math.min(keepFrom, this.#accepted, this.#pinned()));
    else this.#held.dropBefore(hasSlack ? Math.min(keepFrom, this.#pinned()) : keepFrom);
  }

  /** Sends what there is; returns whether the WebSocket must first get rid of what it has. */
  #pump() {
    const connection = this.#connection;
    if (!connection?.ready || connection.cursor < this.#held.oldest) return false;
    for (;;) {
      if (connection.socket.bufferedAmount > MOST_BUFFERED_BYTES) return true;
      const command = this.#commands.find((each) => each.sentOn !== connection);
      if (command && command.at <= connection.cursor) {
        command.sentOn = connection;
        connection.socket.send(JSON.stringify(command.message));
        continue;
      }
      const end = Math.min(
        command ? command.at : this.#held.newest,
        connection.cursor + FRAME_BYTES / this.#bytesPerSample,
      );
      if (end <= connection.cursor) return false;
      const samples = this.#held.between(connection.cursor, end);
      connection.socket.send(frameOf(connection.cursor - this.#firstSample, samples));
      connection.cursor = end;
      this.#sent = Math.max(this.#sent, end);
    }
  }

  // ── connecting ──

  #limit() {
    return Math.min(FIRST_LIMIT_S * 2 ** this.#slowTries, LONGEST_WAIT_S);
  }

  #tryAgain(time) {
    if (this.#try || this.#ended) return;
    const rounds = Math.floor(this.#tries / this.#servers.length); // in which all servers were tried in vain
    const at = time + Math.random() * Math.min(FIRST_BACK_OFF_S * 2 ** rounds, LONGEST_WAIT_S);
    this.#tries += 1;
    this.#tryAt = Math.min(at, this.#tryAt ?? Infinity);
  }

  #abandon(server, time) {
    this.#abandoned += 1;
    this.#slowTries = Math.min(this.#slowTries + 1, 16);
    this.#turn = server + 1;
    this.#tellStall("no answer in time");
    this.#tryAgain(time);
  }

  async #connect() {
    const server = this.#turn % this.#servers.length;
    const token = this.#request.speak === false ? null : this.#token;
    const attempt = { server, token, until: now() + this.#limit(), socket: null };
    this.#try = attempt;
    this.#tryAt = null;
    let bearer = this.#options.token;
    try {
      if (typeof bearer === "function") bearer = await bearer();
    } catch {
      if (this.#try === attempt) this.#failed(attempt);
      return;
    }
    if (this.#try !== attempt) return;
    let socket;
    try {
      socket = new WebSocket(this.#url(server, token), bearer ? ["bearer", bearer] : []);
    } catch (error) {
      this.#end({ reason: "refused", message: `${error}` }); // by the browser: a wrong address or token
      return;
    }
    socket.binaryType = "arraybuffer";
    attempt.socket = socket;
    socket.onopen = () => this.#opened(attempt);
    socket.onclose = (close) => this.#closed(attempt, close.code, close.reason);
    socket.onmessage = (message) => this.#received(attempt, message.data);
    socket.onerror = () => {}; // onclose follows
  }

  #url(server, token) {
    const query = new URLSearchParams();
    const again = this.#joinedAt < Infinity ? { history: MOST_HISTORY, ...(token ? { resume: true } : {}) } : {};
    for (const [name, value] of Object.entries({ ...this.#request, ...again })) query.set(name, String(value));
    return `${this.#servers[server].replace(/\/+$/, "")}/ws/vosk/?${query}`;
  }

  #opened(attempt) {
    if (this.#try !== attempt) return;
    this.#try = this.#tryAt = null;
    if (this.#connection) this.#loseConnection("moved to another instance");
    const resumesFrom = Math.max(this.#acked, this.#held.oldest);
    this.#connection = Object.assign(attempt, {
      until: now() + this.#limit(),
      rejoins: this.#joinedAt < Infinity,
      resumesFrom,
      heardAt: now(),
      ready: null,
      isAcked: false,
      failure: null,
      cursor: 0,
    });
    if (attempt.token) {
      this.#doubt(this.#settled(), resumesFrom);
      const message = {
        type: "resume",
        token: attempt.token,
        from_sample: resumesFrom - this.#firstSample,
        accepted: Math.max(0, this.#accepted - this.#firstSample),
      };
      attempt.socket.send(JSON.stringify(message));
    }
    this.#step();
  }

  #failed(attempt) {
    this.#try = null;
    this.#turn = attempt.server + 1;
    this.#tellStall("no server answers");
    this.#tryAgain(now());
    this.#step();
  }

  #closed(attempt, code, reason) {
    if (this.#try === attempt) {
      this.#failed(attempt);
      return;
    }
    const connection = this.#connection;
    if (connection !== attempt) return;
    if (code === 1000) {
      if (this.#commands.some((each) => each.message.type === "eof" && each.sentOn === connection)) {
        this.#acked = this.#held.newest; // the server heard all of it
      }
      this.#end({ reason: "finished", code, message: reason });
      return;
    }
    if (!connection.ready && code === 1006) this.#abandoned += 1; // what was sent on it may still arrive
    const failure = connection.failure;
    const told = { code, message: failure?.message ?? reason };
    this.#loseConnection(`closed with ${code} ${reason}`.trim());
    if (code === 4001 && this.#abandoned > 0) this.#abandoned -= 1;
    else if (code === 4001) this.#end({ reason: "replaced", ...told });
    else if (code === 1008 && failure?.code === "resume_refused") this.#token = null;
    else if (code === 1008 && failure?.code === "token_expired") {
      if (typeof this.#options.token !== "function") this.#end({ reason: "unauthorised", ...told });
    } else if (!RESUMABLE_CLOSES.has(code)) this.#end({ reason: "closed", ...told });
    this.#tryAgain(now());
    this.#step();
  }

  #interrupt(why) {
    this.#loseConnection(why);
    this.#tryAgain(now());
    this.#step();
  }

  #loseConnection(why) {
    const connection = this.#connection;
    this.#connection = null;
    hangUp(connection);
    this.#turn = connection.server + 1;
    if (this.#stalledSince === null) {
      this.#stalledSince = now();
      if (now() - connection.readyAt >= STEADY_S) this.#tries = 0;
    }
    this.#tellStall(why);
  }

  /** Says why there is no connection, once until there is one. */
  #tellStall(why) {
    if (this.#stalledSince === null || this.#stallTold) return;
    this.#stallTold = true;
    this.#tell({ type: "interrupted", why });
  }

  #end(ended) {
    this.#doubt(this.#settled(), this.#held.newest);
    this.#reportLosses();
    for (const each of [this.#try, this.#connection]) if (each) hangUp(each);
    this.#try = this.#connection = this.#tryAt = null;
    clearTimeout(this.#timer);
    this.#ended = { type: "ended", ...ended };
    this.#tell(this.#ended);
    this.#step();
  }

  // ── messages of the server ──

  #received(attempt, text) {
    const connection = this.#connection;
    if (connection !== attempt || this.#ended) return;
    connection.heardAt = now();
    try {
      this.#take(connection, JSON.parse(text));
    } catch (error) {
      this.#interrupt(`not the protocol: ${error.message}`); // a TypeError, too: a field of another type
      return;
    }
    this.#step();
  }

  #take(connection, message) {
    if (typeof message?.type !== "string") throw new Error("a message without a type");
    if (message.type === "error") return this.#takeError(connection, message);
    if (message.type === "ready") return this.#takeReady(connection, message);
    if (!connection.ready) throw new Error(`${message.type} before ready`);
    switch (message.type) {
      case "ack":
        return this.#takeAck(connection, message);
      case "transcripts":
        return message.stream_id === this.#streamId
          ? this.#takeOwn(connection, message)
          : this.#takeCaption(connection, message);
      case "translation":
        return this.#takeCaption(connection, message);
      case "configured":
        for (const name of CONFIGURABLE) if (name in message) this.#request[name] = message[name];
        this.#answered("configure");
        return this.#tell(message);
      case "goaway":
        if (this.#try) return undefined;
        this.#turn = connection.server + 1;
        this.#tryAt = now() + (Math.random() * message.deadline_ms) / 2000;
        return undefined;
      case "pong":
        return undefined;
      default:
        return this.#tell(message);
    }
  }

  #takeReady(connection, ready) {
    if (connection.ready) throw new Error("a second ready");
    if (!Number.isFinite(ready.timestamp)) throw new Error("ready without a timestamp");
    let start;
    if (connection.token) {
      start = this.#position(ready.from_sample);
      if (ready.stream_id !== this.#streamId || start < connection.resumesFrom || start > this.#held.newest) {
        throw new Error(`ready for ${ready.stream_id} from ${start}: not what was asked for`);
      }
      this.#token = ready.resume_token ?? this.#token;
    } else {
      start = Math.max(this.#settled(), this.#held.oldest);
      this.#doubt(this.#settled(), start);
      this.#held.dropBefore(start);
      this.#streamId = ready.stream_id;
      this.#token = ready.resume_token;
      this.#firstSample = this.#acked = this.#accepted = start;
    }
    Object.assign(connection, { ready, readyAt: now(), cursor: start });
    if (start < this.#held.oldest) return; // tried again from where the samples begin now
    const stall_s = now() - this.#stalledSince;
    this.#stalledSince = null;
    this.#stallTold = false;
    this.#slowTries = 0;
    if (this.#joinedAt === Infinity) this.#joinedAt = ready.timestamp;
    if (connection.token) {
      this.#tell({ type: "resumed", ready, stall_s, replayed_samples: this.#sent - start });
      return;
    }
    this.#tell(connection.rejoins ? { type: "restarted", ready, stall_s, at_sample: start } : ready);
    this.#reportLosses();
    if (!this.#token && this.#request.speak !== false && !this.#resumeUnavailable) {
      this.#resumeUnavailable = true;
      this.#tell({ type: "resume_unavailable", why: "the server gives no resume tokens" });
    }
  }

  #takeAck(connection, ack) {
    const sample = this.#position(ack.sample);
    if (sample > connection.cursor) throw new Error(`ack of sample ${sample}, before it was sent`);
    const hasMoved = sample > this.#acked;
    if (hasMoved) {
      this.#acked = sample;
      this.#held.dropBefore(sample);
      this.#tries = 0;
    }
    this.#token = ack.resume_token ?? this.#token;
    if (!connection.isAcked) {
      connection.isAcked = true;
      this.#reportLosses();
    }
    const answers = Boolean(ack.from_finalize) && this.#answered("finalize");
    if (answers) this.#tell({ ...ack, sample });
    else if (hasMoved) this.#tell({ type: "ack", timestamp: ack.timestamp, sample });
  }

  /** A caption of this stream: its final is taken if it begins where the last one ended, or later. */
  #takeOwn(connection, caption) {
    const start = this.#position(caption.start_sample);
    const end = this.#position(caption.end_sample);
    if (start > end || end > connection.cursor) throw new Error(`a caption of samples ${start} to ${end}`);
    if (caption.is_final) {
      this.#settle(Math.min(start, this.#position(caption.follows ?? caption.start_sample)), end);
    }
    if (start < this.#accepted || this.#taken.has(captionKey(caption))) return;
    if (caption.is_final) {
      this.#accepted = end;
      this.#tries = 0;
    }
    const { follows, ...told } = caption;
    this.#takeCaption(connection, moved(told, this.#firstSample, connection.ready.sample_rate));
  }

  #takeCaption(connection, caption) {
    const key = captionKey(caption);
    if (caption.history && connection.rejoins && caption.timestamp < this.#joinedAt - JOINED_SLACK_S) return;
    if (this.#taken.has(key)) return;
    if (caption.is_final) {
      this.#taken.add(key);
      if (this.#taken.size > REMEMBERED_CAPTIONS) this.#taken.delete(this.#taken.values().next().value);
    }
    this.#tell(caption);
  }

  #takeError(connection, error) {
    connection.failure = error;
    if (error.code === "bad_value" || error.code === "language_unavailable") {
      this.#answered("configure", error.parameter);
    }
    if (error.code !== "resume_refused") this.#tell(error);
  }

  /** Forgets the first message of this type that was sent on this connection (and names `parameter`). */
  #answered(type, parameter) {
    const place = this.#commands.findIndex(
      ({ message, sentOn }) =>
        message.type === type && sentOn === this.#connection && (parameter === undefined || parameter in message),
    );
    if (place >= 0) this.#commands.splice(place, 1);
    return place >= 0;
  }

  /** The user's position of one in the stream. */
  #position(sample) {
    if (!Number.isSafeInteger(sample) || sample < 0) throw new Error(`${sample} is no position`);
    return sample + this.#firstSample;
  }

  // ── doubts ──

  #doubt(start, end) {
    const from = Math.max(start, this.#doubts.at(-1)?.[1] ?? 0);
    if (from < end) this.#doubts.push([from, end]);
  }

  #settle(start, end) {
    const rest = ([first, last]) => [
      [first, Math.min(last, start)],
      [Math.max(first, end), last],
    ];
    this.#doubts = this.#doubts.flatMap(rest).filter(([first, last]) => first < last);
  }

  #reportLosses() {
    for (const [from_sample, to_sample] of this.#doubts.splice(0)) this.#tell({ type: "lost", from_sample, to_sample });
  }
}

/** Consecutive samples, the oldest of which may be dropped. */
class HeldSamples {
  #pieces = [];
  #bytesPerSample;
  oldest = 0;
  newest = 0;

  constructor(bytesPerSample) {
    this.#bytesPerSample = bytesPerSample;
  }

  add(bytes) {
    this.#pieces.push({ start: this.newest, bytes });
    this.newest += bytes.length / this.#bytesPerSample;
  }

  dropBefore(position) {
    this.oldest = Math.max(this.oldest, Math.min(position, this.newest));
    let gone = 0;
    while (gone < this.#pieces.length && this.#endOf(this.#pieces[gone]) <= this.oldest) gone += 1;
    this.#pieces.splice(0, gone);
  }

  between(start, end) {
    const samples = new Uint8Array((end - start) * this.#bytesPerSample);
    for (const piece of this.#pieces) {
      const from = Math.max(start, piece.start);
      const to = Math.min(end, this.#endOf(piece));
      if (from >= to) continue;
      const part = piece.bytes.subarray(this.#bytesOf(from - piece.start), this.#bytesOf(to - piece.start));
      samples.set(part, this.#bytesOf(from - start));
    }
    return samples;
  }

  #bytesOf(count) {
    return count * this.#bytesPerSample;
  }

  #endOf(piece) {
    return piece.start + piece.bytes.length / this.#bytesPerSample;
  }
}

function now() {
  return performance.now() / 1000;
}

function captionKey(caption) {
  return `${caption.segment_id} ${caption.language}`;
}

/** The caption at the user's positions. */
function moved(caption, samples, rate) {
  if (!samples) return caption;
  const seconds = samples / rate;
  return {
    ...caption,
    start: caption.start + seconds,
    end: caption.end + seconds,
    start_sample: caption.start_sample + samples,
    end_sample: caption.end_sample + samples,
    ...(caption.words
      ? { words: caption.words.map((word) => ({ ...word, start: word.start + seconds, end: word.end + seconds })) }
      : {}),
  };
}

function frameOf(position, samples) {
  const frame = new Uint8Array(HEADER_BYTES + samples.length);
  frame.set([0x53, 0x45, 0x51, 0x31]); // SEQ1
  new DataView(frame.buffer).setBigUint64(4, BigInt(position), true);
  frame.set(samples, HEADER_BYTES);
  return frame;
}

function hangUp({ socket }) {
  if (!socket) return;
  socket.onopen = socket.onclose = socket.onmessage = null;
  socket.close();
}
