// The pad: draws with mouse, finger, pen or arrow keys, and hands over the ink.
"use strict";

const pad = document.getElementById("pad");
const pen = document.getElementById("pen"); // shows where the arrow keys are
const hint = document.getElementById("hint"); // "Draw here", while the pad is empty
const paper = pad.getContext("2d", { willReadFrequently: true });
const LARGEST = Math.max(pad.width, pad.height);
const PEN_WIDTH = LARGEST / 13; // gives MNIST's strokes if the digit fills most of the pad
const STEP = LARGEST / 30; // of an arrow key
let strokes = []; // each a list of points [x, y] in the pad's pixels
let pointer = null; // the pointer that draws; a second finger does nothing
let picture = null; // shown instead of strokes

/** Called when the drawing has changed: set by page.js. */
let padChanged = () => {};

/** How much ink each pixel of the pad has, 0 to 255, row by row. */
function inkOfPad() {
  const { data } = paper.getImageData(0, 0, pad.width, pad.height); // red, green, blue, opacity
  const ink = new Uint8Array(pad.width * pad.height);
  for (let i = 0; i < ink.length; i++) ink[i] = data[4 * i + 3];
  return ink;
}

function drawSegment([fromX, fromY], [toX, toY]) {
  paper.lineWidth = PEN_WIDTH;
  paper.lineCap = "round";
  paper.strokeStyle = getComputedStyle(pad).color;
  paper.beginPath();
  paper.moveTo(fromX, fromY);
  paper.lineTo(toX, toY + 0.01); // a line of no length is not drawn everywhere
  paper.stroke();
}

function redraw() {
  paper.clearRect(0, 0, pad.width, pad.height);
  if (picture) {
    const scale = Math.min(pad.width / picture.width, pad.height / picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    paper.drawImage(picture, (pad.width - width) / 2, (pad.height - height) / 2, width, height);
  }
  hint.hidden = picture !== null || strokes.length > 0;
  for (const stroke of strokes) stroke.forEach((point, i) => drawSegment(stroke[Math.max(0, i - 1)], point));
}

function startStroke(point) {
  if (picture) setPicture(null);
  strokes.push([point]);
  hint.hidden = true;
  drawSegment(point, point);
  padChanged();
}

function continueStroke(point) {
  const stroke = strokes.at(-1);
  drawSegment(stroke.at(-1), point);
  stroke.push(point);
  padChanged();
}

/** Show a picture (an ImageBitmap) instead of what is drawn; null shows an empty pad. */
function setPicture(shown) {
  [picture, strokes] = [shown, []];
  redraw();
}

function clearPad() {
  setPicture(null);
  liftPen();
  padChanged();
}

function undo() {
  if (picture) setPicture(null);
  strokes.pop();
  liftPen();
  redraw();
  padChanged();
}

function place(event) {
  const box = pad.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * pad.width) / box.width,
    ((event.clientY - box.top) * pad.height) / box.height,
  ];
}

pad.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || pointer !== null) return;
  pointer = event.pointerId;
  pad.setPointerCapture(pointer);
  pad.classList.remove("keys");
  liftPen();
  startStroke(place(event));
});
pad.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const passed = event.getCoalescedEvents?.() ?? [];
  for (const moved of passed.length ? passed : [event]) continueStroke(place(moved));
});
for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
  pad.addEventListener(end, (event) => {
    if (event.pointerId === pointer) pointer = null;
  });
}

// The keyboard's pen. Two arrow keys held together move it diagonally.
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const held = new Set();
let at = [pad.width / 2, pad.height / 4];
let lowered = false;

function showPen() {
  pen.style.left = `${(100 * at[0]) / pad.width}%`;
  pen.style.top = `${(100 * at[1]) / pad.height}%`;
  pen.classList.toggle("lowered", lowered);
}

function liftPen() {
  lowered = false;
  showPen();
}

pad.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) {
    held.add(event.key);
    [pad.width, pad.height].forEach((size, axis) => {
      const moved = [...held].reduce((sum, key) => sum + STEP * ARROWS[key][axis], at[axis]);
      at[axis] = Math.min(Math.max(moved, PEN_WIDTH / 2), size - PEN_WIDTH / 2);
    });
    if (lowered) continueStroke([...at]);
  } else if (event.key === " ") {
    if (!event.repeat) lowered = !lowered;
    if (lowered && !event.repeat) startStroke([...at]);
  } else if (event.key === "Delete" || event.key === "Backspace") {
    clearPad();
  } else return;
  event.preventDefault(); // the page does not scroll
  pad.classList.add("keys");
  showPen();
});
pad.addEventListener("keyup", (event) => held.delete(event.key));
pad.addEventListener("blur", () => {
  held.clear();
  liftPen();
});

document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z") {
    event.preventDefault();
    undo();
  }
});
document.getElementById("clear").addEventListener("click", clearPad);
document.getElementById("undo").addEventListener("click", undo);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
showPen();
