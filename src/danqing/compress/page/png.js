/* PNG files (ISO 15948) with exact pixels and a packet of XMP metadata. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const COLOUR_TYPES = { 1: 0, 2: 4, 3: 2, 4: 6 };
const SUB = 1;
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

function chunk(type, content) {
  const bytes = new Uint8Array(content.length + 12), view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(content, 8);
  view.setUint32(content.length + 8, crc(bytes.subarray(4, content.length + 8)));
  return bytes;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Return the bytes of pixels as PNG and the digest have them: 16-bit values big-endian (PNG) or little-endian. */
function pixelBytes(pixels, isBigEndian) {
  if (pixels instanceof Uint8Array) return pixels;
  const bytes = new Uint8Array(2 * pixels.length), view = new DataView(bytes.buffer);
  pixels.forEach((value, i) => view.setUint16(2 * i, value, !isBigEndian));
  return bytes;
}

/** Return the bytes whose SHA-256 an image declares, as numpy has them. */
export const declaredBytes = (pixels) => pixelBytes(pixels, false);

/** Return a PNG file, a Blob.

image: {pixels: Uint8Array or Uint16Array [h, w, c], width, height, channels}.
xmp: the text of a packet; "" for none. */
export async function png({ pixels, width, height, channels }, xmp) {
  const bytes = pixelBytes(pixels, true), depth = pixels.BYTES_PER_ELEMENT;
  const step = channels * depth, row = width * step, lines = new Uint8Array(height * (row + 1));
  for (let y = 0; y < height; y++) {
    lines[y * (row + 1)] = SUB;
    for (let x = 0; x < row; x++) {
      lines[y * (row + 1) + 1 + x] = bytes[y * row + x] - (x < step ? 0 : bytes[y * row + x - step]);
    }
  }
  const header = new Uint8Array(13), view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8 * depth, COLOUR_TYPES[channels], 0, 0, 0], 8);
  const text = new TextEncoder().encode(`XML:com.adobe.xmp\0\0\0\0\0${xmp}`);
  const parts = [new Uint8Array(SIGNATURE), chunk("IHDR", header)];
  if (xmp) parts.push(chunk("iTXt", text));
  parts.push(chunk("IDAT", await deflated(lines)), chunk("IEND", new Uint8Array()));
  return new Blob(parts, { type: "image/png" });
}
