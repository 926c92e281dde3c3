/**
 * Sample-locked playback: the original and all stems of a take, in pieces that start at the same
 * frame. The context runs at the song's rate and pieces join at samples, so what goes out is, bit
 * for bit, what the server has, times the gains.
 */

import { nextPiece, positionAt, startOf } from './schedule.js';
import { fetchBinary } from './store.js';

const CHUNK_S = 4;
// A browser beside a busy DAW may not get its turn for a second or two.
const AHEAD_S = 3;
const LEAD_S = 0.06;
const RAMP_S = 0.008;
const MOST_BYTES = 256 * 2 ** 20;
const ORIGINAL = 'original/original?';

/** A stem's way to the mix: separate factors for left and right, and a meter. */
class Strip {
  constructor(context, mix) {
    this.input = new GainNode(context, { channelCount: 2, channelCountMode: 'explicit' });
    this.sides = [0, 1].map(() => new GainNode(context, { gain: 0 }));
    this.meter = new AnalyserNode(context, { fftSize: 2048 });
    const split = new ChannelSplitterNode(context, { numberOfOutputs: 2 });
    const join = new ChannelMergerNode(context, { numberOfInputs: 2 });
    this.input.connect(split);
    this.sides.forEach((side, channel) => {
      split.connect(side, channel);
      side.connect(join, 0, channel);
    });
    join.connect(this.meter);
    join.connect(mix);
    this.end = () => [this.input, split, ...this.sides, join, this.meter].forEach((node) => node.disconnect());
  }
}

export class Player extends EventTarget {
  /** How often what was to be played came too late. */
  gaps = 0;
  #song = null;
  #context = null;
  #take = null;
  #strips = new Map();
  #gains = {};
  #original = null;
  #heard = null;
  #mode = 'heard';
  #match = 1;
  #loop = null;
  #chunks = new Map();
  #nodes = new Set();
  #entries = [];
  #position = 0;
  #next = null;
  #frame = 0;
  #playing = false;

  constructor(scope) {
    super();
    scope.every(150, () => this.#fill());
    scope.add(() => this.#context?.close());
  }

  /** `{key, rate, samples, channels}` of what is open. */
  open(song) {
    const same = ['key', 'rate', 'samples', 'channels'].every((name) => song[name] === this.#song?.[name]);
    if (same) return;
    this.pause();
    this.#context?.close();
    this.#context = null;
    this.#take = null;
    this.#strips = new Map();
    this.#chunks = new Map();
    this.#loop = null;
    this.#song = song;
    this.#position = 0;
  }

  get playing() {
    return this.#playing;
  }

  get mode() {
    return this.#mode;
  }

  /** The position in samples, as it is heard now. */
  get position() {
    if (!this.#playing) return this.#position;
    const latency = this.#context.outputLatency || 0;
    const frame = (this.#context.currentTime - latency) * this.#song.rate;
    return positionAt(this.#entries, frame) ?? this.#position;
  }

  /** Which take to play, `{id, keys, edition}`, or null; playing goes on where it is. */
  setTake(take) {
    const name = (one) => (one ? `${one.id} ${one.edition} ${one.keys.join(' ')}` : '');
    if (name(take) === name(this.#take)) return;
    this.#take = take;
    if (this.#context) this.#buildStrips();
    if (this.#playing) this.#restart(this.position);
  }

  /** Factors by stem, `[left, right]`. */
  setGains(gains) {
    this.#gains = gains;
    for (const [key, strip] of this.#strips) {
      strip.sides.forEach((side, channel) => this.#move(side.gain, gains[key]?.[channel] ?? 0));
    }
  }

  /** Hear the mix (`"heard"`) or the `"original"`. */
  setMode(mode) {
    this.#mode = mode;
    this.#applyMode();
    this.dispatchEvent(new Event('change'));
  }

  /** The factor that makes the original as loud as the mix. */
  setMatch(gain) {
    this.#match = gain;
    this.#applyMode();
  }

  /** Play a stretch again and again, `{start, end}` in samples, or null. */
  setLoop(loop) {
    const same = loop?.start === this.#loop?.start && loop?.end === this.#loop?.end;
    if (same) return;
    this.#loop = loop;
    if (!this.#playing) return;
    const outside = loop && (this.position < loop.start || this.position >= loop.end);
    this.#restart(outside ? loop.start : this.position);
  }

  async play() {
    if (this.#playing || !this.#song) return;
    this.#build();
    this.#playing = true;
    this.dispatchEvent(new Event('change'));
    await this.#context.resume();
    const { start, end } = this.#loop ?? { start: 0, end: this.#song.samples };
    const outside = this.#position >= end || (this.#loop && this.#position < start);
    this.#restart(outside ? start : this.#position);
  }

  pause() {
    if (!this.#playing) return;
    this.#position = Math.round(this.position);
    this.#playing = false;
    this.#silence();
    this.dispatchEvent(new Event('change'));
  }

  seek(position) {
    this.#position = Math.min(Math.max(Math.round(position), 0), this.#song.samples - 1);
    if (this.#playing) this.#restart(this.#position);
    this.dispatchEvent(new Event('change'));
  }

  /** The peak of a stem, or of all (`null`), in what was played last; 0 to 1 and above. */
  level(key) {
    const meter = key === null ? this.#master?.meter : this.#strips.get(key)?.meter;
    if (!meter || !this.#playing) return 0;
    const samples = new Float32Array(meter.fftSize);
    meter.getFloatTimeDomainData(samples);
    return samples.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
  }

  /** For tests: the context and the node that everything goes through. */
  get output() {
    this.#build();
    return { context: this.#context, node: this.#master.node };
  }

  #master = null;

  #build() {
    if (this.#context) return;
    try {
      this.#context = new AudioContext({ sampleRate: this.#song.rate });
    } catch {
      // A rate that this browser has no output for: it resamples, and sound is not to the bit.
      this.#context = new AudioContext();
    }
    const node = new GainNode(this.#context);
    const meter = new AnalyserNode(this.#context, { fftSize: 2048 });
    node.connect(meter);
    node.connect(this.#context.destination);
    this.#master = { node, meter };
    this.#heard = new GainNode(this.#context);
    this.#original = new GainNode(this.#context, { gain: 0 });
    this.#heard.connect(node);
    this.#original.connect(node);
    this.#buildStrips();
    this.#applyMode();
  }

  #buildStrips() {
    for (const strip of this.#strips.values()) strip.end();
    this.#strips = new Map();
    for (const key of this.#take?.keys ?? []) {
      const strip = new Strip(this.#context, this.#heard);
      strip.sides.forEach((side, channel) => {
        side.gain.value = this.#gains[key]?.[channel] ?? 0;
      });
      this.#strips.set(key, strip);
    }
  }

  #applyMode() {
    if (!this.#context) return;
    const original = this.#mode === 'original' || !this.#take;
    this.#move(this.#heard.gain, original ? 0 : 1);
    this.#move(this.#original.gain, original ? (this.#take ? this.#match : 1) : 0);
  }

  /** Go to a gain without a click, and arrive exactly. */
  #move(parameter, value) {
    const now = this.#context.currentTime;
    if (!this.#playing || parameter.value === value) {
      parameter.cancelScheduledValues(now);
      parameter.value = value;
      return;
    }
    parameter.cancelScheduledValues(now);
    parameter.setValueAtTime(parameter.value, now);
    parameter.linearRampToValueAtTime(value, now + RAMP_S);
  }

  #restart(position) {
    this.#silence();
    this.#position = Math.round(position);
    this.#next = this.#position;
    this.#frame = this.#soon();
    this.#applyMode();
    this.#fill();
  }

  #silence() {
    for (const node of this.#nodes) node.stop();
    this.#nodes.clear();
    this.#entries = [];
  }

  #soon() {
    return Math.ceil((this.#context.currentTime + LEAD_S) * this.#song.rate);
  }

  #fill() {
    if (!this.#playing || this.#context.state !== 'running') return;
    const { rate, samples } = this.#song;
    const now = this.#context.currentTime * rate;
    // The last one stays, to tell a late piece from a first one.
    const last = this.#entries.at(-1);
    this.#entries = this.#entries.filter((one) => one === last || one.frame + one.length > now - rate);
    if (this.#next === null) {
      if (now > this.#frame) this.#finish();
      return;
    }
    while (this.#next !== null && this.#frame < now + AHEAD_S * rate) {
      const chunk = CHUNK_S * rate;
      const piece = nextPiece(this.#next, { chunk, samples, loop: this.#loop });
      if (piece === null) {
        this.#next = null;
        return;
      }
      const paths = [ORIGINAL, ...[...this.#strips.keys()].map((key) => this.#path(key))];
      const loaded = paths.map((path) => this.#chunk(path, piece.index));
      if (loaded.some((one) => one === null)) return;
      const buffers = loaded.map((channels) => this.#buffer(channels, piece));
      const targets = [this.#original, ...[...this.#strips.values()].map((strip) => strip.input)];
      this.#startTogether(buffers, targets);
      this.#entries.push({ frame: this.#frame, position: this.#next, length: piece.length });
      this.#frame += piece.length;
      this.#next = piece.next;
    }
    // So that the next chunk is there when its time comes.
    if (this.#next !== null) this.#prefetch(this.#next);
  }

  #prefetch(position) {
    const index = Math.floor(position / (CHUNK_S * this.#song.rate));
    this.#chunk(ORIGINAL, index);
    for (const key of this.#strips.keys()) this.#chunk(this.#path(key), index);
  }

  /** Where a stem is fetched from; a draft and what comes after it are told apart. */
  #path(key) {
    return `${this.#take.id}/${key}?edition=${this.#take.edition}&`;
  }

  #finish() {
    this.#position = this.#loop ? this.#loop.start : 0;
    this.#playing = false;
    this.#silence();
    this.dispatchEvent(new Event('change'));
  }

  #buffer(channels, { from, length }) {
    const buffer = new AudioBuffer({
      numberOfChannels: channels.length,
      length,
      sampleRate: this.#song.rate,
    });
    channels.forEach((samples, channel) => {
      buffer.copyToChannel(samples.subarray(from, from + length), channel);
    });
    return buffer;
  }

  /**
   * Start buffers at one frame: the next one, or the first that all of them can be in time for. What
   * is started too late begins at once, each by itself, so it is taken back and tried again.
   */
  #startTogether(buffers, targets) {
    const { rate } = this.#song;
    const context = this.#context;
    for (let lead = this.#entries.length ? LEAD_S / 3 : LEAD_S; ; lead *= 2) {
      const now = context.currentTime;
      const begun = performance.now();
      const soonest = Math.ceil((now + lead) * rate);
      if (soonest > this.#frame) {
        this.#frame = soonest;
        if (this.#entries.length) this.gaps += 1;
      }
      const when = startOf(this.#frame, rate);
      const nodes = buffers.map((buffer, index) => {
        const node = new AudioBufferSourceNode(context, { buffer });
        node.connect(targets[index]);
        node.start(when);
        return node;
      });
      const spent = (performance.now() - begun) / 1000;
      if (spent < (when - now) / 2 && context.currentTime < when) {
        for (const node of nodes) {
          this.#nodes.add(node);
          node.addEventListener('ended', () => {
            node.disconnect();
            this.#nodes.delete(node);
          });
        }
        return;
      }
      for (const node of nodes) {
        node.stop();
        node.disconnect();
      }
    }
  }

  /** The samples of a chunk by channel, or null while they are on their way. */
  #chunk(path, index) {
    const key = `${path}:${index}`;
    const kept = this.#chunks.get(key);
    if (kept !== undefined) {
      this.#chunks.delete(key);
      this.#chunks.set(key, kept);
      return kept.channels;
    }
    const { rate, samples, channels } = this.#song;
    const start = index * CHUNK_S * rate;
    if (start >= samples) return null;
    const length = Math.min(CHUNK_S * rate, samples - start);
    const entry = { channels: null };
    this.#chunks.set(key, entry);
    const most = Math.max(24, Math.floor(MOST_BYTES / (4 * channels * CHUNK_S * rate)));
    while (this.#chunks.size > most) this.#chunks.delete(this.#chunks.keys().next().value);
    fetchBinary(`audio/${path}start=${start}&samples=${length}`).then(
      (bytes) => {
        const all = new Float32Array(bytes);
        entry.channels = Array.from({ length: channels }, (_, channel) =>
          all.subarray(channel * length, (channel + 1) * length),
        );
        this.#fill();
      },
      () => this.#chunks.delete(key),
    );
    return null;
  }
}
