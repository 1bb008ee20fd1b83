// Asks for answers while the user draws, and shows them. `ask` is from ask_network.js or ask_program.js:
// ask.drawing(ink) and, if the page takes pictures, ask.picture(file) promise a list of what was found, left
// to right: {image: its gray levels row by row, probabilities: a list for each model}.
"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
const { models, classes, image_size: imageSize, sure_above: sureAbove } = facts;
const rows = [...document.querySelectorAll("#answers tbody tr")];
const found = document.getElementById("found");
const sentence = document.getElementById("sentence");
const spoken = document.getElementById("spoken"); // the sentence for screen readers, once it has settled
const message = document.getElementById("message");
const SETTLED = 700; // milliseconds
const EMPTY = sentence.textContent;

let answers = [];
let selected = 0; // index of the answer whose probabilities the table shows

/** What most models answer for an image: the class; and the models by the class that they answer. */
function verdict(probabilities) {
  const votes = classes.map(() => []), sums = classes.map(() => 0);
  probabilities.forEach((ofModel, i) => {
    votes[ofModel.indexOf(Math.max(...ofModel))].push(models[i]);
    ofModel.forEach((probability, label) => { sums[label] += probability; });
  });
  const order = [...classes.keys()].filter((label) => votes[label].length);
  order.sort((a, b) => votes[b].length - votes[a].length || sums[b] - sums[a]);
  return { label: order[0], votes, others: order.slice(1) };
}

function inWords({ label, votes, others }) {
  const agreeing = votes[label].length;
  if (models.length === 1) return `${models[0]} says ${classes[label]}.`;
  if (!others.length) return `All ${models.length} models say ${classes[label]}.`;
  const most = `${agreeing} of ${models.length} models say${agreeing === 1 ? "s" : ""} ${classes[label]}.`;
  const rest = others.map((other) => `${classes[other]} (${votes[other].join(", ")})`);
  return `${most} Others: ${rest.join("; ")}.`;
}

function percent(probability) {
  if (probability > 0.995) return "> 99 %";
  return `${Math.round(100 * probability)} %`;
}

function show(newAnswers) {
  answers = newAnswers;
  selected = Math.min(selected, Math.max(0, answers.length - 1));
  const verdicts = answers.map(({ probabilities }) => verdict(probabilities));
  found.replaceChildren(...answers.map((answer, i) => card(answer, verdicts[i], i)));
  const here = verdicts[selected];
  if (here) {
    const all = verdicts.map(({ label }) => classes[label]).join(" ");
    sentence.textContent = (answers.length > 1 ? `${all} – image ${selected + 1}: ` : "") + inWords(here);
  } else sentence.textContent = strokes.length || picture ? "Nothing to read in this." : EMPTY;
  rows.forEach((row, i) => showRow(row, i, answers[selected]?.probabilities[i], here));
}

function showRow(row, i, probabilities, here) {
  const [, answer, sure, bars] = row.cells;
  const best = probabilities ? Math.max(...probabilities) : 0;
  const label = probabilities ? probabilities.indexOf(best) : -1;
  const other = Boolean(probabilities) && label !== here.label;
  answer.textContent = probabilities ? classes[label] + (other ? " ≠" : "") : "–";
  row.classList.toggle("other", other);
  sure.textContent = probabilities ? percent(best) : "";
  if (probabilities && sureAbove[i] !== null && best <= sureAbove[i]) {
    sure.append(" ?", Object.assign(element("span", " unsure"), { className: "hidden" }));
  }
  [...bars.firstElementChild.children].forEach((bar, k) => {
    bar.style.height = `${100 * (probabilities?.[k] ?? 0)}%`;
    bar.classList.toggle("best", k === label);
  });
}

function element(kind, textContent) {
  return Object.assign(document.createElement(kind), { textContent });
}

/** A button with the models' answer and the image as they see it; it selects what the table shows. */
function card({ image }, { label }, i) {
  const button = document.createElement("button");
  button.type = "button";
  button.disabled = answers.length === 1;
  button.setAttribute("aria-pressed", i === selected);
  button.setAttribute("aria-label", `image ${i + 1}: ${classes[label]}`);
  const name = element("b", classes[label]);
  name.classList.toggle("short", classes[label].length <= 2);
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = imageSize;
  const pixels = new ImageData(canvas.width, canvas.height);
  image.forEach((level, place) => pixels.data.set([level, level, level, 255], 4 * place));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  button.append(name, canvas);
  button.addEventListener("click", () => {
    selected = i;
    show(answers);
    found.children[i].focus();
  });
  return button;
}

// One question at a time. When it is answered, the next is about the pad as it is then: outdated drawings are
// never asked about.
const busy = document.querySelector(".answers");
let asking = false;
let next = null; // the next question

async function askFor(question) {
  next = question;
  if (asking) return;
  asking = true;
  busy.ariaBusy = "true";
  while (next) {
    const current = next;
    next = null;
    try {
      const newAnswers = await current();
      message.textContent = "";
      show(newAnswers);
    } catch (error) {
      message.textContent = error.message;
      show([]);
    }
  }
  asking = false;
  busy.ariaBusy = "false";
  settle();
}

let timer = 0;
function settle() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    spoken.textContent = message.textContent ? "" : sentence.textContent;
  }, SETTLED);
}

padChanged = () => models.length && askFor(() => (strokes.length ? ask.drawing(inkOfPad()) : []));

async function askForPicture(file) {
  if (!ask.picture) {
    message.textContent = "This page reads drawings. Pictures are read by the program: python -m apps.draw";
    return;
  }
  setPicture(await createImageBitmap(file).catch(() => null)); // the program may know what a browser does not
  askFor(() => ask.picture(file));
}

document.getElementById("open")?.addEventListener("change", ({ target }) => {
  if (target.files.length) askForPicture(target.files[0]);
  target.value = ""; // so that the same file can be opened again
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) askForPicture(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) askForPicture(event.clipboardData.files[0]);
});
