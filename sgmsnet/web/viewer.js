// The viewer: takes a payload from the server once per image and redraws by itself ever after.
// Runs inside gr.HTML's js_on_load, after pixels.js and panel.js: `element`, `props` and `watch` are given.

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

// ---- painting ----

const cached = (key, tag, build) => {
  const kept = shown.painted[key];
  if (kept?.tag === tag) return kept.value;
  const value = build();
  shown.painted[key] = { tag, value };
  return value;
};

const basePicture = () =>
  cached("base", shown.window.join(), () =>
    paintTable(shown.picture, windowTable(shown.payload.picture.top, ...shown.window)),
  );

// scale and x, y: where the picture's pixels land on the target.
const paint = (target, { scale, x, y }) => {
  const { width, height } = shown.picture;
  target.save();
  target.translate(x, y);
  target.scale(scale, scale);
  target.imageSmoothingQuality = "high";
  target.drawImage(basePicture(), 0, 0, width, height);
  if (settings.attention) {
    target.globalAlpha = settings.strength;
    const map = shown.attention[settings.attention];
    target.drawImage(cached("attention", settings.attention, () => paintTable(map, rampTable(shown.payload.scale))), 0, 0, width, height);
  }
  target.beginPath();
  target.rect(width * settings.split, 0, width, height);
  target.clip();
  for (const item of shown.payload.classes) if (!settings.hidden.has(item.name)) paintClass(target, item, scale);
  target.restore();
  if (settings.split > 0) paintSplit(target, x + width * settings.split * scale, y, height * scale);
};

const paintClass = (target, { name, colour }, scale) => {
  const map = shown.maps[name];
  const threshold = shown.thresholds[name];
  target.globalAlpha = OPACITY[settings.style];
  const { width, height } = shown.picture;
  if (settings.style === "heat") {
    const heat = cached(`heat ${name}`, "", () => paintTable(map, rampTable(tints(colour), true)));
    return target.drawImage(heat, 0, 0, width, height);
  }
  if (settings.style === "fill") {
    const fill = cached(`fill ${name}`, threshold, () => paintTable(map, fillTable(colour, threshold)));
    target.drawImage(fill, 0, 0, width, height);
  }
  return strokeContour(target, map, cached(`line ${name}`, threshold, () => contour(map, threshold)), colour, scale);
};

// Lines keep their width on the screen whatever the zoom; a dark rim keeps them visible on bright bone.
const strokeContour = (target, map, path, colour, scale) => {
  const enlarged = shown.picture.width / map.width;
  const thin = settings.style === "fill";
  target.save();
  target.scale(enlarged, shown.picture.height / map.height);
  target.lineCap = "round";
  for (const [style, width] of [["rgba(0, 0, 0, 0.55)", thin ? 2 : 4], [`rgb(${colour})`, thin ? 1 : 2]]) {
    target.strokeStyle = style;
    target.lineWidth = width / (scale * enlarged);
    target.stroke(path);
  }
  target.restore();
};

const paintSplit = (target, x, y, height) => {
  target.fillStyle = "#fff";
  target.fillRect(x - 1, y, 2, height);
};

const redraw = () => {
  if (waiting || !shown) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const began = performance.now();
    const dots = window.devicePixelRatio || 1;
    context.setTransform(dots, 0, 0, dots, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    paint(context, placement());
    canvas.dataset.drawn = Number(canvas.dataset.drawn ?? 0) + 1;
    canvas.dataset.zoom = view.zoom.toFixed(2);
    canvas.dataset.drawMs = (performance.now() - began).toFixed(1);
    legend();
  });
};

const legend = () => {
  const visible = shown.payload.classes.filter(({ name }) => !settings.hidden.has(name));
  find(".sv-legend").replaceChildren(
    ...visible.map(({ name, colour }) => {
      const entry = make("span", settings.style === "heat" ? "sv-key sv-key-heat" : "sv-key", titled(name));
      entry.style.setProperty("--class-colour", `rgb(${colour})`);
      return entry;
    }),
  );
};

// ---- zoom and pan ----

const frameSize = () => [canvas.clientWidth, canvas.clientHeight];

const placement = () => {
  const [width, height] = frameSize();
  const scale = Math.min(width / shown.picture.width, height / shown.picture.height) * view.zoom;
  return {
    scale,
    x: width / 2 + view.x - (shown.picture.width * scale) / 2,
    y: height / 2 + view.y - (shown.picture.height * scale) / 2,
  };
};

const resetView = () => Object.assign(view, { zoom: 1, x: 0, y: 0 });

// Zoom about a point of the frame, given from the frame's centre.
const zoomBy = (factor, x = 0, y = 0) => {
  const zoom = Math.max(1, Math.min(12, view.zoom * factor));
  const real = zoom / view.zoom;
  Object.assign(view, { zoom, x: x - (x - view.x) * real, y: y - (y - view.y) * real });
  panBy(0, 0);
};

const panBy = (x, y) => {
  const [width, height] = frameSize();
  const limit = (value, extent) => Math.max(-extent, Math.min(extent, value));
  view.x = limit(view.x + x, ((view.zoom - 1) * width) / 2);
  view.y = limit(view.y + y, ((view.zoom - 1) * height) / 2);
  canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
  redraw();
};

const resize = () => {
  if (!shown) return;
  find(".sv-frame").style.setProperty("--shape", shown.picture.width / shown.picture.height);
  const dots = window.devicePixelRatio || 1;
  const [width, height] = frameSize();
  canvas.width = Math.round(width * dots);
  canvas.height = Math.round(height * dots);
  redraw();
};

const actions = {
  in: () => zoomBy(1.5),
  out: () => zoomBy(1 / 1.5),
  fit: () => zoomBy(1 / view.zoom),
  full: () => (document.fullscreenElement ? document.exitFullscreen() : find(".sv-stage").requestFullscreen?.()),
  reveal: () => { root.dataset.unfamiliar = false; },
  window: () => {
    shown.window = [...shown.payload.picture.window];
    windowControls();
    redraw();
  },
  thresholds: () => {
    for (const { name, threshold } of shown.payload.classes) shown.thresholds[name] = threshold;
    classControls(shown.payload.classes);
    measure();
    redraw();
  },
};

// ---- events ----

const setThreshold = (input) => {
  const name = input.dataset.threshold;
  const model = shown.payload.classes.find((item) => item.name === name).threshold;
  const value = Number(input.value);
  shown.thresholds[name] = Math.abs(value - model) < 0.0051 ? model : value; // snaps to the model's own
  input.parentElement.querySelector("output").textContent = plain(shown.thresholds[name]);
  measure();
};

const setValue = (input) => {
  const key = input.dataset.set;
  const output = input.parentElement.querySelector("output");
  if (key === "attention") {
    settings.attention = input.value;
    describeAttention();
  } else if (key === "centre" || key === "width") {
    shown.window[key === "centre" ? 0 : 1] = Number(input.value);
    output.textContent = input.value;
  } else {
    if (key === "opacity") OPACITY[settings.style] = Number(input.value) / 100;
    else settings[key] = Number(input.value) / 100;
    output.textContent = `${input.value} %`;
  }
};

const setStyle = (style) => {
  settings.style = style;
  const slider = find("[data-set=opacity]");
  slider.value = Math.round(OPACITY[style] * 100);
  setValue(slider);
};

root.addEventListener("input", ({ target }) => {
  if (!shown) return;
  if (target.dataset.threshold) setThreshold(target);
  else if (target.dataset.set) setValue(target);
  else if (target.name === "sv-style") setStyle(target.value);
  else if (target.dataset.show) settings.hidden[target.checked ? "delete" : "add"](target.dataset.show);
  canvas.setAttribute("aria-label", describePicture());
  redraw();
});

root.addEventListener("click", ({ target }) => {
  const action = target.closest("[data-do]")?.dataset.do;
  if (action && shown) actions[action]();
});

const KEYS = {
  "+": () => actions.in(), "=": () => actions.in(), "-": () => actions.out(), 0: () => actions.fit(),
  f: () => actions.full(),
  ArrowLeft: () => panBy(40, 0), ArrowRight: () => panBy(-40, 0), ArrowUp: () => panBy(0, 40), ArrowDown: () => panBy(0, -40),
};

canvas.addEventListener("keydown", (event) => {
  if (!KEYS[event.key] || !shown || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});

const fromCentre = ({ clientX, clientY }) => {
  const box = canvas.getBoundingClientRect();
  return [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
};

// A plain wheel scrolls the page; with Ctrl (and a pinch on a touchpad, which sends it) it zooms.
canvas.addEventListener("wheel", (event) => {
  if (!shown || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY / 240), ...fromCentre(event));
}, { passive: false });

canvas.addEventListener("dblclick", (event) => shown && (view.zoom > 1 ? actions.fit() : zoomBy(2.5, ...fromCentre(event))));

const pointers = new Map();

canvas.addEventListener("pointerdown", (event) => {
  pointers.set(event.pointerId, event);
  if (event.pointerType !== "touch" || view.zoom > 1) canvas.setPointerCapture(event.pointerId);
});

canvas.addEventListener("pointermove", (event) => {
  if (!shown) return;
  readOut(event);
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  pointers.set(event.pointerId, event);
  if (other) {
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoomBy(apart(event) / Math.max(1, apart(before)), ...fromCentre(event));
  } else panBy(event.clientX - before.clientX, event.clientY - before.clientY);
});

for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
  canvas.addEventListener(name, (event) => {
    pointers.delete(event.pointerId);
    if (name === "pointerleave") find(".sv-readout").textContent = "";
  });
}

// Position, grey value and probabilities under the pointer; millimetres where the spacing is known.
const readOut = (event) => {
  const { scale, x, y } = placement();
  const box = canvas.getBoundingClientRect();
  const across = (event.clientX - box.left - x) / scale / shown.picture.width;
  const down = (event.clientY - box.top - y) / scale / shown.picture.height;
  const inside = across >= 0 && across < 1 && down >= 0 && down < 1;
  const at = (map) => map.values[Math.floor(down * map.height) * map.width + Math.floor(across * map.width)];
  const { width, height, spacing_mm: spacing } = shown.payload.picture;
  const place = spacing
    ? `${(across * width * spacing[1]).toFixed(1)}, ${(down * height * spacing[0]).toFixed(1)} mm`
    : `${Math.floor(across * width)}, ${Math.floor(down * height)} px`;
  const chances = Object.entries(shown.maps).map(([name, map]) => `${name} ${(at(map) / 255).toFixed(2)}`);
  find(".sv-readout").textContent = inside ? [place, `grey ${at(shown.picture)}`, ...chances].join(" · ") : "";
};

new ResizeObserver(resize).observe(canvas);
watch("value", show);
show();
