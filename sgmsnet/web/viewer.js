// The viewer: takes a payload from the server once per image and redraws by itself ever after.
// Runs inside gr.HTML's js_on_load, after pixels.js and panel.js and before canvas.js and controls.js: `element`, `props`
// and `watch` are given. Not here: painting and events.

const root = element.querySelector(".sv");
const find = (selector) => root.querySelector(selector);
const canvas = find(".sv-canvas");
const context = canvas.getContext("2d", { alpha: false });
const PATIENCE_MS = 30000;
const SAY_AFTER_MS = 400; // what is heard follows when a slider rests
const OPACITY = { outline: 1, fill: 0.4, heat: 0.75 }; // each style remembers its own
const settings = { style: "outline", split: 0, strength: 0.55, attention: "", hidden: new Set() };
const view = { zoom: 1, x: 0, y: 0 };
let shown = null; // what is on display: payload, decoded maps, thresholds, and what was painted from them
let waiting = false;

// Moments of the newest image, for whoever measures: export/bench_click.py does.
const mark = (name) => {
  performance.clearMarks(name);
  performance.mark(name);
};

// ---- a new image ----

const show = async () => {
  const payload = props.value;
  if (!payload) return;
  mark("sgmsnet-result");
  document.dispatchEvent(new CustomEvent("sgmsnet-shown", { detail: payload.error ? null : payload.name }));
  if (payload.error) return complain(payload.error);
  const decoded = await decodeAll(payload).catch(() => null);
  if (props.value?.run !== payload.run) return; // a newer image overtook this one
  if (!decoded) return complain(`${payload.name} was segmented, but this browser could not open the result.`);
  const [picture, maps, attention] = decoded;
  const byName = (list, values) => Object.fromEntries(list.map((item, k) => [item.name, values[k]]));
  shown = {
    payload,
    picture,
    maps: byName(payload.classes, maps),
    attention: byName(payload.attention, attention),
    thresholds: Object.fromEntries(payload.classes.map((item) => [item.name, item.threshold])),
    window: [...payload.picture.window],
    refused: payload.record.familiar === false,
    painted: {},
  };
  fillIn(payload);
  resetView();
  root.dataset.state = "ready";
  resize();
  canvas.dataset.run = payload.run;
  say();
};

const decodeAll = ({ picture, classes, attention }) => {
  const decode = (list, key) => Promise.all(list.map((item) => decodeGrey(item[key])));
  return Promise.all([
    decodeGrey(picture.uri, picture.deep),
    decode(classes, "probability"),
    decode(attention, "map"),
  ]);
};

const complain = (sentence) => {
  leaveFull();
  clearTimeout(saying);
  find(".sv-status").textContent = "";
  root.dataset.state = "error";
  find(".sv-error").textContent = sentence; // after the state: what is hidden is not read out
};

const fillIn = (payload) => {
  const { picture, record } = payload;
  find(".sv-name").textContent = payload.name;
  find(".sv-readout").textContent = "";
  const depth = picture.depth > 8 ? `, ${picture.depth} bit` : "";
  find(".sv-facts").textContent = `${picture.width} × ${picture.height}, ${picture.format}${depth}`;
  find(".sv-credit").textContent = payload.attribution ? `Image: ${payload.attribution}` : "";
  root.dataset.sides = payload.divider !== null;
  root.dataset.refused = shown.refused;
  classControls(payload.classes);
  attentionChoices(payload.attention);
  windowControls();
  downloadButtons(payload);
  showFamiliarity(root, record);
  showTimes(root, record);
  showModel(root, record, payload.notes);
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
  find(".sv-digits").replaceChildren(...classes.slice(0, 9).flatMap((_, k) => [make("kbd", "", `${k + 1}`), " "]));
  find(".sv-digits-of").textContent = `${classes.slice(0, 9).map(({ name }) => name.replaceAll("_", " ")).join(", ")} on and off`;
};

const attentionChoices = (maps) => {
  find(".sv-maps").hidden = maps.length === 0;
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
    const own = shown.window[index]; // of the file, which may be wider than what its pixels reach, and lie beside them
    const most = Math.max(top, own);
    range.step = most / 255; // an arrow key goes as far in 16 bit as in 8
    range.min = Math.min(index * range.step, own);
    range.max = most;
    range.value = own;
    range.parentElement.querySelector("output").textContent = Math.round(own);
  }
};

const downloadButtons = (payload) => {
  const stem = payload.name.replace(/\.[^.]+$/, "");
  const button = (label, action) => {
    const made = Object.assign(make("button", "sv-download", label), { type: "button" });
    made.addEventListener("click", async () => {
      find(".sv-problem").textContent = "";
      made.setAttribute("aria-busy", true);
      await action().catch((sentence) => { find(".sv-problem").textContent = sentence; });
      made.removeAttribute("aria-busy");
    });
    return made;
  };
  const masks = payload.classes.map(({ name, threshold }) =>
    button(`${titled(name)} mask (PNG)`, async () => {
      const chosen = shown.thresholds[name];
      const { masks: uris } = await atThresholds();
      save(blobOf(uris[name]), `${stem}_${name}${chosen === threshold ? "" : `_at_${plain(chosen)}`}.png`);
    }),
  );
  const record = button("Record (JSON)", async () => {
    const text = JSON.stringify((await atThresholds()).record, null, 2);
    save(new Blob([text], { type: "application/json" }), `${stem}.json`);
  });
  find(".sv-problem").textContent = "";
  const made = (label, kind) => button(label, async () => {
    const { name, type, data } = (await askServer(kind)).file;
    save(blobOf(`data:${type};base64,${data}`), name);
  });
  const others = [made("Report (HTML)", "report")];
  if (payload.picture.format === "DICOM") others.push(made("Segmentation (DICOM SEG)", "seg"));
  find(".sv-downloads").replaceChildren(...masks, made("Overlay (PNG)", "overlay"), record, ...others);
};

// Masks and record at the thresholds that are set. At the model's own they are here; at others the server measures again,
// once, because the small maps of the browser would give masks with coarse borders.
const atThresholds = () => {
  const { payload } = shown;
  if (!changed()) {
    const masks = Object.fromEntries(payload.classes.map(({ name, mask }) => [name, mask]));
    return Promise.resolve({ masks, record: payload.record });
  }
  const tag = JSON.stringify(shown.thresholds);
  if (shown.exact?.tag !== tag) shown.exact = { tag, answer: askServer() };
  const asked = shown;
  return asked.exact.answer.catch((sentence) => {
    asked.exact = null; // the next click asks again
    throw sentence;
  });
};

// Without a kind: masks and record. "overlay", "report" and "seg" are files that only the server can make. The run says
// which picture is meant: the server may have gone on to another one that is not shown yet.
const askServer = (kind = null) =>
  new Promise((done, fail) => {
    const ticket = crypto.getRandomValues(new Uint32Array(2)).join("-");
    const stop = new AbortController();
    const late = setTimeout(() => settle(() => fail("The server did not answer; please try again.")), PATIENCE_MS);
    const settle = (how) => {
      clearTimeout(late);
      stop.abort();
      how();
    };
    const answered = ({ detail }) => {
      if (detail?.ticket !== ticket) return; // the answer to another question
      settle(() => (detail.error ? fail(detail.error) : done(detail)));
    };
    document.addEventListener("sgmsnet-exact", answered, { signal: stop.signal });
    const { run, record } = shown.payload;
    trigger("download", { ticket, kind, run, thresholds: shown.thresholds, engine: record.engine });
  });

// ---- measuring ----

const changed = () => shown.payload.classes.some(({ name, threshold }) => shown.thresholds[name] !== threshold);

const measure = () => {
  const { record, divider, picture } = shown.payload;
  const sides = divider !== null;
  root.dataset.thresholds = JSON.stringify(shown.thresholds); // where other panels find them
  if (!changed()) {
    const { areas_px, areas_mm2, infected_share: share, infected_share_interval: interval } = record;
    shown.measured = { areas_px, areas_mm2, share, interval, sides, outside_px: record.infection_outside_lungs_px };
  } else {
    const { areas, outside, share } = measureMaps(shown.maps, shown.thresholds, divider);
    const map = Object.values(shown.maps)[0];
    const per = (picture.width * picture.height) / (map.width * map.height);
    const areas_px = Object.fromEntries(Object.entries(areas).map(([name, area]) => [name, area * per]));
    const mm2 = picture.spacing_mm && picture.spacing_mm[0] * picture.spacing_mm[1];
    const areas_mm2 = mm2 && Object.fromEntries(Object.entries(areas_px).map(([name, area]) => [name, area * mm2]));
    shown.measured = { areas_px, areas_mm2, share, sides, outside_px: outside === null ? null : outside * per };
  }
  shown.measured.spacing_at = record.spacing_at;
  showMeasures(root, shown.measured, changed(), record.infected_share_interval);
  canvas.setAttribute("aria-label", describePicture());
  if (root.dataset.state === "ready") say();
};

let saying = null;

// Name and answer for who does not see them.
const say = () => {
  clearTimeout(saying);
  saying = setTimeout(() => {
    const { payload, refused, measured } = shown;
    find(".sv-status").textContent = refused ? describePicture() : `${payload.name}. ${spoken(measured, changed())}`;
  }, SAY_AFTER_MS);
};

const describePicture = () => {
  if (shown.refused) return `${shown.payload.name}: this does not look like a frontal chest X-ray. No result is shown.`;
  const visible = shown.payload.classes.map(({ name }) => name).filter((name) => !settings.hidden.has(name));
  const what = visible.length ? `with ${settings.style} of ${visible.join(" and ")}` : "without overlay";
  return `X-ray ${shown.payload.name} ${what}. ${spoken(shown.measured, changed())}`;
};
