// ---- Begin ----------------------------------------------------------------------------------------------------------

paint(choices.get("theme"));
await shelf.open();
conversations = await shelf.all();
for (const turn of conversations.flatMap((conversation) => conversation.turns)) {
  if (turn.state === "running") turn.state = "stopped";  // the page was left in the middle of it
}
current = conversations.find((conversation) => conversation.id === choices.get("current")) ?? fresh();
show();
scrollDown();
if ((await loadModels())?.needsKey) openSettings("key");
else at("question").focus();
