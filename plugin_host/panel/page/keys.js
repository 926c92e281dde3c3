/** What every key does; the list is also what the help shows. */

import { make } from './lane.js';

const JUMP_S = 1;
const FAR_S = 10;

/** `[keys, what it does, action]`; without an action it is done elsewhere and only told. */
const table = (app) => [
  [['Space'], 'Play or pause', () => app.toggle()],
  [['Home', 'End'], 'To the start, to the end', (key) => app.seek(key === 'Home' ? 0 : app.song.duration)],
  [['ArrowLeft', 'ArrowRight'], 'Back or on by a second; with Shift by ten', (key, { shiftKey }) => {
    const by = shiftKey ? FAR_S : JUMP_S;
    app.seek(Math.max(0, app.seconds + (key === 'ArrowLeft' ? -by : by)));
  }],
  [['A'], 'Stems or original, at the same loudness', () => app.hear(app.player.mode === 'heard' ? 'original' : 'heard')],
  [['L'], 'Loop the selection', () => app.toggleLoop()],
  [['I', 'O'], 'Begin or end the selection at the playhead', (key) => {
    const [start, end] = app.shownSelection ?? [0, app.song.duration];
    const at = app.seconds;
    app.select(key === 'I' ? [at, end > at ? end : app.song.duration] : [start < at ? start : 0, at]);
  }],
  [['Escape'], 'Cancel what is computed, or forget the selection', () => {
    const take = app.currentTake;
    if (take && (take.state === 'queued' || take.state === 'running')) app.act('take', { id: take.id, cancel: true });
    else app.select(null);
  }],
  [['N'], 'New prompt', () => document.getElementById('new-prompt').focus()],
  [['ArrowUp', 'ArrowDown'], 'Mark the lane above or below', (key) => app.step(key === 'ArrowUp' ? -1 : 1)],
  [['+', '-'], 'The marked prompt is here, or not here, in the selection', (key) => app.mark(key)],
  [['S', 'M'], 'Solo or mute the marked lane', (key) => {
    if (!app.active) return;
    const strip = app.strip(app.active);
    app.mix(app.active, key === 'S' ? { solo: !strip.solo } : { mute: !strip.mute });
  }],
  [['P'], 'Preview; with Shift the whole song', (_, { shiftKey }) => app.run(shiftKey)],
  [['[', ']'], 'The take before, the take after', (key) => app.takes.step(key === '[' ? -1 : 1)],
  [['K', 'R'], 'Keep or rename the take', (key) => (key === 'K' ? app.takes.keep() : app.takes.rename())],
  [['Delete'], 'With Shift: throw the take away', (_, { shiftKey }) => shiftKey && app.takes.discard()],
  [['Z'], 'Zoom in; with Shift out', (_, { shiftKey }) => (shiftKey ? app.zoomOut() : app.zoomIn())],
  [['F', 'G'], 'Show the whole song, or the selection', (key) => (key === 'F' ? app.zoomFit() : app.zoomSelection())],
  [['V'], 'Waveform, spectrogram or both', () => app.nextPicture()],
  [['?'], 'This list', () => document.getElementById('help-dialog').showModal()],
];

const MORE = [
  [['Ctrl+Z', 'Ctrl+Shift+Z'], 'Undo, redo'],
  [['Ctrl+S'], 'Save'],
  [['drag on a lane'], 'The sound is here; with Alt or the right button: it is not here'],
  [['drag on the ruler'], 'Select a stretch; a click goes there'],
  [['on a span'], 'Arrows move it, with Shift its end, with Ctrl its start; X turns it around, Delete removes it'],
  [['wheel'], 'With Ctrl zooms, with Shift scrolls'],
  [['drop a file'], 'MIDI notes or labels become spans; a video shows what is meant, if the model sees'],
];

const SHOWN = { ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓' };

export function bindKeys(scope, app) {
  const rows = table(app);
  const actions = new Map(rows.flatMap(([keys, , action]) => keys.map((key) => [key.toLowerCase(), [key, action]])));
  const list = document.getElementById('help-list');
  for (const [keys, told] of [...rows, ...MORE]) {
    const names = keys.flatMap((key) => [make('kbd', { textContent: SHOWN[key] ?? key }), ' ']);
    list.append(make('dt', {}, ...names), make('dd', { textContent: told }));
  }
  scope.listen(document.getElementById('help'), 'click', () => document.getElementById('help-dialog').showModal());
  scope.listen(document, 'keydown', (event) => {
    const typing = event.target.closest('input:not([type=range]):not([type=checkbox]), select, textarea');
    const name = event.key === ' ' ? 'space' : event.key.toLowerCase();
    const dialog = document.querySelector('dialog[open]');
    // What was painted on a clip is undone like anything else.
    const paints = dialog?.id === 'clip-dialog' && 'zy'.includes(name) && (event.ctrlKey || event.metaKey);
    if ((dialog && !paints) || !app.song) return;
    if ((event.ctrlKey || event.metaKey) && !event.altKey) {
      const again = name === 'y' || (name === 'z' && event.shiftKey);
      if (typing && name !== 's') return;
      if (name === 's') app.save.open();
      else if (name === 'z' || name === 'y') app.act(again ? 'redo' : 'undo', {});
      else return;
      event.preventDefault();
      return;
    }
    if (typing || event.altKey) {
      if (typing && name === 'escape') event.target.blur();
      return;
    }
    const onControl = event.target.closest('button, a, summary') && (name === 'space' || name === 'enter');
    const onSlider = event.target.matches('input[type=range]') && name.startsWith('arrow');
    if (onControl || onSlider) return;
    const [key, action] = actions.get(name === '=' ? '+' : name) ?? [];
    if (!action) return;
    event.preventDefault();
    action(key, event);
  });
}
