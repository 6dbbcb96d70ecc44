// The stage: the hole on its way from noise to picture, live while a run goes on and as a film
// after it, and the chart of what was restored when.
asyncdsb.stage = (() => {
  const maps = asyncdsb.maps;
  const SPEEDS = [1, 0.5, 0.25, 2];
  let stage = null; // the element
  let chart = null; // that of the shares over t
  let film = null; // {frames, other}, falling t; frames are added while a run goes on
  let at = 0; // index of the frame in view
  let estimates = false; // whether the panels show predictions instead of states
  let timer = 0;
  let speed = 0;
  let opening = false; // the film that comes with the page plays in a loop until something is done
  let own = null; // the hole of that film
  const pictures = new Map(); // source -> decoded picture

  const part = (selector) => stage.querySelector(selector);
  const frames = () => film?.frames ?? [];

  function decoded(source) {
    if (!pictures.has(source)) {
      const picture = new Image();
      picture.src = source;
      picture.ready = picture.decode().then(() => { picture.done = true; look(); }, () => {});
      pictures.set(source, picture);
    }
    return pictures.get(source);
  }

  // A part of a picture, in the middle of a square canvas.
  function fit(canvas, picture, across, down, [left, top, width, height]) {
    const scale = canvas.width / Math.max(width * across, height * down);
    const [w, h] = [width * across * scale, height * down * scale];
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, left * across, top * down, width * across, height * down,
      (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
  }

  // The picture's part around the hole; until it is decoded the last one stays.
  function show(selector, source) {
    const canvas = part(`${selector} canvas`);
    const picture = source && decoded(source);
    if (!picture?.done) return;
    fit(canvas, picture, picture.naturalWidth, picture.naturalHeight, film.crop ?? maps.crop());
  }

  // 1 - s(t; tau) of every pixel of the hole, black to white; what is known stays grey and faint.
  function showShare(t) {
    const map = maps.now;
    const canvas = part(".share canvas");
    if (!map) return canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    const small = new OffscreenCanvas(map.width, map.height);
    const image = small.getContext("2d").createImageData(map.width, map.height);
    // One value for each of 256 values of tau is enough for the eye.
    const shares = Float32Array.from({ length: 257 }, (_, index) => 1 - maps.clock(t, index / 256));
    for (let index = 0; index < map.hole.length; index++) {
      const hole = map.hole[index] / 255;
      const grey = hole ? 255 * shares[Math.round(256 * maps.tauAt(index))] : 0;
      const known = maps.faint(index);
      image.data[4 * index] = (1 - hole) * known + hole * grey;
      image.data[4 * index + 1] = (1 - hole) * known + hole * (20 + 0.92 * grey);
      image.data[4 * index + 2] = (1 - hole) * known + hole * (60 + 0.76 * grey);
      image.data[4 * index + 3] = 255;
    }
    small.getContext("2d").putImageData(image, 0, 0);
    fit(canvas, small, map.width, map.height, maps.crop());
  }

  // Mean share restored of the third of the hole with the largest and the smallest tau.
  function thirds(t) {
    const map = maps.now;
    if (!map) return null;
    const taus = [];
    const stride = Math.max(1, Math.floor(map.hole.length / 8000));
    for (let index = 0; index < map.hole.length; index += stride) {
      if (map.hole[index] > 127) taus.push(maps.tauAt(index));
    }
    if (taus.length < 3) return null;
    taus.sort((a, b) => a - b);
    const third = Math.max(1, Math.floor(taus.length / 3));
    const mean = (some) => some.reduce((sum, tau) => sum + 1 - maps.clock(t, tau), 0) / some.length;
    return [mean(taus.slice(-third)), mean(taus.slice(0, third))];
  }

  const percent = (share) => `${Math.round(100 * share)}%`;

  function words(t) {
    if (!film) return `${maps.now ? "Press Restore" : "Paint a hole or pick an example"}: the way from noise to picture is shown here.`;
    const found = thirds(t);
    if (!found) return "";
    const [steep, flat] = found;
    if (t > 0.985) return "All noise: nothing in the hole is decided yet.";
    if (t < 0.005) return "Done. Every pixel has arrived; outside the hole nothing was touched.";
    const { min, max, strategy } = maps.range;
    if (film.range && film.range.join() !== [min, max, strategy].join()) {
      const [low, high, order] = film.range;
      return `This film has τ from ${low} to ${high}, ${order}. Press Restore to see what is chosen now.`;
    }
    if (strategy === "uniform" || min === max) return `All pixels have one schedule: each is ${percent(steep)} restored.`;
    const same = percent(1 - maps.clock(t, 0.5));
    const [early, late] = thirds(0.5);
    if (early - late < 0.05) {
      return `Pixels are ${percent(flat)} to ${percent(steep)} restored: with this order the difference is hard to see. Try τ from 0 to 1.`;
    }
    const other = film?.other ? ` With one schedule for all, every pixel is ${same} restored.` : "";
    const byEdges = ["gradient", "ranked"].includes(strategy);
    const [first, second] = byEdges ? ["Edges first: the steepest", "the flattest"] : ["The first", "the last"];
    return `${first} third is ${percent(steep)} restored, ${second} ${percent(flat)}.${other}`;
  }

  // The schedules of the range, and the running t on them. A run goes from left (t = 1) to right.
  function drawBetas(t) {
    const { range } = maps;
    const high = maps.betas()[1];
    const [x, y] = [(time) => 240 * (1 - time), (value) => 58 - (54 * value) / high];
    const colour = (tau) => `rgb(${maps.rgb(range.max > range.min ? (tau - range.min) / (range.max - range.min) : 0.5).join(" ")})`;
    const span = range.max - range.min;
    const taus = range.strategy === "uniform" || span === 0
      ? [range.min + span / 2] : [0, 1, 2, 3, 4, 5, 6].map((step) => range.min + (span * step) / 6);
    part(".betas").innerHTML =
      taus.map((tau) => maps.curve(tau, x, y, `data-tau="${tau.toFixed(3)}" stroke="${colour(tau)}"`)).join("") +
      maps.curve(0.5, x, y, 'class="dashed"') +
      `<line class="now" x1="${x(t)}" x2="${x(t)}" y1="0" y2="62"/>`;
  }

  function look() {
    if (!stage) return;
    const all = frames();
    const frame = all[Math.min(at, all.length - 1)];
    const other = film?.other?.[Math.min(at, film.other.length - 1)];
    const t = frame?.t ?? 1;
    stage.classList.toggle("filled", Boolean(frame));
    const [seen, name] = estimates ? ["x0_hat", "predictions x̂₀"] : ["x_t", "states xₜ"];
    part(".own span").textContent = name;
    part(".other b").textContent = film?.other ? "Synchronous (I²SB)" : "Prediction";
    // Its steps are taken at times a little different from these.
    part(".other").title = other ? `Its step of the same number is at t = ${other.t.toFixed(2)} T.` : "";
    part(".other span").textContent = film?.other ? name : "x̂₀ at this step";
    if (frame) {
      show(".own", frame[seen] ?? frame.x_t);
      show(".other", film.other ? other?.[seen] ?? other?.x_t : frame.x0_hat);
    } else {
      for (const canvas of stage.querySelectorAll("canvas")) canvas.getContext("2d").clearRect(0, 0, 320, 320);
    }
    showShare(t);
    drawBetas(t);
    part(".watch").textContent = words(t);
    part("output").textContent = `t = ${t.toFixed(2)} T`;
    const slider = part("#trajectory input");
    slider.value = 1000 * (1 - t);
    slider.setAttribute("aria-valuetext", part("output").textContent);
    slider.disabled = part(".play").disabled = all.length < 2;
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    part(".play").textContent = "▶";
    part(".play").setAttribute("aria-label", "Play");
  }

  function play() {
    if (at >= frames().length - 1) at = 0;
    clearInterval(timer);
    part(".play").textContent = "❚❚";
    part(".play").setAttribute("aria-label", "Pause");
    let rest = 0; // ticks for which the last frame stays before the loop begins again
    const step = () => {
      if (at < frames().length - 1) at += 1;
      else if (opening && rest++ < 12) return;
      else if (opening) [at, rest] = [0, 0];
      else return stop();
      look();
    };
    timer = setInterval(step, Math.max(60, 5000 / frames().length) / SPEEDS[speed]);
    look();
  }

  function progress(percent) {
    part(".progress").firstElementChild.style.width = `${percent}%`;
    part(".progress").setAttribute("aria-valuenow", percent);
  }

  function clear() {
    stop();
    film = null;
    pictures.clear();
    progress(0);
  }

  function mountStage(element, props, watch) {
    stage = element;
    part(".play").addEventListener("click", () => (timer ? stop() : play()));
    part(".speed").addEventListener("click", (event) => {
      speed = (speed + 1) % SPEEDS.length;
      event.target.textContent = `${["1", "½", "¼", "2"][speed]}×`;
      if (timer) play();
    });
    part("#trajectory input").addEventListener("input", (event) => {
      stop();
      const t = 1 - event.target.value / 1000;
      const distance = (frame) => Math.abs(frame.t - t);
      at = frames().reduce((best, frame, index, all) => (distance(frame) < distance(all[best]) ? index : best), 0);
      look();
    });
    for (const [name, value] of [["states", false], ["estimates", true]]) {
      part(`.${name}`).addEventListener("click", () => {
        estimates = value;
        part(".states").setAttribute("aria-pressed", !value);
        part(".estimates").setAttribute("aria-pressed", value);
        look();
      });
    }
    const update = () => {
      const value = props.value;
      // The last one of a run that another photograph has ended.
      if (value?.steps && !asyncdsb.canvas.shows(value.photo)) return;
      progress(value?.steps ? Math.round((100 * value.step) / value.steps) : value?.frames ? 100 : 0);
      element.dataset.step = value?.step ?? "";
      if (!value) {
        clear();
      } else if (value.frames) {
        film = value;
        opening = Boolean(value.opening);
        own = maps.now?.hole ?? null;
        at = film.frames.length - 1;
        stop();
        if ((film.other || opening) && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
      } else {
        // A frame of a run that goes on. What a stopped run leaves is its film so far.
        if (value.step === 0 || !film?.live) {
          stop();
          pictures.clear();
          film = { frames: [], live: true, range: value.range };
        }
        opening = false;
        film.frames.push(value);
        at = film.frames.length - 1;
      }
      look();
    };
    maps.follow(() => {
      const hole = maps.now?.hole;
      own ??= hole ?? null;
      // It says nothing about another hole; the film of a run stays until the next one.
      if (opening && own && !(hole?.length === own.length && hole.every((value, index) => value === own[index]))) {
        opening = false;
        clear();
        chart?.classList.remove("filled");
      }
      look();
    });
    watch("value", update);
    update();
  }

  // Share of flat, middle and steep pixels restored over t: lines are the schedules, dots the run.
  function mountTiming(element, props, watch) {
    chart = element;
    const COLOURS = { steep: "#e4572e", middle: "#8d99ae", flat: "#1b7f79" };
    const update = () => {
      const value = props.value;
      element.classList.toggle("filled", Boolean(value));
      if (!value) return;
      element.querySelector("p").textContent = value.sentence;
      const [x, y] = [(t) => 34 + 316 * (1 - t), (share) => 128 - 118 * share];
      const line = (t, values, attributes) =>
        `<polyline points="${t.map((time, index) => `${x(time).toFixed(1)},${y(values[index]).toFixed(1)}`).join(" ")}" ${attributes}/>`;
      const dots = (t, values, attributes) =>
        t.map((time, index) => `<circle cx="${x(time).toFixed(1)}" cy="${y(values[index]).toFixed(1)}" r="2.3" ${attributes}/>`).join("");
      let drawn = [0, 0.5, 1].map((share) =>
        `<line class="grid" x1="34" x2="350" y1="${y(share)}" y2="${y(share)}"/><text x="28" y="${y(share) + 4}" text-anchor="end">${100 * share}%</text>`).join("");
      drawn += [1, 0.75, 0.5, 0.25, 0].map((t) => `<text x="${x(t)}" y="143" text-anchor="middle">${t === 1 ? "t = T" : t}</text>`).join("");
      if (value.other) {
        drawn += line(value.other.t, value.other.scheduled.middle, 'class="dashed"');
        drawn += dots(value.other.t, value.other.measured.middle, 'class="hollow"');
      }
      for (const [name, colour] of Object.entries(COLOURS)) {
        drawn += line(value.t, value.scheduled[name], `stroke="${colour}"`) + dots(value.t, value.measured[name], `fill="${colour}"`);
      }
      element.querySelector("svg").innerHTML = drawn;
      element.querySelector(".keys").innerHTML =
        Object.entries(COLOURS).map(([name, colour]) => `<span><i style="background:${colour}"></i>${name}</span>`).join("") +
        (value.other ? '<span><i class="hollow"></i>synchronous, all pixels</span>' : "") +
        "<span>lines: schedule, dots: this run</span>";
    };
    watch("value", update);
    update();
  }

  // The result in place on the canvas.
  function mountCompare(element, props, watch) {
    const update = () => {
      // A run may end when another photograph is on the canvas.
      const value = asyncdsb.canvas.shows(props.value?.photo) ? props.value : null;
      element.classList.toggle("filled", Boolean(value));
      element.querySelector("p").textContent = !value ? ""
        : value.finish === "none"
          ? "Bridge only: this is what the diffusion bridge itself restored."
          : "With known patches: parts of the photo that resemble the bridge's result take its place.";
      if (value) asyncdsb.canvas.showResult(value.after, { wipe: true });
      else asyncdsb.canvas.clearResult();
    };
    watch("value", update);
    update();
  }

  // All results of this visit; any of them can be chosen.
  function mountStrip(element, props, watch, trigger) {
    const update = () => {
      const { entries = [], chosen = -1 } = props.value ?? {};
      element.classList.toggle("filled", entries.length > 0);
      const focused = element.contains(document.activeElement);
      element.innerHTML = `<div class="results">${entries.map(({ picture, label }, index) =>
        `<button type="button" data-result="${index}" aria-pressed="${index === chosen}" title="Show this result again"><img alt="" src="${picture}"><span>${label}</span></button>`).join("")}</div>`;
      // The button that was pressed is another one now.
      if (focused) element.querySelector("[aria-pressed=true]")?.focus();
    };
    element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-result]");
      if (button) trigger("click", { index: Number(button.dataset.result) });
    });
    watch("value", update);
    update();
  }

  Object.assign(asyncdsb, { mountStage, mountTiming, mountCompare, mountStrip });
  return { get film() { return film; } };
})();
