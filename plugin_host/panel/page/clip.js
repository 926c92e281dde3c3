/** The dialog of a clip that shows a prompt: choose a frame, click on what sounds in it or paint. */

import { clamp, clock } from './geometry.js';
import { Ahead, fetchBinary } from './store.js';

const VIDEO = /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|ogv)$/i;
const SAME_S = 1e-6;
// Times of a mask's frames are rounded otherwise than those of the clip.
const ROUNDED_US = 1000;
const POINT = 1.2;
const FETCH = 'A click will do where pip install "stembridge[masks]" and stembridge models fetch facebook/sam2.1-hiera-tiny were run.';
const HINTS = {
  click: 'Click on what makes the sound, and it is followed through the clip; with Alt or the right button click on what is not it.',
  brush: 'Paint over what makes the sound; with Alt or the right button erase. On another frame, paint where it is by then.',
};
const $ = (id) => document.getElementById(id);

export const isClip = (file) => file.type.startsWith('video/') || VIDEO.test(file.name);

/** The mask that holds at a time: the last one that was painted by then, or else the first. */
export const holding = (masks, at) => masks.findLast((mask) => mask.at_s <= at + SAME_S) ?? masks[0] ?? null;

/** Set or clear the pixels of a mask that lie within a brush's radius of a line. */
export function stroke(mask, { width, height }, [x0, y0], [x1, y1], radius, value) {
  const length = (x1 - x0) ** 2 + (y1 - y0) ** 2;
  const range = (a, b, most) => [Math.max(0, Math.floor(Math.min(a, b) - radius)), Math.min(most - 1, Math.ceil(Math.max(a, b) + radius))];
  const [left, right] = range(x0, x1, width);
  const [top, bottom] = range(y0, y1, height);
  for (let y = top; y <= bottom; y += 1) {
    for (let x = left; x <= right; x += 1) {
      const along = length ? clamp(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1) : 0;
      const dx = x - x0 - along * (x1 - x0);
      const dy = y - y0 - along * (y1 - y0);
      if (dx * dx + dy * dy <= radius * radius) mask[y * width + x] = value;
    }
  }
}

export class ClipDialog {
  #app;
  #canvas = $('clip-frame');
  #key = null;
  #clip = null;
  #name = '';
  #frame = null;
  #mask = null;
  #masks = new Map();
  #shown = '';
  #wanted = null;
  #loading = false;
  #painting = null;
  #cursor = [0, 0];
  #clicking = new Ahead();
  #clicked = [];

  constructor(scope, app) {
    this.#app = app;
    const canvas = this.#canvas;
    scope.listen($('clip-time'), 'input', () => this.#goTo(Number($('clip-time').value)));
    for (const id of ['clip-seen', 'clip-brush']) scope.listen($(id), 'input', () => this.#draw());
    scope.listen($('clip-by'), 'input', () => {
      this.show(this.#app.state);
      this.#draw();
    });
    scope.listen($('clip-cancel'), 'click', () => this.#app.act('follow', { id: this.#key, cancel: this.#followed?.state === 'runs' }));
    scope.listen($('clip-clear'), 'click', () => {
      if (this.#byClicks) {
        this.#setClicks([]);
        return;
      }
      this.#mask.fill(0);
      this.#save();
    });
    scope.listen($('clip-remove'), 'click', () => this.#app.edit({ do: 'remove-clip', id: this.#key }));
    scope.listen($('clip-dialog'), 'close', () => {
      this.#key = null;
    });
    scope.listen($('clip-file'), 'change', () => {
      const [file] = $('clip-file').files;
      $('clip-file').value = '';
      if (file) this.drop($('clip-file').dataset.key, file);
    });
    scope.listen($('clip-load'), 'click', () => $('clip-mask-file').click());
    scope.listen($('clip-mask-file'), 'change', () => {
      const [file] = $('clip-mask-file').files;
      $('clip-mask-file').value = '';
      if (file) this.#app.act(`mask-clip/${this.#key}/${encodeURIComponent(file.name)}`, file);
    });
    scope.listen(canvas, 'contextmenu', (event) => event.preventDefault());
    scope.listen(canvas, 'pointerdown', (event) => {
      if (!this.#frame || event.button === 1) return;
      const value = event.button === 2 || event.altKey || $('clip-erase').checked ? 0 : 1;
      this.#cursor = this.#at(event);
      if (this.#byClicks) {
        this.#click(value === 1);
        return;
      }
      canvas.setPointerCapture(event.pointerId);
      this.#painting = { value };
      this.#dab(this.#cursor);
    });
    scope.listen(canvas, 'pointermove', (event) => {
      const before = this.#cursor;
      this.#cursor = this.#at(event);
      if (this.#painting) this.#dab(before);
      else this.#draw();
    });
    for (const type of ['pointerup', 'pointercancel']) {
      scope.listen(canvas, type, () => {
        if (this.#painting) this.#save();
        this.#painting = null;
      });
    }
    scope.listen(canvas, 'keydown', (event) => this.#onKey(event));
    for (const type of ['focus', 'blur']) scope.listen(canvas, type, () => this.#draw());
  }

  /** Send a clip to be what shows a prompt, and open it. */
  async drop(key, file) {
    if (!this.#app.state.sees) {
      this.#app.fail(`The model ${this.#app.state.model} does not see videos. Mark spans instead, or open the panel with a bundle that has a vision encoder (--model).`);
      return;
    }
    if (!this.#app.state.prompts.some((row) => row.id === key)) {
      this.#app.tell('Add a prompt first, then drop the clip on its lane.');
      return;
    }
    this.#app.tell(`Reading ${file.name}`);
    if (await this.#app.act(`clip/${key}/${encodeURIComponent(file.name)}`, file)) {
      this.#key = key;
      this.show(this.#app.state);
    }
  }

  /** Open the clip of a prompt, or ask for a file where it has none. */
  open(row) {
    if (!row.shown) {
      $('clip-file').dataset.key = row.id;
      $('clip-file').click();
      return;
    }
    this.#key = row.id;
    this.show(this.#app.state);
  }

  /** Take what the server says; nothing happens while no clip is looked at. */
  show(state) {
    if (this.#key === null) return;
    const dialog = $('clip-dialog');
    const row = state.prompts.find(({ id }) => id === this.#key);
    if (!row?.shown) {
      // What was dropped just now comes with one of the next states.
      if (dialog.open) dialog.close();
      return;
    }
    const clip = state.clips[row.shown.clip];
    if (row.shown.clip !== this.#name) {
      this.#name = row.shown.clip;
      this.#clip = clip;
      this.#frame = null;
      this.#shown = '';
      Object.assign(this.#canvas, { width: clip.width, height: clip.height });
      this.#canvas.style.width = `min(100%, ${52 * (clip.width / clip.height)}vh)`;
      this.#cursor = [clip.width / 2, clip.height / 2];
      const first = row.shown.masks[0]?.at_s ?? 0;
      Object.assign($('clip-time'), { max: clip.duration_s, step: Math.max(0.04, clip.duration_s / 1000), value: first });
      this.#goTo(first);
    }
    if (!dialog.open) dialog.showModal();
    $('clip-title').textContent = `${clip.name} shows ${row.stem}`;
    this.#showTools(state.follows);
    const { masks, mask_clip: moving, clicks } = row.shown;
    const followed = this.#followed;
    const file = followed?.mask ? 'mask.mp4' : masks.length ? 'mask.mkv' : null;
    $('clip-mask').toggleAttribute('inert', !file);
    if (file) Object.assign($('clip-mask'), { href: `mask/${row.id}/${file}`, download: file });
    else $('clip-mask').removeAttribute('href');
    const told = masks.map(({ at_s: at }) => clock(at, 2)).join(', ');
    if (clicks.length) $('clip-masks').textContent = tellFollowed(clicks.length, followed);
    else $('clip-masks').textContent = moving ? 'A video masks it; what is marked here takes its place.' : masks.length ? `Painted at ${told}; a mask holds until the next one.` : 'Nothing is marked yet: the model is told that no part of the picture sounds.';
    const open = followed && followed.state !== 'done';
    $('clip-following').hidden = !open;
    if (open) {
      const runs = followed.state === 'runs';
      $('clip-cancel').textContent = runs ? 'Cancel' : 'Follow again';
      $('clip-progress').hidden = !runs;
      Object.assign($('clip-progress'), { max: Math.max(1, followed.total), value: followed.done });
    }
    const shown = JSON.stringify([row.shown, followed?.mask]);
    if (shown !== this.#shown && !this.#painting) {
      this.#shown = shown;
      this.#takeMask(row.shown);
    }
  }

  get #byClicks() {
    return this.#app.state.follows && $('clip-by').value === 'click';
  }

  get #followed() {
    return this.#app.state.followed[this.#key];
  }

  #showTools(follows) {
    const by = this.#byClicks ? 'click' : 'brush';
    $('clip-tool').hidden = !follows;
    $('clip-size').hidden = by === 'click';
    $('clip-not').textContent = by === 'click' ? 'not it' : 'erase';
    $('clip-clear').textContent = by === 'click' ? 'Remove the clicks' : 'Clear this frame';
    $('clip-hint').textContent = follows ? HINTS[by] : `${HINTS.brush} ${FETCH}`;
  }

  #click(on) {
    const { width, height, pixels } = this.#clip;
    const [x, y] = [width, height].map((size, axis) => clamp(Math.round((this.#cursor[axis] * pixels[axis] * 10) / size) / 10, 0, pixels[axis] - 1));
    this.#setClicks([...this.#nowClicked, { x, y, at_s: this.#frame.at, on }]);
  }

  /** The clicks, also those that the server has not told of yet. */
  get #nowClicked() {
    if (this.#clicking.isAheadOf(this.#app.state)) return this.#clicked;
    return this.#app.state.prompts.find(({ id }) => id === this.#key)?.shown?.clicks ?? [];
  }

  #setClicks(clicks) {
    this.#clicked = clicks;
    const id = this.#key;
    this.#clicking.ask(() => this.#app.edit({ do: 'set-clicks', id, clicks }));
    this.#draw();
  }

  async #takeMask(shown) {
    if (!this.#frame || !shown) return;
    const held = holding(shown.masks, this.#frame.at);
    const kept = this.#shown;
    const video = shown.mask_clip ?? this.#followed?.mask;
    let moving = null;
    if (video) {
      const bytes = await fetchBinary(`clip/${video}/frame?at=${this.#frame.name + ROUNDED_US}`);
      moving = new Uint8Array(bytes, 8).filter((_, at) => at % 3 === 0).map((value) => Number(value > 127));
    } else if (held && !this.#masks.has(held.sha256)) {
      this.#masks.set(held.sha256, new Uint8Array(await fetchBinary(`mask/${held.sha256}`)));
    }
    if (this.#painting || kept !== this.#shown) return;
    const { width, height } = this.#clip;
    if (moving) this.#mask = moving;
    else this.#mask = held ? this.#masks.get(held.sha256).slice() : new Uint8Array(width * height);
    this.#draw();
  }

  async #goTo(seconds) {
    this.#wanted = seconds;
    if (this.#loading) return;
    this.#loading = true;
    try {
      while (this.#wanted !== null) {
        const at = Math.round(this.#wanted * 1e6);
        this.#wanted = null;
        const name = this.#name;
        const bytes = await fetchBinary(`clip/${name}/frame?at=${at}`);
        if (name !== this.#name) continue;
        const begun = Number(new DataView(bytes).getBigInt64(0, true));
        this.#frame = { at: begun / 1e6, name: begun, pixels: new Uint8Array(bytes, 8) };
        $('clip-at').textContent = clock(this.#frame.at, 2);
        const row = this.#app.state.prompts.find(({ id }) => id === this.#key);
        await this.#takeMask(row?.shown);
      }
    } catch (error) {
      this.#app.fail(error.message);
    }
    this.#loading = false;
  }

  async #save() {
    this.#draw();
    const { name } = this.#frame;
    await this.#app.act(`mask/${this.#key}?at=${name}`, new Blob([this.#mask]));
    // Undone at once, the server's next state may be one that was shown before this stroke.
    this.#shown = '';
  }

  #at(event) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    return [((event.clientX - left) / width) * this.#clip.width, ((event.clientY - top) / height) * this.#clip.height];
  }

  /** In pixels of the frame; the brush is told in percent of its width. */
  get #radius() {
    return ((this.#byClicks ? POINT : Number($('clip-brush').value)) / 200) * this.#clip.width;
  }

  #dab(from) {
    stroke(this.#mask, this.#clip, from, this.#cursor, this.#radius, this.#painting.value);
    this.#draw();
  }

  #onKey(event) {
    const by = event.shiftKey ? 1 : Math.max(2, this.#radius);
    const [dx, dy] = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key] ?? [0, 0];
    const { width, height } = this.#clip;
    if (dx || dy) {
      this.#cursor = [clamp(this.#cursor[0] + dx, 0, width - 1), clamp(this.#cursor[1] + dy, 0, height - 1)];
      this.#draw();
    } else if (['Enter', ' ', 'Delete', 'Backspace'].includes(event.key) && this.#frame) {
      const clears = event.key.length > 5 || $('clip-erase').checked;
      event.preventDefault();
      if (this.#byClicks) {
        this.#click(!clears);
        return;
      }
      this.#painting = { value: clears ? 0 : 1 };
      this.#dab(this.#cursor);
      this.#save();
      this.#painting = null;
    } else return;
    event.preventDefault();
  }

  #draw() {
    if (!this.#frame || !this.#mask) return;
    const { width, height } = this.#clip;
    const context = this.#canvas.getContext('2d');
    const image = context.createImageData(width, height);
    const [out, { pixels }, seen] = [image.data, this.#frame, $('clip-seen').checked];
    for (let at = 0; at < width * height; at += 1) {
      const masked = this.#mask[at];
      for (let channel = 0; channel < 3; channel += 1) {
        const value = pixels[3 * at + channel];
        const over = seen ? 0 : value * 0.4 + [88, 214, 141][channel] * 0.6;
        out[4 * at + channel] = masked ? over : value;
      }
      out[4 * at + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    context.lineWidth = Math.max(1, width / 400);
    for (const [colour, more] of [['#000', 0], ['#fff', context.lineWidth]]) {
      context.strokeStyle = colour;
      context.beginPath();
      context.arc(...this.#cursor, this.#radius + more, 0, 2 * Math.PI);
      context.stroke();
    }
    for (const { x, y, at_s: at, on } of this.#nowClicked) {
      if (Math.abs(at - this.#frame.at) > SAME_S) continue;
      const [wide, high] = this.#clip.pixels;
      context.font = `bold ${Math.max(8, width / 24)}px sans-serif`;
      Object.assign(context, { textAlign: 'center', textBaseline: 'middle', strokeStyle: '#000', fillStyle: on ? '#58d68d' : '#ff8a80' });
      context.strokeText(on ? '+' : '−', (x * width) / wide, (y * height) / high);
      context.fillText(on ? '+' : '−', (x * width) / wide, (y * height) / high);
    }
  }
}

function tellFollowed(clicks, followed) {
  const from = `${clicks} ${clicks === 1 ? 'click' : 'clicks'}`;
  if (followed?.state === 'done') return `Followed through the clip from ${from}. Look at other frames whether it is what you meant.`;
  if (followed?.state === 'failed') return `Not followed: ${followed.error}`;
  if (followed?.state === 'cancelled') return `Cancelled; there is no mask of ${from} yet.`;
  return followed?.done ? `Following it from ${from}: ${followed.done} of ${followed.total} frames` : `Following it from ${from}`;
}
