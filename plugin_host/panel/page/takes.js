/** The takes as a row of chips: choose, name, keep, cancel, throw away. */

import { clock } from './geometry.js';
import { dress } from './icons.js';
import { make } from './lane.js';

const STAGES = { queued: 'waiting', encode: 'encoding', solve: 'separating', decode: 'decoding', reconstruct: 'finishing' };

export class TakeBar {
  #app;
  #element;
  #shown = '';
  #naming = null;

  constructor(element, app) {
    this.#app = app;
    this.#element = element;
  }

  show(state) {
    if (this.#naming) return;
    // While it is computed, only numbers change: a button must not go away under the pointer.
    for (const take of state.takes) this.#showProgress(take);
    const steady = state.takes.map((take) => ({ ...take, progress: null, position: 0, stems: take.stems.map(({ prompt }) => prompt) }));
    const told = JSON.stringify([steady, state.current]);
    if (told === this.#shown) return;
    this.#shown = told;
    const focused = document.activeElement?.closest?.('.take')?.dataset.id;
    const what = document.activeElement?.dataset?.what;
    const chips = state.takes.map((take, index) => this.#chip(take, index, state));
    this.#element.replaceChildren(...chips);
    if (focused) this.#element.querySelector(`[data-id="${focused}"] [data-what="${what}"]`)?.focus();
  }

  /** Choose the take before or after the current one. */
  step(by) {
    const { takes, current } = this.#app.state;
    const next = takes[takes.findIndex((take) => take.id === current) + by];
    if (next) this.#change(next, { chosen: true });
  }

  keep() {
    const take = this.#app.currentTake;
    if (take) this.#change(take, { kept: !take.kept });
  }

  discard(take = this.#app.currentTake) {
    if (take) this.#change(take, { discard: true });
  }

  rename(take = this.#app.currentTake) {
    const chip = take && this.#element.querySelector(`[data-id="${take.id}"] .choose`);
    if (!chip || this.#naming) return;
    const input = make('input', { value: take.name, placeholder: 'Name of this take', maxLength: 80, 'aria-label': 'Name of this take' });
    this.#naming = input;
    const close = (name) => {
      if (!this.#naming) return;
      this.#naming = null;
      this.#shown = '';
      input.replaceWith(chip);
      if (name === null) this.show(this.#app.state);
      else this.#change(take, { name });
    };
    input.addEventListener('blur', () => close(input.value));
    input.addEventListener('keydown', (event) => {
      if (event.key === 'Enter') close(input.value);
      if (event.key === 'Escape') close(null);
    });
    chip.replaceWith(input);
    input.focus();
    input.select();
  }

  #showProgress(take) {
    const chip = this.#element.querySelector(`[data-id="${take.id}"]`);
    const bar = chip?.querySelector('progress');
    if (!bar || !isOpen(take)) return;
    const { progress } = take;
    if (progress?.total) bar.value = progress.done / progress.total;
    const told = progressTold(take);
    const small = chip.querySelector('small');
    if (small.textContent !== told) small.textContent = told;
  }

  #change(take, change) {
    return this.#app.act('take', { id: take.id, ...change });
  }

  #chip(take, index, state) {
    const open = isOpen(take);
    const current = take.id === state.current;
    const from = take.start / state.sample_rate;
    const to = (take.start + take.samples) / state.sample_rate;
    const where = take.whole ? 'whole song' : `${clock(from, 1)}–${clock(to, 1)}`;
    const words = take.stems.filter((stem) => stem.prompt).map((stem) => stem.prompt.text || stem.stem).join(', ');
    const seed = take.seed ? `, seed ${take.seed}` : '';
    const choose = make(
      'button',
      { className: 'choose', title: `${words}${seed}`, 'aria-pressed': current, 'data-what': 'choose' },
      make('b', { textContent: take.name || `${take.whole ? 'Take' : 'Preview'} ${index + 1}` }),
      make('small', { textContent: open ? progressTold(take) : endTold(take, where) }),
    );
    choose.removeAttribute('aria-pressed');
    if (current) choose.setAttribute('aria-current', 'true');
    choose.addEventListener('click', () => this.#change(take, { chosen: true }));
    choose.addEventListener('dblclick', () => this.rename(take));
    const chip = make('div', { className: `take ${take.state}${current ? ' current' : ''}`, 'data-id': take.id }, choose);
    if (open) {
      const bar = make('progress', { max: 1, 'aria-label': 'Progress' });
      if (take.progress?.total) bar.value = take.progress.done / take.progress.total;
      chip.append(this.#button('close', 'Cancel (Escape)', 'cancel', take, { cancel: true }), bar);
    } else {
      if (take.state === 'done') {
        const keep = this.#button('star', 'Keep this take (K)', 'keep', take, { kept: !take.kept });
        keep.setAttribute('aria-pressed', take.kept);
        chip.append(keep);
      }
      if (!take.kept) chip.append(this.#button('close', 'Throw this take away (Shift+Delete)', 'discard', take, { discard: true }));
    }
    return chip;
  }

  #button(name, title, what, take, change) {
    const button = make('button', { className: 'icon', title, 'data-what': what });
    dress(button, name);
    button.addEventListener('click', () => this.#change(take, change));
    return button;
  }
}

function isOpen({ state }) {
  return state === 'queued' || state === 'running';
}

function progressTold(take) {
  return `${take.draft ? 'draft: ' : ''}${stageTold(take)}`;
}

function stageTold({ state, position, progress }) {
  if (state === 'queued' && position > 0) return `waiting, place ${position}`;
  if (!progress) return 'starting';
  const share = progress.total > 1 ? ` ${Math.floor((100 * progress.done) / progress.total)} %` : '';
  const left = progress.seconds_left === null ? '' : `, ${Math.ceil(progress.seconds_left)} s left`;
  return `${STAGES[progress.stage] ?? progress.stage}${share}${left}`;
}

function endTold(take, where) {
  if (take.state === 'failed') return take.error;
  if (take.state === 'cancelled') return 'cancelled';
  return where;
}
