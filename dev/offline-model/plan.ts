import { fillSchema, isObject, propertiesOf, resolveSchema, typeOf } from './json-schema.ts';
import type { JsonSchema } from './protocol.ts';
import { type RequestPart, splitRequest } from './request-parts.ts';
import { contentWords, identifierWords, sharedWords } from './words.ts';

/** How the schema of a plan calls what every plan has. */
interface PlanShape {
  /** The property of the plan that lists the tasks, and that list's schema. */
  readonly list: readonly [name: string, schema: JsonSchema];
  readonly task: JsonSchema;
  readonly agent: readonly [name: string, schema: JsonSchema];
  readonly instruction: string;
  readonly id: readonly [name: string, schema: JsonSchema] | null;
  readonly dependencies: readonly [name: string, schema: JsonSchema] | null;
}

/**
 * Makes a plan when the schema asks for one, that is, for an object with a list of tasks of which each has an agent and
 * an instruction; null otherwise.
 *
 * @param request what is to be done
 * @param briefing the text in which the agents are described, one to a line
 */
export function makePlan(schema: JsonSchema, request: string, briefing: string): unknown {
  const root = resolveSchema(schema, schema);
  const shape = findShape(root, schema);
  if (!shape) return null;
  const parts = joinSurplus(partsOf(request), shape.list[1]);
  const agents = readAgents(shape.agent[1], briefing);
  const tasks = parts.map((part, index) => {
    const filled = fillSchema(shape.task, { text: part.text, root: schema });
    const fixed: [string, unknown][] = [
      [shape.agent[0], pickAgent(agents, part.text) ?? fillSchema(shape.agent[1], { text: part.text, root: schema })],
      [shape.instruction, asInstruction(part, request, parts.length)],
    ];
    if (shape.id) fixed.push([shape.id[0], taskId(shape.id[1], index)]);
    if (shape.dependencies)
      fixed.push([shape.dependencies[0], part.after.map((after) => reference(shape, schema, after))]);
    return { ...(isObject(filled) ? filled : {}), ...Object.fromEntries(fixed) };
  });
  const plan = fillSchema(root, { text: request, root: schema });
  return { ...(isObject(plan) ? plan : {}), [shape.list[0]]: tasks };
}

function findShape(schema: JsonSchema, root: JsonSchema): PlanShape | null {
  for (const list of propertiesOf(schema, root)) {
    if (typeOf(list[1]) !== 'array') continue;
    const task = resolveSchema(list[1]['items'], root);
    const properties = propertiesOf(task, root);
    const find = (pattern: RegExp): (typeof properties)[number] | null =>
      properties.find(([name]) => pattern.test(name)) ?? null;
    const agent = find(/agent|assignee|worker/i);
    const instruction = find(/instruction|prompt/i) ?? find(/^(?:task|goal|input|description|what|title)$/i);
    if (!agent || !instruction) continue;
    const dependencies = find(/depend|parents|after|requires|needs|blockedBy/i);
    return {
      list,
      task,
      agent,
      instruction: instruction[0],
      id: find(/^(?:(?:task)?_?id|key|ref)$/i),
      dependencies,
    };
  }
  return null;
}

function partsOf(request: string): RequestPart[] {
  const parts = splitRequest(request);
  return parts.length > 0 ? parts : [{ text: request, after: [] }];
}

/** Puts the parts that are more than the list may hold into its last one. */
function joinSurplus(parts: readonly RequestPart[], list: JsonSchema): RequestPart[] {
  const most = typeof list['maxItems'] === 'number' ? Math.max(1, list['maxItems']) : 12;
  if (parts.length <= most) return [...parts];
  const kept = parts.slice(0, most - 1);
  const joined = parts.slice(most - 1);
  const after = new Set(joined.flatMap((part) => part.after).filter((index) => index < kept.length));
  return [...kept, { text: joined.map((part) => part.text).join('. '), after: [...after] }];
}

interface Agent {
  /** What the plan calls it by. */
  readonly value: string;
  readonly words: ReadonlySet<string>;
  readonly isGeneral: boolean;
}

function readAgents(schema: JsonSchema, briefing: string): Agent[] {
  const lines = briefing.split('\n').filter((line) => line.trim() !== '');
  const options = Array.isArray(schema['enum']) ? schema['enum'].map(String) : findNames(briefing);
  return options.map((value) => {
    const text = lines.filter((line) => line.includes(value)).join(' ');
    const words = new Set([...contentWords(text), ...identifierWords(value)]);
    return { value, words, isGeneral: /\b(?:general|assistant|anything|everyday)\b/i.test(`${value} ${text}`) };
  });
}

/** Names in lines such as `- Researcher: finds sources` or in JSON as `"name": "Researcher"`. */
function findNames(briefing: string): string[] {
  const patterns = [
    /"name"\s*:\s*"([^"]+)"/g,
    /^\s*[-*•]\s*\**([^:(\n—–]{1,60}?)\**\s*(?:\([^)\n]*\)\s*)?(?::|—|–|\s-\s)/gm,
  ];
  for (const pattern of patterns) {
    const names = [...briefing.matchAll(pattern)].flatMap((found) => found[1]?.trim() ?? []);
    if (names.length > 0) return [...new Set(names)];
  }
  return [];
}

/** The agent that shares most words with the part, a word counting the more the fewer agents have it. */
function pickAgent(agents: readonly Agent[], text: string): string | null {
  const words = new Set(contentWords(text));
  const scores = agents.map((agent) => {
    let score = 0;
    for (const word of agent.words) {
      if (words.has(word)) score += 1 / agents.filter((other) => other.words.has(word)).length;
    }
    return score + sharedWords(identifierWords(agent.value), words);
  });
  const best = Math.max(0, ...scores);
  if (best > 0) return agents[scores.indexOf(best)]?.value ?? null;
  return (agents.find((agent) => agent.isGeneral) ?? agents[0])?.value ?? null;
}

function asInstruction(part: RequestPart, request: string, count: number): string {
  const text = part.text.charAt(0).toUpperCase() + part.text.slice(1);
  return count === 1 || text === request ? request : text;
}

function taskId(schema: JsonSchema, index: number): unknown {
  return typeOf(schema) === 'integer' || typeOf(schema) === 'number' ? index + 1 : `t${index + 1}`;
}

/** How a task names another: by its id, or by its position where tasks have none. */
function reference(shape: PlanShape, root: JsonSchema, index: number): unknown {
  const item = resolveSchema(shape.dependencies?.[1]['items'], root);
  const isNumber = ['integer', 'number'].includes(typeOf(item) ?? '');
  const idIsNumber = shape.id !== null && typeof taskId(shape.id[1], 0) === 'number';
  if (isNumber) return idIsNumber ? index + 1 : index;
  return shape.id ? String(taskId(shape.id[1], index)) : String(index);
}
