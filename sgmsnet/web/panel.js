// The cards beside the picture: measurements, time by stage, downloads, model. No drawing on the canvas.

const STAGES = { decode: "Decode", prepare: "Prepare", run: "Run", postprocess: "Postprocess", encode: "Encode" };

const titled = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
const plain = (threshold) => threshold.toFixed(3).replace(/0$/, "");
const percent = (share) => (share === null ? "–" : `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`);
const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
// Lengths and areas at the detector are larger than in the patient, so they say where they hold.
const whereMeasured = ({ spacing_at }) => (spacing_at === "detector" ? " at the detector" : "");
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

const span = (low, high) => {
  const digits = high < 0.0995 ? 1 : 0;
  return `${(low * 100).toFixed(digits)} to ${(high * 100).toFixed(digits)} %`;
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

// A lung's share with the interval it lies in, as a thin line on the bar and in words, where one is known. `kept`: the
// words have their place also without one, so that no row moves under a finger.
const shareRow = (label, share, interval, kept) => {
  const row = barRow(label, share ?? 0, percent(share), "sv-share");
  if (kept) row.append(make("span", "sv-interval", interval ? span(...interval) : "–"));
  if (!interval) return row;
  const [low, high] = interval;
  const whisker = make("u");
  whisker.style.left = `${low * 100}%`;
  whisker.style.width = `${(high - low) * 100}%`;
  row.querySelector(".sv-track").append(whisker);
  return row;
};

// Of a model of other classes than lungs and infection, the area of the last one is the figure.
const tellsShare = ({ areas_px }) => "lungs" in areas_px && "infection" in areas_px;

// What is written large, what it is of, and what it is called.
const headline = (measured) => {
  if (tellsShare(measured)) return [percent(measured.share.both), "of both lungs", "Infected share"];
  const [name, area] = Object.entries(measured.areas_px).at(-1);
  return [areaText(area, measured.areas_mm2?.[name]), "", titled(name)];
};

// measured: {areas_px, areas_mm2, spacing_at, share, interval, sides, outside_px}; approximate when a threshold is not
// the model's, for which no interval is known. `kept`: the sides for which there is one at the model's.
const showMeasures = (root, measured, approximate, kept) => {
  const find = (name) => root.querySelector(name);
  const { share, interval } = measured;
  root.dataset.approximate = approximate;
  const [figure, of, called] = headline(measured);
  find(".sv-what").textContent = called;
  find(".sv-live").textContent = `${called} ${figure}${approximate ? ", approximate" : ""}`;
  find(".sv-total").replaceChildren(make("strong", "", figure), make("span", "", of));
  const between = interval?.both ? span(...interval.both) : "–";
  find(".sv-between").textContent = kept?.both ? `95 % interval ${between}` : "";
  find(".sv-shares").replaceChildren(
    ...(measured.sides
      ? [
          shareRow("Right lung", share.right, interval?.right, kept?.right),
          shareRow("Left lung", share.left, interval?.left, kept?.left),
        ]
      : []),
  );
  const sides = measured.sides
    ? "The patient's right lung is on the image's left."
    : "Right and left lung cannot be told apart in this image.";
  find(".sv-note").textContent = tellsShare(measured) ? sides : "";
  const rows = Object.entries(measured.areas_px).flatMap(([name, area]) =>
    definition(titled(name), areaText(area, measured.areas_mm2?.[name])),
  );
  if (measured.outside_px !== null) rows.push(...definition("Outside lungs", areaText(measured.outside_px)));
  // A row of its own: behind each area, rows would wrap and move while a threshold is dragged.
  const where = whereMeasured(measured).trim();
  if (where) rows.push(...definition("Areas in cm²", where, "Everything is larger there than in the patient."));
  find(".sv-areas").replaceChildren(...rows);
};

// The same in one sentence, to be heard.
const spoken = (measured, approximate) => {
  const { share, interval, sides } = measured;
  if (!tellsShare(measured)) {
    const [figure, , called] = headline(measured);
    return `${called}${approximate ? ", approximate" : ""}: ${figure}${whereMeasured(measured)}.`;
  }
  const said = (part) => (part === null ? "unknown" : percent(part));
  const between = interval?.both ? `, 95 % interval ${span(...interval.both)}` : "";
  const lungs = sides ? `; right lung ${said(share.right)}, left lung ${said(share.left)}` : "";
  return `Infected share${approximate ? ", approximate" : ""}: ${said(share.both)} of both lungs${between}${lungs}.`;
};

const areaText = (pixels, mm2) =>
  `${Math.round(pixels).toLocaleString("en")} px` + (mm2 === undefined || mm2 === null ? "" : `, ${squareCentimetres(mm2)}`);

const FAMILIAR = {
  true: "Looks like a frontal chest X-ray.",
  false: "Does not look like a frontal chest X-ray: these figures mean nothing.",
  null: "Whether this is a frontal chest X-ray was not checked.",
};

const showFamiliarity = (root, { familiar, familiarity, header_note }) => {
  const line = root.querySelector(".sv-familiar");
  line.dataset.familiar = familiar ?? "unknown";
  line.textContent = [FAMILIAR[familiar ?? "null"], header_note ?? ""].join(" ").trim();
  const because = root.querySelector(".sv-because");
  because.textContent = header_note ?? "";
  because.hidden = !header_note;
  line.title = typeof familiarity === "number" ? `Familiarity ${familiarity.toFixed(2)}` : "";
};

const seen = {}; // times by stage of the images of this tab, by engine

const showTimes = (root, { engine, timings_ms }) => {
  const rows = Object.entries(timings_ms).filter(([, value]) => value !== null);
  const sum = rows.reduce((total, [, value]) => total + value, 0);
  root.querySelector(".sv-sum").textContent = milliseconds(sum);
  const longest = Math.max(...rows.map(([, value]) => value));
  root
    .querySelector(".sv-times")
    .replaceChildren(
      ...rows.map(([stage, value]) => barRow(STAGES[stage] ?? stage, value / longest, milliseconds(value), "sv-time")),
    );
  const kept = (seen[engine] ??= []);
  kept.push({ ...Object.fromEntries(rows), total: sum });
  showHistory(root.querySelector(".sv-history"), kept.slice(-200));
};

// Linear between the sorted values, as NumPy does by default.
const percentile = (values, share) => {
  const sorted = [...values].sort((a, b) => a - b);
  const place = (sorted.length - 1) * share;
  const low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
};

const showHistory = (box, kept) => {
  box.hidden = kept.length < 2;
  box.querySelector("summary").textContent = `p50 and p95 of ${kept.length} images`;
  const line = ([stage, title]) => {
    const values = kept.map((one) => one[stage]).filter((value) => value !== undefined);
    const row = make("tr");
    const head = Object.assign(make("th", "", title), { scope: "row" });
    row.append(head, ...[0.5, 0.95].map((share) => make("td", "", milliseconds(percentile(values, share)))));
    return row;
  };
  const stages = [...Object.entries(STAGES), ["total", "Total"]].filter(([stage]) => kept.some((one) => stage in one));
  box.querySelector("tbody").replaceChildren(...stages.map(line));
};

const showModel = (root, record, notes) => {
  root
    .querySelector(".sv-model")
    .replaceChildren(
      ...definition("Name", record.model),
      ...definition("SHA-256", record.model_sha256.slice(0, 12), record.model_sha256),
      ...definition("Engine", record.engine),
      ...definition("Precision", record.precision),
      ...definition("Device", record.device),
      ...notes.flatMap((note) => definition("Note", note)),
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
