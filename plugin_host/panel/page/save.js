/** The dialog that writes stems, the mix and presets. */

const $ = (id) => document.getElementById(id);

export class Save {
  #app;

  constructor(scope, app) {
    this.#app = app;
    scope.listen($('save'), 'click', () => this.open());
    scope.listen($('save-stems'), 'click', () => this.#stems());
    scope.listen($('add-tracks'), 'click', () => this.#add(false));
    scope.listen($('add-takes'), 'click', () => this.#add(true));
    scope.listen($('session-undo'), 'click', () => this.#takeAway());
    scope.listen($('save-preset'), 'submit', (event) => {
      event.preventDefault();
      this.#preset();
    });
  }

  open() {
    if (!$('save-dialog').open) $('save-dialog').showModal();
  }

  show(state) {
    const take = this.#app.finishedTake;
    $('save-stems').disabled = !take?.whole;
    $('save-where').textContent = take?.whole
      ? `To ${state.folder}, as float32 WAV; together they are the original.`
      : 'Separate the whole song first; a preview is a part of it.';
    this.#showSession(state.session, take);
    const mix = $('save-mix');
    mix.toggleAttribute('inert', !take);
    if (take) {
      mix.href = `mix/${take.id}/${encodeURIComponent(`${state.title} mix.wav`)}`;
    } else mix.removeAttribute('href');
  }

  #showSession(session, take) {
    $('save-session').hidden = !session;
    if (!session) return;
    $('session-where').textContent = `Into ${session.name}, beside the track: close it in the DAW before, and open it again after.`;
    $('add-tracks').disabled = $('add-takes').disabled = !take?.whole;
    $('add-takes').hidden = !session.takes;
    $('session-undo').hidden = !session.undo;
    $('session-undo').textContent = `Take away ${session.undo}`;
  }

  async #add(takes) {
    const done = await this.#app.act('session/add', { takes, mute: $('session-mute').checked });
    if (!done) return;
    $('save-dialog').close();
    const notes = done.notes.length ? `; ${done.notes.join('; ')}` : '';
    this.#app.tell(`${done.stems.length} ${takes ? 'takes' : 'tracks'} added to ${this.#app.state.session.name}${notes}`);
  }

  async #takeAway() {
    const done = await this.#app.act('session/undo', {});
    if (!done) return;
    $('save-dialog').close();
    this.#app.tell(`Taken away: ${done.gone}`);
  }

  async #stems() {
    const done = await this.#app.act('stems', { overwrite: $('save-overwrite').checked });
    if (done) {
      $('save-dialog').close();
      this.#app.tell(`${Object.keys(done.files).length} files written to ${this.#app.state.folder}`);
    }
  }

  async #preset() {
    const done = await this.#app.act('preset', {
      name: $('preset-name').value,
      project: $('preset-where').value === 'project',
      description: $('preset-description').value,
      overwrite: $('preset-overwrite').checked,
    });
    if (done) {
      $('save-dialog').close();
      this.#app.tell(`Preset ${done.saved} saved (${done.where})`);
      this.#app.fillPresets();
    }
  }
}
