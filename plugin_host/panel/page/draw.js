/** Canvas drawing: waveform and spectrogram of a lane, the ruler, the overview. */

import { pixelAt, ticks, tiles } from './geometry.js';
import { BANDS, PEAKS } from './tiles.js';

/** Make a canvas as sharp as the screen and return its context, scaled to CSS pixels. */
export function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function parseColour(text) {
  const value = Number.parseInt(text.trim().slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/** 256 colours from the ground over a stem's colour to the brightest, as packed pixels. */
export function palette(ground, colour, bright) {
  const stops = [ground, colour, bright].map(parseColour);
  const table = new Uint8ClampedArray(256 * 4);
  for (let value = 0; value < 256; value += 1) {
    const level = (value / 255) ** 1.25;
    const [low, high, part] =
      level < 0.62 ? [stops[0], stops[1], level / 0.62] : [stops[1], stops[2], (level - 0.62) / 0.38];
    for (let channel = 0; channel < 3; channel += 1) {
      table[4 * value + channel] = low[channel] + (high[channel] - low[channel]) * part;
    }
    table[4 * value + 3] = 255;
  }
  return table;
}

function pictureOf(tile, name, table) {
  let picture = tile.pictures.get(name);
  if (picture === undefined) {
    const { count, height } = BANDS;
    const image = new ImageData(count, height);
    for (let column = 0; column < count; column += 1) {
      for (let band = 0; band < height; band += 1) {
        const value = tile.bytes[column * height + band];
        const at = 4 * ((height - 1 - band) * count + column);
        image.data.set(table.subarray(4 * value, 4 * value + 4), at);
      }
    }
    picture = document.createElement('canvas');
    picture.width = count;
    picture.height = height;
    picture.getContext('2d').putImageData(image, 0, 0);
    tile.pictures.set(name, picture);
  }
  return picture;
}

/** The tiles of a sound that are in view and there: what they hold, their left edge and width. */
function* shown(form, { cache, sound, view, song }) {
  const ratio = window.devicePixelRatio || 1;
  for (const { level, index, start, length } of tiles(view, { ...song, ...form, ratio })) {
    const content = cache.get(form, sound, level, index);
    if (content === undefined) continue;
    yield [content, pixelAt(view, start / song.rate), length / song.rate / view.perPixel];
  }
}

/** Draw a spectrogram of `{cache, sound, view, song}` into a band of the canvas. */
export function drawSpectrogram(context, what, top, height, colours) {
  context.imageSmoothingEnabled = true;
  const sound = { ...what.sound, version: what.sound.edition };
  for (const [tile, left, width] of shown(BANDS, { ...what, sound })) {
    const picture = pictureOf(tile, colours.name, colours.table);
    context.drawImage(picture, left, top, width, height);
  }
}

/** Draw a waveform of `{cache, sound, view, song}` around the middle of a band of the canvas. */
export function drawWaveform(context, what, top, height, colour) {
  const { view, song } = what;
  const middle = top + height / 2;
  const scale = song.scale / 32767;
  context.fillStyle = colour;
  context.beginPath();
  for (const [peaks, left, across] of shown(PEAKS, what)) {
    const width = across / PEAKS.count;
    const first = Math.max(0, Math.floor(-left / width));
    const last = Math.min(PEAKS.count, Math.ceil((view.width - left) / width));
    for (let entry = first; entry < last; entry += 1) {
      const low = Math.max(-1, peaks[2 * entry] * scale);
      const high = Math.min(1, peaks[2 * entry + 1] * scale);
      if (low === 0 && high === 0) continue;
      const tall = Math.max(((high - low) * height) / 2, 1);
      context.rect(left + entry * width, middle - (high * height) / 2, Math.max(width, 0.5), tall);
    }
  }
  context.fill();
}

/** Draw the ruler's marks and times. */
export function drawRuler(context, view, height, { ink, faint }) {
  context.font = '11px ui-sans-serif, system-ui, sans-serif';
  context.textBaseline = 'top';
  for (const { seconds, label } of ticks(view)) {
    const x = Math.round(pixelAt(view, seconds)) + 0.5;
    context.strokeStyle = faint;
    context.beginPath();
    context.moveTo(x, height - (label ? 9 : 4));
    context.lineTo(x, height);
    context.stroke();
    if (label && x > -40 && x < view.width - 8) {
      context.fillStyle = ink;
      context.fillText(label, x + 4, 3);
    }
  }
}
