/** The server: what it says is to be shown, and what it is asked to do. */

export class Refused extends Error {}

/** Ask for something; what the server refuses is thrown in its words. */
export async function ask(path, body) {
  const options =
    body === undefined
      ? {}
      : { method: 'POST', body: body instanceof Blob ? body : JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused('The panel does not answer. Was the command stopped?');
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Refused(told.error ?? `The panel refused (${answer.status}).`);
  }
  return answer.json();
}

export async function fetchBinary(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Refused(`${path}: ${answer.status}`);
  return answer.arrayBuffer();
}

/** Something that a page shows before the server has said it; states from before are older. */
export class Ahead {
  #asked = Promise.resolve();
  #waiting = 0;
  #since = 0;

  /** Ask, after what was asked before; ends once nothing is on its way. */
  async ask(question) {
    this.#waiting += 1;
    this.#asked = this.#asked.then(question);
    const done = await this.#asked;
    this.#waiting -= 1;
    if (done) this.#since = done.revision;
  }

  /** The first revision that is not older than what was asked for. */
  get since() {
    return this.#since;
  }

  isAheadOf(state) {
    return this.#waiting > 0 || state.revision < this.#since;
  }
}

/** Follow the state of the panel; the browser reconnects by itself. */
export function follow(scope, { onState, onLost }) {
  const events = new EventSource('events');
  scope.listen(events, 'message', (event) => onState(JSON.parse(event.data)));
  scope.listen(events, 'error', onLost);
  scope.add(() => events.close());
}
