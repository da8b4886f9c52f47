import { createClient } from 'graphql-sse';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';
import { codeBlocks, readPage } from './pages.ts';

interface Example {
  name: string;
  document: string;
  /** As JSON, with references to earlier answers. */
  variables: string;
  headers: Record<string, string>;
  /** Place in the answer that a worker fills after a while: the operation is asked until it does. */
  until: string | null;
  /** Code of the error that is to come. */
  fails: string | null;
  /** The whole answer, where the page shows it. */
  answer: string | null;
}

/** The operations of the page in their order: each with the variables, and the answer, in the blocks that follow it. */
async function readExamples(path: string): Promise<Example[]> {
  const examples: Example[] = [];
  for (const { lang, meta, value } of codeBlocks(await readPage(path))) {
    const last = examples.at(-1);
    if (lang === 'graphql') {
      const settings = new Map((meta ?? '').split(' ').map((pair) => pair.split('=', 2) as [string, string]));
      const [header = '', content = ''] = settings.get('header')?.split(':', 2) ?? [];
      examples.push({
        name: /\b(?:query|mutation|subscription) (\w+)/.exec(value)?.[1] ?? value,
        document: value,
        variables: '{}',
        headers: header === '' ? {} : { [header]: content },
        until: settings.get('until') ?? null,
        fails: settings.get('fails') ?? null,
        answer: null,
      });
    } else if (lang === 'json' && last !== undefined) {
      last[meta === 'answer' ? 'answer' : 'variables'] = value;
    }
  }
  return examples;
}

function valueAt(whole: unknown, path: string): unknown {
  return path
    .split('.')
    .reduce<unknown>((part, key) => (part as Record<string, unknown> | null | undefined)?.[key], whole);
}

const examples = await readExamples('docs/api.md');

describe('the API guide', () => {
  let service: TestService;
  let alice: TestUser;
  let events: { __typename: string }[];
  let faults: unknown[];
  let stop: () => void;
  /** What each operation answered, by its name. */
  const answers = new Map<string, unknown>();

  beforeAll(async () => {
    service = await startTestService();
    // Something has to run long enough to be stopped.
    service.model.setScript([{ match: 'novel', reply: 'Once upon a time', delayMs: 60_000, times: 10 }]);
    alice = await service.user('alice');
    events = [];
    faults = [];
    stop = () => undefined;
  });
  afterAll(async () => {
    stop();
    await service?.stop();
  });

  /** Puts in what earlier operations answered. @throws Error where one answered nothing of that name */
  const fill = (variables: string): Record<string, unknown> =>
    JSON.parse(variables, (_key, value: unknown) => {
      const reference = typeof value === 'string' ? /^<(\w+): (.+)>$/.exec(value) : null;
      if (reference === null) {
        return value;
      }
      const [, name = '', path = ''] = reference;
      const found = valueAt(answers.get(name), path);
      if (found === undefined) {
        throw new Error(`${name} answered nothing at ${path}`);
      }
      return found;
    }) as Record<string, unknown>;

  const follow = async (query: string, variables: Record<string, unknown>): Promise<void> => {
    const client = createClient({
      url: service.api.url,
      headers: { authorization: `Bearer ${alice.token}` },
      retryAttempts: 0,
    });
    stop = () => client.dispose();
    client.subscribe<{ events: { __typename: string } }>(
      { query, variables },
      {
        next: ({ data, errors }) =>
          void (errors === undefined ? data && events.push(data.events) : faults.push(errors)),
        error: (error) => faults.push(error),
        complete: () => undefined,
      },
    );
    await waitFor('the stream', () => events.length > 0 || faults.length > 0);
  };

  it.each(examples.map((example) => [example.name, example] as const))('%s works as written', async (name, example) => {
    const variables = fill(example.variables);
    if (example.document.startsWith('subscription')) {
      await follow(example.document, variables);
      expect(faults).toEqual([]);
      return;
    }
    const { until } = example;
    const { data, errors } = await waitFor('the answer', async () => {
      const answer = await alice.ask(example.document, variables, example.headers);
      return until === null || valueAt(answer.data, until) !== undefined ? answer : null;
    });
    expect(errors.map(({ extensions }) => extensions['code'])).toEqual(example.fails === null ? [] : [example.fails]);
    if (example.answer !== null) {
      const shown = JSON.parse(example.answer);
      expect({ data, errors }).toMatchObject(shown);
    }
    answers.set(name, data);
  });

  it('tells in its stream how an answer comes about', async () => {
    const kinds = (): string[] => events.map((event) => event.__typename);
    await waitFor('the end of the first task', () => kinds().includes('TaskCompleted'));
    expect(kinds()).toEqual(expect.arrayContaining(['Heartbeat', 'TaskStarted', 'MessageDelta', 'MessageCreated']));
    expect(faults).toEqual([]);
  });

  it('has an example of every query and mutation', async () => {
    const { data } = await alice.ask(
      '{ __schema { queryType { fields { name } } mutationType { fields { name } } subscriptionType { fields { name } } } }',
    );
    const { queryType, mutationType, subscriptionType } = data.__schema;
    const fields: { name: string }[] = [...queryType.fields, ...mutationType.fields, ...subscriptionType.fields];
    const documents = examples.map(({ document }) => document).join('\n');
    expect(fields.map(({ name }) => name).filter((name) => !new RegExp(`\\b${name}\\b`).test(documents))).toEqual([]);
  });
});
