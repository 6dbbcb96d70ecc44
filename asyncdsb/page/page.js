// Behaviour of the page that needs no answer from the server. Each mount function belongs to one
// HTML component and is called once with its element, its props and its watch function.
Object.assign(asyncdsb, (() => {
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
  function pace(seconds) {
    stepSeconds = seconds;
    estimate();
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
  function mountLink(element, props, watch) {
    watch("value", () => {
      const { taken, ...named } = props.value || {};
      link = named;
      untouched = Boolean(taken);
      if (taken) loading(15000);
      address();
    });
  }

  // What the server took over, until something is done on the canvas. The canvas takes a second to
  // load it, in which it would hand over what it showed before, and forget what is painted: presses
  // wait for it, but not forever.
  let untouched = false;
  let loaded = 0;
  const canvasBusy = () => document.querySelector("#editor")?.ariaBusy === "true";
  function loading(milliseconds) {
    const editor = document.querySelector("#editor");
    editor.ariaBusy = "true";
    clearTimeout(loaded);
    loaded = setTimeout(() => { editor.ariaBusy = "false"; }, milliseconds);
  }
  // The photograph is there, its layer comes right after it.
  function canvasLoaded() {
    if (canvasBusy()) loading(200);
  }
  function paintedLayer(editor, layer) {
    return untouched ? layer : editor?.layers?.[0] ?? null;
  }

  function fetchArchive() {
    // The link appears with the answer.
    setTimeout(() => document.querySelector("#archive")?.click(), 100);
  }

  function mountExamples(element, trigger) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-example]");
      if (button) trigger("click", { index: Number(button.dataset.example) });
    });
  }

  // A photograph dropped on, pasted into or chosen from the canvas goes to the server first, which
  // keeps it at full resolution and sends the canvas its small copy.
  function open(file) {
    const input = document.querySelector("#open-photo input[type=file]");
    if (!input || !file) return;
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  const within = (event, selector) => event.target instanceof Element && event.target.closest(selector);

  document.addEventListener("change", (event) => {
    if (!event.target.matches?.("#editor input[type=file]") || !event.target.files.length) return;
    event.stopImmediatePropagation();
    open(event.target.files[0]);
    event.target.value = "";
  }, true);

  document.addEventListener("drop", (event) => {
    if (!within(event, "#editor") || !event.dataTransfer?.files.length) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    open(event.dataTransfer.files[0]);
  }, true);

  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (file) open(file);
  });

  // The maps follow the mask a moment after the last stroke: each hand-over of the canvas costs
  // more than drawing does.
  let pause = 0;
  let painting = false;
  document.addEventListener("pointerdown", (event) => {
    painting = Boolean(within(event, "#editor"));
    if (!painting) return;
    if (canvasBusy()) {
      painting = false;
      event.stopImmediatePropagation();
      return;
    }
    untouched = false;
    clearTimeout(pause);
  }, true);
  document.addEventListener("click", (event) => {
    if (canvasBusy() && within(event, "#editor")) event.stopImmediatePropagation();
  }, true);
  // Undo and redo, which the canvas listens to wherever the keyboard is.
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && !canvasBusy()) untouched = false;
  }, true);
  document.addEventListener("pointerup", () => {
    if (!painting || document.querySelector("#editor .empty.wrap")) return;
    painting = false;
    if (link.mask) {
      delete link.mask;
      address();
    }
    pause = setTimeout(() => document.querySelector("#preview")?.click(), 900);
  }, true);

  // The canvas fits the photograph to the width that it measured while the page was still being
  // laid out. A change of width by one pixel makes it measure again, once for every new width.
  let fitted = 0;
  setInterval(() => {
    const place = document.querySelector("#editor .pixi-target");
    const canvas = place?.querySelector("canvas");
    if (!canvas || !place.clientWidth || painting) return;
    const differs = (width) => Math.abs(width - place.clientWidth) > 2;
    if (!differs(canvas.clientWidth) && !differs(fitted)) return;
    fitted = place.clientWidth;
    const editor = document.querySelector("#editor");
    editor.style.width = "calc(100% - 1px)";
    const restore = () => { editor.style.width = ""; };
    requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(restore, 60)));
  }, 400);

  // The canvas has buttons for these, but knows no keys. In a text field the keys are the field's.
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (!(event.ctrlKey || event.metaKey) || event.altKey || !"zy".includes(key)) return;
    if (event.target.closest("input:not([type=range]), textarea, [contenteditable]")) return;
    const name = key === "y" || event.shiftKey ? "Redo" : "Undo";
    document.querySelector(`#editor button[aria-label="${name}"]`)?.click();
    event.preventDefault();
  });

  return { pace, estimate, remember, paintedLayer, canvasLoaded, fetchArchive, mountLink, mountExamples };
})());
