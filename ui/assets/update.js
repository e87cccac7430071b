// Sends the chosen file as it is, which a form cannot, and shows how far that is and what becomes of it.
"use strict";
const form = document.getElementById("send");
const progress = document.getElementById("progress");
const answer = document.getElementById("answer");

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  const file = form.elements.bundle.files[0];
  if (!file) return;
  const request = new XMLHttpRequest(); // fetch does not tell how much it has sent
  const button = form.querySelector("button");
  button.disabled = true;
  progress.hidden = false;
  answer.textContent = "";
  request.upload.addEventListener("progress", (e) => { if (e.lengthComputable) progress.value = e.loaded / e.total; });
  request.addEventListener("loadend", () => {
    button.disabled = false;
    progress.hidden = true;
    answer.textContent = request.status === 202 ? "It is there." : request.responseText || "The connection to the kit is gone.";
  });
  request.open("POST", "/update");
  request.setRequestHeader("Content-Type", "application/vnd.fieldkit.update");
  request.send(file);
});

async function refresh() {
  const state = document.getElementById("state");
  try {
    const page = await fetch("/update", { signal: AbortSignal.timeout(4000) });
    const now = new DOMParser().parseFromString(await page.text(), "text/html").getElementById("state");
    if (state && now) state.replaceChildren(...now.childNodes);
  } catch {
    if (state) state.textContent = "The kit does not answer: it may be restarting.";
  }
  setTimeout(refresh, document.hidden ? 10000 : 1000);
}
setTimeout(refresh, 1000);
