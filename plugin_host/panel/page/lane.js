/** A lane: the strip with words and mixer on the left, picture and spans on the right. */

import { drawSpectrogram, drawWaveform, prepare } from './draw.js';
import { clamp, clock, dragged, painted, pixelAt, secondsAt } from './geometry.js';
import { dress, icon } from './icons.js';
import { PLAIN, SILENT_DB } from './mixing.js';
import { Ahead } from './store.js';

const CLICK_PIXELS = 4;
const NUDGE_S = 0.1;
export const COLOURS = 8;
export const ORIGINAL = { path: 'original/original', version: 1, edition: 1 };

/** Make an element with properties, attributes (`aria-`, `data-`) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-')) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Follow the pointer from a press to its end; `begin` returns `{move, done, cancel}` or nothing. */
export function dragging(scope, element, begin) {
  scope.listen(element, 'pointerdown', (event) => {
    const steps = begin(event);
    if (!steps) return;
    event.preventDefault();
    element.setPointerCapture(event.pointerId);
    const drag = scope.child();
    drag.listen(element, 'pointermove', (moved) => steps.move(moved));
    drag.listen(element, 'pointerup', (last) => {
      drag.end();
      steps.done(last);
    });
    drag.listen(element, 'pointercancel', () => {
      drag.end();
      steps.cancel?.();
    });
  });
}

const xOf = (element, event) => event.clientX - element.getBoundingClientRect().left;

/** The selection of time by dragging on an element: a click seeks, Shift and a click extends. */
export function selecting(scope, element, app) {
  dragging(scope, element, (event) => {
    if (event.button !== 0) return null;
    const edge = event.target.closest('.edge');
    const at = secondsAt(app.view, xOf(element, event));
    const selection = app.state.selection;
    let anchor = at;
    if (edge && selection) anchor = selection[edge.classList.contains('start') ? 1 : 0];
    else if (event.shiftKey) anchor = selection?.[0] ?? app.seconds;
    let moved = Boolean(edge) || event.shiftKey;
    const range = (later) => {
      const seconds = clamp(secondsAt(app.view, xOf(element, later)), 0, app.song.duration);
      return [Math.min(anchor, seconds), Math.max(anchor, seconds)];
    };
    return {
      move(later) {
        moved ||= Math.abs(later.clientX - event.clientX) >= CLICK_PIXELS;
        if (moved) app.showSelection(range(later));
      },
      done(later) {
        if (moved) app.select(range(later));
        else app.seek(at);
      },
      cancel: () => app.showSelection(selection),
    };
  });
}

export class Lane {
  #app;
  #scope;
  #canvas = make('canvas', { 'aria-hidden': 'true' });
  #spans = make('div', { className: 'spans' });
  #selection = make('div', { className: 'selection' });
  #playhead = make('div', { className: 'playhead' });
  #note = make('span', { className: 'empty' });
  #meter = make('i');
  #parts = {};
  #row = null;
  #marking = new Ahead();
  #sound = null;
  #shown = '';

  /** `kind` is `"original"`, `"prompt"`, `"stem"` of a prompt that is gone, or `"residual"`. */
  constructor(scope, app, kind, key) {
    this.#app = app;
    this.#scope = scope;
    this.kind = kind;
    this.key = key;
    this.view = make('div', { className: 'view' }, this.#canvas, this.#spans, this.#selection, this.#playhead, this.#note);
    this.strip = make('div', { className: 'strip' });
    this.element = make('div', { className: `lane ${kind}`, role: 'group', 'data-key': key }, this.strip, this.view);
    if (kind === 'original') {
      this.strip.append(make('div', { className: 'row' }, make('span', { className: 'fixed', textContent: 'Original' })));
      selecting(scope, this.view, app);
    } else {
      this.#buildStrip();
    }
    if (kind === 'prompt') this.#paintSpans();
    else if (kind !== 'original') selecting(scope, this.view, app);
    scope.resized(this.view, () => app.redraw());
    scope.listen(this.view, 'contextmenu', (event) => event.preventDefault());
    scope.add(() => this.element.remove());
  }

  /** Take what is to be drawn next: the prompt's row, the stem of the current take, notes. */
  update({ row, sound, label, note, stale, file, colour, active }) {
    // Marks that are on their way are not taken back by a state from before.
    this.#row = row && this.#marking.isAheadOf(this.#app.state) ? { ...row, spans: this.#row.spans } : row;
    this.#sound = sound;
    const colourName = `var(--c${colour})`;
    this.element.style.setProperty('--colour', colour === null ? 'var(--wave)' : colourName);
    this.colour = colour;
    this.element.classList.toggle('active', active);
    this.element.setAttribute('aria-label', label);
    this.#note.textContent = note;
    this.#note.hidden = !note;
    this.#note.classList.toggle('stale', Boolean(stale));
    const { text, name, film, fixed, link, solo, mute, gain, pan, gainTold, panTold } = this.#parts;
    if (fixed) fixed.textContent = label;
    if (text && document.activeElement !== text) text.value = row.text;
    if (name && document.activeElement !== name) name.value = row.name;
    if (name) name.placeholder = row.stem;
    if (link) {
      link.hidden = !file;
      if (file) {
        link.href = file.path;
        link.download = file.name;
        link.title = `${file.name}: drag it into another program, or click to download`;
      }
    }
    if (film) {
      film.hidden = !this.#app.state.sees && !row.shown;
      film.setAttribute('aria-pressed', Boolean(row.shown));
      film.setAttribute('aria-label', `${row.shown ? 'Its clip' : 'A clip that shows it'}: ${label}`);
    }
    if (solo) {
      const strip = this.#app.strip(this.key);
      solo.setAttribute('aria-pressed', strip.solo);
      mute.setAttribute('aria-pressed', strip.mute);
      if (!gain.matches(':active')) gain.value = strip.gain_db;
      if (!pan.matches(':active')) pan.value = strip.pan;
      gainTold.textContent = strip.gain_db <= SILENT_DB ? '−∞ dB' : `${strip.gain_db.toFixed(1)} dB`;
      panTold.textContent = panName(strip.pan);
      for (const control of [solo, mute, gain, pan]) {
        const of = { S: 'Solo', M: 'Mute' }[control.textContent] ?? control.dataset.what;
        control.setAttribute('aria-label', `${of}: ${label}`);
      }
      text?.setAttribute('aria-label', `Prompt: ${label}`);
      name?.setAttribute('aria-label', `Name of the stem: ${label}`);
    }
  }

  draw() {
    const { view, song, tiles, picture } = this.#app;
    const { clientWidth: width, clientHeight: height } = this.view;
    if (!width || !song) return;
    const context = prepare(this.#canvas, width, height);
    const colours = this.#app.colours(this.colour);
    const own = this.#sound?.version > 0;
    // What has only begun to come has no spectrogram yet.
    const sound = own ? this.#sound : this.kind === 'original' ? ORIGINAL : null;
    const what = { cache: tiles, sound: sound ?? ORIGINAL, view: { ...view, width }, song };
    const share = { both: 0.4, wave: 1, spectrogram: 0 }[picture];
    const waveHeight = sound?.edition ? Math.round(height * share) : height;
    if (waveHeight < height) {
      drawSpectrogram(context, what, waveHeight, height - waveHeight, colours);
    }
    if (sound && waveHeight) {
      drawWaveform(context, what, 0, waveHeight, colours.wave);
    } else if (!sound) {
      context.globalAlpha = 0.28;
      drawWaveform(context, what, 0, height, colours.faint);
      context.globalAlpha = 1;
    }
    this.#placeSpans();
    this.showSelection(this.#app.shownSelection);
  }

  showSelection(selection) {
    place(this.#selection, this.#app.view, selection);
  }

  showPlayhead(x) {
    this.#playhead.style.transform = `translateX(${x}px)`;
  }

  showLevel(level) {
    const db = level > 0 ? 20 * Math.log10(level) : -100;
    this.#meter.style.transform = `scaleY(${clamp((db + 54) / 54, 0, 1)})`;
  }

  focusText() {
    this.#parts.text?.focus();
  }

  #buildStrip() {
    const app = this.#app;
    const scope = this.#scope;
    const parts = this.#parts;
    const rows = [0, 1, 2].map(() => make('div', { className: 'row' }));
    rows[2].classList.add('last');
    if (this.kind === 'prompt') {
      const colour = make('button', { className: 'colour', title: 'Next colour', 'aria-label': 'Next colour' });
      scope.listen(colour, 'click', () => {
        app.edit({ do: 'change-prompt', id: this.key, colour: (this.#row.colour + 1) % COLOURS });
      });
      parts.text = make('input', { className: 'text', maxLength: 200, spellcheck: false });
      parts.name = make('input', { className: 'name', maxLength: 200, spellcheck: false, title: 'Name of the stem and its file' });
      for (const what of ['text', 'name']) {
        const input = parts[what];
        scope.listen(input, 'change', () => {
          app.edit({ do: 'change-prompt', id: this.key, [what]: input.value });
        });
        scope.listen(input, 'focus', () => app.activate(this.key));
        scope.listen(input, 'keydown', (event) => {
          if (event.key === 'Enter' || event.key === 'Escape') {
            if (event.key === 'Escape') input.value = this.#row[what];
            input.blur();
          }
        });
      }
      const remove = make('button', { className: 'icon', title: 'Remove this prompt' });
      dress(remove, 'close');
      scope.listen(remove, 'click', () => app.edit({ do: 'remove-prompt', id: this.key }));
      parts.film = make('button', { className: 'icon film', title: 'A clip that shows it' });
      dress(parts.film, 'film');
      scope.listen(parts.film, 'click', () => app.clip.open(this.#row));
      parts.link = this.#fileLink();
      rows[0].append(colour, parts.text, parts.film, parts.link, remove);
      rows[2].append(parts.name);
    } else {
      parts.fixed = make('span', { className: 'fixed' });
      parts.link = this.#fileLink();
      rows[0].append(parts.fixed, parts.link);
    }
    parts.solo = make('button', { className: 'tiny solo', textContent: 'S', title: 'Solo' });
    parts.mute = make('button', { className: 'tiny mute', textContent: 'M', title: 'Mute' });
    parts.gain = slider('gain', 'Gain', { min: SILENT_DB, max: 12, step: 0.5 });
    parts.pan = slider('pan', 'Pan', { min: -1, max: 1, step: 0.05 });
    parts.gainTold = make('output');
    parts.panTold = make('output');
    scope.listen(parts.solo, 'click', () => app.mix(this.key, { solo: !app.strip(this.key).solo }));
    scope.listen(parts.mute, 'click', () => app.mix(this.key, { mute: !app.strip(this.key).mute }));
    scope.listen(parts.gain, 'input', () => app.mix(this.key, { gain_db: Number(parts.gain.value) }));
    scope.listen(parts.pan, 'input', () => app.mix(this.key, { pan: Number(parts.pan.value) }));
    scope.listen(parts.gain, 'dblclick', () => app.mix(this.key, { gain_db: PLAIN.gain_db }));
    scope.listen(parts.pan, 'dblclick', () => app.mix(this.key, { pan: PLAIN.pan }));
    rows[1].append(parts.solo, parts.mute, parts.gain, parts.gainTold);
    rows[2].append(parts.pan, parts.panTold);
    this.strip.append(...rows, make('div', { className: 'meter', 'aria-hidden': 'true' }, this.#meter));
    scope.listen(this.strip, 'pointerdown', () => app.activate(this.key));
  }

  /** A link to the stem's file, which can be dragged out of the page. */
  #fileLink() {
    const link = make('a', { className: 'icon', draggable: true, hidden: true }, icon('file'));
    link.setAttribute('aria-label', 'The stem as a file');
    this.#scope.listen(link, 'dragstart', (event) => {
      event.dataTransfer.setData('DownloadURL', `audio/wav:${link.download}:${link.href}`);
      event.dataTransfer.effectAllowed = 'copy';
    });
    return link;
  }

  #paintSpans() {
    const app = this.#app;
    dragging(this.#scope, this.view, (event) => {
      if (event.target.closest('.span') || event.button > 2 || event.button === 1) return null;
      app.activate(this.key);
      const polarity = event.button === 2 || event.altKey ? '-' : '+';
      const from = secondsAt(app.view, xOf(this.view, event));
      const draft = make('div', { className: `span draft${polarity === '-' ? ' not' : ''}` });
      const range = (later) => {
        const to = clamp(secondsAt(app.view, xOf(this.view, later)), 0, app.song.duration);
        return [Math.min(from, to), Math.max(from, to)];
      };
      let moved = false;
      place(draft, app.view, null);
      this.view.append(draft);
      return {
        move(later) {
          moved ||= Math.abs(later.clientX - event.clientX) >= CLICK_PIXELS;
          if (moved) place(draft, app.view, range(later));
        },
        done: (later) => {
          draft.remove();
          if (!moved) {
            app.seek(from);
            return;
          }
          const [start, end] = range(later);
          this.setSpans(painted(this.#row.spans, { start_s: start, end_s: end, polarity }));
        },
        cancel: () => draft.remove(),
      };
    });
    for (const type of ['dragover', 'dragleave', 'drop']) {
      this.#scope.listen(this.view, type, (event) => {
        event.preventDefault();
        this.view.classList.toggle('dropping', type === 'dragover');
        if (type === 'drop') app.dropFiles(this.key, event.dataTransfer.files);
      });
    }
  }

  /** Mark the selection of the page as here or not here. */
  mark(selection, polarity) {
    const added = { start_s: selection[0], end_s: selection[1], polarity };
    this.setSpans(painted(this.#row.spans, added));
  }

  setSpans(spans) {
    this.#row = { ...this.#row, spans };
    this.#placeSpans();
    this.#app.ask(this.#marking, () => this.#app.edit({ do: 'set-spans', id: this.key, spans }));
  }

  #placeSpans() {
    if (this.kind !== 'prompt') return;
    const spans = this.#row.spans;
    const told = JSON.stringify(spans);
    if (told !== this.#shown) {
      this.#shown = told;
      const focused = [...this.#spans.children].indexOf(document.activeElement);
      this.#spans.replaceChildren(...spans.map((span, index) => this.#buildSpan(span, index)));
      if (focused >= 0) this.#spans.children[Math.min(focused, spans.length - 1)]?.focus();
    }
    [...this.#spans.children].forEach((element, index) => {
      const span = spans[index];
      if (span) place(element, this.#app.view, [span.start_s, span.end_s]);
    });
  }

  #buildSpan(span, index) {
    const app = this.#app;
    const scope = this.#scope.child();
    const here = span.polarity === '+';
    const told = `${here ? 'Here' : 'Not here'}, ${clock(span.start_s, 2)} to ${clock(span.end_s, 2)}`;
    const remove = make('button', { title: 'Delete this span', tabIndex: -1 });
    dress(remove, 'close');
    const element = make(
      'div',
      { className: `span${here ? '' : ' not'}`, tabIndex: 0, role: 'button', 'aria-label': told, title: `${told}\nDelete removes it, X turns it around` },
      make('b', { textContent: here ? 'here' : 'not here', 'aria-hidden': 'true' }),
      make('i', { className: 'edge start' }),
      make('i', { className: 'edge end' }),
      remove,
    );
    const others = () => this.#row.spans.filter((_, other) => other !== index);
    const put = (changed) => this.setSpans(painted(others(), changed));
    scope.listen(remove, 'click', () => this.setSpans(others()));
    dragging(scope, element, (event) => {
      if (event.button !== 0 || event.target.closest('button')) return null;
      const edge = event.target.closest('.edge');
      const part = edge ? (edge.classList.contains('start') ? 'start' : 'end') : 'body';
      element.focus();
      app.activate(this.key);
      const changed = (later) =>
        dragged(span, part, (later.clientX - event.clientX) * app.view.perPixel, app.song.duration);
      const far = (later) => Math.abs(later.clientX - event.clientX) >= CLICK_PIXELS;
      return {
        move(later) {
          const moved = changed(later);
          place(element, app.view, [moved.start_s, moved.end_s]);
        },
        done: (later) => {
          if (far(later)) put(changed(later));
          else {
            this.#placeSpans();
            app.seek(secondsAt(app.view, xOf(this.view, event)));
          }
        },
        cancel: () => this.#placeSpans(),
      };
    });
    scope.listen(element, 'keydown', (event) => {
      if (event.target !== element) return;
      const part = event.shiftKey ? 'end' : event.ctrlKey || event.metaKey ? 'start' : 'body';
      const by = { ArrowLeft: -NUDGE_S, ArrowRight: NUDGE_S }[event.key];
      if (event.key === 'Delete' || event.key === 'Backspace') this.setSpans(others());
      else if (by) put(dragged(span, part, by, app.song.duration));
      else if (event.key.toLowerCase() === 'x') put({ ...span, polarity: here ? '-' : '+' });
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    return element;
  }
}

function slider(className, what, range) {
  return make('input', { type: 'range', className, title: `${what} (double click: back to 0)`, 'data-what': what, ...range });
}

function panName(pan) {
  if (Math.abs(pan) < 0.005) return 'centre';
  return `${pan < 0 ? 'L' : 'R'} ${Math.round(Math.abs(pan) * 100)}`;
}

/** Put an element where a stretch of seconds is, or hide it. */
export function place(element, view, stretch) {
  element.style.display = stretch ? 'block' : 'none';
  if (!stretch) return;
  const left = pixelAt(view, stretch[0]);
  element.style.left = `${left}px`;
  element.style.width = `${Math.max(pixelAt(view, stretch[1]) - left, 1)}px`;
}
