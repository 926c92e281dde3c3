/** The page: what the server says, shown; what the user does, asked of the server. */

import { ClipDialog, isClip } from './clip.js';
import { drawRuler, drawWaveform, palette, prepare } from './draw.js';
import { clamp, clock, fitted, following, pixelAt, scrolled, settled, shownSeconds, showing, zoomed } from './geometry.js';
import { dress } from './icons.js';
import { bindKeys } from './keys.js';
import { Lane, ORIGINAL, dragging, make, place, selecting } from './lane.js';
import { PLAIN, heardGains, matchGain } from './mixing.js';
import { Player } from './player.js';
import { Save } from './save.js';
import { Scope } from './scope.js';
import { Ahead, ask, follow } from './store.js';
import { TakeBar } from './takes.js';
import { Tiles } from './tiles.js';

const ZOOM_STEP = 1.5;
const PICTURES = { both: 'Both', wave: 'Waveform', spectrogram: 'Spectrogram' };
const $ = (id) => document.getElementById(id);

class App {
  state = null;
  song = null;
  view = null;
  shownSelection = null;
  picture = sessionStorage.getItem('picture') ?? 'both';
  active = null;
  #scope = new Scope();
  #lanes = new Map();
  #looping = true;
  #pending = new Map();
  #selecting = new Ahead();
  #sending = null;
  #palettes = new Map();
  #drawing = 0;
  #playNext = null;
  #measured = '';
  #measuring = 0;
  #adding = false;
  #tracks = '';
  #told = '';
  #shownAt = -1;
  #since = 0;
  #lost = false;

  constructor() {
    const scope = this.#scope;
    this.player = new Player(scope);
    this.tiles = new Tiles(() => this.redraw());
    this.takes = new TakeBar($('takes'), this);
    this.save = new Save(scope, this);
    this.clip = new ClipDialog(scope, this);
    for (const button of document.querySelectorAll('[data-icon]')) dress(button, button.dataset.icon);
    scope.listen(this.player, 'change', () => this.#showTransport());
    scope.resized($('ruler'), () => this.#resized());
    scope.resized(document.querySelector('.bar'), () => {
      document.documentElement.style.setProperty('--bar', `${document.querySelector('.bar').offsetHeight}px`);
    });
    scope.listen(matchMedia('(prefers-color-scheme: light)'), 'change', () => {
      this.#palettes.clear();
      this.redraw();
    });
    this.#bindControls();
    this.#buildOverview();
    selecting(scope, $('ruler'), this);
    bindKeys(scope, this);
    follow(scope, { onState: (state) => this.#take(state), onLost: () => this.#lose() });
    const tick = () => {
      this.#tick();
      requestAnimationFrame(tick);
    };
    tick();
  }

  get seconds() {
    return this.player.position / this.song.rate;
  }

  get currentTake() {
    return this.state?.takes.find((take) => take.id === this.state.current) ?? null;
  }

  get finishedTake() {
    const take = this.currentTake;
    return take?.state === 'done' ? take : null;
  }

  // -- what the user does ------------------------------------------------------------------

  /** What can be heard: a draft, too. */
  get heardTake() {
    const take = this.currentTake;
    return take?.audible ? take : null;
  }

  /** Ask the server; what it refuses is shown. Gives undefined then. */
  async act(path, body) {
    try {
      return await ask(path, body);
    } catch (error) {
      this.fail(error.message);
      return undefined;
    }
  }

  /** Ask for what is shown already, and then show what the server has made of it. */
  async ask(ahead, question) {
    await ahead.ask(question);
    this.#since = Math.max(this.#since, ahead.since);
    this.#show();
  }

  edit(edit) {
    return this.act('edit', edit);
  }

  fail(message) {
    this.#say($('failed'), message, 9000);
  }

  tell(message) {
    this.#say($('told'), message, 4000);
  }

  seek(seconds) {
    this.player.seek(seconds * this.song.rate);
  }

  select(selection) {
    const [start, end] = selection ?? [0, 0];
    this.showSelection(end > start ? [start, end] : null);
    const stretch = this.shownSelection;
    this.ask(this.#selecting, () => this.act('select', { stretch }));
  }

  showSelection(selection) {
    this.shownSelection = selection;
    for (const lane of this.#lanes.values()) lane.showSelection(selection);
    place($('ruler').querySelector('.selection'), this.view, selection);
  }

  /** Mark the selection for the active prompt. */
  mark(polarity) {
    const lane = this.#lanes.get(this.active);
    if (!this.shownSelection) this.tell('Select a stretch first: drag on the ruler, or press I and O while it plays.');
    else if (lane?.kind !== 'prompt') this.tell('Add a prompt first.');
    else lane.mark(this.shownSelection, polarity);
  }

  activate(key) {
    if (this.active === key || !this.#lanes.has(key)) return;
    this.active = key;
    for (const [each, lane] of this.#lanes) lane.element.classList.toggle('active', each === key);
  }

  /** Make the lane above or below the active one. */
  step(by) {
    const keys = [...this.#lanes.keys()].filter((key) => key !== 'original');
    const next = keys[clamp(keys.indexOf(this.active) + by, 0, keys.length - 1)];
    if (next) {
      this.activate(next);
      this.#lanes.get(next).element.scrollIntoView({ block: 'nearest' });
    }
  }

  strip(key) {
    return this.#pending.get(key) ?? this.state.strips[key] ?? PLAIN;
  }

  /** Change gain, pan, mute or solo of a stem: heard at once, told to the server soon. */
  mix(key, change) {
    this.#pending.set(key, { ...this.strip(key), ...change });
    this.#show();
    if (this.#sending) return;
    this.#sending = setTimeout(() => {
      this.#sending = null;
      for (const [each, strip] of this.#pending) this.act('mix', { key: each, strip });
    }, 60);
  }

  async run(whole) {
    this.player.output;
    const input = $('new-prompt');
    if (input.value.trim()) await this.addPrompt();
    const started = await this.act('run', { whole });
    if (started && !whole) {
      this.#playNext = started.take;
      this.#show();
    }
  }

  async addPrompt() {
    const input = $('new-prompt');
    const text = input.value.trim();
    if (!text) return;
    const [name, words] = text.includes('=') ? text.split(/=(.*)/s) : ['', text];
    this.#adding = true;
    const added = await this.edit({ do: 'add-prompt', text: words.trim(), name: name.trim() });
    if (added) input.value = '';
    else this.#adding = false;
  }

  async dropFiles(key, files) {
    for (const file of files) {
      if (isClip(file)) {
        await this.clip.drop(key, file);
        continue;
      }
      const done = await this.act(`marks/${key}/${encodeURIComponent(file.name)}`, file);
      if (done) this.tell(`Marks taken from ${file.name}`);
    }
  }

  toggleLoop() {
    this.#looping = !this.#looping;
    this.#show();
  }

  hear(mode) {
    if (mode === 'heard' && !this.heardTake) return;
    this.player.setMode(mode);
  }

  setView(view) {
    this.view = settled({ ...view, width: this.view.width }, this.song.duration);
    sessionStorage.setItem('view', JSON.stringify([this.state.title, this.view]));
    this.redraw();
  }

  zoom(factor, x = this.#anchor()) {
    this.setView(zoomed(this.view, factor, x, this.song.duration));
  }

  zoomIn = () => this.zoom(1 / ZOOM_STEP);
  zoomOut = () => this.zoom(ZOOM_STEP);
  zoomFit = () => this.setView(fitted(this.song.duration, this.view.width));

  zoomSelection = () => {
    const range = this.shownSelection ?? this.#takeSeconds(this.currentTake);
    if (range) this.setView(showing(this.view, ...range, this.song.duration));
  };

  nextPicture = () => {
    const names = Object.keys(PICTURES);
    this.picture = names[(names.indexOf(this.picture) + 1) % names.length];
    sessionStorage.setItem('picture', this.picture);
    $('picture').textContent = PICTURES[this.picture];
    this.redraw();
  };

  // -- what is shown -----------------------------------------------------------------------

  /** Draw everything with the next frame. */
  redraw() {
    if (this.#drawing) return;
    this.#drawing = requestAnimationFrame(() => {
      this.#drawing = 0;
      if (!this.view) return;
      for (const lane of this.#lanes.values()) lane.draw();
      this.#drawRuler();
      this.#drawOverview();
    });
  }

  /** The colours of a lane, by its number; null for the original and the rest. */
  colours(number) {
    let found = this.#palettes.get(number);
    if (!found) {
      const style = getComputedStyle(document.documentElement);
      const value = (name) => style.getPropertyValue(name);
      const wave = value(number === null ? '--wave' : `--c${number}`);
      const table = palette(value('--sunk'), wave, value('--spectral-bright'));
      found = { wave, faint: value('--faint'), ink: value('--ink'), table, name: `${number} ${wave}` };
      this.#palettes.set(number, found);
    }
    return found;
  }

  #take(state) {
    const first = this.state === null;
    const opened = first || state.song !== this.state.song;
    if (this.#lost) {
      this.#lost = false;
      $('failed').textContent = '';
    }
    this.state = state;
    // Many times a second only the progress is new: nothing has to be drawn for that.
    const takes = state.takes.map((take) => ({ ...take, progress: null, position: 0 }));
    const told = JSON.stringify({ ...state, revision: 0, takes });
    if (told === this.#told && this.#shownAt >= this.#since && !this.#pending.size) {
      this.takes.show(state);
      return;
    }
    this.#told = told;
    this.#shownAt = state.revision;
    for (const [key, strip] of this.#pending) {
      const same = Object.entries(strip).every(([name, value]) => state.strips[key]?.[name] === value);
      if (same) this.#pending.delete(key);
    }
    if (opened) this.#open();
    this.#show();
  }

  #open() {
    const { title, sample_rate: rate, samples, channels, peak } = this.state;
    this.tiles.clear();
    this.song = { rate, samples, channels, duration: samples / rate, scale: 1 / Math.max(peak, 0.05) };
    this.player.open({ key: this.state.song, rate, samples, channels });
    document.title = `${title} · stembridge`;
    $('title').textContent = title;
    $('title').title = title;
    const kind = ['', 'mono', 'stereo'][channels] ?? `${channels} channels`;
    $('facts').textContent = `${rate / 1000} kHz · ${kind} · ${clock(this.song.duration, 1)}`;
    const width = $('ruler').clientWidth;
    this.view = fitted(this.song.duration, width);
    const [kept, view] = JSON.parse(sessionStorage.getItem('view') ?? '[]');
    if (kept === title) this.view = settled({ ...view, width }, this.song.duration);
  }

  #show() {
    const { state } = this;
    if (!state) return;
    if (!this.#selecting.isAheadOf(state)) this.shownSelection = state.selection;
    this.#showLanes();
    this.takes.show(state);
    this.save.show(state);
    this.clip.show(state);
    this.#showTracks(state);
    $('undo').disabled = !state.can_undo;
    $('redo').disabled = !state.can_redo;
    $('model').textContent = `Model ${state.model}${state.sees ? '' : ', which hears and does not see'}`;
    const seed = $('seed');
    if (document.activeElement !== seed) seed.value = state.seed;
    const usable = state.prompts.some((row) => row.text.trim() || row.spans.length || row.shown);
    $('separate').disabled = $('preview').disabled = !usable && !$('new-prompt').value.trim();
    $('hint').replaceChildren(...hint(state));
    $('picture').textContent = PICTURES[this.picture];
    this.#hearState();
    this.#showTransport();
    this.redraw();
  }

  #showTracks({ session, song }) {
    const select = $('track');
    select.hidden = !session;
    if (!session) return;
    const told = JSON.stringify(session.tracks);
    if (told !== this.#tracks) {
      this.#tracks = told;
      const options = session.tracks.map(({ key, label, note }) => {
        return make('option', { value: key, textContent: note ? `${label} (${note})` : label, disabled: Boolean(note) });
      });
      select.replaceChildren(...options);
    }
    select.value = song;
  }

  #showLanes() {
    const { state } = this;
    const take = this.currentTake;
    const stems = Object.fromEntries((take?.stems ?? []).map((stem) => [stem.key, stem]));
    const wanted = [['original', 'original', null]];
    for (const row of state.prompts) wanted.push([row.id, 'prompt', row]);
    const known = new Set(state.prompts.map((row) => row.id));
    for (const stem of take?.stems ?? []) {
      if (stem.key === 'residual') wanted.push(['residual', 'residual', null]);
      else if (!known.has(stem.key)) wanted.push([stem.key, 'stem', stem.prompt]);
    }
    for (const [key, lane] of this.#lanes) {
      if (!wanted.some(([other, kind]) => other === key && kind === lane.kind)) {
        lane.scope.end();
        this.#lanes.delete(key);
      }
    }
    const before = this.#lanes;
    this.#lanes = new Map();
    const list = $('lanes');
    wanted.forEach(([key, kind, row], index) => {
      let lane = before.get(key);
      if (!lane) {
        const scope = this.#scope.child();
        lane = new Lane(scope, this, kind, key);
        lane.scope = scope;
      }
      this.#lanes.set(key, lane);
      if (list.children[index] !== lane.element) list.insertBefore(lane.element, list.children[index] ?? null);
    });
    // The prompt that was just written is the one to be marked next.
    const last = state.prompts.at(-1)?.id ?? null;
    const added = this.#adding && last !== null && !before.has(last);
    if (added) this.#adding = false;
    if (added || !this.#lanes.has(this.active)) this.active = last;
    for (const [key, kind, row] of wanted) {
      this.#lanes.get(key).update(this.#laneData(key, kind, row, stems[key], take));
    }
  }

  #laneData(key, kind, row, stem, take) {
    const done = take?.state === 'done' && stem;
    const version = stem?.version ?? 0;
    const edition = stem?.edition ?? 0;
    const sound = stem ? { path: `${take.id}/${key}`, version, edition } : null;
    const label = { original: 'Original', residual: 'Everything else' }[kind] ?? (row.text || row.name || 'Untitled');
    let note = '';
    if (edition && kind !== 'original') note = [done ? '' : 'draft', levelTold(stem), stem.note].filter(Boolean).join(' · ');
    const stale = kind === 'prompt' && stem && changedSince(row, stem.prompt);
    if (stale) note = 'changed since this take';
    if (kind === 'prompt' && take && !stem) note = 'not in this take';
    if (kind === 'stem') note = `removed since this take${note && ` · ${note}`}`;
    const base = this.state.title.replace(/\.[^.]*$/, '');
    const name = stem && `${base} ${stem.stem}.wav`;
    const file = done ? { name, path: `file/${take.id}/${key}/${encodeURIComponent(name)}` } : null;
    const colour = row ? row.colour : null;
    return { row, sound, label, note, stale, file, colour, active: key === this.active };
  }

  /** Bring the player to what the state says. */
  #hearState() {
    const take = this.heardTake;
    const keys = take?.stems.map((stem) => stem.key) ?? [];
    this.player.setTake(take && { id: take.id, keys, edition: take.stems[0].edition });
    const strips = Object.fromEntries(keys.map((key) => [key, this.strip(key)]));
    this.player.setGains(heardGains(keys, strips));
    if (!take && this.player.mode === 'heard') this.player.setMode('heard');
    const range = this.state.selection ?? (take && !take.whole ? this.#takeSeconds(take) : null);
    const loop = range && { start: Math.round(range[0] * this.song.rate), end: Math.round(range[1] * this.song.rate) };
    this.player.setLoop(this.#looping && loop && loop.end > loop.start ? loop : null);
    if (this.#playNext && take?.id === this.#playNext) {
      this.#playNext = null;
      this.player.setMode('heard');
      if (!this.player.playing) {
        this.player.seek(take.start);
        this.player.play();
      }
    }
    if (take) this.#measure(take, strips);
  }

  /** Ask how loud the mix and the original are, once things have calmed down. */
  #measure(take, strips) {
    const { rate } = this.song;
    let stretch = [take.start, take.start + take.samples];
    const selection = this.state.selection?.map((second) => Math.round(second * rate));
    if (selection && selection[0] < stretch[1] && selection[1] > stretch[0]) stretch = selection;
    const wanted = JSON.stringify([take.id, take.state, stretch, strips]);
    if (wanted === this.#measured) return;
    this.#measured = wanted;
    clearTimeout(this.#measuring);
    this.#measuring = setTimeout(async () => {
      if (this.#pending.size) {
        this.#measured = '';
        return;
      }
      const levels = await this.act('loudness', { start: stretch[0], stop: Math.max(stretch[1], stretch[0] + 1) });
      if (!levels || this.#measured !== wanted) return;
      const gain = matchGain(levels);
      this.player.setMatch(gain);
      const db = 20 * Math.log10(gain);
      $('match').textContent = `${db > 0 ? '+' : '−'}${Math.abs(db).toFixed(1)} dB`;
      document.body.dataset.matched = wanted;
    }, 120);
  }

  #showTransport() {
    const { playing, mode } = this.player;
    dress($('play'), playing ? 'pause' : 'play', playing ? 'Pause (Space)' : 'Play (Space)');
    $('loop').setAttribute('aria-pressed', this.#looping);
    const original = mode === 'original' || !this.heardTake;
    $('hear-stems').disabled = !this.heardTake;
    $('hear-stems').setAttribute('aria-checked', !original);
    $('hear-original').setAttribute('aria-checked', original);
    $('match').hidden = !this.heardTake;
    this.#tick();
  }

  #tick() {
    if (!this.view || !this.song) return;
    const seconds = this.seconds;
    if (this.player.playing && !document.querySelector('.view:active')) {
      const view = following(this.view, seconds, this.song.duration);
      if (view !== this.view) this.setView(view);
    }
    const x = pixelAt(this.view, seconds);
    $('ruler').querySelector('.playhead').style.transform = `translateX(${x}px)`;
    for (const [key, lane] of this.#lanes) {
      lane.showPlayhead(x);
      if (key !== 'original') lane.showLevel(this.player.level(key));
    }
    const told = clock(seconds, 1);
    if ($('time').textContent !== told) $('time').textContent = told;
  }

  #drawRuler() {
    const element = $('ruler');
    const { clientWidth: width, clientHeight: height } = element;
    const context = prepare(element.querySelector('canvas'), width, height);
    drawRuler(context, { ...this.view, width }, height, this.colours(null));
    place(element.querySelector('.selection'), this.view, this.shownSelection);
  }

  #buildOverview() {
    this.overview = make('div', { className: 'view' }, make('canvas'), make('div', { className: 'window' }));
    const lane = make('div', { className: 'lane overview', 'aria-hidden': 'true' }, make('div', { className: 'strip' }), this.overview);
    $('lanes').before(lane);
    dragging(this.#scope, this.overview, (event) => {
      const goTo = (later) => {
        const { left, width } = this.overview.getBoundingClientRect();
        const centre = ((later.clientX - left) / width) * this.song.duration;
        this.setView({ ...this.view, start: centre - shownSeconds(this.view) / 2 });
      };
      if (event.button !== 0) return null;
      goTo(event);
      return { move: goTo, done: goTo };
    });
  }

  #drawOverview() {
    const { clientWidth: width, clientHeight: height } = this.overview;
    if (!width) return;
    const context = prepare(this.overview.querySelector('canvas'), width, height);
    const whole = fitted(this.song.duration, width);
    const what = { cache: this.tiles, sound: ORIGINAL, view: whole, song: this.song };
    drawWaveform(context, what, 0, height, this.colours(null).faint);
    const shown = [this.view.start, this.view.start + shownSeconds(this.view)];
    place(this.overview.querySelector('.window'), whole, shown);
  }

  #resized() {
    if (!this.view) return;
    const width = $('ruler').clientWidth;
    const all = shownSeconds(this.view) >= this.song.duration * 0.999;
    this.view = all ? fitted(this.song.duration, width) : settled({ ...this.view, width }, this.song.duration);
    this.redraw();
  }

  #bindControls() {
    const scope = this.#scope;
    const onClick = (id, action) => scope.listen($(id), 'click', action);
    onClick('to-start', () => this.seek(this.shownSelection?.[0] ?? 0));
    onClick('play', () => this.toggle());
    onClick('loop', () => this.toggleLoop());
    onClick('hear-stems', () => this.hear('heard'));
    onClick('hear-original', () => this.hear('original'));
    onClick('undo', () => this.act('undo', {}));
    onClick('redo', () => this.act('redo', {}));
    onClick('preview', () => this.run(false));
    onClick('separate', () => this.run(true));
    onClick('zoom-in', this.zoomIn);
    onClick('zoom-out', this.zoomOut);
    onClick('zoom-fit', this.zoomFit);
    onClick('zoom-selection', this.zoomSelection);
    onClick('picture', this.nextPicture);
    scope.listen($('add'), 'submit', (event) => {
      event.preventDefault();
      this.addPrompt();
    });
    scope.listen($('new-prompt'), 'input', () => this.#show());
    scope.listen($('seed'), 'change', () => {
      this.act('seed', { seed: Math.max(0, Math.round(Number($('seed').value) || 0)) });
    });
    // After a click with the mouse, the space bar plays again.
    scope.listen(document, 'click', (event) => {
      const control = event.target.closest('button, summary, input[type=range]');
      if (control && event.detail > 0 && !control.closest('dialog')) control.blur();
    });
    scope.listen(document.querySelector('main'), 'wheel', (event) => this.#wheel(event), { passive: false });
    for (const type of ['dragover', 'drop']) {
      scope.listen(document, type, (event) => {
        if (!event.dataTransfer.types.includes('Files')) return;
        event.preventDefault();
        if (type === 'drop' && !event.target.closest('.prompt .view')) {
          this.dropFiles(this.active ?? 'none', event.dataTransfer.files);
        }
      });
    }
    // The DAW may have saved the session since.
    scope.listen($('track'), 'pointerdown', () => this.act('session/look', {}));
    scope.listen($('track'), 'change', async () => {
      if (!(await this.act('track', { key: $('track').value }))) $('track').value = this.state.song;
    });
    this.#bindQueue();
    this.#bindPresets();
  }

  toggle() {
    if (this.player.playing) this.player.pause();
    else this.player.play();
  }

  #wheel(event) {
    const element = event.target.closest('.view');
    if (!element || !this.view) return;
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (event.ctrlKey || event.metaKey) {
      const x = event.clientX - element.getBoundingClientRect().left;
      this.zoom(2 ** clamp(event.deltaY / 120, -1, 1), x);
    } else if (sideways || event.shiftKey) {
      const pixels = sideways ? event.deltaX : event.deltaY;
      this.setView(scrolled(this.view, pixels, this.song.duration));
    } else return;
    event.preventDefault();
  }

  #bindQueue() {
    const queue = $('queue');
    const refresh = async () => {
      if (!queue.open) return;
      const found = await ask('jobs').catch(() => ({ jobs: [] }));
      const rows = found.jobs.map((job) => {
        const cancel = make('button', { textContent: 'Cancel' });
        cancel.addEventListener('click', () => this.act('jobs/cancel', { key: job.key }).then(refresh));
        return make('li', {}, make('span', { textContent: jobTold(job) }), cancel);
      });
      queue.querySelector('ul').replaceChildren(...(rows.length ? rows : [make('li', { className: 'faint', textContent: 'Nothing to do.' })]));
    };
    this.#scope.listen(queue, 'toggle', refresh);
    this.#scope.every(1000, refresh);
  }

  #bindPresets() {
    const select = $('load-preset');
    const fill = async () => {
      const found = await ask('presets').catch(() => ({ presets: [] }));
      const names = found.presets.map(({ name, where }) => make('option', { value: name, textContent: `${name} (${where})` }));
      select.replaceChildren(make('option', { value: '', textContent: 'Preset…' }), ...names);
    };
    this.fillPresets = fill;
    fill();
    this.#scope.listen(select, 'change', async () => {
      const name = select.value;
      select.value = '';
      if (name && (await this.act('preset/load', { name }))) this.tell(`Prompts of ${name} taken up`);
    });
  }

  #anchor() {
    const x = pixelAt(this.view, this.seconds);
    return x >= 0 && x <= this.view.width ? x : this.view.width / 2;
  }

  #takeSeconds(take) {
    return take && [take.start / this.song.rate, (take.start + take.samples) / this.song.rate];
  }

  #lose() {
    if (this.#lost) return;
    this.#lost = true;
    $('failed').textContent = 'The panel does not answer. If the command was stopped, start it again and open its new address.';
  }

  #say(element, message, milliseconds) {
    element.textContent = message;
    clearTimeout(element.timer);
    element.timer = setTimeout(() => {
      element.textContent = '';
    }, milliseconds);
  }
}

function changedSince(row, before) {
  const told = ({ text, name, spans, shown }) => JSON.stringify([text.trim(), name.trim(), spans, shown]);
  return told(row) !== told(before);
}

function levelTold(stem) {
  if (stem.level_db === null) return '';
  const level = stem.level_db <= -60 ? 'almost nothing of it' : againstOriginal(stem.level_db);
  const scores = stem.scores ? ` · judge ${stem.scores.overall.toFixed(1)} of 5` : '';
  return `${level}${scores}`;
}

function againstOriginal(db) {
  return `${Math.abs(db).toFixed(1)} dB ${db > 0 ? 'above' : 'below'} the original`;
}

function jobTold(job) {
  const left = job.seconds_left === null ? '' : `, ${Math.ceil(job.seconds_left)} s left`;
  const where = job.state === 'running' ? `${job.stage} ${job.done}/${job.total}` : `place ${job.position}`;
  return `${job.prompts.join(', ')} · ${clock(job.duration_s, 1)} · ${where}${left}`;
}

function hint(state) {
  if (!state.prompts.length) return ['Say what to extract, then press Preview: the loudest 15 s, or what you select on the ruler, are separated first.'];
  const key = (name) => make('kbd', { textContent: name });
  if (!state.takes.length) {
    return ['Drag on a lane where the sound is; with ', key('Alt'), ' or the right button where it is not. ', key('P'), ' separates a preview, ', key('Shift+P'), ' the whole song. ', key('?'), ' shows all keys.'];
  }
  return [key('A'), ' switches between stems and original at the same loudness, ', key('['), ' and ', key(']'), ' between takes, ', key('S'), ' solos the marked lane.'];
}

globalThis.stembridge = new App();
