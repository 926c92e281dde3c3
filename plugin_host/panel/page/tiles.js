/** Tiles of waveforms and spectrograms, fetched once and forgotten when many others were used. */

import { fetchBinary } from './store.js';

export const PEAKS = { kind: 'peaks', unit: 64, count: 1024, levels: 24 };
export const BANDS = { kind: 'bands', unit: 256, count: 256, levels: 24, height: 96 };

export class Tiles {
  #kept = new Map();
  #most;
  #arrived;

  /** `arrived` is called after every tile that has come; `most` tiles are kept. */
  constructor(arrived, most = 600) {
    this.#arrived = arrived;
    this.#most = most;
  }

  /** Forget all of them: another song is open. */
  clear() {
    this.#kept = new Map();
  }

  /** The content of a tile, or undefined while it is on its way. */
  get(form, sound, level, index) {
    const key = `${form.kind}/${sound.path}/${level}/${index}?v=${sound.version}`;
    const kept = this.#kept.get(key);
    if (kept !== undefined) {
      this.#kept.delete(key);
      this.#kept.set(key, kept);
      return kept.content;
    }
    const entry = { content: undefined };
    this.#kept.set(key, entry);
    if (this.#kept.size > this.#most) this.#kept.delete(this.#kept.keys().next().value);
    fetchBinary(key).then(
      (buffer) => {
        entry.content =
          form.kind === 'peaks'
            ? new Int16Array(buffer)
            : { bytes: new Uint8Array(buffer), pictures: new Map() };
        this.#arrived();
      },
      () => this.#kept.delete(key),
    );
    return undefined;
  }
}
