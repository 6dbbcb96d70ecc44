// Behaviour of the page that needs no answer from the server. Each mount function belongs to one
// HTML component and is called once with its element, its props and its watch function.
window.asyncdsb = (() => {
  const table = Uint8Array.from("@TAU_COLOURS@".match(/../g), (pair) => parseInt(pair, 16));
  const range = { min: 0.2, max: 0.5, strategy: "gradient" };
  let map = null; // the last order map received, decoded
  let order = null; // the painted order, 255 = first, as large as the map
  let panel = null; // the element of the heatmap

  // How long the next run will take, from the pace that the server measured.
  let stepSeconds = null;
  const work = { steps: 10, runs: 1 };
  function estimate(steps, beside, seeds) {
    if (steps) Object.assign(work, { steps, runs: Number(seeds) + (beside ? 1 : 0) });
    const line = document.querySelector("#estimate .estimate");
    if (!line) return;
    const seconds = stepSeconds * work.steps * work.runs;
    const long = seconds < 100 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} minutes`;
    line.textContent = stepSeconds ? `takes about ${long} here` : "";
  }

  // "How it works": the forward bridge on a small photo, with a clock for every pixel and with one
  // clock, computed here by the equations of the text.
  function mountAbout(element) {
    const story = element.querySelector(".story");
    const [low, high] = [@BETA_MIN@, @BETA_MAX@];
    const [a, b] = [Math.sqrt(low), Math.sqrt(high)];
    const total = (a * a + a * b + b * b) / 3;
    const part = (share) => ((a + (b - a) * share) ** 3 - a ** 3) / (3 * (b - a) * total);
    const clock = (t, tau) => (t <= tau ? (tau > 0 ? tau * part(t / tau) : 0) : 1 - (1 - tau) * part((1 - t) / (1 - tau)));
    const width = Number(story.dataset.width);
    const height = Number(story.dataset.height);
    const photo = bytes(story.dataset.photo);
    const start = bytes(story.dataset.start);
    const taus = Float32Array.from(bytes(story.dataset.order), (value) => 0.2 + (0.3 * value) / 255);
    const noise = Float32Array.from({ length: photo.length }, () =>
      Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
    const [slider, button, output] = ["input", "button", "output"].map((s) => story.querySelector(s));
    const paint = (selector, tauOf) => {
      const canvas = story.querySelector(selector);
      canvas.width = width;
      canvas.height = height;
      const context = canvas.getContext("2d");
      const image = context.createImageData(width, height);
      const t = Number(slider.value) / 100;
      for (let index = 0; index < taus.length; index++) {
        const s = clock(t, tauOf(index));
        const spread = 127.5 * Math.sqrt(total * s * (1 - s));
        for (let channel = 0; channel < 3; channel++) {
          const place = 3 * index + channel;
          image.data[4 * index + channel] = (1 - s) * photo[place] + s * start[place] + spread * noise[place];
        }
        image.data[4 * index + 3] = 255;
      }
      context.putImageData(image, 0, 0);
    };
    const draw = () => {
      const t = Number(slider.value) / 100;
      output.textContent = `t = ${t.toFixed(2)} T`;
      paint(".own", (index) => taus[index]);
      paint(".one", () => 0.5);
      const curve = (tau) => Array.from({ length: 61 }, (_, index) =>
        `${(4 * (60 - index)).toFixed(0)},${(156 - 150 * (1 - clock(index / 60, tau))).toFixed(1)}`).join(" ");
      const colour = (tau) => {
        const place = 3 * Math.round(255 * tau);
        return `rgb(${table[place]} ${table[place + 1]} ${table[place + 2]})`;
      };
      const curves = [0.2, 0.35, 0.5].map((tau) =>
        `<polyline points="${curve(tau)}" stroke="${colour(tau)}"/>` +
        `<circle cx="${240 * (1 - t)}" cy="${156 - 150 * (1 - clock(t, tau))}" r="4" fill="${colour(tau)}"/>`);
      story.querySelector("svg").innerHTML = curves.join("");
    };
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; button.textContent = "▶"; button.setAttribute("aria-label", "Play"); };
    button.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) <= 0) slider.value = 100;
      button.textContent = "❚❚";
      button.setAttribute("aria-label", "Pause");
      timer = setInterval(() => {
        if (Number(slider.value) <= 0) return stop();
        slider.value = Number(slider.value) - 1;
        draw();
      }, 50);
    });
    slider.addEventListener("input", () => { stop(); draw(); });
    draw();
  }

  // The page's address: the settings once one was changed, and the example with its hole as long as
  // nothing else was opened or painted.
  const settings = {};
  let link = {};
  function remember(names, values) {
    names.forEach((name, index) => { settings[name] = values[index]; });
    address();
  }
  function address() {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(settings)) {
      if (value === null || value === "painted") query.delete(name);
      else query.set(name, value);
    }
    for (const name of ["example", "mask"]) {
      if (link[name]) query.set(name, link[name]);
      else query.delete(name);
    }
    history.replaceState(null, "", `${location.pathname}?${query}`);
  }
  function named(names) {
    link = names;
    address();
  }

  function fetchArchive() {
    // The link appears with the answer.
    setTimeout(() => document.querySelector("#archive")?.click(), 100);
  }

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function decode(value) {
    const orders = {};
    for (const [name, data] of Object.entries(value.orders)) {
      orders[name] = typeof data === "number" ? data : new Uint16Array(bytes(data).buffer);
    }
    return { width: value.width, height: value.height, orders, hole: bytes(value.hole), schedule: value.schedule };
  }

  function relativeAt(strategy, index) {
    const values = map.orders[strategy];
    return typeof values === "number" ? values : values[index] / 65535;
  }

  // tau = tau_min + (tau_max - tau_min) r
  function tauAt(index) {
    const relative = range.strategy === "painted" ? order[index] / 255 : relativeAt(range.strategy, index);
    return range.min + (range.max - range.min) * relative;
  }

  function draw(min, max, strategy) {
    const started = performance.now();
    if (Number.isFinite(min)) range.min = min;
    if (Number.isFinite(max)) range.max = Math.max(max, range.min);
    if (strategy) {
      if (strategy === "painted" && range.strategy !== "painted" && !order) startOrder(range.strategy);
      range.strategy = strategy;
    }
    if (!panel) return;
    panel.classList.toggle("paintable", range.strategy === "painted");
    const marker = panel.querySelector(".range");
    marker.style.left = `${100 * range.min}%`;
    marker.style.width = `${100 * (range.max - range.min)}%`;
    const canvas = panel.querySelector("canvas");
    panel.classList.toggle("filled", Boolean(map));
    drawBetas();
    if (!map) return;
    if (range.strategy === "painted" && !order) startOrder("gradient");
    canvas.width = map.width;
    canvas.height = map.height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(map.width, map.height);
    for (let index = 0; index < map.hole.length; index++) {
      const colour = 3 * Math.round(255 * tauAt(index));
      image.data[4 * index] = table[colour];
      image.data[4 * index + 1] = table[colour + 1];
      image.data[4 * index + 2] = table[colour + 2];
      // Known pixels are not restored; they stay visible for orientation only.
      image.data[4 * index + 3] = 70 + (185 * map.hole[index]) / 255;
    }
    context.putImageData(image, 0, 0);
    panel.dataset.range = `${range.min} ${range.max} ${range.strategy}`;
    panel.dataset.milliseconds = (performance.now() - started).toFixed(1);
  }

  // The schedules of the range: sqrt(beta) rises linearly from t = 0 to the peak at tau and falls to
  // t = 1. A run goes from left (t = 1) to right.
  function drawBetas() {
    const [low, high] = map?.schedule ?? [@BETA_MIN@, @BETA_MAX@];
    const [a, b] = [Math.sqrt(low), Math.sqrt(high)];
    const curve = (tau, attributes) => {
      const points = [];
      for (let index = 0; index <= 80; index++) {
        const t = index / 80;
        const ramp = t <= tau ? t / Math.max(tau, 1e-9) : (1 - t) / Math.max(1 - tau, 1e-9);
        points.push(`${(240 * (1 - t)).toFixed(1)},${(58 - (54 * (a + (b - a) * ramp) ** 2) / high).toFixed(1)}`);
      }
      return `<polyline points="${points.join(" ")}" ${attributes}/>`;
    };
    const colour = (tau) => {
      const place = 3 * Math.round(255 * tau);
      return `rgb(${table[place]} ${table[place + 1]} ${table[place + 2]})`;
    };
    const span = range.max - range.min;
    const taus = range.strategy === "uniform" || span === 0
      ? [range.min + span / 2] : [0, 1, 2, 3, 4, 5, 6].map((part) => range.min + (span * part) / 6);
    const curves = taus.map((tau) => curve(tau, `data-tau="${tau.toFixed(3)}" stroke="${colour(tau)}"`));
    panel.querySelector(".betas svg").innerHTML = curves.join("") + curve(0.5, 'class="dashed"');
  }

  function probe(event) {
    const output = panel.querySelector(".probe");
    const box = event.target.getBoundingClientRect();
    const scale = Math.min(box.width / map.width, box.height / map.height);
    const x = Math.floor((event.clientX - box.left - (box.width - map.width * scale) / 2) / scale);
    const y = Math.floor((event.clientY - box.top - (box.height - map.height * scale) / 2) / scale);
    const inside = x >= 0 && y >= 0 && x < map.width && y < map.height;
    output.textContent = inside ? `τ = ${tauAt(y * map.width + x).toFixed(3)}` : "";
  }

  // What a visitor paints starts from one of the other orders.
  function startOrder(strategy) {
    if (!map) return;
    order = Uint8Array.from({ length: map.hole.length }, (_, index) => 255 * relativeAt(strategy, index));
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
    canvas.addEventListener("pointermove", (event) => map && probe(event));
    canvas.addEventListener("pointerleave", () => {
      element.querySelector(".probe").textContent = "";
    });
    let last = null;
    const place = (event) => {
      // The canvas is fitted into its box with its proportions kept.
      const box = canvas.getBoundingClientRect();
      const scale = Math.min(box.width / map.width, box.height / map.height);
      return {
        x: (event.clientX - box.left - (box.width - map.width * scale) / 2) / scale,
        y: (event.clientY - box.top - (box.height - map.height * scale) / 2) / scale,
      };
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (range.strategy !== "painted" || !map) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      last = place(event);
      paintOrder(last, last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const next = place(event);
      paintOrder(last, next);
      last = next;
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => { last = null; });
    }
    element.querySelector(".again").addEventListener("click", () => {
      startOrder("gradient");
      draw();
    });
    const update = () => {
      map = props.value ? decode(props.value) : null;
      // What was painted is kept as long as the photograph has the same shape.
      if (!map || order?.length !== map.hole.length) order = null;
      stepSeconds = props.value?.step_seconds ?? null;
      estimate();
      draw();
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

  function mountFrame(element, props, watch) {
    let latest = 0;
    const swap = async (selector, source, ticket) => {
      const next = new Image();
      next.src = source;
      // Shown once decoded: swapping the source at once would flash an empty picture.
      await next.decode().catch(() => {});
      if (ticket === latest) element.querySelector(selector).src = source;
    };
    const update = () => {
      const frame = props.value;
      const ticket = ++latest;
      element.classList.toggle("filled", Boolean(frame));
      const share = frame ? Math.round((100 * frame.step) / frame.steps) : 0;
      const bar = element.querySelector(".progress");
      bar.firstElementChild.style.width = `${share}%`;
      bar.setAttribute("aria-valuenow", share);
      element.dataset.step = frame ? frame.step : "";
      element.querySelector(".frames").classList.toggle("tall", frame?.height > frame?.width);
      if (!frame) return;
      swap(".x-t", frame.x_t, ticket);
      swap(".x0-hat", frame.x0_hat, ticket);
    };
    watch("value", update);
    update();
  }

  // The finished run: all its frames are here, so that looking at any of them asks nobody.
  function mountFilm(element, props, watch) {
    const [slider, button, output] = ["input", "button", "output"].map((s) => element.querySelector(s));
    let timer = 0;
    const frames = () => props.value?.frames ?? [];
    const look = () => {
      const frame = frames()[Number(slider.value)];
      if (!frame) return;
      const show = (side, { x_t, x0_hat }) => {
        element.querySelector(`${side} .x-t`).src = x_t;
        element.querySelector(`${side} .x0-hat`).src = x0_hat;
      };
      show("figure:not(.other)", frame);
      if (props.value.other) show("figure.other", props.value.other[Number(slider.value)]);
      output.textContent = `t = ${frame.t.toFixed(2)} T`;
      slider.setAttribute("aria-valuetext", output.textContent);
    };
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      button.textContent = "▶";
      button.setAttribute("aria-label", "Play");
    };
    const play = () => {
      if (Number(slider.value) >= frames().length - 1) slider.value = 0;
      look();
      button.textContent = "❚❚";
      button.setAttribute("aria-label", "Pause");
      timer = setInterval(() => {
        if (Number(slider.value) >= frames().length - 1) return stop();
        slider.value = Number(slider.value) + 1;
        look();
      }, Math.max(60, 2600 / frames().length));
    };
    button.addEventListener("click", () => (timer ? stop() : play()));
    slider.addEventListener("input", () => { stop(); look(); });
    const update = () => {
      stop();
      const count = frames().length;
      element.classList.toggle("filled", count > 0);
      const { classList } = element.querySelector(".frames");
      classList.toggle("pair", Boolean(props.value?.other));
      classList.toggle("tall", !props.value?.other && props.value?.height > props.value?.width);
      slider.max = Math.max(0, count - 1);
      slider.value = slider.max;
      slider.disabled = button.disabled = !count;
      look();
    };
    watch("value", update);
    update();
  }

  // Show the live frames (0), the comparison (1), the film (2) or the timing (3).
  function show(index) {
    const views = document.querySelector("#views");
    views.className = views.className.replace(/view-\d/, `view-${index}`);
  }

  function mountExamples(element, trigger) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-example]");
      if (button) trigger("click", { index: Number(button.dataset.example) });
    });
  }

  return { draw, show, estimate, remember, named, paintedOrder, fetchArchive, mountAbout, mountTau, mountGradient, mountFrame, mountFilm, mountExamples };
})();
