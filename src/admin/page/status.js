"use strict";
(() => {
  const EVERY = 5000, LIMIT = 8000;
  const stale = document.getElementById("stale"), since = document.getElementById("since");
  let seen = new Date(), timer;

  async function update() {
    clearTimeout(timer);
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(LIMIT) });
      if (!answer.ok) throw new Error(answer.statusText);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      seen = new Date();
      stale.hidden = true;
    } catch {
      since.textContent = seen.toLocaleTimeString();
      stale.hidden = false;
    }
    document.documentElement.classList.toggle("stale", !stale.hidden);
    // A page that nobody looks at asks nothing.
    if (!document.hidden) timer = setTimeout(update, EVERY);
  }

  function show(next) {
    // After an upgrade style and script may be others, too.
    if (next.documentElement.dataset.build !== document.documentElement.dataset.build) return location.reload();
    for (const old of document.querySelectorAll("[data-live]")) {
      const fresh = next.getElementById(old.id);
      if (fresh && !fresh.isEqualNode(old)) old.replaceWith(document.adoptNode(fresh));
    }
    // What came or went, a first certificate for instance, has no place to be put into.
    if (next.querySelectorAll("[data-live]").length > document.querySelectorAll("[data-live]").length) location.reload();
    document.title = next.title;
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) update(); });
  timer = setTimeout(update, EVERY);
})();
