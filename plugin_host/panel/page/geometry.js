/**
 * Time and pixels, ticks, tiles and spans: pure functions over plain values.
 *
 * A view is `{start, perPixel, width}`: the second at the left edge, seconds per CSS pixel, pixels.
 */

const TICK_STEPS = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600,
];
const LEAST_TICK_PIXELS = 76;
const NEAREST_PER_PIXEL = 0.0005;

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const secondsAt = (view, x) => view.start + x * view.perPixel;
export const pixelAt = (view, seconds) => (seconds - view.start) / view.perPixel;
export const shownSeconds = (view) => view.width * view.perPixel;

/** The view that shows all of it. */
export function fitted(duration, width) {
  return { start: 0, perPixel: duration / Math.max(width, 1), width };
}

/** The same view, brought back to where there is something to see. */
export function settled(view, duration) {
  const perPixel = clamp(
    view.perPixel,
    Math.min(NEAREST_PER_PIXEL, duration / view.width),
    duration / view.width,
  );
  const last = Math.max(0, duration - perPixel * view.width);
  return { ...view, perPixel, start: clamp(view.start, 0, last) };
}

/** Zoom so that what is at `x` stays there; a factor below 1 goes nearer. */
export function zoomed(view, factor, x, duration) {
  const anchor = secondsAt(view, x);
  const near = settled({ ...view, perPixel: view.perPixel * factor }, duration);
  return settled({ ...near, start: anchor - x * near.perPixel }, duration);
}

/** Scroll by pixels. */
export function scrolled(view, pixels, duration) {
  return settled({ ...view, start: view.start + pixels * view.perPixel }, duration);
}

/** A view of a stretch with a little room on either side. */
export function showing(view, start, end, duration) {
  const room = (end - start) * 0.05;
  const perPixel = (end - start + 2 * room) / view.width;
  return settled({ ...view, start: start - room, perPixel }, duration);
}

/** Turn a page if the playhead has left the view. */
export function following(view, seconds, duration) {
  const shown = shownSeconds(view);
  if (seconds >= view.start && seconds < view.start + shown) return view;
  return settled({ ...view, start: seconds - 0.05 * shown }, duration);
}

/** Minutes, seconds and as many decimals as asked for. */
export function clock(seconds, decimals = 0) {
  const unit = 10 ** decimals;
  const whole = Math.round(Math.max(seconds, 0) * unit);
  const minutes = Math.floor(whole / (60 * unit));
  const rest = ((whole % (60 * unit)) / unit).toFixed(decimals);
  return `${minutes}:${rest.padStart(decimals ? 3 + decimals : 2, '0')}`;
}

/** Marks of the ruler: `{seconds, label}`, with a label on every fifth or so. */
export function ticks(view) {
  const wanted = LEAST_TICK_PIXELS * view.perPixel;
  const step = TICK_STEPS.find((each) => each >= wanted) ?? TICK_STEPS.at(-1);
  const minor = step / 5;
  const decimals = step >= 1 ? 0 : Math.ceil(-Math.log10(step));
  const marks = [];
  const last = Math.ceil((view.start + shownSeconds(view)) / minor);
  for (let index = Math.floor(view.start / minor); index <= last; index += 1) {
    const seconds = index * minor;
    marks.push({ seconds, label: index % 5 === 0 ? clock(seconds, decimals) : '' });
  }
  return marks;
}

/**
 * The tiles that cover a view.
 *
 * Level 0 has `unit` samples in each of the `count` entries of a tile, every level twice as many;
 * the level is the coarsest that still has an entry for a device pixel.
 */
export function tiles(view, { rate, samples, unit, count, levels, ratio = 1 }) {
  const perPixel = (view.perPixel * rate) / ratio;
  const level = clamp(Math.floor(Math.log2(Math.max(perPixel, unit) / unit)), 0, levels - 1);
  const length = unit * 2 ** level * count;
  const end = Math.min((view.start + shownSeconds(view)) * rate, samples);
  const found = [];
  for (let index = Math.floor((view.start * rate) / length); index * length < end; index += 1) {
    found.push({ level, index, start: index * length, length });
  }
  return found;
}

/**
 * Paint a span over others: it joins those of its kind that it touches, and cuts a piece out of
 * those that say the opposite.
 */
export function painted(spans, added, shortest = 0.01) {
  let joined = { ...added };
  const rest = [];
  for (const span of spans) {
    const apart = span.end_s < joined.start_s || span.start_s > joined.end_s;
    if (apart) rest.push(span);
    else if (span.polarity === joined.polarity) {
      joined.start_s = Math.min(joined.start_s, span.start_s);
      joined.end_s = Math.max(joined.end_s, span.end_s);
    } else {
      rest.push({ ...span, end_s: added.start_s }, { ...span, start_s: added.end_s });
    }
  }
  return [...rest, joined]
    .filter((span) => span.end_s - span.start_s >= shortest)
    .sort((one, other) => one.start_s - other.start_s);
}

/** A span after one of its edges, or all of it (`"body"`), was moved by seconds. */
export function dragged(span, part, seconds, duration, shortest = 0.01) {
  const { start_s: start, end_s: end } = span;
  if (part === 'start') return { ...span, start_s: clamp(start + seconds, 0, end - shortest) };
  if (part === 'end') return { ...span, end_s: clamp(end + seconds, start + shortest, duration) };
  const by = clamp(seconds, -start, duration - end);
  return { ...span, start_s: start + by, end_s: end + by };
}
