"use strict";
/* Where each run comes from: a row a thing, and a bow to it from what it was made from. */
function lineages({ data, $, make, css, svg }) {
  const LEFT = 72;

  function picture(run) {
    const { nodes, edges } = run.lineage;
    if (!nodes.length) return make("p", { class: "hint" }, "No finished stage is stored.");
    const rows = nodes.map((one) => make("li", { class: one.kind }, make("span", {}, one.name), " ", make("code", {}, one.note)));
    const bows = svg("svg", { class: "bows", "aria-hidden": "true", width: LEFT });
    const list = make("ol", { class: "lineage" }, bows, ...rows);
    function paint() {
      const middle = (row) => row.offsetTop + Math.min(row.offsetHeight, 26) / 2;
      bows.setAttribute("height", list.clientHeight);
      bows.replaceChildren(
        ...edges.map(([from, to]) => {
          const top = middle(rows[from]), bottom = middle(rows[to]), out = Math.min(LEFT - 12, 8 + 7 * (to - from));
          return svg("path", { d: `M ${LEFT - 8} ${top} C ${LEFT - 8 - out} ${top} ${LEFT - 8 - out} ${bottom} ${LEFT - 8} ${bottom}`, fill: "none", stroke: css("--dim"), "stroke-width": 1.2 });
        }),
        ...rows.map((row, at) => svg("circle", { cx: LEFT - 8, cy: middle(row), r: 5, fill: css(nodes[at].kind === "stage" ? "--focus" : nodes[at].kind === "run" ? "--expert" : "--good") })));
    }
    new ResizeObserver(paint).observe(list);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
    return list;
  }

  $("lineages").append(...data.runs.map((run) => make("figure", {},
    make("h3", {}, run.name), picture(run),
    make("figcaption", {}, "Green: data and base model. Blue: stages, newest last, each below what it was made from. Purple: the runs it is a branch of."))));
}
