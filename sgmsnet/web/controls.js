// What the visitor does: sliders, buttons, keys, wheel and pointers. Comes last of all and starts the viewer.

const stage = find(".sv-stage");

// ---- full screen ----

const isFull = () => document.fullscreenElement === stage || stage.classList.contains("sv-full");

const nameFull = () => {
  const button = find("[data-do=full]");
  const name = isFull() ? "Leave full screen" : "Full screen";
  button.setAttribute("aria-pressed", isFull());
  button.setAttribute("aria-label", name);
  button.title = `${name} (f)`;
};

// Where the browser does not make an element full screen, as on iPhones, it fills the page instead.
const fillPage = () => {
  stage.classList.add("sv-full");
  nameFull();
};

const leaveFull = () => {
  if (document.fullscreenElement === stage) document.exitFullscreen();
  stage.classList.remove("sv-full");
  nameFull();
};

document.addEventListener("fullscreenchange", nameFull);
document.addEventListener("keydown", ({ key }) => key === "Escape" && stage.classList.contains("sv-full") && leaveFull());

// ---- buttons ----

const actions = {
  in: () => zoomBy(1.5),
  out: () => zoomBy(1 / 1.5),
  fit: () => zoomBy(1 / view.zoom),
  full: () => {
    if (isFull()) leaveFull();
    else if (stage.requestFullscreen) stage.requestFullscreen().catch(fillPage);
    else fillPage();
  },
  reveal: () => {
    shown.refused = root.dataset.refused = false;
    canvas.setAttribute("aria-label", describePicture());
    say();
    canvas.focus(); // the button that had it is gone
    redraw();
  },
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
    output.textContent = Math.round(input.value);
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

root.addEventListener("input", ({ target, timeStamp }) => {
  if (!shown) return;
  if (target.dataset.threshold) setThreshold(target);
  else if (target.dataset.set) setValue(target);
  else if (target.name === "sv-style") setStyle(target.value);
  else if (target.dataset.show) settings.hidden[target.checked ? "delete" : "add"](target.dataset.show);
  canvas.setAttribute("aria-label", describePicture());
  redraw(timeStamp);
});

root.addEventListener("click", ({ target }) => {
  const action = target.closest("[data-do]")?.dataset.do;
  if (action && shown) actions[action]();
});

// Sets a control as a hand would, so that everything that follows it follows.
const put = (input, changes) => {
  Object.assign(input, changes);
  input.dispatchEvent(new Event("input", { bubbles: true }));
};

const toggleClass = (index) => {
  const box = root.querySelectorAll("[data-show]")[index];
  if (box) put(box, { checked: !box.checked });
};

const nextOf = (list, present) => list[(list.indexOf(present) + 1) % list.length];

const nextStyle = () => {
  const radios = [...root.querySelectorAll("[name=sv-style]")];
  put(nextOf(radios, radios.find((radio) => radio.checked)), { checked: true });
};

const nextAttention = () => {
  const select = find("[data-set=attention]");
  put(select, { selectedIndex: (select.selectedIndex + 1) % select.options.length });
};

const setSplit = (share) => put(find("[data-set=split]"), { value: Math.round(share * 100) });

const KEYS = {
  "+": () => actions.in(), "=": () => actions.in(), "-": () => actions.out(), 0: () => actions.fit(),
  f: () => actions.full(), w: () => actions.window(), o: nextStyle, a: nextAttention,
  b: () => setSplit(settings.split > 0 ? 0 : 0.5),
  1: () => toggleClass(0), 2: () => toggleClass(1), 3: () => toggleClass(2), 4: () => toggleClass(3),
  ArrowLeft: () => panBy(40, 0), ArrowRight: () => panBy(-40, 0), ArrowUp: () => panBy(0, 40), ArrowDown: () => panBy(0, -40),
};

canvas.addEventListener("keydown", (event) => {
  const action = KEYS[event.key] ?? KEYS[event.key.toLowerCase()]; // Caps Lock may be on
  if (!action || !shown || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  action();
});

// A place in the window, as an event has it -> from the canvas's centre.
const fromCentre = ({ clientX, clientY }) => {
  const box = canvas.getBoundingClientRect();
  return [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
};

// A plain wheel scrolls the page, where there is one; with Ctrl (and a pinch on a touchpad, which sends it) it zooms.
canvas.addEventListener("wheel", (event) => {
  if (!shown || !(event.ctrlKey || event.metaKey || isFull())) return;
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY / 240), ...fromCentre(event));
}, { passive: false });

canvas.addEventListener("dblclick", (event) => shown && (view.zoom > 1 ? actions.fit() : zoomBy(2.5, ...fromCentre(event))));

const pointers = new Map();
let gripped = null; // the pointer that drags the line of before and after

const GRIP_PX = 16;
const onSplit = ({ clientX }) => {
  const { scale, x } = placement();
  const line = x + shown.picture.width * settings.split * scale;
  return settings.split > 0 && Math.abs(clientX - canvas.getBoundingClientRect().left - line) < GRIP_PX;
};

canvas.addEventListener("pointerdown", (event) => {
  if (!shown) return;
  readOut(event);
  if (onSplit(event)) gripped = event.pointerId;
  pointers.set(event.pointerId, event);
  if (gripped !== null || event.pointerType !== "touch" || view.zoom > 1) canvas.setPointerCapture(event.pointerId);
});

canvas.addEventListener("pointermove", (event) => {
  if (!shown) return;
  if (pointers.size < 2) readOut(event);
  canvas.style.cursor = onSplit(event) ? "ew-resize" : "";
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  pointers.set(event.pointerId, event);
  if (gripped === event.pointerId) return setSplit(Math.max(0.01, Math.min(1, across(event))));
  if (other) pinch(before, event, other);
  else panBy(event.clientX - before.clientX, event.clientY - before.clientY);
});

// One of two fingers goes from `before` to `after`: zoom about the middle between them, and follow where it goes.
const pinch = (before, after, other) => {
  const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  const middle = (one) => ({ clientX: (one.clientX + other.clientX) / 2, clientY: (one.clientY + other.clientY) / 2 });
  zoomBy(apart(after) / Math.max(1, apart(before)), ...fromCentre(middle(before)));
  panBy((after.clientX - before.clientX) / 2, (after.clientY - before.clientY) / 2);
};

// Two fingers are ours whichever way they start; else the browser takes an upward pinch for scrolling.
const keepTwo = (event) => event.touches.length > 1 && event.cancelable && event.preventDefault();
canvas.addEventListener("touchmove", keepTwo, { passive: false });

// How far across the picture a pointer is, 0 to 1.
const across = ({ clientX }) => {
  const { scale, x } = placement();
  return (clientX - canvas.getBoundingClientRect().left - x) / scale / shown.picture.width;
};

for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
  canvas.addEventListener(name, (event) => {
    pointers.delete(event.pointerId);
    if (gripped === event.pointerId && name !== "pointerleave") gripped = null;
    // A finger that is lifted leaves what it read.
    if (name === "pointerleave" && event.pointerType !== "touch") find(".sv-readout").textContent = "";
  });
}

// Position, grey value and probabilities under the pointer; millimetres where the spacing is known.
const readOut = (event) => {
  const { scale, x, y } = placement();
  const box = canvas.getBoundingClientRect();
  const right = (event.clientX - box.left - x) / scale / shown.picture.width;
  const down = (event.clientY - box.top - y) / scale / shown.picture.height;
  const inside = right >= 0 && right < 1 && down >= 0 && down < 1;
  const at = (map) => map.values[Math.floor(down * map.height) * map.width + Math.floor(right * map.width)];
  const { width, height, spacing_mm: spacing } = shown.payload.picture;
  const place = spacing
    ? `${(right * width * spacing[1]).toFixed(1)}, ${(down * height * spacing[0]).toFixed(1)} mm${whereMeasured(shown.payload.picture)}`
    : `${Math.floor(right * width)}, ${Math.floor(down * height)} px`;
  const chances = shown.refused ? [] : Object.entries(shown.maps).map(([name, map]) => `${name} ${(at(map) / 255).toFixed(2)}`);
  find(".sv-readout").textContent = inside ? [place, `grey ${at(shown.picture)}`, ...chances].join(" · ") : "";
};

// The answer stays above the controls: the style sheet lets what gets the focus scroll to below it.
const answer = find(".sv-panel > .sv-answer");
new ResizeObserver(() => root.style.setProperty("--answer-height", `${answer.offsetHeight}px`)).observe(answer);
new ResizeObserver(resize).observe(canvas);
watchResolution();
watch("value", show);
show();
