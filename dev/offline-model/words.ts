const STOP_WORDS = new Set(
  `a about after again all also am an and any are as at be because been before being but by can could did do does doing
  don for from get give given had has have he her here him his how i if in into is it its just know let like may me might
  more most must my need no nor not now of on one only or other our out over own please s same shall she should so some
  such t tell than that the their them then there these they this those through to too under until up us use used uses
  using very want was we were what when where which while who whom whose why will with within would yes you your`.split(
    /\s+/,
  ),
);

/** The words of a text that carry meaning, in lower case and cut to a common stem, in order and with repetitions. */
export function contentWords(text: string): string[] {
  return (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).filter((word) => !STOP_WORDS.has(word)).map(stem);
}

/** Cuts the commonest English endings, so that "planning", "plans" and "planned" meet. */
export function stem(word: string): string {
  if (word.length <= 3) return word;
  const cut = word
    .replace(/(?:ization|isation)$/, 'ize')
    .replace(/ise$/, 'ize')
    .replace(/(?:ies)$/, 'y')
    .replace(/(?<=..)(?:ing|ers?|ors?|ions?|ed|es|s)$/, '');
  return cut.replace(/(.)\1$/, '$1').replace(/(?<=..)[ey]$/, '');
}

/** Splits a text into sentences; a line end closes one too. */
export function sentences(text: string): string[] {
  return text
    .split(/\n+|(?<=[.!?…])["”’)]?\s+(?=[\p{Lu}\p{N}"“[(])/u)
    .map((sentence) => sentence.trim())
    .filter((sentence) => /[\p{L}\p{N}]/u.test(sentence));
}

/** The name parts of an identifier such as `searchMemory` or `search_memory`. */
export function identifierWords(identifier: string): string[] {
  return contentWords(identifier.replace(/(\p{Ll})(\p{Lu})/gu, '$1 $2').replace(/[_\-.]/g, ' '));
}

/** How many different words of one list are in the other. */
export function sharedWords(one: Iterable<string>, other: ReadonlySet<string>): number {
  return new Set([...one].filter((word) => other.has(word))).size;
}

/**
 * The pieces a text is streamed and counted in, one word or sign each; joined they are the text again. A real model's
 * tokens differ, but not by much in number.
 */
export function toTokens(text: string): string[] {
  return text.match(/\s*(?:[\p{L}\p{N}]{1,12}|[^\s\p{L}\p{N}])|\s+$/gu) ?? [];
}
