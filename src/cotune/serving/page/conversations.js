// ---- What is kept ---------------------------------------------------------------------------------------------------

/** The browser's database of conversations; without one (a private window may have none) they live in memory. */
const shelf = {
  database: null,
  async open() {
    try {
      this.database = await new Promise((resolve, reject) => {
        const request = indexedDB.open("cotune", 1);
        request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    } catch {
      at("kept").textContent = "This browser keeps nothing: conversations end with this tab.";
    }
  },
  async use(mode, action) {
    if (!this.database) return undefined;
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction("conversations", mode);
      const request = action(transaction.objectStore("conversations"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  },
  async all() { return (await this.use("readonly", (store) => store.getAll())) ?? []; },
  async keep(conversation) {
    try {
      await this.use("readwrite", (store) => store.put(conversation));
    } catch (error) {
      notice(`This conversation could not be kept (${error.message}). Delete old ones to make room; until then it ends with this tab.`);
    }
  },
  async drop(id) { await this.use("readwrite", (store) => store.delete(id)); },
  async clear() { await this.use("readwrite", (store) => store.clear()); },
};

/** Small choices; a browser that keeps none forgets them. */
const choices = {
  get(name, from = localStorage) { try { return from.getItem(`cotune.${name}`) ?? ""; } catch { return ""; } },
  set(name, value, into = localStorage) { try { into.setItem(`cotune.${name}`, value); } catch { /* forgotten */ } },
};

let conversations = [];
let current = null;      // the conversation on show
let running = null;      // {conversation, turn, controller} while an answer comes
let editing = null;      // the question that the next one replaces
let attached = [];       // {kind, blob, name, detail} that go with the next question
let busy = 0;            // attachments still being read

function fresh() {
  // Not crypto.randomUUID: it is missing where the page comes from another machine without https.
  return { id: `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`, title: "", updated: Date.now(), turns: [] };
}
