/* From the numbers of a network to pixels. */

/** Turn floats [1, c, h, w] in [-1, 1] into the pixels [h, w, c] of an image, as danqing.images does. */
export function pixelsOf({ data, dims: [, channels, height, width] }) {
  const pixels = new Uint8Array(data.length), plane = height * width;
  for (let i = 0; i < plane; i++) {
    for (let channel = 0; channel < channels; channel++) {
      const level = Math.fround(Math.fround(data[channel * plane + i] + 1) * 127.5);
      pixels[i * channels + channel] = Math.min(Math.max(Math.fround(level + 0.5) || 0, 0), 255);
    }
  }
  return { pixels, width, height, channels };
}
