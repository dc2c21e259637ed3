// Painting on the canvas, zoom and pan: from what viewer.js holds to what the eye sees. No page elements beside the canvas
// but its legend, no events.

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
  if (shown.refused) return target.restore(); // the picture alone
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
  return undefined;
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
    // What lies below others is fainter, so that the colours on top stay clean.
    if (name !== shown.payload.classes.at(-1).name) target.globalAlpha /= 2;
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

// A line with a grip: the pointer can drag it.
const paintSplit = (target, x, y, height) => {
  target.fillStyle = "#fff";
  target.fillRect(x - 1, y, 2, height);
  const middle = y + height / 2;
  target.beginPath();
  target.arc(x, middle, 13, 0, 2 * Math.PI);
  target.fill();
  target.fillStyle = "#10151b";
  for (const side of [-1, 1]) {
    target.beginPath();
    target.moveTo(x + side * 9, middle);
    target.lineTo(x + side * 3, middle - 5);
    target.lineTo(x + side * 3, middle + 5);
    target.fill();
  }
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
    if (!shown.seen) mark("sgmsnet-drawn");
    shown.seen = true;
    legend();
  });
};

const legend = () => {
  const visible = shown.refused ? [] : shown.payload.classes.filter(({ name }) => !settings.hidden.has(name));
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
