import type { JsonObject } from './tool-schema.ts';

/** What the service can do for an agent by itself: the part that users and models see. What it does is in `runner/`. */
export interface BuiltInTool {
  description: string;
  argumentsSchema: JsonObject;
  dangerous: boolean;
  timeoutSeconds: number;
}

const text = (description: string, maxLength: number): JsonObject => ({
  type: 'string',
  description,
  minLength: 1,
  maxLength,
});

/** All built-in tools by name. One more here wants its counterpart in the list that app.ts builds. */
export const builtInTools = {
  current_time: {
    description: 'Tells the current date, time and weekday in a time zone.',
    argumentsSchema: {
      type: 'object',
      properties: { timeZone: text('IANA name of the time zone, such as Europe/Paris. UTC when left out.', 60) },
      additionalProperties: false,
    },
    dangerous: false,
    timeoutSeconds: 5,
  },
  calculate: {
    description:
      'Calculates an arithmetic expression exactly: + - * / ^ % and parentheses, pi and e, and functions such as sqrt, ' +
      'log, sin, round, min, max, factorial.',
    argumentsSchema: {
      type: 'object',
      properties: { expression: text('The expression, such as (12.5 + 7) * 3 ^ 2.', 1_000) },
      required: ['expression'],
      additionalProperties: false,
    },
    dangerous: false,
    timeoutSeconds: 5,
  },
  fetch_page: {
    description: 'Fetches a public web page by its https URL and gives its readable text.',
    argumentsSchema: {
      type: 'object',
      properties: { url: text('The URL of the page, beginning with https://.', 4_000) },
      required: ['url'],
      additionalProperties: false,
    },
    dangerous: false,
    timeoutSeconds: 30,
  },
  search_memory: {
    description:
      'Searches your own memory, by meaning and by words, and gives the pieces that fit best with their places.',
    argumentsSchema: {
      type: 'object',
      properties: {
        query: text('What to look for: a question or words.', 1_000),
        path: text('Only in this document, or in those below this folder.', 1_000),
        first: { type: 'integer', description: 'How many pieces; 10 when left out.', minimum: 1, maximum: 20 },
      },
      required: ['query'],
      additionalProperties: false,
    },
    dangerous: false,
    timeoutSeconds: 15,
  },
  remember: {
    description: 'Keeps a note in your own memory, to be found later.',
    argumentsSchema: {
      type: 'object',
      properties: { text: text('The note, to be understood without what was said around it.', 8_000) },
      required: ['text'],
      additionalProperties: false,
    },
    dangerous: false,
    timeoutSeconds: 15,
  },
  ask_agent: {
    description:
      'Asks another agent of the team a question, and gives its answer. It knows only what the question says.',
    argumentsSchema: {
      type: 'object',
      properties: {
        agent: text('Name of the agent.', 80),
        question: text('The question, with all that is needed to answer it.', 20_000),
      },
      required: ['agent', 'question'],
      additionalProperties: false,
    },
    dangerous: false,
    timeoutSeconds: 600,
  },
} as const satisfies Record<string, BuiltInTool>;

export type BuiltInName = keyof typeof builtInTools;

/** Whether there is a built-in tool of that name. */
export function isBuiltInName(name: string): name is BuiltInName {
  return Object.hasOwn(builtInTools, name);
}
