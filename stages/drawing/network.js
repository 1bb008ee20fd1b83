// A trained network in plain JavaScript: from a model's two files to class probabilities. This is the forward
// pass alone, to be read beside stages/models/scratch.py, which has the backward pass as well.
//
// A layer's output is {shape, values}: [rows, columns, channels], or [units] after a dense layer, and all its
// numbers in one flat array, the channels of a pixel side by side.
"use strict";

const EPSILON = 1e-5; // of batch normalization, as in stages/common/architecture.py

/** The arrays of a weights.safetensors file by name, such as "0.conv.weights".
 *  The file: eight bytes with the length of a JSON header, the header, the numbers. */
function readWeights(bytes) {
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const arrays = {};
  for (const [name, { data_offsets: [start, end] }] of Object.entries(header)) {
    const content = bytes.slice(8 + length + start, 8 + length + end).buffer;
    arrays[name] = Float64Array.from(new Float32Array(content)); // 64 bits, as JavaScript computes
  }
  return arrays;
}

/** y[start + i] += x · w[row + i]: this takes most of the time. Zeros, half of the outputs of ReLU, are
 *  skipped. */
function addProduct(y, start, x, w, row, count) {
  if (x === 0) return;
  for (let i = 0; i < count; i++) y[start + i] += x * w[row + i];
}

/** y = x W + b. */
function dense(x, weights, biases) {
  const y = biases.slice(), units = y.length;
  for (let i = 0; i < x.values.length; i++) addProduct(y, 0, x.values[i], weights, i * units, units);
  return { shape: [units], values: y };
}

/** Each k×k window times the filters: `dense` at every place of the window. weights: (k, k, channels,
 *  filters). Pixels outside the image count as zero. */
function conv(x, { filters, kernel, padding, stride = 1 }, weights, biases) {
  const [rows, columns, channels] = x.shape;
  const [outRows, top] = windows(rows, kernel, padding, stride);
  const [outColumns, left] = windows(columns, kernel, padding, stride);
  const y = new Float64Array(outRows * outColumns * filters);
  for (let r = 0; r < outRows; r++) {
    for (let c = 0; c < outColumns; c++) {
      const start = (r * outColumns + c) * filters;
      y.set(biases, start);
      for (let i = 0; i < kernel; i++) {
        const row = r * stride + i - top;
        if (row < 0 || row >= rows) continue;
        for (let j = 0; j < kernel; j++) {
          const column = c * stride + j - left;
          if (column < 0 || column >= columns) continue;
          const pixel = (row * columns + column) * channels, weight = (i * kernel + j) * channels;
          for (let k = 0; k < channels; k++) {
            addProduct(y, start, x.values[pixel + k], weights, (weight + k) * filters, filters);
          }
        }
      }
    }
  }
  return { shape: [outRows, outColumns, filters], values: y };
}

/** How many windows there are along `size` pixels, and how many zeros stand before the first pixel. */
function windows(size, kernel, padding, stride) {
  if (padding === "valid") return [Math.floor((size - kernel) / stride) + 1, 0];
  const count = Math.ceil(size / stride);
  return [count, Math.floor(Math.max(0, (count - 1) * stride + kernel - size) / 2)]; // an odd zero goes after
}

/** The largest value of each size×size square; rows and columns left over are dropped. */
function maxPool(x, size) {
  const [rows, columns, channels] = x.shape;
  const outRows = Math.floor(rows / size), outColumns = Math.floor(columns / size);
  const y = new Float64Array(outRows * outColumns * channels).fill(-Infinity);
  for (let r = 0; r < outRows * size; r++) {
    for (let c = 0; c < outColumns * size; c++) {
      const from = (r * columns + c) * channels;
      const to = (Math.floor(r / size) * outColumns + Math.floor(c / size)) * channels;
      for (let k = 0; k < channels; k++) y[to + k] = Math.max(y[to + k], x.values[from + k]);
    }
  }
  return { shape: [outRows, outColumns, channels], values: y };
}

/** y = scale · (x - mean) / √(variance + ε) + shift, channel by channel. */
function batchNorm(x, { scale, shift, mean, variance }) {
  const channels = scale.length;
  const factor = scale.map((value, k) => value / Math.sqrt(variance[k] + EPSILON));
  return each(x, (value, i) => factor[i % channels] * (value - mean[i % channels]) + shift[i % channels]);
}

function each(x, change) {
  return { shape: x.shape, values: x.values.map(change) };
}

const ACTIVATIONS = {
  relu: (value) => Math.max(value, 0),
  sigmoid: (value) => 1 / (1 + Math.exp(-value)),
  tanh: (value) => Math.tanh(value),
};

/** A layer's output for x. layer: as in architectures.yaml, "relu" or {dense: 128}. of: its arrays by name. */
function apply(layer, x, of) {
  const [[kind, value]] = typeof layer === "string" ? [[layer]] : Object.entries(layer);
  switch (kind) {
    case "conv": return conv(x, value, of("weights"), of("biases"));
    case "dense": return dense(x, of("weights"), of("biases"));
    case "max_pool": return maxPool(x, value);
    case "batch_norm": {
      const [scale, shift, mean, variance] = ["scale", "shift", "mean", "variance"].map(of);
      return batchNorm(x, { scale, shift, mean, variance });
    }
    case "dropout": return x; // only while training
    default: return each(x, ACTIVATIONS[kind]);
  }
}

/** Probabilities, eᶻ / Σ eᶻ, of logits; the maximum is subtracted to avoid overflow. */
function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power);
  return powers.map((power) => power / sum);
}

/** The image moved by (down, right) pixels; the ground fills the edges. */
function move(x, down, right, ground) {
  const [rows, columns] = x.shape;
  const values = new Float64Array(x.values.length).fill(ground);
  for (let r = Math.max(0, down); r < Math.min(rows, rows + down); r++) {
    for (let c = Math.max(0, right); c < Math.min(columns, columns + right); c++) {
      values[r * columns + c] = x.values[(r - down) * columns + c - right];
    }
  }
  return { shape: x.shape, values };
}

/** A function from an image's pixels (a number of 0 to 255 each, row by row) to class probabilities.
 *  model: the content of model.json. bytes: of weights.safetensors. */
function loadNetwork({ architecture, recipe, image_size: [rows, columns], ground }, bytes) {
  const arrays = readWeights(bytes);
  const [low, high] = recipe.pixel_range, shift = recipe.prediction_shift ?? 0;
  const scaled = (pixel) => low + (pixel * (high - low)) / 255;
  const views = shift === 0 ? [[0, 0]] : [[0, 0], [shift, 0], [-shift, 0], [0, shift], [0, -shift]];
  return (pixels) => {
    const image = { shape: [rows, columns, 1], values: Float64Array.from(pixels, scaled) };
    const answers = views.map(([down, right]) => {
      let x = move(image, down, right, scaled(ground));
      architecture.forEach((layer, place) => {
        const kind = typeof layer === "string" ? layer : Object.keys(layer)[0];
        x = apply(layer, x, (name) => arrays[`${place}.${kind}.${name}`]);
      });
      return softmax(x.values);
    });
    const sums = answers.reduce((sum, answer) => sum.map((value, label) => value + answer[label]));
    return sums.map((value) => value / answers.length);
  };
}
