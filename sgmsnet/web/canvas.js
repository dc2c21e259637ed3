// Painting on the canvas, zoom and pan: from what viewer.js holds to what the eye sees. Of the page's elements only the
// canvas, its legend and the names of the two sides of before and after; no events.

// ---- painting ----

const cached = (key, tag, build) => {
  const kept = shown.painted[key];
  if (kept?.tag === tag) return kept.value;
  const value = build(kept?.value);
  shown.painted[key] = { tag, value };
  return value;
};

const basePicture = () =>
  cached("base", shown.window.join(), (kept) =>
    paintTable(shown.picture, windowTable(shown.payload.picture.top, ...shown.window), kept),
  );

// The picture as it lies in the frame, black around it; kept, because scaling it takes longer than all the rest.
const enlarged = ({ scale, x, y }) => {
  const { width, height } = canvas;
  return cached("enlarged", [shown.window, scale, x, y, width, height].join(), (kept) => {
    const layer = kept?.width === width && kept.height === height ? kept : new OffscreenCanvas(width, height);
    const target = layer.getContext("2d", { alpha: false });
    const dots = dotsPerPixel();
    target.setTransform(dots, 0, 0, dots, 0, 0);
    target.clearRect(0, 0, width, height);
    target.imageSmoothingQuality = scale * dots > 2 ? "high" : "medium"; // the same to the eye below that
    target.drawImage(basePicture(), x, y, shown.picture.width * scale, shown.picture.height * scale);
    return layer;
  });
};

const dotsPerPixel = () => window.devicePixelRatio || 1;

// scale and x, y: where the picture's pixels land on the target.
const paint = (target, { scale, x, y }) => {
  const { width, height } = shown.picture;
  target.save();
  target.drawImage(enlarged({ scale, x, y }), 0, 0, canvas.width / dotsPerPixel(), canvas.height / dotsPerPixel());
  target.translate(x, y);
  target.scale(scale, scale);
  target.imageSmoothingQuality = "medium"; // the maps are smooth, and the finer filter takes three times as long
  if (shown.refused) return target.restore(); // the picture alone
  target.beginPath();
  target.rect(width * settings.split, 0, width, height);
  target.clip();
  const tint = tints();
  if (tint) target.drawImage(tint, 0, 0, width, height);
  if (settings.style !== "heat") for (const item of visibleClasses()) strokeContour(target, item, scale);
  target.restore();
  if (settings.split > 0) paintSplit(target, x + width * settings.split * scale, y, height * scale);
  return undefined;
};

const visibleClasses = () => shown.payload.classes.filter(({ name }) => !settings.hidden.has(name));

const opacityOf = (name) => {
  const opacity = OPACITY[settings.style];
  // In a fill, what lies below others is fainter, so that the colours on top stay clean.
  return settings.style === "fill" && name !== shown.payload.classes.at(-1).name ? opacity / 2 : opacity;
};

// Everything between picture and lines, laid together at the maps' size: enlarging it is what takes long, and so is done
// once. null: there is nothing.
const tints = () => {
  const classes = settings.style === "outline" ? [] : visibleClasses();
  if (!settings.attention && !classes.length) return null;
  const layers = classes.map(({ name, colour }) => [opacityOf(name), classTint(name, colour), shown.thresholds[name]]);
  if (settings.attention) layers.unshift([settings.strength, attentionTint(), settings.attention]);
  const tag = [settings.style, ...layers.map(([opacity, , what]) => [opacity, what])].join();
  return cached("tints", `${tag} ${classes.map(({ name }) => name)}`, (kept) => {
    const { width, height } = Object.values(shown.maps)[0];
    const together = kept ?? new OffscreenCanvas(width, height);
    const target = together.getContext("2d");
    target.clearRect(0, 0, width, height);
    for (const [opacity, layer] of layers) {
      target.globalAlpha = opacity;
      target.drawImage(layer, 0, 0, width, height);
    }
    return together;
  });
};

const attentionTint = () => {
  const name = settings.attention;
  return cached("attention", name, () => paintTable(shown.attention[name], rampTable(shown.payload.scale)));
};

const classTint = (name, colour) => {
  const map = shown.maps[name];
  if (settings.style === "heat") return cached(`heat ${name}`, "", () => paintTable(map, rampTable(shades(colour), true)));
  const threshold = shown.thresholds[name];
  return cached(`fill ${name}`, threshold, (kept) => paintTable(map, fillTable(colour, threshold), kept));
};

// Lines keep their width on the screen whatever the zoom; a dark rim keeps them visible on bright bone.
const strokeContour = (target, { name, colour }, scale) => {
  const map = shown.maps[name];
  const threshold = shown.thresholds[name];
  const path = cached(`line ${name}`, threshold, () => contour(map, threshold));
  const enlarged = shown.picture.width / map.width;
  const thin = settings.style === "fill";
  target.save();
  target.globalAlpha = opacityOf(name);
  target.scale(enlarged, shown.picture.height / map.height);
  target.lineJoin = "round";
  for (const [style, width] of [["rgba(0, 0, 0, 0.55)", thin ? 2 : 4], [`rgb(${colour})`, thin ? 1 : 2]]) {
    target.strokeStyle = style;
    target.lineWidth = width / (scale * enlarged);
    target.stroke(path);
  }
  target.restore();
};

// A line with a grip: the pointer can drag it.
const paintSplit = (target, x, y, height) => {
  find(".sv-parted").style.setProperty("--split", `${x}px`);
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

// Pixels are painted after the script has asked for them, in the same frame; a message comes after that.
const afterPaint = (done) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = done;
  port2.postMessage(null);
};

// began: the moment of the event that asked for it. data-draw-ms counts from there until the picture is painted.
const redraw = (began = performance.now()) => {
  if (waiting || !shown) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const dots = dotsPerPixel();
    if (canvas.dots !== dots) fit(); // another screen, or the browser's zoom
    context.setTransform(dots, 0, 0, dots, 0, 0);
    paint(context, placement());
    canvas.dataset.drawn = Number(canvas.dataset.drawn ?? 0) + 1;
    canvas.dataset.zoom = view.zoom.toFixed(2);
    if (!shown.seen) mark("sgmsnet-drawn");
    shown.seen = true;
    root.dataset.parted = settings.split > 0;
    legend();
    afterPaint(() => { canvas.dataset.drawMs = (performance.now() - began).toFixed(1); });
  });
};

const legend = () => {
  const visible = shown.refused ? [] : visibleClasses();
  const heat = settings.style === "heat";
  cached("legend", [heat, ...visible.map(({ name }) => name)].join(), () => {
    const keys = visible.map(({ name, colour }) => {
      const entry = make("span", heat ? "sv-key sv-key-heat" : "sv-key", titled(name));
      entry.style.setProperty("--class-colour", `rgb(${colour})`);
      return entry;
    });
    if (heat && keys.length) keys.unshift(make("span", "", "Probability, 0 to 100 %"));
    find(".sv-legend").replaceChildren(...keys);
  });
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

const resetView = () => {
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  letScroll();
};

// A finger on the whole picture scrolls the page; on an enlarged one it moves the picture.
const letScroll = () => { canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y"; };

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
  letScroll();
  redraw();
};

const resize = () => {
  if (!shown) return;
  find(".sv-frame").style.setProperty("--shape", shown.picture.width / shown.picture.height);
  fit();
  redraw();
};

// As many pixels as the screen has in the frame.
const fit = () => {
  const dots = dotsPerPixel();
  const [width, height] = frameSize();
  canvas.width = Math.round(width * dots);
  canvas.height = Math.round(height * dots);
  canvas.dots = dots;
};

// A screen of another resolution, or another zoom of the page, need not change the frame's size.
const watchResolution = () => {
  matchMedia(`(resolution: ${dotsPerPixel()}dppx)`).addEventListener("change", () => { resize(); watchResolution(); }, { once: true });
};
