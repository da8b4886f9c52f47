const VERBS =
  `add analyse analyze answer arrange ask assess book brainstorm build calculate call check choose classify collect combine
  compare compile compose compute convert count create critique debug define deliver describe design determine develop
  discuss draft draw edit estimate evaluate examine explain explore extract fetch figure find finish fix format gather
  generate get give help identify implement improve investigate join list look make measure merge mention modify name
  organise organize outline pick plan polish prepare present produce propose prove proofread publish rank read recommend
  refactor remember remind report research retrieve review revise rewrite save schedule search select send set share show
  simplify sketch solve sort store suggest sum summarise summarize tell test think translate turn update use validate verify
  visit weigh write`.split(/\s+/);
const VERB_SET = new Set(VERBS);
const VERB_PATTERN = VERBS.join('|');

/** A part of a request that one agent or tool can do. */
export interface RequestPart {
  readonly text: string;
  /** The parts that have to be done before, as positions in the list. */
  readonly after: readonly number[];
}

/** Whether a text starts by telling somebody to do something. */
export function isImperative(text: string): boolean {
  const first = /^(?:please,?\s+|now\s+|can you\s+|could you\s+)?([\p{L}]+)/iu.exec(text.trim())?.[1];
  return first !== undefined && VERB_SET.has(first.toLowerCase());
}

/**
 * Splits a request into its parts: what follows "then" waits for everything of the step before; what stands beside each
 * other by "and" or as a sentence of its own doesn't, unless it speaks of "it", "the results" and the like.
 */
export function splitRequest(request: string): RequestPart[] {
  const parts: RequestPart[] = [];
  let before: number[] = [];
  for (const step of splitSteps(request)) {
    const current: number[] = [];
    for (const text of splitBeside(step)) {
      const previous = current.at(-1);
      const after = refersBack(text) && previous !== undefined ? [previous] : before;
      parts.push({ text, after: joinsAll(text) ? parts.map((_, index) => index) : after });
      current.push(parts.length - 1);
    }
    if (current.length > 0) before = current;
  }
  return parts;
}

function splitSteps(request: string): string[] {
  const marked = request
    .replace(
      /[\s,;.]*\b(?:and\s+)?(?:then|after that|afterwards|finally|lastly|next|once (?:that is )?done)\b[,:]?\s+/gi,
      '\n\u0000',
    )
    .replace(/^\s*(?:first|firstly|to begin)\b[,:]?\s*/gi, '');
  return marked.split('\u0000').filter((step) => step.trim() !== '');
}

function splitBeside(step: string): string[] {
  const verb = new RegExp(`\\s*(?:,\\s*(?:and\\s+)?|;\\s*|\\band\\s+)(?=(?:also\\s+)?(?:${VERB_PATTERN})\\b)`, 'gi');
  return step
    .split(/\n+|(?<=[.!?;])\s+(?=\p{Lu})/u)
    .flatMap((sentence) => sentence.split(verb))
    .map((text) => text.replace(/^(?:\s|[-*•]|\d+[.)]\s|also\b|and\b|,)+/i, '').replace(/[\s,;.]+$/, ''))
    .filter((text) => /\p{L}{2}/u.test(text) || /\d\s*[-+*/^]\s*\d/.test(text));
}

function refersBack(text: string): boolean {
  const words =
    /\b(?:it|its|them|these|those|both|this|that|result|results|findings|outcome|answer|draft|summary|text|translation)\b/i;
  // "the one about" a thing named in the same part points nowhere else.
  return words.test(text.replace(/\b(?:this|that) (?:is|was|has|the)\b/gi, ''));
}

function joinsAll(text: string): boolean {
  return /\b(?:combine|merge|compile)\b|\b(?:everything|all (?:of )?(?:this|that|it|the (?:results|parts|findings)))\b/i.test(
    text,
  );
}
