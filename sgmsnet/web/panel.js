// The cards beside the picture: measurements, time by stage, downloads, model. No drawing on the canvas.

const STAGES = { decode: "Decode", prepare: "Prepare", run: "Run", postprocess: "Postprocess", encode: "Encode" };

const titled = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
const plain = (threshold) => threshold.toFixed(3).replace(/0$/, "");
const percent = (share) => (share === null ? "–" : `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`);
const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const squareCentimetres = (area) => `${(area / 100).toFixed(area < 10000 ? 1 : 0)} cm²`;

// A new element with text (never markup: names come from files).
const make = (tag, className = "", text = "") => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
};

const definition = (term, text, title = "") => {
  const value = make("dd", "", text);
  if (title) value.title = title;
  return [make("dt", "", term), value];
};

const barRow = (label, fraction, text, className) => {
  const row = make("div", `sv-row ${className}`);
  const track = make("i", "sv-track");
  const fill = make("b");
  fill.style.width = `${Math.max(0, Math.min(1, fraction)) * 100}%`;
  track.append(fill);
  row.append(make("span", "sv-row-label", label), track, make("span", "sv-row-value", text));
  return row;
};

// measured: {areas_px, areas_mm2, share, sides, outside_px}; approximate when a threshold is not the model's.
const showMeasures = (root, measured, approximate) => {
  const find = (name) => root.querySelector(name);
  const { share } = measured;
  root.dataset.approximate = approximate;
  find(".sv-total").replaceChildren(make("strong", "", percent(share.both)), make("span", "", "of both lungs"));
  find(".sv-shares").replaceChildren(
    ...(measured.sides
      ? [
          barRow("Right lung", share.right ?? 0, percent(share.right), "sv-share"),
          barRow("Left lung", share.left ?? 0, percent(share.left), "sv-share"),
        ]
      : []),
  );
  find(".sv-note").textContent = measured.sides
    ? "Right and left as seen by the patient: the right lung is on the image's left."
    : "Right and left lung cannot be told apart in this image.";
  const rows = Object.entries(measured.areas_px).flatMap(([name, area]) =>
    definition(titled(name), areaText(area, measured.areas_mm2?.[name])),
  );
  if (measured.outside_px !== null) rows.push(...definition("Outside lungs", areaText(measured.outside_px)));
  find(".sv-areas").replaceChildren(...rows);
};

const areaText = (pixels, mm2) =>
  `${Math.round(pixels).toLocaleString("en")} px` + (mm2 === undefined || mm2 === null ? "" : `, ${squareCentimetres(mm2)}`);

const showTimes = (root, timings) => {
  const rows = Object.entries(timings).filter(([, value]) => value !== null);
  const sum = rows.reduce((total, [, value]) => total + value, 0);
  root.querySelector(".sv-sum").textContent = milliseconds(sum);
  const longest = Math.max(...rows.map(([, value]) => value));
  root
    .querySelector(".sv-times")
    .replaceChildren(
      ...rows.map(([stage, value]) => barRow(STAGES[stage] ?? stage, value / longest, milliseconds(value), "sv-time")),
    );
};

const showModel = (root, record) => {
  root
    .querySelector(".sv-model")
    .replaceChildren(
      ...definition("Name", record.model),
      ...definition("SHA-256", record.model_sha256.slice(0, 12), record.model_sha256),
      ...definition("Engine", record.engine),
      ...definition("Precision", record.precision),
      ...definition("Device", record.device),
    );
};

const save = (blob, name) => {
  const link = make("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

const blobOf = (uri) => {
  const [head, body] = uri.split(",");
  const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: head.slice(5, head.indexOf(";")) });
};

// The mask at another threshold than the model's, at the image's own size, from the enlarged probability map.
const maskBlob = async (map, threshold, width, height) => {
  const small = paintTable(map, rampTable([[0, 0, 0], [255, 255, 255]]));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(small, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const white = packColour(255, 255, 255);
  const black = packColour(0, 0, 0);
  for (let i = 0; i < words.length; i += 1) words[i] = (words[i] & 255) > threshold * 255 ? white : black;
  context.putImageData(pixels, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
};
