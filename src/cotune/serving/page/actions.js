// ---- What one can do ------------------------------------------------------------------------------------------------

function send() {
  const text = at("question").value.trim();
  if (running || busy || recording || (!text && !attached.length)) return;
  notice("");
  if (editing) current.turns.length = current.turns.indexOf(editing);
  current.turns.push({ role: "user", text, media: attached });
  if (!current.title || current.turns.length === 1) current.title = (text || attached[0].name).slice(0, 80);
  current.updated = Date.now();
  if (!conversations.includes(current)) conversations.push(current);
  clearComposer();
  choices.set("current", current.id);
  shelf.keep(current);
  answer(current);
}

function clearComposer() {
  editing = null;
  attached = [];
  at("question").value = "";
  showComposer();
}

function edit(turn) {
  if (running) return announce("Stop the answer first");
  editing = turn;
  attached = [...turn.media];
  at("question").value = turn.text;
  showComposer();
  at("question").focus();
}

function retry(turn) {
  if (running) return;
  current.turns.length = current.turns.indexOf(turn);
  if (editing && !current.turns.includes(editing)) clearComposer();
  answer(current);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers give the clipboard to https and localhost only; elsewhere a selected field still copies.
    const field = make("textarea", { class: "unseen" });
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  announce("Copied");
  button.replaceChildren(icon("done"));
  setTimeout(() => button.replaceChildren(icon("copy")), 1500);
}

function remove(medium) {
  attached = attached.filter((other) => other !== medium);
  showComposer();
  at("question").focus();
}

function open(conversation) {
  current = conversation;
  choices.set("current", current.id);
  clearComposer();
  notice("");
  closeSide();
  show();
  scrollDown();
  at("question").focus();
}

async function discard(conversation) {
  if (running?.conversation === conversation) running.controller.abort();
  conversations = conversations.filter((other) => other !== conversation);
  const dropped = shelf.drop(conversation.id);
  if (conversation === current) open(fresh());
  else { showConversations(); at("new").focus(); }
  await dropped;
  announce("Deleted");
}

async function discardAll() {
  running?.controller.abort();
  conversations = [];
  const cleared = shelf.clear();
  at("settings").close();
  open(fresh());
  await cleared;
  announce("Deleted");
}

function sure(question, action) {
  at("suretitle").textContent = question;
  at("yes").onclick = () => { at("sure").close(); action(); };
  at("sure").showModal();
}

function openSide() {
  at("side").classList.add("out");
  at("menu").setAttribute("aria-expanded", "true");
  at("new").focus();
}

function closeSide() {
  at("side").classList.remove("out");
  at("menu").setAttribute("aria-expanded", "false");
}

const SETTINGS = ["system", "max_tokens", "temperature", "top_p", "seed"];

function openSettings(field) {
  for (const name of SETTINGS) at(name).value = choices.get(name);
  at("key").value = choices.get("key", sessionStorage);
  at("colours").value = choices.get("theme");
  at("settings").returnValue = "";
  at("settings").showModal();
  at(field ?? "system").focus();
}

function keepSettings() {
  for (const name of SETTINGS) choices.set(name, at(name).value.trim());
  const changed = at("key").value !== choices.get("key", sessionStorage);
  choices.set("key", at("key").value, sessionStorage);
  if (changed || !models.length) loadModels();
}

function paint(theme) {
  choices.set("theme", theme);
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const label = dark() ? "Light colours" : "Dark colours";
  at("theme").setAttribute("aria-label", label);
  at("theme").title = label;
}

const touched = () => matchMedia("(pointer: coarse)").matches;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (choices.get("theme") || (prefersDark.matches ? "dark" : "light")) === "dark";
