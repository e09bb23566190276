// ---- What was said --------------------------------------------------------------------------------------------------

/** Returns a text's paragraphs, code blocks and code words as elements; everything else stays the text it is. */
function rendered(text) {
  const blocks = [];
  let lines = [];
  let code = false;
  const close = () => {
    const content = lines.join("\n");
    if (code) blocks.push(make("pre", { tabindex: "0", role: "region", "aria-label": "Code" }, make("code", {}, content)));
    else if (content.trim()) blocks.push(make("p", { dir: "auto" }, ...words(content.replace(/^\n+|\n+$/g, ""))));
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (line.trimStart().startsWith("```")) { close(); code = !code; } else lines.push(line);
  }
  close();
  return blocks;
}

/** Returns a paragraph's text with what stands `between backticks` as code. */
function words(text) {
  return text.split(/(`[^`\n]+`)/).map((part, index) => (index % 2 ? make("code", {}, part.slice(1, -1)) : part));
}

const elements = new WeakMap();  // the element of each turn on show

/** Draws an answer anew while it comes, at most once a frame. */
function draw(turn) {
  if (turn.drawing) return;
  Object.defineProperty(turn, "drawing", { value: true, configurable: true, enumerable: false });
  requestAnimationFrame(() => {
    delete turn.drawing;
    const low = atEnd();
    elements.get(turn)?.querySelector(".said")?.replaceChildren(...rendered(turn.text));
    if (low) scrollDown();
  });
}

function action(name, label, click) {
  return make("button", { type: "button", class: "small", "aria-label": label, title: label, click }, icon(name));
}

function questionElement(turn) {
  const media = turn.media.map((medium) => make("figure", {},
    medium.kind === "image" ? make("img", { src: addressOf(medium.blob), alt: `Attached image ${medium.name}` })
      : make("audio", { src: addressOf(medium.blob), controls: true, "aria-label": `Attached sound ${medium.name}` }),
    make("figcaption", {}, medium.name)));
  return make("li", { class: "turn question" },
    make("h2", { class: "unseen" }, "You asked"),
    media.length ? make("div", { class: "media" }, ...media) : null,
    make("div", { class: "bubble" },
      make("div", { class: "actions" },
        turn.text ? action("copy", "Copy question", (event) => copy(turn.text, event.currentTarget)) : null,
        action("edit", "Edit question", () => edit(turn))),
      turn.text ? make("p", { class: "said", dir: "auto" }, turn.text) : null));
}

function answerElement(turn) {
  const ended = turn.state !== "running";
  const said = make("div", { class: "said" }, ...rendered(turn.text));
  return make("li", { class: `turn answer ${turn.state}`, "aria-busy": String(!ended) },
    make("h2", { class: "unseen" }, "The model answered"),
    turn.text || !ended ? said : null,
    turn.error ? failureElement(turn) : null,
    remarkElement(turn),
    ended && !turn.error ? make("div", { class: "under" },
      turn.modality ? pathElement(turn) : null,
      make("span", { class: "costs" }, costs(turn)),
      make("div", { class: "actions" },
        turn.text ? action("copy", "Copy answer", (event) => copy(turn.text, event.currentTarget)) : null,
        action("retry", "Retry", () => retry(turn)))) : null,
    turn.path !== "base" && turn.routing?.length ? routingElement(turn) : null);
}

function failureElement(turn) {
  const { message, remedy, needsKey } = turn.error;
  return make("div", { class: "failure" },
    make("strong", {}, message), remedy,
    make("div", { class: "ways-out" },
      needsKey ? make("button", { type: "button", class: "line small", click: () => openSettings("key") }, "Enter the key") : null,
      make("button", { type: "button", class: "line small", click: () => retry(turn) }, icon("retry"), "Retry")));
}

function remarkElement(turn) {
  const left = "Later questions are asked without this one.";
  const remarks = {
    length: "The answer reached its longest length; the settings allow a longer one.",
    stopped: turn.text ? "Stopped." : `Stopped before the first word. ${left}`,
    failed: left,
    done: turn.text ? "" : `The model answered with nothing. ${left}`,
  };
  return remarks[turn.state] ? make("p", { class: "remark" }, remarks[turn.state]) : null;
}

function costs(turn) {
  if (!turn.seconds || turn.state === "failed") return "";
  const parts = [`${turn.seconds.toFixed(1)} s`];
  if (turn.first !== undefined) parts.push(`first word after ${(turn.first / 1000).toFixed(1)} s`);
  if (turn.tokens) parts.unshift(counted(turn.tokens, "token"));
  return parts.join(" · ");
}

const HOW = {
  routed: ["routed", "The router's weights mix the experts at every site while the model runs."],
  folded: ["folded", "This path's weights are folded into the model beforehand: equal answers, computed faster."],
  tuned: ["tuned", "The model's own weights were tuned: there is nothing to route."],
  base: ["base model", "No adapter takes part: this is the untouched base model."],
};

function pathElement(turn) {
  const [how, meaning] = HOW[turn.path] ?? [turn.path ?? "", ""];
  const kinds = turn.modality.split("+").filter((kind) => KINDS.includes(kind));
  return make("span", { class: "path", title: meaning },
    ...kinds.map((kind) => icon(kind, kind)), `${turn.modality} path`, make("span", { class: "how" }, how ? `· ${how}` : ""));
}
