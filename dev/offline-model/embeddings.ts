import { contentWords } from './words.ts';

export const DEFAULT_DIMENSIONS = 256;

/**
 * Places a text in space by hashing its words and their character trigrams (feature hashing with signs), so that texts
 * that share words or word parts lie close. Of length 1; the empty text gets an arbitrary fixed direction.
 */
export function embed(text: string, dimensions: number = DEFAULT_DIMENSIONS): number[] {
  const vector = new Array<number>(dimensions).fill(0);
  for (const [feature, count] of countFeatures(text)) {
    const hash = hashFeature(feature);
    const index = hash % dimensions;
    // The sign comes from a bit the index doesn't depend on; it lets collisions cancel out on average.
    const sign = hash >= 2 ** 31 ? -1 : 1;
    const weight = feature.startsWith('word:') ? 3 : 1;
    vector[index] = (vector[index] ?? 0) + sign * weight * Math.sqrt(count);
  }
  const length = Math.hypot(...vector);
  if (length === 0) return vector.map((_, index) => (index === 0 ? 1 : 0));
  return vector.map((value) => value / length);
}

/** The vector as OpenAI's clients ask for it by default: 32-bit floats, little-endian, in base64. */
export function toBase64(vector: readonly number[]): string {
  const bytes = Buffer.alloc(vector.length * 4);
  vector.forEach((value, index) => void bytes.writeFloatLE(value, index * 4));
  return bytes.toString('base64');
}

function countFeatures(text: string): Map<string, number> {
  const counts = new Map<string, number>();
  const add = (feature: string): void => void counts.set(feature, (counts.get(feature) ?? 0) + 1);
  for (const word of contentWords(text)) {
    add(`word:${word}`);
    const padded = `^${word}$`;
    for (let start = 0; start + 3 <= padded.length; start += 1) add(padded.slice(start, start + 3));
  }
  return counts;
}

/** FNV-1a over the UTF-16 code units, with MurmurHash3's finalizer so that every bit depends on every letter. */
function hashFeature(feature: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < feature.length; index += 1) {
    hash = Math.imul(hash ^ feature.charCodeAt(index), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
