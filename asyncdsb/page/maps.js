// The maps of the hole: the predicted gradient, the heatmap of tau with its range, the noise
// schedules, and an order that a visitor paints. Nothing here asks the server.
window.asyncdsb = {};
asyncdsb.maps = (() => {
  const table = Uint8Array.from("@TAU_COLOURS@".match(/../g), (pair) => parseInt(pair, 16));
  const range = { min: @TAU_MIN@, max: @TAU_MAX@, strategy: "gradient" };
  const listeners = [];
  let map = null; // the last order map received, decoded
  let order = null; // the painted order, 255 = first, as large as the map
  let panel = null; // the element of the heatmap

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const rgb = (tau) => {
    const place = 3 * Math.round(255 * Math.min(Math.max(tau, 0), 1));
    return [table[place], table[place + 1], table[place + 2]];
  };

  function decode(value) {
    const orders = {};
    for (const [name, data] of Object.entries(value.orders)) {
      orders[name] = typeof data === "number" ? data : new Uint16Array(bytes(data).buffer);
    }
    return { ...value, orders, hole: bytes(value.hole), grey: bytes(value.grey) };
  }

  // sqrt(beta) rises linearly from t = 0 to the peak at tau and falls to t = 1.
  const betas = () => map?.schedule ?? [@BETA_MIN@, @BETA_MAX@];
  const roots = () => betas().map(Math.sqrt);
  function beta(t, tau) {
    const [a, b] = roots();
    const ramp = t <= tau ? t / Math.max(tau, 1e-9) : (1 - t) / Math.max(1 - tau, 1e-9);
    return (a + (b - a) * ramp) ** 2;
  }
  // The line of beta(t; tau) in a drawing that puts a point at x(t), y(beta).
  function curve(tau, x, y, attributes) {
    const points = Array.from({ length: 81 }, (_, index) =>
      `${x(index / 80).toFixed(1)},${y(beta(index / 80, tau)).toFixed(1)}`);
    return `<polyline points="${points.join(" ")}" ${attributes}/>`;
  }
  // The integral of beta over t, whatever tau is.
  const total = ([a, b] = roots()) => (a * a + a * b + b * b) / 3;
  // s(t; tau), the share of the total variance before t.
  function clock(t, tau) {
    const [a, b] = roots();
    const part = (share) =>
      b - a < 1e-9 ? share : ((a + (b - a) * share) ** 3 - a ** 3) / (3 * (b - a) * total([a, b]));
    if (t <= tau) return tau > 0 ? tau * part(t / tau) : 0;
    return 1 - (1 - tau) * part((1 - t) / (1 - tau));
  }

  // r in [0, 1]: tau = tau_min + (tau_max - tau_min) r.
  function relativeAt(index) {
    if (range.strategy === "painted") return order[index] / 255;
    const values = map.orders[range.strategy];
    return typeof values === "number" ? values : values[index] / 65535;
  }
  const tauAt = (index) => range.min + (range.max - range.min) * relativeAt(index);

  // Left, top, width and height of the hole with a margin, as shares of the picture.
  function crop() {
    if (!map) return [0, 0, 1, 1];
    const { width, height, hole } = map;
    let [left, top, right, bottom] = [width, height, 0, 0];
    for (let index = 0; index < hole.length; index++) {
      if (!hole[index]) continue;
      const [x, y] = [index % width, Math.floor(index / width)];
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
    }
    if (right <= left) return [0, 0, 1, 1];
    // A square where the picture holds one, so that the panels are filled.
    const side = Math.min(1.25 * Math.max(right - left, bottom - top, 24), Math.max(width, height));
    const span = (low, high, limit) => {
      const length = Math.min(side, limit);
      return [Math.min(Math.max((low + high - length) / 2, 0), limit - length) / limit, length / limit];
    };
    const [x, wide] = span(left, right, width);
    const [y, high] = span(top, bottom, height);
    return [x, y, wide, high];
  }

  // A pixel of the known part: grey and faint, because it plays no part.
  const faint = (index) => 0.35 * map.grey[index] + 0.65 * (dark() ? 30 : 235);
  const dark = () => document.body.classList.contains("dark");

  function draw(min, max, strategy) {
    const started = performance.now();
    if (Number.isFinite(min)) range.min = min;
    if (Number.isFinite(max)) range.max = Math.max(max, range.min);
    if (strategy) {
      if (strategy === "painted" && range.strategy !== "painted" && !order) startOrder();
      range.strategy = strategy;
    }
    if (map && range.strategy === "painted" && !order) startOrder("gradient");
    if (panel) drawHeatmap(started);
    for (const listener of listeners) listener();
  }

  function drawHeatmap(started) {
    panel.classList.toggle("paintable", range.strategy === "painted");
    panel.classList.toggle("filled", Boolean(map));
    const [absolute, lines] = ["absolute", "lines"].map((name) => panel.querySelector(`.${name}`).checked);
    drawLegend(absolute);
    if (!map) return;
    const canvas = panel.querySelector("canvas");
    canvas.width = map.width;
    canvas.height = map.height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(map.width, map.height);
    const data = image.data;
    // Stretched to the range, so that the order is seen however narrow the range is.
    const shown = absolute ? tauAt : (index) => (range.max > range.min ? relativeAt(index) : 0.5);
    const level = (index) => Math.floor(8 * shown(index));
    for (let index = 0; index < map.hole.length; index++) {
      const share = map.hole[index] / 255;
      const grey = (1 - share) * faint(index);
      let [red, green, blue] = share ? rgb(shown(index)) : [0, 0, 0];
      if (lines && share > 0.5 && index >= map.width
          && (level(index) !== level(index - 1) || level(index) !== level(index - map.width))) {
        [red, green, blue] = [255, 255, 255];
      }
      data[4 * index] = grey + share * red;
      data[4 * index + 1] = grey + share * green;
      data[4 * index + 2] = grey + share * blue;
      data[4 * index + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    panel.dataset.range = `${range.min} ${range.max} ${range.strategy}`;
    panel.dataset.milliseconds = (performance.now() - started).toFixed(1);
  }

  function drawLegend(absolute) {
    const ends = absolute ? [0, 1] : [range.min, range.max];
    panel.querySelectorAll(".ticks span").forEach((tick, index) => {
      tick.textContent = Number((ends[0] + ((ends[1] - ends[0]) * index) / 2).toFixed(3));
    });
    const marker = panel.querySelector(".range");
    marker.hidden = !absolute;
    marker.style.left = `${100 * range.min}%`;
    marker.style.width = `${100 * (range.max - range.min)}%`;
  }

  function placeOn(canvas, event) {
    // The canvas is fitted into its box with its proportions kept.
    const box = canvas.getBoundingClientRect();
    const scale = Math.min(box.width / map.width, box.height / map.height);
    return {
      x: (event.clientX - box.left - (box.width - map.width * scale) / 2) / scale,
      y: (event.clientY - box.top - (box.height - map.height * scale) / 2) / scale,
    };
  }

  function probe(event) {
    const { x, y } = placeOn(event.target, event);
    const inside = x >= 0 && y >= 0 && x < map.width && y < map.height;
    const index = Math.floor(y) * map.width + Math.floor(x);
    const text = inside && map.hole[index] ? `τ = ${tauAt(index).toFixed(3)}` : inside ? "known" : "";
    panel.querySelector(".probe").textContent = text;
  }

  // What a visitor paints starts from one of the other orders.
  function startOrder(strategy) {
    if (!map) return;
    if (strategy) range.strategy = strategy;
    order = Uint8Array.from({ length: map.hole.length }, (_, index) => 255 * relativeAt(index));
    range.strategy = "painted";
  }

  // A soft disc of the chosen moment, along the way from the last point to this one.
  function paintOrder(from, to) {
    const value = Number(panel.querySelector(".moment").value);
    const radius = (Number(panel.querySelector(".size").value) / 100) * Math.max(map.width, map.height);
    const strokes = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / (radius / 3)));
    for (let stroke = 0; stroke <= strokes; stroke++) {
      const x = from.x + ((to.x - from.x) * stroke) / strokes;
      const y = from.y + ((to.y - from.y) * stroke) / strokes;
      for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(map.height - 1, y + radius); row++) {
        for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(map.width - 1, x + radius); column++) {
          const distance = Math.hypot(column - x, row - y) / radius;
          if (distance > 1) continue;
          const index = row * map.width + column;
          const share = distance < 0.7 ? 1 : (1 - distance) / 0.3;
          order[index] = Math.round(order[index] + share * (value - order[index]));
        }
      }
    }
    draw();
  }

  // What goes to the server with a run: nothing unless the order is painted.
  function paintedOrder() {
    if (range.strategy !== "painted" || !map || !order) return "";
    let text = "";
    for (const value of order) text += String.fromCharCode(value);
    return JSON.stringify({ width: map.width, height: map.height, data: btoa(text) });
  }

  function mountTau(element, props, watch) {
    panel = element;
    const canvas = element.querySelector("canvas");
    let last = null;
    let brush = null; // id of the pointer that paints; other fingers do nothing
    canvas.addEventListener("pointermove", (event) => {
      if (!map) return;
      probe(event);
      if (!last || event.pointerId !== brush) return;
      const next = placeOn(canvas, event);
      paintOrder(last, next);
      last = next;
    });
    canvas.addEventListener("pointerleave", () => { element.querySelector(".probe").textContent = ""; });
    canvas.addEventListener("pointerdown", (event) => {
      if (range.strategy !== "painted" || !map || last) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      brush = event.pointerId;
      last = placeOn(canvas, event);
      paintOrder(last, last);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => { if (event.pointerId === brush) last = null; });
    }
    for (const name of ["absolute", "lines"]) {
      element.querySelector(`.${name}`).addEventListener("change", () => draw());
    }
    element.querySelector(".again").addEventListener("click", () => {
      startOrder("gradient");
      draw();
    });
    const update = () => {
      map = props.value ? decode(props.value) : null;
      // What was painted is kept as long as the photograph has the same shape.
      if (!map || order?.length !== map.hole.length) order = null;
      asyncdsb.pace(props.value?.step_seconds ?? null);
      asyncdsb.canvas.headFound(props.value);
      draw(...(props.value?.range ?? []));
    };
    watch("value", update);
    update();
  }

  function mountGradient(element, props, watch) {
    const update = () => {
      element.classList.toggle("filled", Boolean(props.value));
      if (props.value) element.querySelector("img").src = props.value.picture;
    };
    watch("value", update);
    update();
  }

  // The heatmaps follow the theme, which a visitor can change at any time.
  new MutationObserver(() => draw()).observe(document.body ?? document.documentElement, { attributes: true, attributeFilter: ["class"] });

  Object.assign(asyncdsb, { draw, paintedOrder, mountTau, mountGradient });
  return {
    range, bytes, rgb, beta, curve, betas, total, clock, tauAt, crop, faint,
    get now() { return map; },
    follow: (listener) => listeners.push(listener),
  };
})();
