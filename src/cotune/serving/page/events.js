// ---- Hands ----------------------------------------------------------------------------------------------------------

at("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
at("question").addEventListener("keydown", (event) => {
  // Not while a word is being composed (Chinese, Japanese ...); on a phone, Enter begins a line and the button sends.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || touched()) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (at("side").classList.contains("out")) { closeSide(); at("menu").focus(); }
  else if (running) { running.controller.abort(); at("question").focus(); }
  else if (editing) clearComposer();
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) { event.preventDefault(); attach([...event.clipboardData.files]); }
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").hidden = !event.dataTransfer.types.includes("Files");
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").hidden = true; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").hidden = true;
  if (event.dataTransfer.files.length) attach([...event.dataTransfer.files]);
});
document.addEventListener("pointerdown", (event) => {
  if (at("side").classList.contains("out") && !event.target.closest("#side")) closeSide();
});
if (!CSS.supports("field-sizing", "content")) {
  at("question").addEventListener("input", () => {
    at("question").style.height = "auto";
    at("question").style.height = `${at("question").scrollHeight}px`;
  });
}
at("files").addEventListener("change", () => { attach([...at("files").files]); at("files").value = ""; });
at("log").addEventListener("scroll", () => { at("newest").hidden = atEnd(); });
at("models").addEventListener("change", () => { choices.set("model", at("models").value); showComposer(); });
at("settings").addEventListener("close", () => { if (at("settings").returnValue === "keep") keepSettings(); });
prefersDark.addEventListener("change", () => paint(choices.get("theme")));
const presses = {
  new: () => open(fresh()), menu: openSide, theme: () => paint(dark() ? "light" : "dark"), opensettings: () => openSettings(),
  attach: () => at("files").click(), record, stop: () => { running?.controller.abort(); at("question").focus(); },
  keep: () => { clearComposer(); at("question").focus(); }, waytext: () => at("question").focus(),
  wayimage: () => at("files").click(), wayaudio: record, no: () => at("sure").close(),
  forget: () => sure("Delete all conversations?", discardAll),
};
for (const [id, press] of Object.entries(presses)) at(id).addEventListener("click", press);
at("notice").querySelector("button").addEventListener("click", () => { notice(""); at("question").focus(); });
at("newest").querySelector("button").addEventListener("click", () => { scrollDown(); at("question").focus(); });
at("colours").addEventListener("change", () => paint(at("colours").value));
