"use strict";
/* Draws what #data holds. Texts of prompts and responses go in as text, never as markup. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#7f7f7f"];
  const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2, 4, 6]];
  const STAGES = ["prompts", "rollout", "verify", "select", "update", "evaluate", "checkpoint"];
  const $ = (id) => document.getElementById(id);
  const color = (run) => COLORS[run % COLORS.length];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const percent = (value) => (value == null ? "" : (100 * value).toFixed(1));
  const short = (value) => (value == null ? "–" : String(Number(value.toPrecision(4))));
  const seconds = (value) => (value == null ? "–" : value < 10 ? value.toFixed(2) : value.toFixed(1));
  const shown = data.runs.map(() => true);

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("aria-") || name === "role") element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children.filter((child) => child != null));
    return element;
  }

  function svg(name, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text != null) element.textContent = text;
    return element;
  }

  /* Each cell knows its column, for a screen too narrow for columns. */
  function labelled(table) {
    const names = [...table.querySelectorAll("thead th")].map((one) => one.textContent);
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, at) => { cell.dataset.label = names[at]; });
    }
  }

  /* --- plots ------------------------------------------------------------------------------- */

  const charts = [];
  let smoothing = 1;

  const plotWidth = (holder) => Math.max(240, holder.clientWidth - 20);

  function smoothed(values) {
    if (smoothing === 1) return values;
    const kept = [];
    return values.map((value) => {
      if (value == null) return null;
      kept.push(value);
      if (kept.length > smoothing) kept.shift();
      return kept.reduce((sum, one) => sum + one, 0) / kept.length;
    });
  }

  /* series: [{run, label, x, y, low?, high?, dash?, points?}] */
  function draw(holder, title, note, series, options = {}) {
    const present = series.filter((one) => shown[one.run] && one.y.some((value) => value != null));
    holder.replaceChildren(make("h3", {}, title));
    const place = make("div", {
      class: "plot", tabIndex: 0, role: "img",
      "aria-label": `${title}. ${note || ""} Arrow keys read values.`,
    });
    const caption = make("figcaption", {}, note || "");
    holder.append(place, caption);
    if (!present.length) { place.append(make("p", { class: "hint" }, "No values.")); return null; }
    const tables = [], lines = [{ label: options.x || "iteration" }], bands = [];
    for (const one of present) {
      const values = options.smooth ? smoothed(one.y) : one.y;
      const columns = [one.x, values];
      lines.push({
        label: one.label, stroke: color(one.run), width: 2, dash: DASHES[(one.dash || 0) % DASHES.length],
        spanGaps: true, points: { show: one.points || values.filter((v) => v != null).length < 3, size: 6 },
        value: (_, value) => (value == null ? "–" : options.percent ? percent(value) : short(value)),
      });
      if (one.low) {
        const at = lines.length;
        for (const [bound, name] of [[one.high, "high"], [one.low, "low"]]) {
          columns.push(bound);
          lines.push({
            label: `${one.label} ${name}`, class: "bound", stroke: color(one.run) + "55", width: 1, spanGaps: true,
            points: { show: false }, value: (_, value) => percent(value),
          });
        }
        bands.push({ series: [at, at + 1], fill: color(one.run) + "22" });
      }
      tables.push(columns);
    }
    const joined = uPlot.join(tables);
    const axis = { stroke: () => css("--dim"), grid: { stroke: () => css("--grid"), width: 1 }, ticks: { stroke: () => css("--grid") } };
    const plot = new uPlot({
      width: plotWidth(holder), height: options.height || 230,
      scales: { x: { time: false }, y: options.range ? { range: options.range } : {} },
      axes: [axis, { ...axis, size: 56, values: (_, ticks) => ticks.map((one) => (options.percent ? String(Math.round(1000 * one) / 10) : short(one))) }],
      cursor: { sync: { key: "iterations" }, drag: { x: true, y: false } },
      legend: { live: true }, series: lines, bands,
    }, joined, place);
    read(place, plot, joined[0]);
    return plot;
  }

  function read(place, plot, xs) {
    let at = null;
    place.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = at == null ? (steps[event.key] > 0 ? -1 : xs.length) + steps[event.key] : at + steps[event.key];
      at = Math.max(0, Math.min(xs.length - 1, next));
      plot.setCursor({ left: plot.valToPos(xs[at], "x"), top: plot.bbox.height / 2 / devicePixelRatio });
      place.dataset.at = xs[at];
    });
  }

  function chart(parent, title, note, series, options) {
    const holder = make("figure");
    $(parent).append(holder);
    charts.push({ holder, title, note, series, options, plot: null });
  }

  function drawAll() {
    for (const one of charts) {
      if (one.plot) one.plot.destroy();
      one.plot = draw(one.holder, one.title, one.note, one.series(), one.options);
    }
  }

  function lines(names) {
    return () => data.runs.flatMap((run, at) => names.map(([name, label], dash) => ({
      run: at, dash, label: label ? `${run.name} ${label}` : run.name, x: run.figures.iteration,
      y: run.figures[name] || [],
    })));
  }

  /* --- evaluation -------------------------------------------------------------------------- */

  const kinds = [...new Set(data.runs.flatMap((run) => run.evaluations.map((one) => `${one.benchmark}\n${one.protocol}`)))];

  function evaluations() {
    for (const kind of kinds) {
      const [benchmark, protocol] = kind.split("\n");
      const series = () => data.runs.map((run, at) => {
        const points = run.evaluations.filter((one) => `${one.benchmark}\n${one.protocol}` === kind);
        return {
          run: at, label: run.name, points: true, x: points.map((one) => one.iteration),
          y: points.map((one) => one.accuracy), low: points.map((one) => one.interval[0]),
          high: points.map((one) => one.interval[1]),
        };
      });
      chart("accuracy-charts", `Accuracy on ${benchmark}, %`, `${protocol}, with 95% intervals by problem`, series, { percent: true });
    }
    const table = $("evaluation-table");
    table.append(make("caption", {}, "Accuracy, % (95% interval): first, last and best"));
    const head = ["run", "benchmark", "protocol", "iteration", "accuracy", "interval", "", "problems × samples", "pass, maj, cons", "format", "cut off", "tokens"];
    table.append(make("thead", {}, make("tr", {}, ...head.map((one) => make("th", { scope: "col" }, one)))));
    const body = make("tbody");
    data.runs.forEach((run, at) => {
      for (const kind of kinds) {
        const points = run.evaluations.filter((one) => `${one.benchmark}\n${one.protocol}` === kind);
        if (!points.length) continue;
        const best = points.reduce((a, b) => (b.accuracy >= a.accuracy ? b : a));
        const marks = new Map([[points[0], ["first"]]]);
        for (const [point, word] of [[points[points.length - 1], "last"], [best, "best"]]) {
          marks.set(point, [...(marks.get(point) || []), word]);
        }
        for (const point of points.filter((one) => marks.has(one))) {
          const words = points.length > 1 ? ` ${marks.get(point).join(", ")}` : "";
          body.append(make("tr", {},
            make("td", {}, make("span", { class: "swatch", style: `background:${color(at)}` }), ` ${run.name}`),
            make("td", { class: "text" }, point.benchmark), make("td", { class: "text" }, point.protocol),
            make("td", {}, `${point.iteration}${words}`), make("td", {}, percent(point.accuracy)),
            make("td", {}, `[${point.interval.map(percent).join(", ")}]`), make("td", {}, forest(point, at)),
            make("td", {}, `${point.problems} × ${point.k}`),
            make("td", { class: "more" }, Object.entries(point.more).map(([name, value]) => `${name} ${percent(value)}`).join("  ")),
            make("td", {}, percent(point.format)), make("td", {}, percent(point.truncated)), make("td", {}, short(point.tokens))));
        }
      }
    });
    table.append(body);
    if (!kinds.length) table.replaceChildren(make("caption", {}, "No evaluation is stored."));
    compared();
  }

  function compared() {
    const table = $("comparison-table");
    if (!data.comparisons.length) return;
    table.append(make("caption", {}, "Last evaluations in training compared, paired by problem"));
    const head = ["", "benchmark", "difference, points", "95% interval", "p", "problems gained", "lost", "of"];
    table.append(make("thead", {}, make("tr", {}, ...head.map((one) => make("th", { scope: "col" }, one)))));
    table.append(make("tbody", {}, ...data.comparisons.map((one) => make("tr", {},
      make("td", {}, `${one.to} against ${one.from}`), make("td", { class: "text" }, one.benchmark),
      make("td", {}, (one.difference > 0 ? "+" : "") + percent(one.difference)),
      make("td", {}, `[${one.interval.map(percent).join(", ")}]`), make("td", {}, String(Number(one.p.toPrecision(2)))),
      make("td", {}, String(one.gained)), make("td", {}, String(one.lost)), make("td", {}, String(one.problems))))));
  }

  function forest(point, run) {
    const picture = svg("svg", { class: "forest", viewBox: "0 0 160 18", "aria-hidden": "true" });
    const add = (name, attributes) => picture.append(svg(name, attributes));
    const x = (value) => 4 + 152 * value;
    add("line", { x1: 4, x2: 156, y1: 9, y2: 9, stroke: css("--line") });
    add("line", { x1: x(point.interval[0]), x2: x(point.interval[1]), y1: 9, y2: 9, stroke: color(run), "stroke-width": 4 });
    add("circle", { cx: x(point.accuracy), cy: 9, r: 5, fill: color(run) });
    return picture;
  }

  /* --- training and time ------------------------------------------------------------------- */

  function rewardParts() {
    const names = new Set(data.runs.flatMap((run) => Object.keys(run.figures)));
    const origins = ["on_policy", "expert", "trace"];
    return [...names].filter((name) => name.startsWith("reward/") && !origins.includes(name.slice(7)))
      .sort().map((name) => [name, name.slice(7)]);
  }

  function training() {
    const smooth = { smooth: true };
    const all = [
      ["Reward by origin", "mean reward of the rollouts", [["reward/on_policy", "bare prompt"], ["reward/expert", "expert"], ["reward/trace", "trace"]], smooth],
      ["Parts of the reward", "mean under the bare prompt", rewardParts(), smooth],
      ["Acceptance of expert rollouts", "share with reward ≥ δ (ERRS)", [["errs/acceptance", ""]], smooth],
      ["Entropy", "of the policy, nats a token", [["entropy", ""]], smooth],
      ["KL divergence", "nats a token", [["kl", "to the reference"], ["policy/approx_kl", "to the policy that sampled"]], smooth],
      ["Length", "tokens a response", [["length/on_policy", "bare prompt"], ["length/expert", "expert"], ["length/trace", "trace"]], smooth],
      ["Cut off", "share of rollouts at their token limit", [["truncated", ""]], smooth],
      ["Flips", "problems solved with demonstrations and by no bare rollout", [["flips", ""]], smooth],
      ["Groups without variance", "all right or all wrong: no gradient", [["groups/zero_variance", ""]], smooth],
      ["Gradient norm", "before clipping", [["grad_norm", ""]], smooth],
    ];
    for (const [title, note, names, options] of all) {
      const known = (name) => data.runs.flatMap((run) => run.figures[name] || []).filter((value) => value != null);
      const used = names.filter(([name]) => known(name).length);
      if (used.some(([name]) => known(name).some((value) => value))) {
        chart("training-charts", title, note, lines(used), options);
      }
    }
  }

  function median(values) {
    const sorted = values.filter((value) => value != null).sort((a, b) => a - b);
    return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
  }

  /* Before the first iteration only the evaluation runs, which would flatten all others. */
  const trained = (series) => () => series().map((one) => {
    const kept = one.x.map((_, i) => i).filter((i) => one.x[i] > 0);
    return { ...one, x: kept.map((i) => one.x[i]), y: kept.map((i) => one.y[i] ?? null) };
  });

  function time() {
    chart("time-charts", "Seconds an iteration", "all stages together", trained(() => data.runs.map((run, at) => ({
      run: at, label: run.name, x: run.figures.iteration,
      y: run.figures.iteration.map((_, i) => STAGES.reduce((sum, stage) => sum + ((run.figures[`seconds/${stage}`] || [])[i] || 0), 0)),
    }))), { smooth: true });
    for (const stage of ["rollout", "update"]) {
      chart("time-charts", `Seconds in ${stage}`, "", trained(lines([[`seconds/${stage}`, ""]])), { smooth: true });
    }
    const table = $("time-table");
    table.append(make("caption", {}, "Seconds a stage, median"));
    table.append(make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "run"), ...STAGES.map((one) => make("th", { scope: "col" }, one)))));
    table.append(make("tbody", {}, ...data.runs.map((run) => make("tr", {}, make("td", {}, run.name),
      ...STAGES.map((stage) => make("td", {}, seconds(median(run.figures[`seconds/${stage}`] || []))))))));
  }

  function provenance() {
    const columns = ["run", "model", "preset", "seed", "commit", "hardware", "cost", "libraries", "data"];
    const told = data.runs.map((run) => [run.name, run.model, run.preset, run.seed, run.made.commit, run.made.hardware, run.made.cost, run.made.libraries, run.made.data]);
    $("made-table").append(
      make("caption", {}, "What each run is made of"),
      make("thead", {}, make("tr", {}, ...columns.map((one) => make("th", { scope: "col" }, one)))),
      make("tbody", {}, ...told.map((row) => make("tr", {}, ...row.map((one) => make("td", {}, `${one}`))))));
    for (const run of data.runs) {
      $("made-settings").append(make("details", {},
        make("summary", {}, `Every setting of ${run.name}`), make("pre", {}, run.made.settings)));
    }
  }

  function speed() {
    const all = [
      ["Seconds between stages", "in which no stage ran", "seconds/outside"],
      ["Tokens a second, rollout", "all engines together", "tokens_per_second/rollout"],
      ["Tokens a second, update", "prompt and response, in the optimizer steps", "tokens_per_second/update"],
      ["Padding", "share of the tokens in micro-batches", "padding_share"],
      ["Prompts shared", "share of the tokens that no response had to be shown again", "shared_share"],
      ["Model FLOPs utilization", "share of the devices' peak in the optimizer steps", "mfu"],
    ];
    for (const [title, note, name] of all) {
      if (data.runs.some((run) => (run.figures[name] || []).some((value) => value != null))) {
        chart("time-charts", title, note, lines([[name, ""]]), { smooth: true });
      }
    }
  }

  /* A row a lane; what overlaps within a lane gets rows of its own. */
  function when() {
    const run = $("when-run"), iteration = $("when-iteration"), holder = $("when");
    const left = 90, high = 22;
    function paint() {
      const chosen = data.runs[run.value].timelines.find((one) => String(one.iteration) === iteration.value);
      if (!chosen) { holder.replaceChildren(make("p", { class: "hint" }, "No timeline is stored.")); return; }
      const length = Math.max(...chosen.spans.map((one) => one[2] + one[3]), 1e-3);
      const ordered = chosen.spans.map((one) => [...one]).sort((a, b) => a[2] - b[2]);
      const rows = [];
      for (const span of ordered) {
        let row = rows.find((one) => one.lane === span[0] && one.end <= span[2] + 1e-3);
        if (!row) { row = { lane: span[0], end: 0, spans: [] }; rows.push(row); }
        row.spans.push(span);
        row.end = span[2] + span[3];
      }
      const lanes = [...new Set(rows.map((row) => row.lane))].sort((a, b) => (b === "stages") - (a === "stages") || a.localeCompare(b));
      rows.sort((a, b) => lanes.indexOf(a.lane) - lanes.indexOf(b.lane));
      const height = high * rows.length + 24, wide = Math.max(160, holder.clientWidth - left - 10);
      const picture = svg("svg", { viewBox: `0 0 ${left + wide + 10} ${height}`, width: left + wide + 10, height, role: "img", "aria-label": `Iteration ${chosen.iteration}: ${seconds(length)} seconds` });
      for (let part = 0; part <= 4; part++) {
        const x = left + wide * part / 4;
        picture.append(svg("line", { x1: x, x2: x, y1: 0, y2: height - 18, stroke: css("--grid") }),
          svg("text", { x, y: height - 4, "text-anchor": part === 4 ? "end" : "middle", "font-size": 11, fill: css("--dim") }, `${seconds(length * part / 4)} s`));
      }
      rows.forEach((row, at) => {
        picture.append(svg("text", { x: 0, y: at * high + 15, "font-size": 12, fill: css("--ink") }, row.lane));
        row.spans.forEach(([lane, name, from, took]) => {
          const idle = name.startsWith("wait for "), stage = lane === "stages" && !idle ? STAGES.indexOf(name) : 6;
          const bar = svg("rect", { x: left + wide * from / length, y: at * high + 2, width: Math.max(1, wide * took / length), height: high - 4, fill: idle ? css("--line") : COLORS[stage], class: "span" });
          bar.append(svg("title", {}, `${lane}: ${name}, ${seconds(took)} s from ${seconds(from)} s`));
          picture.append(bar);
          if (wide * took / length > 7 * name.length) {
            picture.append(svg("text", { x: left + wide * from / length + 4, y: at * high + 15, "font-size": 11, fill: idle ? css("--ink") : "#fff", "pointer-events": "none" }, name));
          }
        });
      });
      holder.replaceChildren(picture);
    }
    function choose() {
      const stored = data.runs[run.value].timelines;
      fill(iteration, stored.map((one) => [one.iteration, `${one.iteration}`]), true);
      if (stored.length) iteration.value = stored[stored.length - 1].iteration;
      paint();
    }
    fill(run, data.runs.map((one, at) => [at, one.name]));
    run.addEventListener("change", choose);
    iteration.addEventListener("change", paint);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    let width = 0;
    new ResizeObserver(() => { if (width !== holder.clientWidth) { width = holder.clientWidth; paint(); } }).observe(holder);
    choose();
  }

  function anyFigure() {
    const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.figures)))].filter((one) => one !== "iteration").sort();
    const select = $("figure");
    select.append(...names.map((name) => make("option", { value: name }, name)));
    if (names.includes("loss")) select.value = "loss";
    chart("any-chart", "Figure", "", () => lines([[select.value, ""]])(), { smooth: true, height: 280 });
    const mine = charts[charts.length - 1];
    mine.title = select.value;
    select.addEventListener("change", () => {
      mine.title = select.value;
      if (mine.plot) mine.plot.destroy();
      mine.plot = draw(mine.holder, mine.title, mine.note, mine.series(), mine.options);
    });
  }

  function fill(select, pairs, keep) {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
    if (keep && pairs.some(([value]) => String(value) === before)) select.value = before;
  }

  /* --- the page ---------------------------------------------------------------------------- */

  function head() {
    $("title").textContent = data.runs.map((run) => run.name).join(", ");
    $("about").textContent = `${data.runs.map((run) => `${run.name}: ${run.preset}, ${run.model}, ${run.iterations} of ${run.planned} iterations, groups of ${run.group.join("+")}, seed ${run.seed}`).join("; ")}. Made ${data.made}.`;
    $("runs").append(...data.runs.map((run, at) => {
      const box = make("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => { shown[at] = box.checked; drawAll(); });
      return make("label", {}, box, make("span", { class: "swatch", style: `background:${color(at)}` }), run.name);
    }));
    $("smooth").addEventListener("change", (event) => { smoothing = Number(event.target.value); drawAll(); });
  }

  head();
  evaluations();
  training();
  time();
  speed();
  provenance();
  when();
  anyFigure();
  const tools = { data, $, make, fill, short, css, svg };
  lineages(tools);
  const browser = rolloutBrowser(tools);
  document.querySelectorAll("table").forEach(labelled);
  drawAll();
  const fit = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const one = charts.find((chart) => chart.holder === target);
      const width = plotWidth(target);
      if (one.plot && one.plot.width !== width) one.plot.setSize({ width, height: one.plot.height });
    }
  });
  for (const one of charts) fit.observe(one.holder);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.body.dataset.ready = "yes";
  browser.follow();
})();
