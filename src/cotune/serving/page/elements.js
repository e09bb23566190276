// Everything shown is put in as text nodes: what a model, a file name or an error says is never read as HTML.

const LONGEST_SIDE = 2048;             // pixels; encoders see a few hundred
const LARGEST_IMAGE = 4 * 2 ** 20;     // bytes
const SENT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const SOUND_RATE = 48000;              // the highest rate an encoder reads (CLAP)
const LONGEST_RECORDING = 120;         // seconds
const KINDS = ["text", "image", "audio"];

// ---- Elements -------------------------------------------------------------------------------------------------------

const at = (id) => document.getElementById(id);

/** Returns a new element; strings among the children become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "click") element.addEventListener("click", value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Returns the picture of a button; what it means stands beside it or in its label. */
function icon(name, mark = "") {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  picture.setAttribute("aria-hidden", "true");
  if (mark) picture.setAttribute("class", `mark-${mark}`);
  picture.append(use);
  return picture;
}

/** Tells a screen reader what a look at the page would show. */
function announce(text) {
  at("status").textContent = "";  // the same words twice are said twice
  setTimeout(() => { at("status").textContent = text; });
}

/** Shows what went wrong outside an answer; nothing takes it away again. */
function notice(text) {
  at("notice").hidden = !text;
  at("notice").querySelector("p").textContent = text;
}

const addresses = new WeakMap();
/** Returns an address for a picture's or sound's bytes, always the same one. */
function addressOf(blob) {
  if (!addresses.has(blob)) addresses.set(blob, URL.createObjectURL(blob));
  return addresses.get(blob);
}
