/** Which samples sound when: pure functions over counts of samples. */

/**
 * The next piece to schedule from a position: it ends with its chunk, with the loop, or with the
 * song. `next` is where to go on, null after the end.
 */
export function nextPiece(position, { chunk, samples, loop }) {
  const inLoop = loop !== null && position < loop.end;
  const end = inLoop ? Math.min(loop.end, samples) : samples;
  const index = Math.floor(position / chunk);
  const stop = Math.min((index + 1) * chunk, end);
  if (stop <= position) return null;
  const ended = stop === end;
  return {
    index,
    from: position - index * chunk,
    length: stop - position,
    next: ended ? (inLoop ? loop.start : null) : stop,
  };
}

/**
 * The position in the song at a frame of the output, from what was scheduled: entries
 * `{frame, position, length}` in order. Null before the first.
 */
export function positionAt(entries, frame) {
  for (let index = entries.length - 1; index >= 0; index -= 1) {
    const entry = entries[index];
    if (frame >= entry.frame) {
      return entry.position + Math.min(frame - entry.frame, entry.length);
    }
  }
  return null;
}

/**
 * The time to start a source at so that its first sample is a frame of the output. Of a time that
 * comes out a rounding before the frame, browsers play what lies between the samples; so it is a
 * little after, by less than they take notice of.
 */
export function startOf(frame, rate) {
  return (frame + 2 ** -16) / rate;
}
