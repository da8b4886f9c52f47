const cut = '\n… (cut)';

/**
 * Cuts texts so that all of them together have at most `budget` characters. Short ones stay whole, and what they leave
 * over is for the long ones, which are cut to one length.
 * @param budget in UTF-16 code units
 */
export function fitTexts(texts: readonly string[], budget: number): string[] {
  const longest = longestLength(texts, budget);
  return texts.map((text) => (text.length <= longest ? text : shorten(text, longest)));
}

/** The length to which texts may be left, so that their sum keeps to the budget. */
function longestLength(texts: readonly string[], budget: number): number {
  let left = budget;
  const lengths = texts.map((text) => text.length).toSorted((one, other) => one - other);
  for (const [place, length] of lengths.entries()) {
    const share = Math.floor(left / (lengths.length - place));
    if (length > share) {
      return share;
    }
    left -= length;
  }
  return Number.POSITIVE_INFINITY;
}

function shorten(text: string, length: number): string {
  const kept = text.slice(0, Math.max(0, length - cut.length));
  // Half of a character made of two code units is none.
  return `${kept.replace(/[\ud800-\udbff]$/, '')}${cut}`.slice(0, length);
}
