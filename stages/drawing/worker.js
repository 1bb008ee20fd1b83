// The thread in which the networks of the page run.
"use strict";

let networks = []; // each with the content of its model.json and a function from pixels to probabilities

function decode(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function answer(ink, width) {
  const { image_size, ground } = networks[0].model;
  const image = prepare(ink, width, image_size, ground);
  return image ? [{ image, probabilities: networks.map(({ predict }) => predict(image)) }] : [];
}

onmessage = ({ data }) => {
  if (data.networks) {
    networks = JSON.parse(data.networks).map(({ model, weights }) => {
      const predict = loadNetwork(model, decode(weights));
      predict(new Uint8Array(model.image_size[0] * model.image_size[1])); // so the first drawing waits less
      return { model, predict };
    });
  } else postMessage(answer(data.ink, data.width));
};
