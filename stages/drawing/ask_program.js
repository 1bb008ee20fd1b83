// The program that serves the page answers.
"use strict";

const ask = (() => {
  async function post(path, body) {
    const headers = { "content-type": "application/octet-stream" };
    const response = await fetch(path, { method: "POST", headers, body }).catch(() => {
      throw new Error("The program behind this page has ended: start `python -m apps.draw` again.");
    });
    const content = await response.json().catch(() => ({})); // if too busy, it sends only a status
    if (!response.ok) throw new Error(content.error ?? `The program says ${response.status}.`);
    return content;
  }
  return { drawing: (ink) => post("drawing", ink), picture: (file) => post("picture", file) };
})();
