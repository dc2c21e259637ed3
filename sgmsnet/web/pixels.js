// Arithmetic on pixels for the viewer: decoding, contours, colours, areas. No page elements, no state.

const decodePixels = async (uri) => {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
};

// Grey values of a picture: one channel, or high and low byte in the first two.
const decodeGrey = async (uri, deep = false) => {
  const { data, width, height } = await decodePixels(uri);
  const values = deep ? new Uint16Array(width * height) : new Uint8Array(width * height);
  for (let i = 0, j = 0; i < values.length; i += 1, j += 4) {
    values[i] = deep ? (data[j] << 8) | data[j + 1] : data[j];
  }
  return { values, width, height };
};

// Every value of `map` through a table of 32-bit ABGR colours, on `canvas` where there is one of its size already.
const paintTable = (map, table, canvas = new OffscreenCanvas(map.width, map.height)) => {
  map.image ??= new ImageData(map.width, map.height);
  const pixels = new Uint32Array(map.image.data.buffer);
  for (let i = 0; i < pixels.length; i += 1) pixels[i] = table[map.values[i]];
  canvas.getContext("2d").putImageData(map.image, 0, 0);
  return canvas;
};

const packColour = (red, green, blue, alpha = 255) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

// Grey after window centre and width, for every value that the picture can hold.
const windowTable = (top, centre, width) => {
  const table = new Uint32Array(top + 1);
  for (let value = 0; value <= top; value += 1) {
    const grey = Math.max(0, Math.min(255, Math.round(((value - centre) / width + 0.5) * 255)));
    table[value] = packColour(grey, grey, grey);
  }
  return table;
};

// Colour stops -> 256 colours; alpha runs from 0 to 255 where `fade`, else it is full.
const rampTable = (stops, fade = false) => {
  const table = new Uint32Array(256);
  for (let value = 0; value < 256; value += 1) {
    const place = (value / 255) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(place));
    const mixed = stops[low].map((from, k) => Math.round(from + (stops[low + 1][k] - from) * (place - low)));
    table[value] = packColour(...mixed, fade ? value : 255);
  }
  return table;
};

// Darker and lighter tints of a class colour, for its heat map.
const shades = (colour) => [
  colour.map((part) => Math.round(part * 0.35)),
  colour,
  colour.map((part) => Math.round(part + (255 - part) * 0.6)),
];

// A fill whose edge is soft over about one pixel of the map, so that it does not step when enlarged; near the ends less, so
// that what is certainly outside has none, and what is certainly inside all of it.
const fillTable = (colour, threshold) => {
  const table = new Uint32Array(256);
  const soft = Math.min(24, threshold * 255, (1 - threshold) * 255);
  for (let value = 0; value < 256; value += 1) {
    const alpha = Math.max(0, Math.min(1, (value - threshold * 255) / soft + 0.5));
    table[value] = packColour(...colour, Math.round(alpha * 255));
  }
  return table;
};

// The line where the map crosses `threshold` (marching squares), in pixel units of the map. Outside counts as 0, so every
// line is closed; each is drawn in one go, since a stroke of single pieces takes several times as long.
const contour = ({ values, width, height }, threshold) => {
  const level = threshold * 255 + 0.01; // never equal to a value, so no crossing is undefined
  const crossings = new Map(); // by the edge between two pixels: where the line crosses it, and the crossings beside that
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : values[y * width + x]);
  for (let y = -1; y < height; y += 1) {
    let a = at(-1, y);
    let d = at(-1, y + 1);
    for (let x = -1; x < width; x += 1) {
      const b = at(x + 1, y);
      const c = at(x + 1, y + 1);
      const code = (a > level) | ((b > level) << 1) | ((c > level) << 2) | ((d > level) << 3);
      if (code !== 0 && code !== 15) addCell(crossings, width + 2, x, y, a, b, c, d, level, code);
      a = b;
      d = c;
    }
  }
  return closedLines(crossings);
};

// One cell with corner values a b / d c: a piece between the two edges that the line crosses.
const addCell = (crossings, row, x, y, a, b, c, d, level, code) => {
  const along = (from, to) => (level - from) / (to - from);
  const key = (column, line, upright) => 2 * ((line + 1) * row + column + 1) + upright;
  const edge = {
    top: () => [key(x, y, 0), x + 0.5 + along(a, b), y + 0.5],
    right: () => [key(x + 1, y, 1), x + 1.5, y + 0.5 + along(b, c)],
    bottom: () => [key(x, y + 1, 0), x + 0.5 + along(d, c), y + 1.5],
    left: () => [key(x, y, 1), x + 0.5, y + 0.5 + along(a, d)],
  };
  const crossing = ([id, cx, cy]) => {
    if (!crossings.has(id)) crossings.set(id, { id, x: cx, y: cy, beside: [] });
    return crossings.get(id);
  };
  for (const [from, to] of CELLS[code]) {
    const [first, second] = [crossing(edge[from]()), crossing(edge[to]())];
    first.beside.push(second);
    second.beside.push(first);
  }
};

const closedLines = (crossings) => {
  const path = new Path2D();
  for (const start of crossings.values()) {
    path.moveTo(start.x, start.y);
    for (let next = start; next; next = next.beside.find(({ id }) => crossings.has(id))) {
      path.lineTo(next.x, next.y);
      crossings.delete(next.id);
    }
    path.closePath();
  }
  return path;
};

const CELLS = {
  1: [["left", "top"]], 2: [["top", "right"]], 3: [["left", "right"]], 4: [["right", "bottom"]],
  5: [["left", "top"], ["right", "bottom"]], 6: [["top", "bottom"]], 7: [["left", "bottom"]],
  8: [["left", "bottom"]], 9: [["top", "bottom"]], 10: [["top", "right"], ["left", "bottom"]],
  11: [["right", "bottom"]], 12: [["left", "right"]], 13: [["top", "right"]], 14: [["left", "top"]],
};

const countAbove = (values, cut) => {
  let count = 0;
  for (let i = 0; i < values.length; i += 1) if (values[i] > cut) count += 1;
  return count;
};

// Areas and infection outside the lungs (pixels of the map) and infected shares at the given thresholds; the same rules
// as sgmsnet/measurements.py.
const measureMaps = (maps, thresholds, divider) => {
  const areas = {};
  for (const name of Object.keys(maps)) areas[name] = countAbove(maps[name].values, thresholds[name] * 255);
  const { lungs, infection } = maps;
  if (!lungs || !infection) return { areas, outside: null, share: { right: null, left: null, both: null } };
  const lung = [0, 0];
  const infected = [0, 0];
  const cuts = [thresholds.lungs * 255, thresholds.infection * 255];
  for (let y = 0, i = 0; y < lungs.height; y += 1) {
    const border = divider ? divider[y] * lungs.width - 0.5 : lungs.width;
    for (let x = 0; x < lungs.width; x += 1, i += 1) {
      if (lungs.values[i] <= cuts[0]) continue;
      const side = x < border ? 0 : 1;
      lung[side] += 1;
      if (infection.values[i] > cuts[1]) infected[side] += 1;
    }
  }
  const ratio = (part, whole) => (whole ? part / whole : null);
  return {
    areas,
    outside: areas.infection - infected[0] - infected[1],
    share: {
      right: divider ? ratio(infected[0], lung[0]) : null,
      left: divider ? ratio(infected[1], lung[1]) : null,
      both: ratio(infected[0] + infected[1], lung[0] + lung[1]),
    },
  };
};
