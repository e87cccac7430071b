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

// A kit that was off does not know the time; the device that shows this page does.
async function tell() {
  const clock = document.getElementById("clock");
  if (clock && clock.dataset.synchronised === "false") {
    try {
      const answer = await fetch("/clock", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ms: Date.now() }) });
      if (answer.status === 404 || answer.status === 405) return; // its system keeps the clock
    } catch { /* the kit is not reached: it is asked again */ }
  }
  setTimeout(tell, 30000);
}
tell();
