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
    // A hidden page sends no requests.
    if (!document.hidden) timer = setTimeout(update, EVERY);
  }

  function show(next) {
    const ids = (page) => [...page.querySelectorAll("[data-live]")].map((element) => element.id);
    const build = (page) => page.documentElement.dataset.build;
    // After an upgrade style and script may have changed, too; and a new part, such as a first certificate, has no place
    // here yet.
    if (build(next) !== build(document) || ids(next).join() !== ids(document).join()) return location.reload();
    for (const id of ids(document)) {
      const [old, fresh] = [document.getElementById(id), next.getElementById(id)];
      if (!fresh.isEqualNode(old)) old.replaceWith(document.adoptNode(fresh));
    }
    document.title = next.title;
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden) update(); });
  timer = setTimeout(update, EVERY);
})();
