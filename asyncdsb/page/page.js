// Behaviour of the page that needs no answer from the server. Each mount function belongs to one
// HTML component and is called once with its element, its props and its watch function.
Object.assign(asyncdsb, (() => {
  // How long the next run will take, from the pace that the server measured.
  let stepSeconds = null;
  let lacking = ""; // what is missing before a run can begin
  const work = { steps: @STEPS@, runs: 1 };
  function estimate(steps, beside, seeds) {
    if (steps) Object.assign(work, { steps, runs: Number(seeds) * (beside ? 2 : 1) });
    const line = document.querySelector("#estimate .estimate");
    if (!line) return;
    const seconds = stepSeconds * work.steps * work.runs;
    const long = seconds < 100 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} minutes`;
    line.textContent = lacking || (stepSeconds ? `takes about ${long} here` : "");
  }
  function needs(what) {
    lacking = what;
    document.querySelector("#restore")?.setAttribute("aria-disabled", Boolean(what));
    estimate();
  }
  document.addEventListener("click", (event) => {
    if (lacking && event.target.closest?.("#restore")) event.stopImmediatePropagation();
  }, true);
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
  // A moment after the last change: a slider that is dragged changes with every pixel, and a browser
  // refuses an address that is written too often.
  let writing = 0;
  function address() {
    clearTimeout(writing);
    writing = setTimeout(addressNow, 300);
  }
  function addressNow() {
    if (!writing) return;
    clearTimeout(writing);
    writing = 0;
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
    // The example with which the page opens leaves the address alone, which may name another.
    if (!Object.keys(names).length) return;
    link = names;
    address();
  }

  // A link that names an example or settings: what the page opens with otherwise is not shown
  // before they are in place.
  const asked = new URLSearchParams(location.search);
  const root = document.documentElement;
  if (@LINKED@.some((name) => asked.has(name))) {
    root.classList.add("linked");
    setTimeout(linkOpened, 20000); // Should the answer be lost.
  }
  // The page library gives a row of buttons no name that a screen reader could say.
  const GROUPS = { weights: "Weights", finish: "Finish of the result", strategy: "Order of restoration" };
  function nameGroups() {
    // Not on the message, which is replaced, nor on all of it: the clock of the queue is in there.
    document.querySelector("#status .html-container")?.setAttribute("role", "status");
    document.querySelector("#restore")?.setAttribute("aria-describedby", "estimate");
    for (const [id, name] of Object.entries(GROUPS)) document.getElementById(id)?.setAttribute("aria-label", name);
  }
  async function linkOpened() {
    if (!root.classList.contains("linked")) return;
    await document.querySelector("#editor .photo[src]")?.decode().catch(() => {});
    // The sliders draw the maps anew after the answer.
    requestAnimationFrame(() => requestAnimationFrame(() => root.classList.remove("linked")));
  }

  function fetchFile(file) {
    if (!file?.url) return;
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name ?? "";
    document.body.append(link);
    link.click();
    link.remove();
  }

  function mountExamples(element, trigger) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-example]");
      if (button) trigger("click", { index: Number(button.dataset.example) });
    });
  }

  function mountMore(element) {
    const button = element.querySelector("button");
    button.addEventListener("click", () => {
      button.setAttribute("aria-expanded", button.getAttribute("aria-expanded") === "false");
    });
  }

  return { mountMore, pace, needs, estimate, remember, addressNow, named, nameGroups, linkOpened, fetchFile, mountExamples };
})());
