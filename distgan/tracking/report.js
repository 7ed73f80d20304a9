"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const add = (parent, name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  };
  const within = (low, value, high) => Math.max(low, Math.min(high, value));

  // What a page that loads itself anew keeps: the place in it and the settings of its controls. It goes with the page's
  // entry in the history: what sessionStorage holds may come too late when the machine is busy.
  const kept = history.state ?? {};
  history.replaceState(null, ""); // who loads the page anew begins anew

  // The grids of all runs at the same count of images, or the nearest that each has.
  let playing = () => false;
  const controls = document.querySelector(".slider");
  if (controls) {
    const stops = JSON.parse(controls.dataset.stops);
    const runs = all(".grids").map((grids) => ({
      grids: all("img", grids), caption: grids.querySelector("figcaption output"),
    }));
    const slider = controls.querySelector("input");
    const play = controls.querySelector("button");
    const output = controls.querySelector("output");
    const last = stops.length - 1;
    const words = (images) => Number(images).toLocaleString("en-US") + " images";
    let timer = 0;
    playing = () => timer !== 0;
    const show = (at) => {
      slider.value = at;
      const images = stops[slider.value];
      for (const { grids, caption } of runs) {
        if (!grids.length) continue;
        const distance = (grid) => Math.abs(grid.dataset.images - images);
        const nearest = grids.reduce((a, b) => distance(b) < distance(a) ? b : a);
        for (const grid of grids) grid.hidden = grid !== nearest;
        if (caption) caption.textContent = words(nearest.dataset.images);
      }
      output.textContent = words(images);
      slider.setAttribute("aria-valuetext", words(images));
      kept.images = Number(slider.value) === last ? null : images; // at the end it follows the run
    };
    const pause = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    };
    const step = (by) => show(Number(slider.value) + by);
    slider.addEventListener("input", () => { pause(); show(slider.value); });
    play.addEventListener("click", () => {
      if (timer) { pause(); return; }
      if (Number(slider.value) === last) show(0);
      play.textContent = "Pause";
      timer = setInterval(() => {
        step(1);
        if (Number(slider.value) === last) pause();
      }, within(100, 9000 / stops.length, 500));
    });
    document.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const takes = event.target.closest("input, pre, .wide, .plot");
      if (!by || takes || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      pause();
      step(by);
    });
    const before = kept.images ?? Infinity;
    show(stops.filter((images) => images <= before).length - 1);
    controls.hidden = false;
  }

  const charts = all(".plot").map((plot) => ({ plot, ...JSON.parse(plot.dataset.chart) }));

  // Exponential smoothing without the pull of its beginning, as TensorBoard has it; but by distance on the axis, as
  // Weights & Biases has it, so that runs that log more rarely are smoothed alike. The unit is the way from point to
  // point of the curve with the most of them. Of what is seen: on a logarithmic axis, of logarithms.
  const spacing = (curves) => Math.min(...curves.map(({ points }) =>
    points.length > 1 ? (points.at(-1)[0] - points[0][0]) / (points.length - 1) : Infinity));
  const smoothed = (points, weight, unit) => {
    let [sum, weights, before] = [0, 0, null];
    return points.map(([at, , , , , down]) => {
      if (down === null) return null;
      const decay = before === null ? 0 : weight ** ((at - before) / unit);
      sum = sum * decay + down * (1 - weight);
      weights = weights * decay + (1 - weight);
      before = at;
      return sum / weights;
    });
  };
  const path = (points, downs) => {
    let open = false;
    return points.map(([at], i) => {
      if (downs[i] === null) { open = false; return ""; }
      const place = (10 * at).toFixed(1) + "," + (10 * downs[i]).toFixed(1);
      const piece = open ? "L" + place : "M" + place + "h0";
      open = true;
      return piece;
    }).join("");
  };
  const value = (chart, down) => {
    const scaled = chart.top - down / 100 * (chart.top - chart.bottom);
    return Number((chart.logarithmic ? 10 ** scaled : scaled).toPrecision(4)).toString();
  };
  const smoothing = document.querySelector("#smoothing");
  const smooth = () => {
    const weight = Number(smoothing.value);
    smoothing.parentElement.querySelector("output").textContent = weight ? weight.toFixed(2) : "off";
    smoothing.setAttribute("aria-valuetext", weight ? weight.toFixed(2) : "off");
    kept.smoothing = smoothing.value;
    for (const chart of charts) {
      if (!chart.plot.closest("[data-smooth]")) continue;
      const unit = spacing(chart.curves);
      all(".curve", chart.plot).forEach((group, i) => {
        const curve = chart.curves[i];
        const raw = group.querySelector(".line");
        group.querySelector(".smooth")?.remove();
        raw.classList.toggle("raw", weight > 0);
        curve.smoothed = weight ? smoothed(curve.points, weight, unit) : null;
        if (!weight) return;
        const line = raw.cloneNode();
        line.setAttribute("class", "line smooth");
        line.setAttribute("d", path(curve.points, curve.smoothed));
        group.append(line);
      });
    }
  };
  if (smoothing) {
    smoothing.value = kept.smoothing ?? smoothing.value;
    smoothing.addEventListener("input", smooth);
    smooth();
    smoothing.closest(".control").hidden = false;
  }

  // Which values the pointer is at; or, with the arrow keys, the focus. Both stop at events, too.
  const NEAR = 1.5;
  for (const chart of charts) {
    const { plot, curves, events } = chart;
    let cross = null;
    let tip = null;
    const hide = () => {
      if (cross) { cross.remove(); tip.remove(); }
      cross = tip = null;
    };
    const nearest = (points, at) => points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
    const stops = [...new Set([...curves.flatMap((curve) => curve.points), ...events].map(([at]) => at))];
    stops.sort((a, b) => a - b);
    const show = (at) => {
      hide();
      cross = add(plot, "div", "cross");
      cross.style.left = at + "%";
      tip = add(plot, "div", "tip");
      add(tip, "p", "", nearest(curves.flatMap((curve) => curve.points), at)[1] + " images");
      for (const curve of curves) {
        const point = nearest(curve.points, at);
        const [, , low, mean, high] = point;
        const row = add(tip, "p", "c" + curve.colour % 6 + (curve.colour > 5 ? " dashed" : ""));
        add(row, "span", "swatch");
        row.append(curve.label + " " + mean);
        const even = curve.smoothed?.[curve.points.indexOf(point)];
        if (even != null) add(row, "small", "", " smoothed " + value(chart, even));
        if (low !== high) add(row, "small", "", " from " + low + " to " + high);
      }
      const said = events.filter(([place]) => Math.abs(place - at) < NEAR);
      for (const [, text] of said.slice(-3)) add(tip, "p", "said", text);
      const width = plot.getBoundingClientRect().width;
      const place = width * at / 100;
      const left = place < width / 2 ? place + 10 : place - 10 - tip.offsetWidth;
      tip.style.left = within(0, left, Math.max(0, width - tip.offsetWidth)) + "px";
      plot.setAttribute("aria-valuenow", stops.indexOf(at));
      plot.setAttribute("aria-valuetext", all("p", tip).map((line) => line.textContent).join("; "));
    };
    const closest = (at) => stops.reduce((a, b) => Math.abs(b - at) < Math.abs(a - at) ? b : a);
    const point = (event) => {
      const box = plot.getBoundingClientRect();
      show(closest(100 * (event.clientX - box.left) / box.width));
    };
    let focus = stops.length - 1;
    plot.tabIndex = 0;
    plot.setAttribute("role", "slider");
    plot.setAttribute("aria-label", plot.querySelector("svg").getAttribute("aria-label"));
    plot.setAttribute("aria-valuemin", 0);
    plot.setAttribute("aria-valuemax", stops.length - 1);
    plot.setAttribute("aria-valuenow", focus);
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("pointercancel", hide);
    plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) show(stops[focus]); });
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const to = {
        ArrowLeft: focus - 1, ArrowRight: focus + 1, PageDown: focus - 20, PageUp: focus + 20,
        Home: 0, End: stops.length - 1,
      }[event.key];
      if (event.key === "Escape") hide();
      if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      focus = within(0, to, stops.length - 1);
      show(stops[focus]);
    });
  }

  // While a run goes on, this file is written anew. Nobody is interrupted who is looking at something.
  const seconds = Number(document.body.dataset.refresh);
  const focusable = () => all("button, input, [tabindex]");
  if (kept.focus >= 0) focusable()[kept.focus]?.focus({ preventScroll: true });
  const { section, top } = kept; // which was at the upper edge of the window, and where it began
  if (section) window.scrollBy(0, (document.getElementById(section)?.getBoundingClientRect().top ?? top) - top);
  if (seconds) {
    history.scrollRestoration = "manual";
    setInterval(() => {
      if (document.hidden || playing() || document.querySelector(".tip") || !getSelection().isCollapsed) return;
      const heading = window.scrollY ? all("h2").findLast((each) => each.getBoundingClientRect().top < 9) : null;
      kept.section = heading?.id;
      kept.top = heading?.getBoundingClientRect().top;
      kept.focus = focusable().indexOf(document.activeElement);
      history.replaceState(kept, "");
      location.reload();
    }, 1000 * seconds);
  }
})();
