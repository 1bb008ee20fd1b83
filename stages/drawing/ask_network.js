// The networks in the page itself answer, in a thread of their own, so that drawing stays smooth.
"use strict";

const ask = (() => {
  const text = (id) => document.getElementById(id).textContent;
  const source = URL.createObjectURL(new Blob([text("worker")], { type: "text/javascript" }));
  const worker = new Worker(source);
  worker.postMessage({ networks: text("networks") });
  return {
    drawing: (ink) =>
      new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = () => reject(new Error("The networks in this page cannot be run by this browser."));
        worker.postMessage({ ink, width: pad.width });
      }),
  };
})();
