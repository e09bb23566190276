// ---- Routing weights ------------------------------------------------------------------------------------------------

/**
 * Returns the routing weights as a table coloured as a heat map: a row for each expert, a column for each site of an
 * adapter. There is one in each layer, or two where adapters stand before the MLP too.
 */
function routingElement(turn) {
  const sites = turn.routing.map((weights) => weights.map(Number));
  const experts = Math.max(...sites.map((weights) => weights.length));
  const row = (expert) => make("tr", {}, make("th", { scope: "row" }, `expert ${expert}`), ...sites.map((weights) => heatCell(weights[expert])));
  const table = make("table", { class: "heat" },
    make("caption", { class: "unseen" }, "Routing weights: a row for each expert, a column for each site"),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "site"), ...sites.map((_, site) => siteHead(site)))),
    make("tbody", {}, ...Array.from({ length: experts }, (_, expert) => row(expert))));
  table.style.setProperty("--sites", sites.length);
  const output = make("output", {}, "");
  const scroll = make("div", { class: "scroll", tabindex: "0", role: "group",
    "aria-label": "Routing weights by site; left and right arrow read one site at a time" }, table);
  readSites(scroll, table, sites, output);
  const details = make("details", { class: "routing", open: choices.get("routing") !== "closed" },
    make("summary", {}, `Routing: ${counted(experts, "expert")} at ${counted(sites.length, "adapter site")}`),
    make("figure", {}, scroll, make("figcaption", { class: "legend" },
      make("span", {}, "weight 0"), make("span", { class: "scale" }), make("span", {}, "1"), output)));
  details.addEventListener("toggle", () => choices.set("routing", details.open ? "open" : "closed"));
  return details;
}

const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Returns a site's number above its column; every fifth is seen, all are read out. */
function siteHead(site) {
  return make("th", { scope: "col" }, make("span", site % 5 === 0 ? {} : { class: "unseen" }, String(site)));
}

function heatCell(weight) {
  if (!Number.isFinite(weight)) return make("td", { class: "none" });
  const cell = make("td", {}, make("span", { class: "unseen" }, weight.toFixed(2)));
  cell.style.setProperty("--weight", Math.max(0, Math.min(1, weight)));
  return cell;
}

/** Shows the numbers of the site under the pointer, or of the one that the arrow keys chose. */
function readSites(scroll, table, sites, output) {
  let chosen = -1;
  const choose = (site) => {
    chosen = site;
    for (const cell of table.querySelectorAll(".chosen")) cell.classList.remove("chosen");
    if (site >= 0) for (const line of table.tBodies[0].rows) line.cells[site + 1].classList.add("chosen");
    output.textContent = site < 0 ? "" : `site ${site}: ${sites[site].map((weight) => weight.toFixed(2)).join(" · ")}`;
  };
  table.addEventListener("pointermove", (event) => {
    const cell = event.target.closest("tbody td");
    if (cell) choose(cell.cellIndex - 1);
  });
  table.addEventListener("pointerleave", () => choose(-1));
  scroll.addEventListener("blur", () => choose(-1));
  scroll.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(sites.length - 1, chosen + step)));
    table.tBodies[0].rows[0].cells[chosen + 1].scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
