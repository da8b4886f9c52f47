/** Length of the vectors: that of the offline model. */
export const dimensions = 256;

/** Vectors gather around 200 centres, as texts gather around topics: without any order there is nothing to be near to. */
const centres = Array.from({ length: 200 }, () => Array.from({ length: dimensions }, () => Math.random() - 0.5));

/** A vector near one of the centres. */
export function randomVector(): number[] {
  const centre = centres[Math.floor(Math.random() * centres.length)] ?? [];
  return centre.map((value) => value + (Math.random() - 0.5) * 0.8);
}
