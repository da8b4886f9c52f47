import { readable } from './answer.ts';
import type { Conversation } from './conversation.ts';
import { extractExpression, fillSchema } from './json-schema.ts';
import type { ChatRequest, ToolCall } from './protocol.ts';
import { splitRequest } from './request-parts.ts';
import { contentWords, identifierWords, sharedWords } from './words.ts';

type Tool = NonNullable<ChatRequest['tools']>[number]['function'];

const MOST_CALLS = 8;

// Words that nearly every tool's description has and that choose none.
const COMMON = new Set(
  contentWords('tool function call return result value give text user agent answer string input find'),
);

/** What a part of a question looks like, and by which words a tool for it is known. */
const INTENTS: readonly { readonly asks: (text: string) => boolean; readonly tool: RegExp }[] = [
  { asks: (text) => extractExpression(text) !== null, tool: /calculat|arithmetic|math|evaluat/i },
  {
    asks: (text) =>
      /\bwhat(?:'s| is)? (?:the )?(?:current )?(?:time|date|day)\b|\bhow late\b|\btoday's date\b/i.test(text),
    tool: /\btime|_time|date|clock/i,
  },
  { asks: (text) => /https?:\/\//i.test(text), tool: /fetch|url|web|page|http|brows/i },
  {
    asks: (text) => /^(?:please,? )?(?:remember|note|keep in mind)\b/i.test(text),
    tool: /^(?:remember|note|save|store|add|write)/i,
  },
  {
    asks: (text) =>
      /\b(?:recall|(?:search|look in|check) (?:my|your|the) (?:memory|notes|documents)|do you remember)\b/i.test(text),
    tool: /(?:search|recall|read|query|find).*memor|memor.*(?:search|recall|query)|recall/i,
  },
  {
    asks: (text) => /^(?:please,? )?(?:ask|tell|let) (?:the )?\p{Lu}/u.test(text),
    tool: /agent|delegate|hand_?off|ask/i,
  },
];

/**
 * The calls that the question asks for and that weren't made for it yet, each part of the question by the tool that
 * shares most with it. Empty when none fits or the request doesn't allow any.
 */
export function chooseCalls(request: ChatRequest, conversation: Conversation): ToolCall[] {
  const tools = (request.tools ?? []).map((tool) => tool.function);
  const choice = request.tool_choice ?? 'auto';
  if (tools.length === 0 || choice === 'none') return [];
  const { question } = conversation;
  if (typeof choice === 'object') {
    const wanted = tools.find((tool) => tool.name === choice.function.name);
    return wanted ? [toCall(wanted, question)] : [];
  }
  const open = dropMade(planCalls(tools, conversation), conversation);
  const [first] = tools;
  if (open.length === 0 && choice === 'required' && first)
    return [toCall(bestTool(tools, question) ?? first, question)];
  // What builds on another call's result waits for it.
  const nextStep = Math.min(...open.map(({ step }) => step));
  const next = open.filter(({ step }) => step === nextStep).map(({ call }) => call);
  return next.slice(0, request.parallel_tool_calls === false ? 1 : MOST_CALLS);
}

interface PlannedCall {
  readonly step: number;
  readonly call: ToolCall;
}

function planCalls(tools: readonly Tool[], { question, toolResults }: Conversation): PlannedCall[] {
  const parts = splitRequest(question);
  const steps: number[] = [];
  const planned = new Map<string, PlannedCall>();
  for (const part of parts.length > 0 ? parts : [{ text: question, after: [] }]) {
    const step = 1 + Math.max(-1, ...part.after.map((index) => steps[index] ?? 0));
    steps.push(step);
    const text = step === 0 ? part.text : insertResult(part.text, toolResults.at(-1)?.result);
    for (const piece of splitSums(text)) {
      const tool = bestTool(tools, piece);
      if (!tool) continue;
      for (const call of callsFor(tool, piece))
        planned.set(`${call.name} ${JSON.stringify(call.arguments)}`, { step, call });
    }
  }
  return [...planned.values()];
}

/** Counts by name and not by arguments, which a person may have edited before the call was made. */
function dropMade(planned: readonly PlannedCall[], { toolResults }: Conversation): PlannedCall[] {
  const made = toolResults.map(({ name }) => name);
  return planned.filter(({ call }) => {
    const index = made.indexOf(call.name);
    if (index >= 0) made.splice(index, 1);
    return index < 0;
  });
}

function insertResult(text: string, result: string | undefined): string {
  const value = result === undefined ? '' : readable(result);
  return value === '' || value.length > 300
    ? text
    : text.replace(/\b(?:the (?:result|answer|outcome)|it|that)\b/i, () => value);
}

/** One call, or one for each place where the tool takes one and the text names several. */
function callsFor(tool: Tool, text: string): ToolCall[] {
  const takesPlace = Object.keys(tool.parameters?.['properties'] ?? {}).some((name) =>
    /city|location|place/i.test(name),
  );
  const name = /\p{Lu}[\p{L}-]*(?: \p{Lu}[\p{L}-]*)*/u.source;
  const several = new RegExp(
    `\\b(?:in|at|for|of) (${name}(?:(?:, (?:and )?| and )(?:in |at |for )?${name})+)`,
    'u',
  ).exec(text);
  if (!takesPlace || !several?.[1]) return [toCall(tool, text)];
  const places = several[1].split(/, (?:and )?| and /).map((place) => place.replace(/^(?:in|at|for) /, ''));
  return places.map((place) => toCall(tool, text.replace(several[0], `in ${place}`)));
}

/** Two sums, or a sum and a question for the time, in one sentence are two calls. */
function splitSums(text: string): string[] {
  const pieces = text.split(/\s+and\s+|\s*[,;]\s+/);
  const isList = pieces.length > 1 && pieces.filter((piece) => extractExpression(piece) !== null).length > 1;
  const asks = pieces.map((piece) => INTENTS.find((intent) => intent.asks(piece)));
  return isList || new Set(asks.filter(Boolean)).size > 1 ? pieces : [text];
}

function bestTool(tools: readonly Tool[], text: string): Tool | null {
  for (const intent of INTENTS) {
    if (!intent.asks(text)) continue;
    const byName = tools.find((tool) => intent.tool.test(tool.name));
    const found = byName ?? tools.find((tool) => intent.tool.test(tool.description ?? ''));
    if (found) return found;
  }
  const words = new Set(contentWords(text).filter((word) => !COMMON.has(word)));
  const scored = tools.map((tool) => {
    const inName = sharedWords(identifierWords(tool.name), words);
    const inDescription = sharedWords(contentWords(tool.description ?? ''), words);
    // A word of the name is telling; of the description's it takes two, or talk about anything would call a tool.
    return { tool, score: inName > 0 || inDescription >= 2 ? inName * 3 + inDescription : 0 };
  });
  const best = scored.toSorted((one, other) => other.score - one.score)[0];
  return best && best.score > 0 ? best.tool : null;
}

function toCall(tool: Tool, text: string): ToolCall {
  const schema = tool.parameters ?? { type: 'object' };
  return { name: tool.name, arguments: fillSchema({ type: 'object', ...schema }, { text, root: schema }) };
}
