// ---- The server -----------------------------------------------------------------------------------------------------

/** What went wrong, and what to do about it. */
class Failure extends Error {
  constructor(message, remedy, needsKey = false) {
    super(message);
    Object.assign(this, { remedy, needsKey });
  }
}

const UNREACHABLE = "Look whether `cotune serve` still runs, then retry.";
let models = [];

function headers() {
  const key = choices.get("key", sessionStorage);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(`The server at ${location.host} does not answer.`, UNREACHABLE);
  }
  if (response.ok) return response;
  let said = `The server answered ${response.status}.`;
  try { said = (await response.json()).error.message || said; } catch { /* no body of its own */ }
  throw refusal(response.status, said, Number(response.headers.get("Retry-After")));
}

function refusal(status, said, seconds) {
  if (status === 401) return new Failure(said, "Enter the API key the server was started with, then retry.", true);
  if (status === 403) return new Failure(said, "Open the page under the address that the server printed when it started.");
  if (status === 413) return new Failure(said, "Edit the question and leave something out, or begin a new conversation.");
  if (status === 429) return new Failure(said, `Too many questions at once. Retry ${seconds ? `in ${seconds} seconds` : "in a moment"}.`);
  if (status >= 500) return new Failure(said, "Retry; if it stays, the server's terminal says more.");
  return new Failure(said, "Edit the question or the settings and send it again.");
}

const reads = (kind) => models.find((model) => model.id === modelName())?.cotune?.media?.includes(kind) ?? true;
const modelName = () => at("models").value || models[0]?.id || "";

/** Asks which models there are; returns what kept it from knowing. */
async function loadModels() {
  let fault = null;
  try {
    models = (await (await call("v1/models", { headers: headers() })).json()).data;
    notice("");
  } catch (error) {
    fault = error;
    notice(`${error.message} ${error.remedy ?? UNREACHABLE}`);
  }
  at("models").replaceChildren(...models.map((model) => make("option", { value: model.id }, model.id)));
  at("models").hidden = models.length < 2;
  at("modelname").hidden = models.length !== 1;
  at("modelname").textContent = at("modelname").title = models[0]?.id ?? "";
  if (models.some((model) => model.id === choices.get("model"))) at("models").value = choices.get("model");
  showComposer();
  return fault;
}

const asText = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(new Failure("An attachment cannot be read any more.", "Edit the question and attach it again."));
  reader.readAsDataURL(blob);
});

async function partOf(medium) {
  const url = await asText(medium.blob);
  if (medium.kind === "image") return { type: "image_url", image_url: { url } };
  return { type: "input_audio", input_audio: { data: url.slice(url.indexOf(",") + 1), format: "wav" } };
}

/** Whether an answer belongs to what later questions build on; a failed or empty one does not, nor does its question. */
const counts = (answer) => answer.state !== "failed" && answer.text !== "";

async function messagesOf(turns) {
  const messages = choices.get("system") ? [{ role: "system", content: choices.get("system") }] : [];
  for (const [index, turn] of turns.entries()) {
    if (turn.role === "assistant") {
      if (counts(turn)) messages.push({ role: "assistant", content: turn.text });
    } else if (index === turns.length - 1 || counts(turns[index + 1])) {
      const parts = await Promise.all(turn.media.map(partOf));
      if (turn.text) parts.push({ type: "text", text: turn.text });
      messages.push({ role: "user", content: parts });
    }
  }
  return messages;
}

async function requestOf(turns) {
  const request = { model: modelName(), messages: await messagesOf(turns), stream: true, stream_options: { include_usage: true } };
  for (const name of ["max_tokens", "temperature", "top_p", "seed"]) {
    if (choices.get(name) !== "") request[name] = Number(choices.get(name));
  }
  return request;
}

/** Yields the chunks of a stream of server-sent events. */
async function* chunksOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

function take(turn, chunk, begun) {
  if (chunk.error) throw refusal(Number(chunk.error.code) || 500, chunk.error.message ?? "The answer broke off.", 0);
  const [choice] = chunk.choices ?? [];
  const piece = choice?.delta?.content ?? "";
  if (piece && !turn.text) turn.first = performance.now() - begun;
  turn.text += piece;
  if (choice?.finish_reason) turn.state = choice.finish_reason === "length" ? "length" : "done";
  if (chunk.usage) turn.tokens = chunk.usage.completion_tokens;
  if (chunk.cotune) Object.assign(turn, { modality: chunk.cotune.modality, path: chunk.cotune.path, routing: chunk.cotune.routing });
}

/** Asks for the answer to the last question of a conversation, and shows it as it comes. */
async function answer(conversation) {
  const turn = { role: "assistant", text: "", state: "running" };
  const asked = [...conversation.turns];
  conversation.turns.push(turn);
  const controller = new AbortController();
  running = { conversation, turn, controller };
  const begun = performance.now();
  show();
  (touched() ? at("stop") : at("question")).focus();  // the button that sent is gone; on a phone no keyboard comes up
  announce("Answering");
  scrollDown();
  let kept = 0;
  try {
    if (!models.length) await loadModels();  // the server may have come up since
    const body = JSON.stringify(await requestOf(asked));
    const response = await call("v1/chat/completions", {
      method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body, signal: controller.signal,
    });
    for await (const chunk of chunksOf(response)) {
      take(turn, chunk, begun);
      draw(turn);
      if (performance.now() - kept > 1000) {  // what came so far outlives a closed tab
        kept = performance.now();
        await keepIfListed(conversation);
      }
    }
    if (turn.state === "running") throw new Failure("The answer broke off.", UNREACHABLE);
  } catch (error) {
    turn.state = controller.signal.aborted ? "stopped" : "failed";
    if (turn.state === "failed") {
      const told = error instanceof Failure;
      turn.error = {
        message: told ? error.message : `The answer broke off (${error.message}).`,
        remedy: told ? error.remedy : UNREACHABLE,
        needsKey: Boolean(error.needsKey),
      };
    }
  }
  turn.seconds = (performance.now() - begun) / 1000;
  running = null;
  elements.delete(turn);  // drawn anew, with what is known now
  conversation.updated = Date.now();
  await keepIfListed(conversation);
  show();
  announce(spoken(turn));
}

/** Keeps a conversation unless it was deleted meanwhile. */
async function keepIfListed(conversation) {
  if (conversations.includes(conversation)) await shelf.keep(conversation);
}

function spoken(turn) {
  if (turn.state === "failed") return `No answer: ${turn.error.message} ${turn.error.remedy}`;
  const path = turn.modality ? ` by the ${turn.modality} path` : "";
  return turn.state === "stopped" ? `Stopped. ${turn.text}` : `Answer${path}: ${turn.text}`;
}
