
// The painting canvas. The photograph, a result over it and the mask lie in one sheet, which zoom
// and pan enlarge and move behind the view. The mask is a canvas with a grid of its own: a pixel is
// missing where it is opaque. It never waits for the server, and the server reads it at a press.
asyncdsb.canvas = (() => {
  const colour = "#@HOLE_COLOUR@";
  const opaque = (0xff000000 | parseInt("@HOLE_COLOUR@".match(/../g).reverse().join(""), 16)) >>> 0;
  const LEAST = 0.004; // least size of the brush, as a share of the longest side
  const MOST = 0.3;
  const DEEPEST = 16; // zoom
  const STEPS = 60; // most holes that can be brought back
  const KEYS = "keys"; // id of a stroke by the keyboard, in place of a pointer's
  const BRIEF = 12; // points of a stroke that a second finger may still turn into a zoom

  let element, view, sheet, canvas, context, cursor, slider, square;
  let photo = null; // what the server said of it, with the address of its picture
  let history = []; // of { photo, runs, frame, named, stroke, framed }
  let at = -1; // the one shown
  let asked = null; // the one shown when the server was asked for another hole
  let begun = null; // the one shown when the last run began
  let tool = "brush";
  let stroke = null; // { points, width, erase, id, committed } while it is painted
  let found = null; // square around the head that the server found: left, top, side in its pixels
  let frame = null; // likewise, as the visitor drew it, which then takes its place
  let corner = null; // { at, id } where the frame that is being drawn begins, on the mask
  let zoom = 1;
  let shift = [0, 0]; // how far the sheet is moved, in views
  const pointers = new Map(); // fingers on the canvas
  let pen = null; // id of the pen on the canvas
  let moving = false;
  let space = false;
  let place = null; // of the brush for the keyboard, on the mask
  let follow = 0;
  let taking = 0; // timer: the result is becoming the photograph, until the server has answered
  let shown = 0; // counts results, so that one that is decoded late is left out
  const hasResult = () => view.classList.contains("compared");

  // The mask

  function draw(runs) {
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    let start = 0;
    runs.forEach((run, index) => {
      if (index % 2) pixels.fill(opaque, start, start + run);
      start += run;
    });
    context.putImageData(image, 0, 0);
  }

  // The lengths of its runs, known first. What a stroke left half transparent at its edge becomes
  // one or the other, so that what is seen is what is restored.
  function settle() {
    const image = context.getImageData(0, 0, canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const runs = [];
    let start = 0;
    let missing = 0;
    for (let index = 0; index < pixels.length; index++) {
      const now = pixels[index] >>> 31;
      if (now !== missing) {
        runs.push(index - start);
        start = index;
        missing = now;
      }
      pixels[index] = now ? opaque : 0;
    }
    runs.push(pixels.length - start);
    context.putImageData(image, 0, 0);
    return runs;
  }

  function hole() {
    if (!photo) return "";
    return JSON.stringify({ photo: photo.stamp, width: canvas.width, height: canvas.height, runs: settle(), box: frame });
  }

  function paint({ points, width, erase }, from = 0, on = context) {
    on.globalCompositeOperation = erase ? "destination-out" : "source-over";
    on.fillStyle = on.strokeStyle = colour;
    on.lineWidth = width;
    on.lineCap = on.lineJoin = "round";
    on.beginPath();
    if (from === 0) {
      on.arc(...points[0], width / 2, 0, 7);
      on.fill();
      on.beginPath();
    }
    points.slice(Math.max(0, from - 1)).forEach((point) => on.lineTo(...point));
    on.stroke();
    on.globalCompositeOperation = "source-over";
  }

  // What was done

  const named = (more) => ({ example: history[at]?.named.example, ...more });

  function push(entry) {
    history.splice(at + 1, Infinity, { photo, runs: settle(), frame, named: named(), ...entry });
    if (history.length > STEPS) history.shift();
    at = history.length - 1;
    changed();
  }

  function go(step) {
    if (stroke || !history[at + step]) return;
    corner = null;
    at += step;
    const { photo: then, runs, frame: drawn } = history[at];
    if (then !== photo) open(then);
    draw(runs);
    frame = drawn;
    showFrame();
    clearResult();
    changed();
  }

  function changed() {
    const { runs, named: names } = history[at] ?? { runs: [0], named: { example: null } };
    const disable = { undo: at < 1, redo: at >= history.length - 1, clear: runs.length < 2, in: !photo, out: !photo, fit: !photo };
    for (const [name, off] of Object.entries(disable)) element.querySelector(`[data-act=${name}]`).disabled = off;
    asyncdsb.named(names);
    const missing = !photo ? "Open a photo first." : runs.length < 2 ? "Paint a hole first." : "";
    asyncdsb.needs(taking ? "Taking over the result …" : missing);
    clearTimeout(follow);
    // The maps follow a moment after the last stroke.
    if (photo && at >= 0) follow = setTimeout(() => document.querySelector("#preview")?.click(), 500);
  }

  // Strokes and frames after an entry.
  const since = (entry) => (history.includes(entry) ? history.slice(history.indexOf(entry) + 1, at + 1) : []).filter((one) => one.stroke || one.framed);

  // What the server took over: a photograph, or another hole for the one that is shown.
  function take(value) {
    if (!value?.stamp) return;
    opening("");
    clearTimeout(taking);
    taking = 0;
    const grid = JSON.parse(value.hole);
    const known = history.find((entry) => entry.photo.stamp === value.stamp)?.photo;
    const goesOn = known || (photo && value.before === photo.stamp);
    if (!known && !value.picture) return; // Late: its photograph was put away meanwhile.
    // Strokes that were painted while it was on its way are painted on it as well.
    const late = goesOn ? since(asked) : [];
    if (late.length) at = history.indexOf(asked);
    asked = begun = null;
    if (!goesOn) {
      history = [];
      at = -1;
      stroke = corner = null;
    }
    const next = known ?? { ...value, source: value.picture.url, across: grid.width, down: grid.height };
    if (next !== photo) open(next);
    clearResult();
    draw(grid.runs);
    frame = grid.box;
    showFrame();
    push({ runs: grid.runs, named: value.named });
    if (value.maps) clearTimeout(follow);
    for (const { stroke: done, framed, frame: drawn } of late) {
      if (framed) frame = drawn;
      else paint(done);
      push({ stroke: done, framed, named: framed ? history[at].named : named() });
    }
    showFrame();
    if (stroke) paint(stroke);
  }

  function open(next) {
    photo = next;
    place = corner = null;
    const old = sheet.querySelector(".photo");
    const picture = old.cloneNode();
    picture.src = next.source;
    old.replaceWith(picture);
    canvas.width = next.across;
    canvas.height = next.down;
    view.style.setProperty("--across", next.width);
    view.style.setProperty("--down", next.height);
    view.classList.add("filled");
    clearResult();
    look(1, [0, 0]);
    resize(0);
  }

  function close() {
    photo = stroke = asked = corner = frame = null;
    history = [];
    at = -1;
    view.classList.remove("filled");
    clearResult();
    sheet.querySelector(".photo").removeAttribute("src");
    changed();
    return [];
  }

  function clear() {
    clearResult();
    context.clearRect(0, 0, canvas.width, canvas.height);
    push();
  }

  // The view

  function look(to, [x, y]) {
    zoom = to;
    shift = [x, y].map((part) => Math.min(Math.max(part, 0), zoom - 1));
    sheet.style.width = sheet.style.height = `${100 * zoom}%`;
    sheet.style.left = `${-100 * shift[0]}%`;
    sheet.style.top = `${-100 * shift[1]}%`;
    element.querySelector("[data-act=fit]").textContent = `${Math.round(100 * zoom)}%`;
    // Enlarged, the mask's own pixels stay sharp.
    canvas.classList.toggle("coarse", canvas.getBoundingClientRect().width > 2 * canvas.width);
  }

  function zoomAt(x, y, factor) {
    const box = view.getBoundingClientRect();
    const to = Math.min(Math.max(zoom * factor, 1), DEEPEST);
    const spot = [(x - box.left) / box.width, (y - box.top) / box.height];
    look(to, spot.map((part, axis) => ((part + shift[axis]) * to) / zoom - part));
  }

  function zoomBy(factor) {
    const box = view.getBoundingClientRect();
    zoomAt(box.left + box.width / 2, box.top + box.height / 2, factor);
  }

  function pan(x, y) {
    const box = view.getBoundingClientRect();
    look(zoom, [shift[0] - x / box.width, shift[1] - y / box.height]);
  }

  // Width of the brush on the mask; at least one pixel of the photograph.
  function width() {
    const share = LEAST * (MOST / LEAST) ** (slider.value / 100);
    return Math.max(canvas.width / photo.width, share * Math.max(canvas.width, canvas.height));
  }

  function resize(by) {
    slider.value = Number(slider.value) + by;
    if (!photo) return;
    const pixels = Math.round((width() * photo.width) / canvas.width);
    element.querySelector(".size output").textContent = `${pixels} px`;
    slider.setAttribute("aria-valuetext", `${pixels} pixels of the photo`);
    circle();
  }

  // The circle is where the pointer is; else, for a moment, in the middle.
  let pointer = null;
  let fading = 0;
  function circle() {
    if (!photo) return;
    const box = view.getBoundingClientRect();
    const [x, y] = pointer ?? [box.left + box.width / 2, box.top + box.height / 2];
    const side = (width() * canvas.getBoundingClientRect().width) / canvas.width;
    cursor.style.width = cursor.style.height = `${side}px`;
    cursor.style.transform = `translate(${x - box.left - side / 2}px, ${y - box.top - side / 2}px)`;
    cursor.classList.add("seen");
    clearTimeout(fading);
    if (!pointer) fading = setTimeout(() => cursor.classList.remove("seen"), 700);
  }

  function spot({ clientX, clientY }) {
    const box = canvas.getBoundingClientRect();
    return [((clientX - box.left) * canvas.width) / box.width, ((clientY - box.top) * canvas.height) / box.height];
  }

  // Strokes

  function begin(point, id, touch = false) {
    stroke = { points: [point], width: width(), erase: tool === "eraser", id, committed: false };
    // A finger on a result may be the first of two that zoom.
    if (!touch || !hasResult()) commit();
  }

  // Paint the stroke. If a result is shown, it becomes the photograph first.
  function commit() {
    stroke.committed = true;
    clearTimeout(follow);
    const late = since(begun);
    const reuse = document.querySelector("#reuse");
    if (hasResult() && !reuse.disabled) {
      reuse.click();
      // On the result, whose hole is closed, but for what was painted during the run.
      context.clearRect(0, 0, canvas.width, canvas.height);
      for (const { stroke: done } of late) if (done) paint(done);
      view.classList.add("kept");
      taking = setTimeout(() => { taking = 0; changed(); }, 15000);
    } else clearResult();
    paint(stroke);
  }

  function extend(points) {
    const from = stroke.points.length;
    stroke.points.push(...points);
    if (stroke.committed) paint(stroke, from);
    else if (stroke.points.length > BRIEF) commit();
  }

  function end() {
    if (!stroke.committed) commit();
    const done = stroke;
    stroke = null;
    push({ stroke: done });
  }

  // A second finger means zoom: what the first one began is no stroke.
  function abandon() {
    if (!stroke) return;
    if (stroke.points.length > BRIEF) return end();
    const { committed } = stroke;
    stroke = null;
    if (!committed) return;
    draw(history[at].runs);
    changed();
  }

  // The square around the head

  function showFrame() {
    const box = frame ?? found;
    // A frame around the whole photograph would say nothing.
    const used = !element.querySelector("[data-tool=frame]").hidden;
    square.hidden = !used || !photo || !box || box[2] >= Math.max(photo.width, photo.height);
    if (square.hidden) return;
    const [left, top, side] = box;
    const share = (part, whole) => `${(100 * part) / whole}%`;
    Object.assign(square.style, { left: share(left, photo.width), top: share(top, photo.height), width: share(side, photo.width), height: share(side, photo.height) });
  }

  // What the server says with the maps of a hole: no box with weights that work around holes.
  function headFound(maps) {
    found = maps?.box ?? null;
    if (!element) return;
    const button = element.querySelector("[data-tool=frame]");
    // A frame that holds nothing of the hole has no maps, and can be drawn anew.
    button.hidden = !found && (Boolean(maps) || !frame);
    if (button.hidden && tool === "frame") choose("brush");
    showFrame();
  }

  // Between two corners, as far as the photograph reaches; null if it is no more than a click.
  function squared(from, to) {
    const scale = photo.width / canvas.width;
    const way = to.map((part, axis) => (part - from[axis]) * scale);
    const sides = [photo.width, photo.height];
    const first = from.map((part, axis) => Math.min(Math.max(Math.round(part * scale), 0), sides[axis]));
    const room = way.map((part, axis) => (part < 0 ? first[axis] : sides[axis] - first[axis]));
    const side = Math.min(Math.round(Math.max(...way.map(Math.abs))), ...room);
    if (side < Math.min(32, ...sides)) return null;
    return [...first.map((part, axis) => (way[axis] < 0 ? part - side : part)), side];
  }

  function drawFrame(to) {
    frame = squared(corner.at, to);
    showFrame();
  }

  function endFrame() {
    corner = null;
    if (JSON.stringify(frame) === JSON.stringify(history[at]?.frame)) return;
    clearResult();
    push({ framed: true, named: history[at]?.named ?? named() });
  }

  function dropFrame() {
    corner = null;
    frame = history[at]?.frame ?? null;
    showFrame();
  }

  function down(event) {
    if (!photo || event.button > 1) return;
    // A hand that rests beside a pen neither paints nor zooms.
    if (pen !== null && event.pointerType === "touch") return;
    endByKey();
    if (event.pointerType === "pen") {
      pen = event.pointerId;
      abandon();
      pointers.clear();
      moving = false;
    }
    pointer = [event.clientX, event.clientY];
    pointers.set(event.pointerId, pointer);
    sheet.setPointerCapture(event.pointerId);
    if (pointers.size > 1) {
      if (corner) dropFrame();
      abandon();
      moving = true;
    } else if (event.button === 1 || space) {
      moving = true;
      hold(false);
    } else if (tool === "frame") corner = { at: spot(event), id: event.pointerId };
    else begin(spot(event), event.pointerId, event.pointerType === "touch");
    view.classList.toggle("moving", moving);
  }

  function move(event) {
    if (!photo) return;
    const last = pointers.get(event.pointerId);
    const now = [event.clientX, event.clientY];
    pointer = now;
    if (event.pointerType !== "touch") circle();
    if (!last) return;
    // The button was released where nobody saw it.
    if (event.pointerType === "mouse" && !event.buttons) return up(event);
    pointers.set(event.pointerId, now);
    if (stroke?.id === event.pointerId) {
      const passed = event.getCoalescedEvents?.() ?? [];
      extend((passed.length ? passed : [event]).map(spot));
    } else if (corner?.id === event.pointerId) drawFrame(spot(event));
    else if (moving) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const far = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
        zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, far(now) / Math.max(1, far(last)));
      }
      // Of two fingers each moves the sheet by half.
      const share = other ? 0.5 : 1;
      pan(share * (now[0] - last[0]), share * (now[1] - last[1]));
    }
  }

  function up(event) {
    pointers.delete(event.pointerId);
    if (pen === event.pointerId) pen = null;
    if (event.pointerType === "touch") pointer = null;
    if (stroke?.id === event.pointerId) end();
    if (corner?.id === event.pointerId) {
      if (event.type === "pointercancel") dropFrame();
      else {
        drawFrame(spot(event));
        endFrame();
      }
    }
    moving = moving && pointers.size > 0;
    view.classList.toggle("moving", moving);
  }

  let scrolled = -Infinity;
  function wheel(event) {
    // A page that is being scrolled past is not held up, nor is one where there is nothing to zoom.
    const passing = performance.now() - scrolled < 250 || (zoom === 1 && event.deltaY > 0);
    if (!photo || (passing && !event.ctrlKey)) return;
    event.preventDefault();
    const lines = event.deltaMode ? 30 : 1;
    zoomAt(event.clientX, event.clientY, Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)));
    circle();
  }

  // A result, in place

  async function showResult(source, { wipe = false } = {}) {
    const ticket = ++shown;
    const picture = sheet.querySelector(".restored");
    const next = new Image();
    next.src = source;
    await next.decode();
    if (ticket !== shown || !photo) return;
    picture.src = source;
    showLate();
    view.classList.add("compared");
    if (!wipe || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    // Over the columns of the hole, from left to right.
    let [left, right, start] = [canvas.width, 0, 0];
    settle().forEach((run, index) => {
      const column = start % canvas.width;
      if (index % 2 && run) {
        left = column + run > canvas.width ? 0 : Math.min(left, column);
        right = Math.max(right, Math.min(canvas.width, column + run));
      }
      start += run;
    });
    const share = (column) => (100 * column) / canvas.width;
    const options = { duration: 900, easing: "ease-in-out" };
    picture.animate([left, right].map((column) => ({ clipPath: `inset(0 ${100 - share(column)}% 0 0)` })), options);
    const opacity = getComputedStyle(view).getPropertyValue("--paint");
    // By a mask: where a clip path hides the canvas, it would get no strokes.
    const mask = { maskImage: "linear-gradient(to right, transparent 50%, #000 50%)", maskSize: "200% 100%", opacity };
    canvas.animate([left, right].map((column) => ({ ...mask, maskPosition: `${100 - share(column)}% 0` })), options);
  }

  // What was painted during the run is not in its result, and belongs to the next one.
  function showLate() {
    const strokes = since(begun).filter((one) => one.stroke);
    const late = sheet.querySelector(".late");
    late.hidden = !strokes.length;
    if (late.hidden) return;
    const over = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
    for (const one of strokes) paint(one.stroke, 0, over.getContext("2d"));
    late.src = over.toDataURL();
  }

  function hold(before) {
    view.classList.toggle("held", before && hasResult());
  }

  function clearResult() {
    shown++;
    view.classList.remove("compared", "held", "kept");
    for (const part of [sheet.querySelector(".restored"), canvas]) part.getAnimations().forEach((one) => one.cancel());
  }

  // Photographs: any file goes to the server, which keeps it and sends its copy for the screen.

  let patience = 0;
  function opening(name) {
    view.querySelector(".opening").textContent = name && `Opening ${name} …`;
    element.closest("#editor").ariaBusy = String(Boolean(name));
    clearTimeout(patience);
    if (name) patience = setTimeout(() => opening(""), 30000);
  }

  // The page library refuses other files with a message of its own, and asks no server.
  function accepted({ name, type, size }, input) {
    const kinds = input.accept.split(",").map((kind) => kind.trim().toLowerCase());
    const fits = (kind) => (kind.startsWith(".") ? name.toLowerCase().endsWith(kind) : type.startsWith(kind.replace("*", "")));
    return kinds.some(fits) && size <= (window.gradio_config?.max_file_size ?? Infinity);
  }

  const upload = () => document.querySelector("#open-photo input[type=file]");

  function send(file) {
    const input = upload();
    if (!input || !file) return;
    if (accepted(file, input)) opening(file.name);
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  // Keys

  // Where keys write text, and the dialog that lists them.
  const writes = (target) => target.closest?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable], dialog");

  function key(event) {
    if (!photo || !view.checkVisibility() || writes(event.target)) return;
    const letter = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && !event.altKey && (letter === "z" || letter === "y")) {
      go(letter === "y" || event.shiftKey ? 1 : -1);
    } else if (!event.metaKey && (letter === "[" || letter === "]")) {
      resize(letter === "]" ? 4 : -4);
    } else if (letter === " " && (pointer || event.target === document.body || event.target === canvas)) {
      // Else the button that was pressed last is pressed again.
      if (event.target !== canvas) document.activeElement.blur();
      space = true;
      view.classList.add("ready");
      if (!pointers.size) hold(true);
    } else return;
    event.preventDefault();
  }

  function released(event) {
    if (event.key !== " ") return;
    space = false;
    view.classList.remove("ready");
    hold(false);
  }

  // Where the brush for the keyboard is on the screen.
  function placed() {
    const box = canvas.getBoundingClientRect();
    return [box.left + (place[0] * box.width) / canvas.width, box.top + (place[1] * box.height) / canvas.height];
  }

  function paintByKey(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (!photo || (!way && event.key !== "Enter")) return;
    event.preventDefault();
    const paints = tool !== "frame" && (!way || event.shiftKey);
    if (!paints) endByKey();
    const sides = [canvas.width, canvas.height];
    place ??= sides.map((side) => side / 2);
    // It goes on while the key repeats, so that one undo takes it back.
    if (paints && !stroke) begin([...place], KEYS);
    if (way) place = place.map((part, axis) => Math.min(Math.max(part + way[axis] * width() * 0.5, 0), sides[axis]));
    if (paints && way && stroke.id === KEYS) extend([[...place]]);
    if (corner) drawFrame(place);
    if (tool === "frame" && !way) {
      if (corner) endFrame();
      else corner = { at: [...place] };
    }
    const [x, y] = placed();
    // A zoomed photograph moves along, so that the brush stays in view.
    const seen = view.getBoundingClientRect();
    const beyond = (at, low, high) => Math.max(low - at, 0) + Math.min(high - at, 0);
    pan(beyond(x, seen.left, seen.right), beyond(y, seen.top, seen.bottom));
    pointer = placed();
    circle();
  }

  function endByKey() {
    if (stroke?.id === KEYS) end();
  }

  function choose(name) {
    tool = name;
    if (corner) dropFrame();
    view.classList.toggle("framing", tool === "frame");
    for (const button of element.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  }

  const acts = {
    undo: () => go(-1), redo: () => go(1), clear,
    in: () => zoomBy(1.5), out: () => zoomBy(1 / 1.5), fit: () => look(1, [0, 0]),
  };

  function mount(root, props, watch) {
    element = root;
    const names = [".view", ".sheet", "canvas", ".cursor", ".size input", ".frame"];
    [view, sheet, canvas, cursor, slider, square] = names.map((one) => root.querySelector(one));
    context = canvas.getContext("2d", { willReadFrequently: true });
    // On the sheet, as the canvas takes none where the wipe of a result clips it.
    sheet.addEventListener("pointerdown", down);
    sheet.addEventListener("pointermove", move);
    sheet.addEventListener("pointerup", up);
    sheet.addEventListener("pointercancel", up);
    sheet.addEventListener("pointerleave", () => {
      pointer = null;
      cursor.classList.remove("seen");
    });
    // Else the middle button scrolls.
    sheet.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault());
    canvas.addEventListener("keydown", paintByKey);
    canvas.addEventListener("keyup", endByKey);
    canvas.addEventListener("blur", () => {
      endByKey();
      // Else the space bar would not press the button that has the focus now.
      pointer = null;
      cursor.classList.remove("seen");
    });
    view.addEventListener("wheel", wheel, { passive: false });
    slider.addEventListener("input", () => resize(0));
    root.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (button?.dataset.tool) choose(button.dataset.tool);
      if (photo && acts[button?.dataset.act]) acts[button.dataset.act]();
    });
    const before = view.querySelector(".before");
    const pressed = (event) => event.key === undefined || event.key === " " || event.key === "Enter";
    for (const name of ["pointerdown", "keydown"]) before.addEventListener(name, (event) => pressed(event) && hold(true));
    for (const name of ["pointerup", "pointerleave", "pointercancel", "keyup", "blur"]) before.addEventListener(name, () => hold(false));
    const chooser = root.querySelector("input[type=file]");
    chooser.addEventListener("click", () => { chooser.accept = upload()?.accept ?? chooser.accept; });
    chooser.addEventListener("change", ({ target }) => {
      send(target.files[0]);
      target.value = "";
    });
    watch("value", () => take(props.value));
    take(props.value);
    if (found) headFound({ box: found });
  }

  // Files are taken all over the page, because the browser opens one that is dropped beside the
  // canvas in place of the page.
  const files = (event) => event.dataTransfer?.types.includes("Files");
  const takes = () => Boolean(view?.checkVisibility());
  document.addEventListener("dragover", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    view?.classList.toggle("target", takes());
    if (!takes()) event.dataTransfer.dropEffect = "none";
  }, true);
  document.addEventListener("dragleave", () => view?.classList.remove("target"), true);
  document.addEventListener("drop", (event) => {
    view?.classList.remove("target");
    if (!files(event)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (takes()) send(event.dataTransfer.files[0]);
  }, true);
  document.addEventListener("paste", (event) => {
    send([...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/")));
  });
  document.addEventListener("click", ({ target }) => {
    if (target.closest?.("#restore")) begun = history[at] ?? null;
    if (target.closest?.("#holes")) asked = history[at] ?? null;
    // Painted during the run, it is not in the result.
    if (target.closest?.("#reuse")) asked = history.slice(0, at + 1).includes(begun) ? begun : history[at] ?? null;
  }, true);
  document.addEventListener("keydown", key);
  document.addEventListener("keyup", released);
  window.addEventListener("blur", () => released({ key: " " }));
  window.addEventListener("scroll", () => { scrolled = performance.now(); }, { passive: true, capture: true });

  return { mount, hole, headFound, shows: (stamp) => stamp === photo?.stamp, opening, close, showResult, clearResult, hasResult, writes };
})();
