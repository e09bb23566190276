// ---- Showing --------------------------------------------------------------------------------------------------------

const atEnd = () => at("log").scrollHeight - at("log").scrollTop - at("log").clientHeight < 80;
function scrollDown() { at("log").scrollTop = at("log").scrollHeight; }

function show() {
  const low = atEnd();
  at("welcome").hidden = current.turns.length > 0;
  at("turns").hidden = current.turns.length === 0;
  showTurns(current.turns.map(elementOf));
  at("title").textContent = current.title || "New conversation";
  showConversations();
  showComposer();
  if (low) scrollDown();
}

function elementOf(turn) {
  if (!elements.has(turn)) elements.set(turn, turn.role === "user" ? questionElement(turn) : answerElement(turn));
  return elements.get(turn);
}

/** Puts elements into the list and takes others out; what stays is not touched, so sounds play on and focus stays. */
function showTurns(wanted) {
  const list = at("turns");
  for (const element of [...list.children]) if (!wanted.includes(element)) element.remove();
  for (const [index, element] of wanted.entries()) {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  }
}

function showConversations() {
  conversations.sort((one, other) => other.updated - one.updated);
  at("conversations").replaceChildren(...conversations.map((conversation) => {
    const here = conversation === current;
    const when = running?.conversation === conversation ? "answering …"
      : new Date(conversation.updated).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    return make("li", { class: here ? "here" : "" },
      make("button", { type: "button", class: "open", "aria-current": here ? "true" : false, click: () => open(conversation) },
        make("span", { class: "texts" }, make("span", { class: "title" }, conversation.title), make("span", { class: "when" }, when))),
      make("button", { type: "button", class: "icon", "aria-label": `Delete conversation ${conversation.title}`, title: "Delete",
        click: () => sure(`Delete “${conversation.title}”?`, () => discard(conversation)) }, icon("delete")));
  }));
}

function showComposer() {
  at("stop").hidden = !running;
  at("send").hidden = Boolean(running);
  at("send").disabled = busy > 0 || Boolean(recording);
  at("record").disabled = !reads("audio");
  at("wayaudio").disabled = !reads("audio");
  at("wayimage").disabled = !reads("image");
  at("attach").disabled = !reads("audio") && !reads("image");
  at("editing").hidden = !editing;
  at("chips").hidden = attached.length === 0 && busy === 0;
  at("chips").replaceChildren(...attached.map((medium) => make("li", {},
    medium.kind === "image" ? make("img", { src: addressOf(medium.blob), alt: "" }) : icon("audio", "audio"),
    make("div", { class: "texts" }, make("div", { class: "name" }, medium.name), make("div", { class: "detail" }, medium.detail)),
    make("button", { type: "button", class: "icon", "aria-label": `Remove ${medium.name}`, click: () => remove(medium) }, icon("close")))),
  ...(busy ? [make("li", {}, "Reading …")] : []));
}
