// "How it works": the forward bridge on a small photograph, computed here by the equations of the
// text. One slider moves every picture.
Object.assign(asyncdsb, (() => {
  const maps = asyncdsb.maps;

  function mountAbout(element) {
    const story = element.querySelector(".tale");
    const [width, height] = [Number(story.dataset.width), Number(story.dataset.height)];
    const [photo, start, order] = ["photo", "start", "order"].map((name) => maps.bytes(story.dataset[name]));
    const taus = Float32Array.from(order, (value) => value / 255);
    const noise = Float32Array.from({ length: photo.length }, () =>
      Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
    const hole = (index) => {
      const [x, y] = [(index % width) / width, Math.floor(index / width) / height];
      return Math.abs(x - 0.5) < 0.22 && Math.abs(y - 0.5) < 0.28;
    };
    const [slider, button, output] = ["input", "button", "output"].map((s) => story.querySelector(s));

    function paint(selector, pixel) {
      for (const canvas of story.querySelectorAll(selector)) {
        [canvas.width, canvas.height] = [width, height];
        const context = canvas.getContext("2d");
        const image = context.createImageData(width, height);
        for (let index = 0; index < taus.length; index++) {
          image.data.set([...pixel(index), 255], 4 * index);
        }
        context.putImageData(image, 0, 0);
      }
    }
    const known = (index) => [photo[3 * index], photo[3 * index + 1], photo[3 * index + 2]];
    function bridge(index, s) {
      const spread = 127.5 * Math.sqrt(maps.total() * s * (1 - s));
      return [0, 1, 2].map((channel) => {
        const place = 3 * index + channel;
        return (1 - s) * photo[place] + s * start[place] + spread * noise[place];
      });
    }

    function drawBetas(t) {
      const high = maps.betas()[1];
      const [x, y] = [(time) => 240 * (1 - time), (value) => 152 - (142 * value) / high];
      story.querySelector(".beta").innerHTML =
        [0, 0.25, 0.5, 0.75, 1].map((tau) => maps.curve(tau, x, y, `stroke="rgb(${maps.rgb(tau).join(" ")})"`)).join("") +
        `<line x1="${x(t)}" x2="${x(t)}" y1="0" y2="160"/>`;
    }

    function draw() {
      const t = Number(slider.value) / 100;
      output.textContent = `t = ${t.toFixed(2)} T`;
      paint(".own", (index) => bridge(index, maps.clock(t, taus[index])));
      const same = maps.clock(t, 0.5);
      paint(".one", (index) => bridge(index, same));
      paint(".kept", (index) => (hole(index) ? bridge(index, maps.clock(t, taus[index])) : known(index)));
      drawBetas(t);
    }
    paint(".edges", (index) => maps.rgb(taus[index]));

    let timer = 0;
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      button.textContent = "▶";
      button.setAttribute("aria-label", "Play");
    };
    button.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) <= 0) slider.value = 100;
      button.textContent = "❚❚";
      button.setAttribute("aria-label", "Pause");
      timer = setInterval(() => {
        if (Number(slider.value) <= 0) return stop();
        slider.value = Number(slider.value) - 1;
        draw();
      }, 60);
    });
    slider.addEventListener("input", () => { stop(); draw(); });
    draw();
  }

  return { mountAbout };
})());
