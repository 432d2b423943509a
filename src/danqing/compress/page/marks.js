/* The metadata labels of an image: the packet that was prepared at export, with what only the image knows. */

import { declaredBytes } from "./png.js";
import { sha256 } from "./sha256.js";

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
const escaped = (text) => text.replace(/[&<>]/g, (sign) => ENTITIES[sign]);

const imageId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Return the packet of an image; "" where the template is empty, because the model was exported without marks.

template: with the fields that `compress/web.py` names. */
export function packet(template, pixels) {
  const fields = {
    IMAGE_ID: imageId(),
    PIXELS_SHA256: sha256(declaredBytes(pixels)),
    TIME: new Date().toISOString().replace(/\.\d+Z$/, "+00:00"),
  };
  return template.replace(/\{(IMAGE_ID|PIXELS_SHA256|TIME)\}/g, (_, name) => escaped(fields[name]));
}
