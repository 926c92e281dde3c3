/** Icons as paths on a grid of 16, drawn in the colour of the text. */

const NS = 'http://www.w3.org/2000/svg';
const PATHS = {
  play: ['M4 2.5v11l9-5.5z', true],
  pause: ['M4 2.5h3v11H4zM9 2.5h3v11H9z', true],
  start: ['M3 3v10M13 3.5v9L5.5 8z', true],
  loop: ['M11 2l2.5 2.5L11 7M13 4.5H5A2.5 2.5 0 0 0 2.5 7v.5M5 14l-2.5-2.5L5 9M3 11.5h8A2.5 2.5 0 0 0 13.5 9v-.5'],
  undo: ['M6 3L2.5 6.5 6 10M3 6.5h6.5a3.5 3.5 0 0 1 0 7H7'],
  redo: ['M10 3l3.5 3.5L10 10M13 6.5H6.5a3.5 3.5 0 0 0 0 7H9'],
  plus: ['M8 3v10M3 8h10'],
  minus: ['M3 8h10'],
  fit: ['M2 8h12M2 8l3-3M2 8l3 3M14 8l-3-3M14 8l-3 3'],
  range: ['M3 3v10M13 3v10M5.5 8h5M5.5 8l1.5-1.5M5.5 8L7 9.5M10.5 8L9 6.5M10.5 8L9 9.5'],
  close: ['M4 4l8 8M12 4l-8 8'],
  help: ['M5.5 6a2.5 2.5 0 1 1 3.8 2.1C8.400 8.700 8 9.100 8 10M8 12.500v.6'],
  film: ['M2 3.500h12v9H2zM5 3.500v9M11 3.500v9M2 6.500h3M2 9.500h3M11 6.500h3M11 9.500h3'],
  file: ['M8 2.500v7.500M5 7l3 3 3-3M3 13h10'],
  star: ['M8 2l1.800 3.900 4.200.5-3.100 2.900.8 4.200L8 11.400l-3.700 2.100.8-4.200L2 6.400l4.200-.5z'],
};

export function icon(name) {
  const [path, filled] = PATHS[name];
  const svg = document.createElementNS(NS, 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true');
  const shape = document.createElementNS(NS, 'path');
  shape.setAttribute('d', path);
  shape.setAttribute('fill', filled ? 'currentColor' : 'none');
  svg.append(shape);
  return svg;
}

/** Give a button its icon, and a name for those who do not see it. */
export function dress(button, name, title = button.title) {
  if (button.dataset.shown === name && button.title === title) return;
  button.dataset.shown = name;
  button.title = title;
  button.setAttribute('aria-label', title.replace(/ \([^)]*\)$/, ''));
  button.replaceChildren(icon(name));
}
