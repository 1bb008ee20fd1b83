// The networks in the page itself answer, in their own thread, so that drawing stays smooth.
"use strict";

const ask = (() => {
  const text = (id) => document.getElementById(id).textContent;
  const source = URL.createObjectURL(new Blob([text("worker")], { type: "text/javascript" }));
  const worker = new Worker(source);
  let question = null; // the promise of its answer
  let broken = null;
  worker.onmessage = ({ data }) => question.resolve(data);
  worker.onerror = () => {
    broken = new Error("This browser cannot compute the networks in this page.");
    question?.reject(broken);
  };
  worker.postMessage({ networks: text("networks") });
  return {
    drawing: (ink) =>
      new Promise((resolve, reject) => {
        if (broken) throw broken;
        question = { resolve, reject };
        worker.postMessage({ ink, width: pad.width });
      }),
  };
})();
