// A sentence of help for every control, on hover and on focus, and the keys.
(() => {
  const HELP = {
    "close-photo": "Put the photo away. Results stay in the strip.",
    "open-photo": "Open a photo of your own. It stays on the machine that runs this page.",
    holes: "Ready-made holes, a mask from a file, and changes to the whole hole.",
    restore: "Run the bridge on the hole (key R).",
    stop: "Stop the run. Its film so far stays.",
    weights: "The networks that restore: for any photo, or for one upright head.",
    steps: "How often the network is asked. More steps take longer; from about 10 on, they change little.",
    seed: "The number from which all noise is drawn. The same seed gives the same result.",
    dice: "Take another seed, which gives another result.",
    beside: "Run once more with one schedule for all pixels, and show both films side by side.",
    seeds: "Restore the hole with so many seeds, one after another.",
    tiles: "In how many fields a large hole is restored at most. More fields are sharper and slower.",
    sampler: "How a step is taken: with fresh noise (posterior) or without any noise (ode).",
    grid: "How the steps are spread over time. log: evenly in the logarithm of the noise.",
    solver_order: "1: a step takes the last estimate, as in the paper. 2: it takes a line through the last two.",
    guidance: "How far each estimate moves away from that of the guide, a weaker network. 0: not at all, which is faster. Weights without a guide have no choice.",
    eta: "Share of fresh noise in the sampler implicit.",
    strategy: "What decides the order: the predicted gradient (as it is, by ranks, or flat areas first), nothing (uniform, I²SB), the distance from the border (inward), or your own painting.",
    "tau-min": "τ of the pixels that are restored last.",
    "tau-max": "τ of the pixels that are restored first.",
    finish: "The bridge's own result, or known patches of the photo that resemble it.",
    result: "Download the result as PNG, with its settings in the file (Ctrl+S).",
    animation: "Download the way from noise to picture as an animated WebP, which loops in a browser.",
    movie: "Download the way from noise to picture as an MP4 video (H.264).",
    files: "Download result, film, maps, mask and settings in one archive.",
    reuse: "Take the result as the photo, and paint the next hole into it.",
    strip: "Results of this visit. Choose one to see, download or edit it.",
    gradient: "Edges that the first network predicts inside the hole.",
    tau: "When every pixel is restored. Point at the map to read τ.",
  };

  function mountHelp() {
    const tip = document.createElement("div");
    tip.id = "tip";
    tip.setAttribute("role", "tooltip");
    document.querySelector(".gradio-container").append(tip);
    let timer = 0;
    const hide = () => { clearTimeout(timer); tip.classList.remove("shown"); };
    const owner = (target) => {
      for (let part = target; part instanceof Element; part = part.parentElement) {
        if (HELP[part.id]) return part;
      }
      return null;
    };
    const show = (part) => {
      tip.textContent = HELP[part.id];
      const box = part.getBoundingClientRect();
      const width = Math.min(300, innerWidth - 16);
      tip.style.width = "max-content";
      tip.style.maxWidth = `${width}px`;
      tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
      const above = box.top > 70;
      tip.style.top = above ? `${box.top - 8}px` : `${box.bottom + 8}px`;
      tip.classList.toggle("above", above);
      tip.classList.add("shown");
    };
    for (const name of ["pointerover", "focusin"]) {
      document.addEventListener(name, (event) => {
        if (event.pointerType === "touch") return;
        const part = owner(event.target);
        hide();
        if (part) timer = setTimeout(() => show(part), name === "focusin" ? 150 : 600);
      });
    }
    for (const name of ["pointerdown", "focusout", "scroll"]) document.addEventListener(name, hide, true);
  }

  // Without https a browser refuses the clipboard; a selected text can be copied all the same.
  async function copyText(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const field = document.createElement("textarea");
      field.value = text;
      document.body.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      return done;
    }
  }

  function mountHeader(element) {
    const dialog = element.querySelector("dialog");
    element.querySelector(".keys-button").addEventListener("click", () => dialog.showModal());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.querySelector("button").addEventListener("click", () => dialog.close());
    const copy = element.querySelector(".copy-link");
    copy.addEventListener("click", async () => {
      asyncdsb.addressNow();
      copy.textContent = (await copyText(location.href)) ? "Copied" : "Copy the address";
      setTimeout(() => { copy.textContent = "Copy link"; }, 1500);
    });
    mountHelp();
  }

  // Keys work wherever no text is being typed.
  document.addEventListener("keydown", (event) => {
    if (asyncdsb.canvas.writes(event.target)) return;
    const press = (id) => {
      const button = document.querySelector(`#${id} button, button#${id}, a#${id}`);
      if (button && !button.disabled) button.click();
      event.preventDefault();
    };
    const control = event.ctrlKey || event.metaKey;
    if (event.key === "?" && !control) document.querySelector("#title dialog")?.showModal();
    // Under another tab the other keys would act on what nobody sees.
    if (!document.querySelector("#restore")?.checkVisibility()) return;
    if (control && event.key.toLowerCase() === "s") press("result");
    else if (control || event.altKey) return;
    else if (event.key.toLowerCase() === "r") press("restore");
  });

  Object.assign(asyncdsb, { mountHeader });
})();
