// The viewer: takes a payload from the server once per image and redraws by itself ever after.
// Runs inside gr.HTML's js_on_load, after pixels.js and panel.js and before canvas.js and controls.js: `element`, `props`
// and `watch` are given. Not here: painting and events.

const root = element.querySelector(".sv");
const find = (selector) => root.querySelector(selector);
const canvas = find(".sv-canvas");
const context = canvas.getContext("2d");
const OPACITY = { outline: 1, fill: 0.4, heat: 0.75 }; // each style remembers its own
const settings = { style: "outline", split: 0, strength: 0.55, attention: "", hidden: new Set() };
const view = { zoom: 1, x: 0, y: 0 };
let shown = null; // what is on display: payload, decoded maps, thresholds, and what was painted from them
let waiting = false;

// ---- a new image ----

const show = async () => {
  const payload = props.value;
  if (!payload) return;
  if (payload.error) {
    find(".sv-error").textContent = payload.error;
    root.dataset.state = "error";
    return;
  }
  const decode = (list, key) => Promise.all(list.map((item) => decodeGrey(item[key])));
  const [picture, maps, attention] = await Promise.all([
    decodeGrey(payload.picture.uri, payload.picture.deep),
    decode(payload.classes, "probability"),
    decode(payload.attention, "map"),
  ]);
  if (props.value?.run !== payload.run) return; // a newer image overtook this one
  const byName = (list, values) => Object.fromEntries(list.map((item, k) => [item.name, values[k]]));
  shown = {
    payload,
    picture,
    maps: byName(payload.classes, maps),
    attention: byName(payload.attention, attention),
    thresholds: Object.fromEntries(payload.classes.map((item) => [item.name, item.threshold])),
    window: [...payload.picture.window],
    painted: {},
  };
  fillIn(payload);
  resetView();
  root.dataset.state = "ready";
  resize();
  canvas.dataset.run = payload.run;
};

const fillIn = (payload) => {
  const { picture, record } = payload;
  find(".sv-name").textContent = payload.name;
  const depth = picture.depth > 8 ? `, ${picture.depth} bit` : "";
  find(".sv-facts").textContent = `${picture.width} × ${picture.height}, ${picture.format}${depth}`;
  find(".sv-credit").textContent = payload.attribution ? `Image: ${payload.attribution}` : "";
  root.dataset.sides = payload.divider !== null;
  root.dataset.unfamiliar = record.familiar === false;
  classControls(payload.classes);
  attentionChoices(payload.attention);
  windowControls();
  downloadButtons(payload);
  showTimes(root, record.timings_ms);
  showModel(root, record);
  measure();
};

const classControls = (classes) => {
  find(".sv-classes").replaceChildren(
    ...classes.map(({ name, colour, threshold }) => {
      const row = make("div", "sv-class");
      row.style.setProperty("--class-colour", `rgb(${colour})`);
      const toggle = make("label", "sv-toggle");
      const box = Object.assign(make("input"), { type: "checkbox", checked: !settings.hidden.has(name) });
      box.dataset.show = name;
      toggle.append(box, make("i"), make("span", "", titled(name)));
      const slider = make("label", "sv-slider");
      const range = Object.assign(make("input"), { type: "range", min: 0.01, max: 0.99, step: 0.01, value: threshold });
      range.dataset.threshold = name;
      range.setAttribute("aria-label", `Threshold of ${name}`);
      slider.append(make("span", "", "Threshold"), range, make("output", "", plain(threshold)));
      row.append(toggle, slider);
      return row;
    }),
  );
};

const attentionChoices = (maps) => {
  const select = find("[data-set=attention]");
  const options = maps.map(({ name, title }) => Object.assign(make("option", "", title), { value: name }));
  select.replaceChildren(Object.assign(make("option", "", "None"), { value: "" }), ...options);
  if (!maps.some(({ name }) => name === settings.attention)) settings.attention = "";
  select.value = settings.attention;
  describeAttention();
};

const describeAttention = () => {
  const chosen = shown.payload.attention.find(({ name }) => name === settings.attention);
  root.dataset.attention = chosen ? chosen.name : "";
  const stops = shown.payload.scale.map((colour) => `rgb(${colour})`);
  find(".sv-scale i").style.background = `linear-gradient(90deg, ${stops})`;
  find(".sv-sentence").textContent = chosen ? chosen.sentence : "";
};

const windowControls = () => {
  const { top } = shown.payload.picture;
  for (const [key, index] of [["centre", 0], ["width", 1]]) {
    const range = find(`[data-set=${key}]`);
    range.max = top;
    range.value = shown.window[index];
    range.parentElement.querySelector("output").textContent = Math.round(shown.window[index]);
  }
};

const downloadButtons = (payload) => {
  const stem = payload.name.replace(/\.[^.]+$/, "");
  const button = (label, action) => {
    const made = Object.assign(make("button", "sv-download", label), { type: "button" });
    made.addEventListener("click", action);
    return made;
  };
  const { width, height } = payload.picture;
  const masks = payload.classes.map((item) =>
    button(`${titled(item.name)} mask (PNG)`, async () => {
      const threshold = shown.thresholds[item.name];
      if (threshold === item.threshold) return save(blobOf(item.mask), `${stem}_${item.name}.png`);
      const blob = await maskBlob(shown.maps[item.name], threshold, width, height);
      return save(blob, `${stem}_${item.name}_at_${plain(threshold)}.png`);
    }),
  );
  const overlay = button("Overlay (PNG)", async () => {
    const sheet = new OffscreenCanvas(shown.picture.width, shown.picture.height);
    paint(sheet.getContext("2d"), { scale: 1, x: 0, y: 0 });
    save(await sheet.convertToBlob({ type: "image/png" }), `${stem}_overlay.png`);
  });
  const record = button("Record (JSON)", () =>
    save(new Blob([JSON.stringify(payload.record, null, 2)], { type: "application/json" }), `${stem}.json`),
  );
  find(".sv-downloads").replaceChildren(...masks, overlay, record);
};

// ---- measuring ----

const changed = () => shown.payload.classes.some(({ name, threshold }) => shown.thresholds[name] !== threshold);

const measure = () => {
  const { record, divider, picture } = shown.payload;
  const sides = divider !== null;
  if (!changed()) {
    const { areas_px, areas_mm2, infected_share, infection_outside_lungs_px } = record;
    const exact = { areas_px, areas_mm2, share: infected_share, sides, outside_px: infection_outside_lungs_px };
    showMeasures(root, exact, false);
  } else {
    const { areas, share } = measureMaps(shown.maps, shown.thresholds, divider);
    const map = Object.values(shown.maps)[0];
    const per = (picture.width * picture.height) / (map.width * map.height);
    const areas_px = Object.fromEntries(Object.entries(areas).map(([name, area]) => [name, area * per]));
    const mm2 = picture.spacing_mm && picture.spacing_mm[0] * picture.spacing_mm[1];
    const areas_mm2 = mm2 && Object.fromEntries(Object.entries(areas_px).map(([name, area]) => [name, area * mm2]));
    showMeasures(root, { areas_px, areas_mm2, share, sides, outside_px: null }, true);
  }
  canvas.setAttribute("aria-label", describePicture());
};

const describePicture = () => {
  const visible = shown.payload.classes.map(({ name }) => name).filter((name) => !settings.hidden.has(name));
  const what = visible.length ? `with ${settings.style} of ${visible.join(" and ")}` : "without overlay";
  return `X-ray ${shown.payload.name} ${what}. Infected share: ${find(".sv-total").textContent}.`;
};
