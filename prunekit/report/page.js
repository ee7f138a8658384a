"use strict";
(() => {
  const page = document.documentElement;
  page.classList.add("scripted");

  // what is wider than its frame says so
  const frames = [...document.querySelectorAll(".scroll")];
  const look = () => frames.forEach((one) => {
    const left = one.scrollWidth - one.clientWidth - one.scrollLeft;
    one.classList.toggle("more", left > 2);
  });
  frames.forEach((one) => one.addEventListener("scroll", look, { passive: true }));
  addEventListener("resize", look);
  addEventListener("load", look);
  look();

  // tables: a click on a heading sorts by its column; numbers by the first one in a cell
  const order = new Intl.Collator("en", { numeric: true });
  const scale = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };
  const number = (text) => {
    const found = text.replaceAll(",", "").match(/^[^\d+-]{0,2}([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?: ([kMGTP])\b)?/);
    return found ? parseFloat(found[1]) * (scale[found[2]] || 1) : NaN;
  };
  document.querySelectorAll("th").forEach((head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      head.parentNode.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = head.closest("table").tBodies[0];
      const text = (row) => row.cells[head.cellIndex].textContent;
      const rows = [...body.rows].map((row) => [row, text(row), number(text(row))]);
      rows.sort(([, a, x], [, b, y]) => {
        if (isNaN(x) || isNaN(y)) {
          return isNaN(x) && isNaN(y) ? (down ? -1 : 1) * order.compare(a, b) : isNaN(x) - isNaN(y);
        }
        return (down ? -1 : 1) * (x - y);
      });
      body.append(...rows.map(([row]) => row));
    });
  });

  // pictures: the values of the point that is nearest to the pointer
  document.querySelectorAll(".picture").forEach((frame) => {
    const points = JSON.parse(frame.dataset.points || "[]");
    const image = frame.querySelector("img");
    if (!points.length || !image) { return; }
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    frame.append(tip);
    const show = (event) => {
      const box = image.getBoundingClientRect();
      let best = null, least = 22 ** 2;
      for (const point of points) {
        const far = (box.left + point[0] * box.width - event.clientX) ** 2 +
          (box.top + point[1] * box.height - event.clientY) ** 2;
        if (far < least) { [best, least] = [point, far]; }
      }
      tip.hidden = best === null;
      if (best === null) { return; }
      tip.textContent = best[2];
      const x = image.offsetLeft + best[0] * box.width, y = image.offsetTop + best[1] * box.height;
      tip.style.left = `${x + (best[0] > 0.6 ? -tip.offsetWidth - 10 : 10)}px`;
      tip.style.top = `${Math.max(0, y - tip.offsetHeight - 8)}px`;
    };
    frame.addEventListener("pointermove", show);
    frame.addEventListener("pointerdown", show);
    frame.addEventListener("pointerleave", () => { tip.hidden = true; });
  });
})();
