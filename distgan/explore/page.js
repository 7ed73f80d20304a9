"use strict";
(() => {
  // The state is the fragment of the address, as distgan/explore/state.py reads it. What is as it is at first is left
  // out, so that equal states are equal texts.
  const REFRESH_MS = 5000;
  const PLAY_MS = 600;
  const find = (id) => document.getElementById(id);
  const picture = find("picture");
  const slider = find("step");
  const count = (number) => Number(number).toLocaleString("en");
  let state = new URLSearchParams();
  let run = null;
  let controls = [];

  const add = (parent, name, properties) => {
    const element = Object.assign(document.createElement(name), properties);
    parent.append(element);
    return element;
  };

  const say = (text) => { find("status").textContent = text; };
  const complain = (text) => {
    find("problem").textContent = text;
    find("problem").hidden = !text;
  };
  const get = async (address) => {
    let answer;
    try {
      answer = await fetch(address);
    } catch {
      throw new Error("distgan explore does not answer: has it ended?");
    }
    if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
    return answer;
  };

  // One picture at a time is asked for; when it is there, that of the newest state, and none of those between.
  let drawing = false;
  const draw = async () => {
    if (drawing) return;
    drawing = true;
    let drawn;
    const slow = setTimeout(() => say("Drawing …"), 400);
    do {
      drawn = state.toString();
      try {
        const address = URL.createObjectURL(await (await get(`picture.png?${drawn}`)).blob());
        const before = picture.src;
        picture.src = address;
        await picture.decode();
        URL.revokeObjectURL(before);
        picture.alt = `Drawn by the generator: seed ${state.get("seed") ?? 0}, step ${count(state.get("step"))}`;
        if (drawn === state.toString()) {
          find("command").textContent = (await (await get(`command.txt?${drawn}`)).text()).trim();
        }
        picture.dataset.state = drawn;
        complain("");
      } catch (error) {
        complain(error.message);
        if (error.status === 404) refresh();
      }
    } while (drawn !== state.toString());
    clearTimeout(slow);
    say("");
    const name = `${run.name}-${state.get("step")}-${state.get("seed") ?? 0}`;
    Object.assign(find("save-picture"), { href: `picture.png?${drawn}`, download: `${name}.png` });
    Object.assign(find("save-command"), { href: `command.txt?${drawn}`, download: `${name}.txt` });
    drawing = false;
  };

  const set = (key, value, first) => {
    if (String(value) === String(first)) state.delete(key);
    else state.set(key, value);
    state.sort();
    history.replaceState(null, "", `#${state}`);
    show();
    draw();
  };

  // From the state to the controls.
  const show = () => {
    for (const control of controls) control.show(state.get(control.key) ?? control.first);
    const step = Number(state.get("step"));
    const place = run.steps.findIndex((each) => each.step >= step);
    slider.max = run.steps.length - 1;
    slider.value = place < 0 ? slider.max : place;
    slider.disabled = find("play").disabled = run.steps.length < 2;
    const known = run.steps.find((each) => each.step === step);
    const images = known ? `, ${count(known.images)} images${known.best ? ", the best" : ""}` : "";
    slider.setAttribute("aria-valuetext", `step ${count(step)}${images}`);
    find("step-text").textContent = `step ${count(step)}${images}`;
    const newest = run.steps.at(-1)?.step;
    find("newer").hidden = !(newest > begun);
    find("newer").firstElementChild.textContent = `Training has come to step ${count(newest)}.`;
    const directions = Number(state.get("directions") ?? step);
    find("directions").firstElementChild.textContent = `Directions are those of step ${count(directions)}.`;
    find("directions").lastElementChild.hidden = directions === step;
  };

  // A control is an input, what it stands for, and how its value is shown.
  const watch = (input, first, toText) => {
    const output = document.querySelector(`output[for="${input.id}"]`);
    const key = input.dataset.key;
    const none = first === "none" ? Number(input.max) : null;  // a slider whose right end is "none"
    const value = () => none !== null && Number(input.value) >= none ? "none" : input.value;
    controls.push({
      key,
      first,
      show: (text) => {
        // What is being typed is left alone.
        if (document.activeElement !== input || input.type !== "number") input.value = text === "none" ? none : text;
        if (!output) return;
        output.textContent = toText(text);
        input.setAttribute("aria-valuetext", toText(text));
      },
    });
    input.addEventListener("input", () => {
      if (input.type === "number" && (input.value === "" || !input.checkValidity())) return;
      set(key, input.type === "number" ? Number(input.value) : value(), first);
    });
    input.addEventListener("change", () => {
      if (input.type !== "number") return;
      if (input.value === "" || !input.checkValidity()) input.value = state.get(key) ?? first;
    });
  };
  const bound = (input, bounds) => Object.assign(input, { min: bounds.least, max: bounds.most, step: bounds.step });
  const signed = (text) => (Number(text) > 0 ? "+" : "") + Number(text).toFixed(1).replace("-", "−");

  const addSliders = (section, directions) => {
    const list = section.querySelector(".sliders");
    directions.forEach(({ key, name, note }, place) => {
      const row = add(list, "div", { className: "slider" });
      const id = `${section.id}-${place}`;
      add(row, "label", { htmlFor: id, textContent: name });
      add(row, "output", { htmlFor: id });
      const input = bound(add(row, "input", { type: "range", id, className: "signed" }), run.bounds.strength);
      add(row, "p", { id: `${id}-note`, className: "note", textContent: note });
      input.dataset.key = key;
      input.setAttribute("aria-describedby", `${id}-note`);
      watch(input, "0", signed);
    });
    section.hidden = !directions.length;
    section.querySelector(".reset").addEventListener("click", () => {
      for (const { key } of directions) state.delete(key);
      set(directions[0].key, "0", "0");
    });
  };

  const addConditions = ({ attributes, classes }) => {
    const choices = attributes.map((name) => [name, [["1", "yes"], ["-1", "no"]]]);
    if (classes.length) choices.push(["class", classes.map((name) => [name, name])]);
    choices.forEach(([name, values], place) => {
      const box = add(find("conditions"), "div", {});
      add(box, "label", { htmlFor: `condition-${place}`, textContent: name });
      const input = add(box, "select", { id: `condition-${place}` });
      input.dataset.key = `where.${name}`;
      for (const [value, text] of [["", "as it comes"], ...values]) add(input, "option", { value, textContent: text });
      watch(input, "", String);
    });
    find("conditions").hidden = !choices.length;
  };

  const another = (key, first) => () => set(key, Math.floor(Math.random() * 100000), first);

  let begun = 0;  // the newest step that somebody has been told of
  const goTo = (step) => {
    begun = Math.max(begun, step);
    set("step", step, null);
  };
  let playing = 0;
  const pause = () => {
    clearInterval(playing);
    playing = 0;
    find("play").textContent = "Play";
  };
  find("play").addEventListener("click", () => {
    if (playing) { pause(); return; }
    if (slider.value === slider.max) goTo(run.steps[0].step);
    find("play").textContent = "Pause";
    playing = setInterval(() => {
      if (drawing) return;
      goTo(run.steps[Math.min(Number(slider.value) + 1, run.steps.length - 1)].step);
      if (slider.value === slider.max) pause();
    }, PLAY_MS);
  });
  slider.addEventListener("input", () => { pause(); goTo(run.steps[slider.value].step); });
  find("newer").lastElementChild.addEventListener("click", () => { pause(); goTo(run.steps.at(-1).step); });
  find("directions").lastElementChild.addEventListener("click", () => {
    say("Finding directions …");
    set("directions", state.get("step"), null);
  });
  find("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(find("command").textContent);
      say("Copied.");
    } catch {  // only pages of this machine, or encrypted ones, may
      getSelection().selectAllChildren(find("command"));
      say("Selected: copy it with the keyboard.");
    }
  });

  // Training may go on, and remove what it has kept.
  const refresh = async () => {
    try {
      const now = await (await get("run.json")).json();
      if (!now.steps.length || JSON.stringify(now.steps) === JSON.stringify(run.steps)) return;
      run.steps = now.steps;
      show();
    } catch (error) {
      complain(error.message);
    }
  };

  const read = () => {
    state = new URLSearchParams(location.hash.slice(1));
    if (!state.has("step")) state.set("step", run.steps.at(-1).step);
    if (!state.has("directions")) state.set("directions", run.directions);
    state.sort();
    history.replaceState(null, "", `#${state}`);
    show();
    draw();
  };

  const begin = async () => {
    try {
      run = await (await get("run.json")).json();
    } catch (error) {
      complain(error.message);
      return;
    }
    document.title = `${run.name} · explore · distgan`;
    document.querySelector("h1").textContent = run.name;
    begun = run.steps.at(-1).step;
    for (const input of document.querySelectorAll("input[data-bounds]")) bound(input, run.bounds[input.dataset.bounds]);
    const truncation = find("truncation");
    truncation.max = Number(truncation.max) + Number(truncation.step);
    watch(truncation, "none", (text) => text === "none" ? "none" : `±${Number(text).toFixed(2)}`);
    watch(find("mix"), "0", (text) => `${Math.round(100 * text)}%`);
    for (const id of ["seed", "number", "other-seed", "other-number"]) watch(find(id), find(id).dataset.default, String);
    addConditions(run.conditions);
    addSliders(find("attributes"), run.attributes);
    addSliders(find("principal"), run.principal);
    find("rare").textContent = run.rare.length ? `Left out: ${run.rare.join("; ")}.` : "";
    find("rare").hidden = !run.rare.length;
    find("random").addEventListener("click", another("seed", "0"));
    find("other-random").addEventListener("click", another("other_seed", "1"));
    addEventListener("hashchange", read);
    read();
    setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);
  };
  begin();
})();
