/** How stems are heard; the server computes the same for an exported mix (drawing.py). */

export const SILENT_DB = -60;
export const PLAIN = Object.freeze({ gain_db: 0, pan: 0, mute: false, solo: false });

/** Factors for left and right, mute and solo aside: a balance, not a move of one side over. */
export function stripGains({ gain_db: gainDb, pan }) {
  const gain = gainDb <= SILENT_DB ? 0 : 10 ** (gainDb / 20);
  const away = Math.abs(pan) < 1 ? Math.cos((Math.abs(pan) * Math.PI) / 2) : 0;
  return [gain * (pan > 0 ? away : 1), gain * (pan < 0 ? away : 1)];
}

/** Factors of every stem, by key, with mute and solo. */
export function heardGains(keys, strips) {
  const soloed = keys.some((key) => strips[key]?.solo);
  return Object.fromEntries(
    keys.map((key) => {
      const strip = strips[key] ?? PLAIN;
      const silent = strip.mute || (soloed && !strip.solo);
      return [key, silent ? [0, 0] : stripGains(strip)];
    }),
  );
}

/** What brings the original to the loudness of the mix. */
export function matchGain(levels) {
  if (!levels || levels.original === null || levels.heard === null) return 1;
  return 10 ** ((levels.heard - levels.original) / 20);
}
