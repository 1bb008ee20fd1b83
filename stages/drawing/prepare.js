// Turns a drawing into an image as MNIST's makers did (LeCun, Bottou, Bengio and Haffner, 1998): the longest
// side of the ink becomes 20 of 28 pixels, its shape is kept, averaging gives gray levels, and the centre of
// mass of the ink moves to the middle.
"use strict";

const FILLED = 20 / 28; // share of the image that the ink takes
const LEAST = 1 / 8; // of the pad's longest side: ink that is smaller is a dot

/** The image, a Uint8Array of rows · columns, or null if there is no more than a dot.
 *  ink: 0 (none) to 255, row by row, of a pad `width` wide. ground: the gray level of the background. */
function prepare(ink, width, [rows, columns], ground) {
  const height = ink.length / width;
  let [left, right, top, bottom, sum, sumX, sumY] = [width, 0, height, 0, 0, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = ink[y * width + x];
      if (value === 0) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
      sum += value;
      sumX += value * (x + 0.5);
      sumY += value * (y + 0.5);
    }
  }
  if (Math.max(right - left, bottom - top) < LEAST * Math.max(width, height)) return null;
  const scale = FILLED * Math.min(rows / (bottom - top), columns / (right - left));
  const toColumn = (x) => (x - sumX / sum) * scale + columns / 2;
  const toRow = (y) => (y - sumY / sum) * scale + rows / 2;
  const gathered = new Float64Array(rows * columns); // mean ink, 0 to 255
  const acrossColumns = [...Array(width).keys()].map((x) => shares(toColumn(x), toColumn(x + 1), columns));
  for (let y = top; y < bottom; y++) {
    const acrossRows = shares(toRow(y), toRow(y + 1), rows);
    for (let x = left; x < right; x++) {
      const value = ink[y * width + x];
      if (value === 0) continue;
      for (const [column, wide] of acrossColumns[x]) {
        for (const [row, high] of acrossRows) gathered[row * columns + column] += value * wide * high;
      }
    }
  }
  const reach = (ground < 128 ? 255 : 0) - ground;
  return Uint8Array.from(gathered, (value) => Math.round(ground + (reach * Math.min(value, 255)) / 255));
}

/** The pixels that the interval from `start` to `end` covers, and the covered share of each. */
function shares(start, end, count) {
  const found = [];
  for (let pixel = Math.max(0, Math.floor(start)); pixel < Math.min(count, end); pixel++) {
    found.push([pixel, Math.min(end, pixel + 1) - Math.max(start, pixel)]);
  }
  return found;
}
