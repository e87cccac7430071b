// Replaces the page's content once a second with what the kit renders, so that the page never
// needs a reload and one template serves browsers with and without scripts.
"use strict";
const content = document.getElementById("content");
const stale = document.getElementById("stale");
let last = Date.now();

async function refresh() {
  try {
    const answer = await fetch("/fragment", { signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(String(answer.status));
    const open = [...content.querySelectorAll("details[open]")].map((d) => d.id);
    content.innerHTML = await answer.text();
    for (const id of open) document.getElementById(id).open = true;
    last = Date.now();
    stale.textContent = "";
  } catch {
    stale.textContent = `This kit has not answered for ${Math.round((Date.now() - last) / 1000)} s.`;
  }
  setTimeout(refresh, document.hidden ? 10000 : 1000);
}
setTimeout(refresh, 1000);
