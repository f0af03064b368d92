"use strict";
/* The browser of rollouts: search, order, colours a token, and an address for each one. */
function rolloutBrowser({ data, $, make, fill, short }) {
  const browse = {
    run: $("browse-run"), iteration: $("browse-iteration"), problem: $("browse-problem"), status: $("browse-status"),
    order: $("browse-order"), colour: $("browse-colour"), search: $("browse-search"),
  };
  const RAREST = 6; /* powers of ten that the scale of ρ spans */
  const ORDERS = {
    sampled: null,
    reward: (row) => -row.reward,
    advantage: (row) => -(row.advantage ?? -Infinity),
    longest: (row) => -row.tokens,
    shortest: (row) => row.tokens,
    rarest: (row) => (row.steps ? Math.min(...row.steps.log_rho) : Infinity),
  };
  const run = () => data.runs[browse.run.value];
  const excerpts = () => run().rollouts;
  const sought = () => browse.search.value.trim().toLowerCase();
  const has = (text, words) => (text || "").toLowerCase().includes(words);
  const probability = (log) => short(Number(Math.exp(log).toPrecision(2)));

  function firstLine(text) {
    const line = text.trim().split("\n")[0];
    return line.length > 60 ? `${line.slice(0, 60)}…` : line;
  }

  /* Rows of a group that the reader asks for; where the problem itself has the words, all. */
  function wanted(group) {
    const words = sought(), status = browse.status.value;
    const all = !words || has(group.problem, words) || has(group.answer, words);
    return group.rows.filter((row) =>
      (status === "all" || (status === "left out" ? row.reason : row.status === status)) &&
      (all || has(row.response, words) || has(row.extracted, words)));
  }

  function problems() {
    const words = sought(), options = [];
    excerpts().forEach((one, at) => {
      if (!words && String(one.iteration) !== browse.iteration.value) return;
      one.groups.forEach((group, place) => {
        const found = wanted(group).length;
        if (words && !found) return;
        const where = words ? `iteration ${one.iteration}, ${found} of ${group.rows.length}` : `${place + 1} of ${one.groups.length}`;
        options.push([`${at}/${place}`, `${where}: ${firstLine(group.problem)}`]);
      });
    });
    return options;
  }

  function refill(keep) {
    const options = problems();
    fill(browse.problem, options, keep);
    $("browse-found").textContent = sought() ? `Found in ${options.length} problems of this run's ${excerpts().length} iterations here.` : "";
    show();
  }

  function browserRun() {
    fill(browse.iteration, excerpts().map((one) => [one.iteration, `${one.iteration}`]), true);
    refill();
  }

  function chosen() {
    if (!browse.problem.value) return [null, null];
    const [at, place] = browse.problem.value.split("/");
    return [excerpts()[at], excerpts()[at].groups[place]];
  }

  /* --- one rollout ------------------------------------------------------------------------- */

  const address = (one, group, row) =>
    `#rollout/${[run().name, one.iteration, group.id, row.origin, row.sample].map(encodeURIComponent).join("/")}`;

  /* Text with what is sought marked. */
  function marked(text) {
    const words = sought(), parts = [];
    if (!words) return [text];
    const low = text.toLowerCase();
    let from = 0;
    for (let at = low.indexOf(words); at >= 0; at = low.indexOf(words, from)) {
      parts.push(text.slice(from, at), make("mark", {}, text.slice(at, at + words.length)));
      from = at + words.length;
    }
    return [...parts, text.slice(from)];
  }

  function share(steps, at) {
    if (browse.colour.value === "f") return Math.max(0, Math.min(1, steps.f[at]));
    return Math.max(0, Math.min(1, 1 + steps.log_rho[at] / (RAREST * Math.LN10)));
  }

  /* A response, a token a span: the rarer, the deeper its colour. Click or arrow keys read one. */
  function tokens(steps) {
    const words = sought(), whole = steps.text.join("").toLowerCase(), hits = [];
    for (let at = words ? whole.indexOf(words) : -1; at >= 0; at = whole.indexOf(words, at + words.length)) hits.push([at, at + words.length]);
    let from = 0, current = null;
    const spans = steps.text.map((text, at) => {
      const until = from + text.length;
      const hit = hits.some(([first, last]) => first < until && last > from);
      from = until;
      return make("span", {
        class: hit ? "token hit" : "token", style: `--rare:${Math.round(70 * (1 - share(steps, at)))}%`, title: said(at),
      }, text);
    });
    function said(at) {
      const shown = steps.log_shown ? `; with demonstrations ${probability(steps.log_shown[at])}` : "";
      return `ρ ${probability(steps.log_rho[at])}, f(ρ) ${short(steps.f[at])}${shown}`;
    }
    const number = (at) => at + 1 + (at >= steps.head ? steps.left_out : 0);
    const rarest = steps.log_rho.indexOf(Math.min(...steps.log_rho));
    const mean = steps.f.reduce((sum, one) => sum + one, 0) / Math.max(1, steps.f.length);
    const line = make("p", { class: "facts read", role: "status" });
    function read(at) {
      if (current != null) spans[current].classList.remove("here");
      current = at;
      spans[at].classList.add("here");
      line.textContent = `Token ${number(at)}, ${JSON.stringify(steps.text[at])}: ${said(at)}`;
    }
    if (spans.length) line.textContent = `Mean f(ρ) ${short(mean)}. Rarest is token ${number(rarest)}, ${JSON.stringify(steps.text[rarest])}: ${said(rarest)}`;
    if (steps.left_out) spans.splice(steps.head, 0, make("span", { class: "gap" }, `\n… ${steps.left_out} tokens left out …\n`));
    const real = spans.filter((one) => one.classList.contains("token"));
    const text = make("pre", { class: "tokens", tabIndex: 0, "aria-label": "Tokens; arrow keys read them" }, ...spans);
    spans.splice(0, spans.length, ...real);
    text.addEventListener("click", (event) => {
      const at = spans.indexOf(event.target);
      if (at >= 0) read(at);
    });
    text.addEventListener("keydown", (event) => {
      const steps_ = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
      if (!(event.key in steps_) || !spans.length) return;
      event.preventDefault();
      read(Math.max(0, Math.min(spans.length - 1, (current ?? (steps_[event.key] > 0 ? -1 : spans.length)) + steps_[event.key])));
      spans[current].scrollIntoView({ block: "nearest" });
    });
    return [text, line];
  }

  function rollout(one, group, row) {
    const fate = row.reason ? `left out: ${row.reason}` : `advantage ${short(row.advantage)}`;
    const why = row.detail ? `${row.status} (${row.detail})` : row.status;
    const parts = Object.entries(row.rewards).map(([name, value]) => `${name} ${value == null ? "abstains" : short(value)}`);
    const worth = `reward ${short(row.reward)}${parts.length ? `: ${parts.join(", ")}` : ""}`;
    const link = address(one, group, row);
    const body = row.steps && browse.colour.value !== "none" ? tokens(row.steps) : [make("pre", { tabIndex: 0, "aria-label": "Response" }, ...marked(row.response))];
    const article = make("article", { class: `rollout ${row.status}` },
      make("div", { class: "head" },
        make("span", { class: "verdict" }, why), make("span", {}, row.extracted == null ? "no answer" : `answer ${row.extracted}`),
        make("span", {}, worth), make("span", {}, fate),
        make("span", {}, `${row.tokens} tokens, ${row.finish}`),
        make("a", { href: link, class: "link", "aria-label": `Link to rollout ${row.sample}, ${row.origin}` }, `#${row.sample}`)),
      ...body);
    article.dataset.link = link;
    if (location.hash === link) article.classList.add("linked");
    return article;
  }

  function column(title, one, group, rows) {
    const key = ORDERS[browse.order.value];
    const ordered = key ? rows.map((row) => [key(row), row]).sort((a, b) => a[0] - b[0] || 0).map((pair) => pair[1]) : rows;
    return make("div", {},
      make("h3", {}, `${title} (${rows.filter((row) => row.status === "correct").length} of ${rows.length} right)`),
      ...ordered.map((row) => rollout(one, group, row)));
  }

  function scale(group) {
    if (browse.colour.value === "none" || !group.rows.some((row) => row.steps)) return null;
    const ofF = browse.colour.value === "f";
    return make("p", { class: "scale" },
      make("span", {}, ofF ? "f(ρ) 0" : `ρ ≤ 1e−${RAREST}`), make("span", { class: "ramp", role: "img", "aria-label": "the rarer, the deeper" }),
      make("span", {}, "1"), make("span", {}, `Expert tokens by ${ofF ? run().shaping : "their probability ρ under the bare prompt"}, as the loss took it.`));
  }

  function show() {
    const holder = $("browser"), [one, group] = chosen();
    if (!group) { holder.replaceChildren(make("p", { class: "hint" }, sought() ? "Nothing is found." : "No rollouts are stored.")); return; }
    const rows = wanted(group);
    const expert = rows.filter((row) => row.origin !== "on_policy"), own = rows.filter((row) => row.origin === "on_policy");
    const title = group.rows.some((row) => row.origin === "trace") ? "Trace" : "Expert: sampled with demonstrations";
    holder.replaceChildren(...[
      make("p", { class: "facts" }, `Problem ${group.id}, gold answer ${group.answer}; iteration ${one.iteration}, ${one.groups.length} of its ${one.of} groups are here.`),
      make("details", { open: true }, make("summary", {}, "Prompt (bare)"), make("pre", { tabIndex: 0, "aria-label": "Prompt" }, ...marked(group.prompt))),
      group.expert_prompt ? make("details", {}, make("summary", {}, "Prompt with demonstrations (expert)"), make("pre", {}, group.expert_prompt)) : null,
      scale(group),
      make("div", { class: "columns" }, column(title, one, group, expert), column("On-policy: sampled from the bare prompt", one, group, own)),
    ].filter(Boolean));
  }

  /* --- moving ------------------------------------------------------------------------------ */

  /* The rollout that the address names, and nothing where it names none of this page. */
  function follow() {
    const [kind, ...rest] = location.hash.slice(1).split("/");
    if (kind !== "rollout" || rest.length !== 5) return;
    let name, iteration, id, origin, sample;
    try { [name, iteration, id, origin, sample] = rest.map(decodeURIComponent); } catch { return; }
    const at = data.runs.findIndex((one) => one.name === name);
    if (at < 0) return;
    const place = data.runs[at].rollouts.findIndex((one) => String(one.iteration) === iteration);
    const number = place < 0 ? -1 : data.runs[at].rollouts[place].groups.findIndex((one) => one.id === id);
    if (number < 0) return;
    browse.search.value = "";
    browse.status.value = "all";
    browse.run.value = at;
    browserRun();
    browse.iteration.value = iteration;
    refill();
    browse.problem.value = `${place}/${number}`;
    show();
    const found = [...document.querySelectorAll(".rollout")].find((one) => one.dataset.link === location.hash);
    if (found) found.scrollIntoView({ block: "center" });
  }

  function step(select, by, then) {
    const next = select.selectedIndex + by;
    if (next < 0 || next >= select.options.length) return;
    select.selectedIndex = next;
    then();
  }

  function picked() {
    const [one] = chosen();
    if (one) browse.iteration.value = one.iteration;
    show();
  }

  fill(browse.run, data.runs.map((one, at) => [at, one.name]));
  const states = [...new Set(data.runs.flatMap((one) => one.rollouts.flatMap((part) => part.groups.flatMap((group) => group.rows.map((row) => row.status)))))].sort();
  fill(browse.status, [["all", "all"], ...states.map((one) => [one, one]), ["left out", "left out"]]);
  browse.run.addEventListener("change", browserRun);
  browse.iteration.addEventListener("change", () => { browse.search.value = ""; refill(); });
  browse.problem.addEventListener("change", picked);
  browse.search.addEventListener("input", () => refill(true));
  browse.status.addEventListener("change", () => refill(true));
  for (const one of [browse.order, browse.colour]) one.addEventListener("change", show);
  $("browser-controls").addEventListener("submit", (event) => event.preventDefault());
  $("previous").addEventListener("click", () => step(browse.problem, -1, picked));
  $("next").addEventListener("click", () => step(browse.problem, 1, picked));
  $("rollouts").addEventListener("keydown", (event) => {
    if (["SELECT", "INPUT"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      j: () => step(browse.problem, 1, picked), k: () => step(browse.problem, -1, picked),
      J: () => step(browse.iteration, 1, refill), K: () => step(browse.iteration, -1, refill),
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  browserRun();
  addEventListener("hashchange", follow);
  return { follow };
}
