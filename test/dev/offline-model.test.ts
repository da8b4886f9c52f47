import { createServer } from 'node:net';
import OpenAI, {
  APIConnectionError,
  APIError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  NotFoundError,
  RateLimitError,
} from 'openai';
import type {
  ChatCompletion,
  ChatCompletionCreateParamsNonStreaming,
  ChatCompletionFunctionTool,
  ChatCompletionMessageParam,
} from 'openai/resources/chat/completions';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { listen } from '../../dev/listen.ts';
import { type OfflineModel, startOfflineModel } from '../../dev/offline-model/server.ts';
import { waitUntil } from '../../dev/process.ts';

let model: OfflineModel;
let client: OpenAI;

beforeAll(async () => {
  model = await startOfflineModel();
  client = new OpenAI({ baseURL: model.url, apiKey: model.apiKey, maxRetries: 0, timeout: 10_000 });
});
afterEach(() => model.reset());
afterAll(() => model.stop());

const user = (content: string): ChatCompletionMessageParam => ({ role: 'user', content });
const system = (content: string): ChatCompletionMessageParam => ({ role: 'system', content });
const assistant = (content: string): ChatCompletionMessageParam => ({ role: 'assistant', content });

async function chat(
  messages: ChatCompletionMessageParam[],
  options: Partial<ChatCompletionCreateParamsNonStreaming> = {},
): Promise<ChatCompletion.Choice & { usage: ChatCompletion['usage']; model: string }> {
  const completion = await client.chat.completions.create({ model: 'any', messages, ...options });
  const [choice] = completion.choices;
  if (!choice) throw new Error('The answer has no choice.');
  return { ...choice, usage: completion.usage, model: completion.model };
}

async function say(...messages: ChatCompletionMessageParam[]): Promise<string> {
  return (await chat(messages)).message.content ?? '';
}

function tool(name: string, description: string, properties: Record<string, unknown>): ChatCompletionFunctionTool {
  const parameters = { type: 'object', properties, required: Object.keys(properties), additionalProperties: false };
  return { type: 'function', function: { name, description, parameters } };
}

const TOOLS = [
  tool('search_memory', 'Searches what the agent remembers of the user.', { query: { type: 'string' } }),
  tool('remember', 'Stores a fact for later.', { text: { type: 'string' } }),
  tool('current_time', 'Tells the current date and time.', {}),
  tool('calculate', 'Evaluates an arithmetic expression.', { expression: { type: 'string' } }),
  tool('fetch_page', 'Fetches a web page.', { url: { type: 'string', format: 'uri' } }),
  tool('ask_agent', 'Asks another agent.', {
    agent: { type: 'string', enum: ['Researcher', 'Writer'] },
    question: { type: 'string' },
  }),
  tool('get_weather', 'The weather of a city.', { city: { type: 'string' } }),
];

function callsOf(choice: ChatCompletion.Choice): [name: string, argumentsValue: unknown][] {
  return (choice.message.tool_calls ?? []).map((call) => {
    if (call.type !== 'function') throw new Error('Not a function call.');
    return [call.function.name, JSON.parse(call.function.arguments)];
  });
}

describe('answers', () => {
  it('says which model it is, whatever name was asked for', async () => {
    const choice = await chat([system('You are Ada, a careful librarian.'), user('Who are you?')]);
    expect(choice.model).toBe('offline-1');
    expect(choice.message.content).toMatch(/Ada, a careful librarian.*rule-based offline model/);
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(['offline-1', 'offline-embedding-1']);
  });

  it('quotes the passages that share most with the question, with their marks', async () => {
    const passages = '[1] The Aare flows through Bern. It is 288 km long.\n\n[2] Zurich lies at a lake.';
    const answer = await say(system(`You are Ada.\n\nContext:\n${passages}`), user('How long is the Aare?'));
    expect(answer).toContain('“It is 288 km long.” [1]');
    expect(answer).not.toContain('Zurich');
    expect(answer).toMatch(/^Ada here\./);
  });

  it('remembers what it was told earlier in the conversation', async () => {
    const told = [user('My name is Grace. I live in Bern.'), assistant('Noted.')];
    expect(await say(...told, user('What is my name?'))).toContain('My name is Grace.');
    expect(await say(...told, user('Where do I live?'))).toContain('I live in Bern.');
  });

  it('admits that it has nothing to go on', async () => {
    expect(await say(user('What is the capital of Peru?'))).toMatch(/not a real one.*found nothing/);
  });

  it('puts results together and names what failed', async () => {
    const request =
      'Request: Compare cats and dogs\n\nResults:\n- Cats sleep a lot.\n- The part about dogs failed: timeout.';
    const answer = await say(user(request));
    expect(answer).toContain('Cats sleep a lot.');
    expect(answer).toContain('The part about dogs failed: timeout.');
  });

  it('answers equal requests equally', async () => {
    const messages = [system('You are Ada.'), user('Tell me about tea')];
    expect(await say(...messages)).toBe(await say(...messages));
  });

  it('counts tokens and stops at the limit', async () => {
    const whole = await chat([user('Who are you?')]);
    expect(whole.finish_reason).toBe('stop');
    const cut = await chat([user('Who are you?')], { max_tokens: 4 });
    expect(cut.finish_reason).toBe('length');
    expect(cut.usage).toMatchObject({ completion_tokens: 4 });
    expect(whole.message.content?.startsWith(cut.message.content ?? '-')).toBe(true);
    const stopped = await chat([user('Who are you?')], { stop: ['model'] });
    expect(stopped.message.content).toMatch(/offline $/);
  });
});

describe('streams', () => {
  it('sends the same text in pieces, then the reason, then the usage', async () => {
    const messages = [user('Who are you?')];
    const stream = await client.chat.completions.create({
      model: 'any',
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = await Array.fromAsync(stream);
    const pieces = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '');
    expect(pieces.filter((piece) => piece !== '').length).toBeGreaterThan(10);
    expect(pieces.join('')).toBe(await say(...messages));
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('stop');
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: (await chat(messages)).usage });
  });

  it('sends tool calls in pieces that the client can put together', async () => {
    const stream = client.chat.completions.stream({
      model: 'any',
      messages: [user('What is 2+2 and 3*7?')],
      tools: TOOLS,
    });
    const choice = (await stream.finalChatCompletion()).choices[0];
    expect(choice?.finish_reason).toBe('tool_calls');
    expect(choice && callsOf(choice)).toEqual([
      ['calculate', { expression: '2+2' }],
      ['calculate', { expression: '3*7' }],
    ]);
  });
});

describe('tools', () => {
  it.each<[question: string, calls: [string, unknown][]]>([
    ['What is 12 * (3 + 4)?', [['calculate', { expression: '12 * (3 + 4)' }]]],
    ['How much is 15% of 80?', [['calculate', { expression: '15 / 100 * 80' }]]],
    ['What time is it?', [['current_time', {}]]],
    ['Remember that I like green tea', [['remember', { text: 'I like green tea' }]]],
    ['Search my memory for green tea', [['search_memory', { query: 'green tea' }]]],
    ['Please read https://example.com/a.html.', [['fetch_page', { url: 'https://example.com/a.html' }]]],
    ['Ask Writer to polish the text', [['ask_agent', { agent: 'Writer', question: 'polish the text' }]]],
    [
      'Weather in Bern and in Paris?',
      [
        ['get_weather', { city: 'Bern' }],
        ['get_weather', { city: 'Paris' }],
      ],
    ],
    [
      'What time is it and what is 2 + 2?',
      [
        ['current_time', {}],
        ['calculate', { expression: '2 + 2' }],
      ],
    ],
    ['I like walking', []],
  ])('%s', async (question, calls) => {
    expect(callsOf(await chat([user(question)], { tools: TOOLS }))).toEqual(calls);
  });

  it('answers with the results, after calling what builds on another result', async () => {
    const messages = [user('Calculate 5 times 6, then remember the result')];
    const first = await chat(messages, { tools: TOOLS });
    expect(callsOf(first)).toEqual([['calculate', { expression: '5 * 6' }]]);
    messages.push(first.message, {
      role: 'tool',
      tool_call_id: first.message.tool_calls?.[0]?.id ?? '',
      content: '{"result":30}',
    });
    const second = await chat(messages, { tools: TOOLS });
    expect(callsOf(second)).toEqual([['remember', { text: '30' }]]);
    messages.push(second.message, {
      role: 'tool',
      tool_call_id: second.message.tool_calls?.[0]?.id ?? '',
      content: 'The user declined.',
    });
    const last = await chat(messages, { tools: TOOLS });
    expect(last.finish_reason).toBe('stop');
    expect(last.message.content).toMatch(/30[\s\S]*declined/);
  });

  it('obeys the choice of tools', async () => {
    const question = [user('What is 2+2 and 3*7?')];
    expect(callsOf(await chat(question, { tools: TOOLS, tool_choice: 'none' }))).toEqual([]);
    expect(callsOf(await chat(question, { tools: TOOLS, parallel_tool_calls: false }))).toHaveLength(1);
    expect(callsOf(await chat([user('Hm.')], { tools: TOOLS, tool_choice: 'required' }))).toHaveLength(1);
    const forced = { type: 'function', function: { name: 'get_weather' } } as const;
    expect(callsOf(await chat([user('And in Rome?')], { tools: TOOLS, tool_choice: forced }))).toEqual([
      ['get_weather', { city: 'Rome' }],
    ]);
  });
});

async function answerAs(schema: Record<string, unknown>, ...messages: ChatCompletionMessageParam[]): Promise<unknown> {
  const format = { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema } } as const;
  return JSON.parse((await chat(messages, { response_format: format })).message.content ?? '');
}

describe('answers by schema', () => {
  const team = system(
    'Plan the work.\n- Researcher: collects facts and sources.\n- Writer: drafts texts.\n- Analyst: compares and judges.',
  );
  const planSchema = (task: Record<string, unknown>, list: Record<string, unknown> = {}): Record<string, unknown> => ({
    type: 'object',
    properties: {
      tasks: { type: 'array', ...list, items: { type: 'object', properties: task, required: Object.keys(task) } },
    },
    required: ['tasks'],
  });
  const fullTask = {
    id: { type: 'string' },
    agent: { type: 'string', enum: ['Researcher', 'Writer', 'Analyst'] },
    instruction: { type: 'string' },
    dependsOn: { type: 'array', items: { type: 'string' } },
  };

  it('plans: parts beside each other are independent, and "then" waits for them', async () => {
    const request = user('Research the history of tea and collect prices, then compare them, then write a summary.');
    expect(await answerAs(planSchema(fullTask), team, request)).toEqual({
      tasks: [
        { id: 't1', agent: 'Researcher', instruction: 'Research the history of tea', dependsOn: [] },
        { id: 't2', agent: 'Researcher', instruction: 'Collect prices', dependsOn: [] },
        { id: 't3', agent: 'Analyst', instruction: 'Compare them', dependsOn: ['t1', 't2'] },
        { id: 't4', agent: 'Writer', instruction: 'Write a summary', dependsOn: ['t3'] },
      ],
    });
  });

  it('plans with agents described in words only and with dependencies by position', async () => {
    const task = {
      agentName: { type: 'string' },
      prompt: { type: 'string' },
      dependencies: { type: 'array', items: { type: 'integer' } },
    };
    expect(
      await answerAs(planSchema(task), team, user('Request: Draft a mail. Then compare it with the old one.')),
    ).toEqual({
      tasks: [
        { agentName: 'Writer', prompt: 'Draft a mail', dependencies: [] },
        { agentName: 'Analyst', prompt: 'Compare it with the old one', dependencies: [0] },
      ],
    });
  });

  it('plans one task for a simple question and no more than allowed', async () => {
    const simple = user('What is the capital of France?');
    expect(await answerAs(planSchema(fullTask), team, simple)).toMatchObject({
      tasks: [{ instruction: simple.content }],
    });
    const long = user('Find tea. Find milk. Find sugar. Find cups. Find spoons.');
    const plan = (await answerAs(planSchema(fullTask, { maxItems: 3 }), team, long)) as { tasks: unknown[] };
    expect(plan.tasks).toHaveLength(3);
  });

  it('fills any other schema: enums, numbers, lists, limits and references', async () => {
    const schema = {
      type: 'object',
      properties: {
        title: { type: 'string', maxLength: 12 },
        colour: { enum: ['red', 'blue'] },
        order: { type: 'integer', maximum: 10 },
        tags: { type: 'array', items: { type: 'string' }, maxItems: 2 },
        contact: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/contact' }] },
        note: { type: 'string' },
      },
      required: ['title', 'colour', 'order', 'tags', 'contact'],
      $defs: { contact: { type: 'object', properties: { email: { type: 'string' } }, required: ['email'] } },
    };
    expect(await answerAs(schema, user('My order 12, a blue shirt, is late, says ada@example.org'))).toMatchObject({
      title: 'My order 12,',
      colour: 'blue',
      order: 10,
      tags: ['My order 12', 'a blue shirt'],
      contact: { email: 'ada@example.org' },
    });
  });

  it('answers in JSON where only that is asked', async () => {
    const choice = await chat([user('Who are you?')], { response_format: { type: 'json_object' } });
    expect(JSON.parse(choice.message.content ?? '')).toEqual({ answer: expect.stringContaining('offline model') });
  });
});

describe('embeddings', () => {
  const texts = ['The cat sat on the mat', 'A cat sits on a mat', 'Interest rates rose in spring'];

  it('places similar texts closer than different ones, all at length 1', async () => {
    const { data, usage } = await client.embeddings.create({ model: 'any', input: texts });
    const [cat = [], sitting = [], rates = []] = data.map(({ embedding }) => embedding);
    const product = (one: number[], other: number[]): number =>
      one.reduce((sum, value, index) => sum + value * (other[index] ?? 0), 0);
    expect(cat).toHaveLength(256);
    expect(product(cat, cat)).toBeCloseTo(1, 5);
    expect(product(cat, sitting)).toBeGreaterThan(product(cat, rates) + 0.3);
    expect(usage.prompt_tokens).toBeGreaterThan(10);
  });

  it('honours the dimensions and both encodings', async () => {
    const asFloats = { model: 'any', input: 'green tea', dimensions: 64, encoding_format: 'float' } as const;
    const floats = (await client.embeddings.create(asFloats)).data[0]?.embedding ?? [];
    // Without a format the client asks for base64 and decodes it.
    const decoded = (await client.embeddings.create({ model: 'any', input: 'green tea', dimensions: 64 })).data[0];
    expect(model.recentRequests().at(-1)?.body).toMatchObject({ encoding_format: 'base64' });
    expect(floats).toHaveLength(64);
    expect(decoded?.embedding.map((value) => value.toFixed(5))).toEqual(floats.map((value) => value.toFixed(5)));
  });
});

describe('errors', () => {
  it('refuses a wrong key, an unknown path, bad JSON and a request without messages', async () => {
    const stranger = new OpenAI({ baseURL: model.url, apiKey: 'wrong', maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toThrow(AuthenticationError);
    await expect(client.get('/nothing')).rejects.toThrow(NotFoundError);
    await expect(chat([])).rejects.toThrow(BadRequestError);
    const response = await fetch(`${model.url}/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${model.apiKey}` },
      body: '{',
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error' } });
  });

  it('fails as often as told, and only what it is told to', async () => {
    model.setBehaviour({ failNext: { status: 503, count: 2, model: 'weak' } });
    await expect(chat([user('Hi')], { model: 'weak' })).rejects.toThrow(InternalServerError);
    await expect(chat([user('Hi')], { model: 'strong' })).resolves.toBeDefined();
    await expect(chat([user('Hi')], { model: 'weak' })).rejects.toThrow(/told to fail with 503/);
    await expect(chat([user('Hi')], { model: 'weak' })).resolves.toBeDefined();
  });

  it('limits the rate and says when to come again', async () => {
    model.setBehaviour({ rateLimit: { requestsPerMinute: 2 } });
    await say(user('Hi'));
    await say(user('Hi'));
    const refusal: unknown = await chat([user('Hi')]).catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(RateLimitError);
    const seconds = Number(refusal instanceof APIError ? refusal.headers?.get('retry-after') : Number.NaN);
    expect(seconds).toBeGreaterThan(50);
    expect(seconds).toBeLessThanOrEqual(60);
  });

  it('breaks a stream off where told', async () => {
    model.setBehaviour({ cutAfterTokens: 3 });
    const stream = await client.chat.completions.create({
      model: 'any',
      messages: [user('Who are you?')],
      stream: true,
    });
    const received: string[] = [];
    const read = async (): Promise<void> => {
      for await (const chunk of stream) received.push(chunk.choices[0]?.delta.content ?? '');
    };
    await expect(read()).rejects.toThrow();
    expect(received.join('')).toBe('I am a');
    expect(model.recentRequests().at(-1)?.outcome).toBe('cut');
  });

  it('notices that the client went away, in a stream and before one', async () => {
    const aborted = model.requests().aborted;
    model.setBehaviour({ tokenDelayMs: 50 });
    const stream = await client.chat.completions.create({
      model: 'any',
      messages: [user('Who are you?')],
      stream: true,
    });
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
    expect(await waitUntil(() => model.requests().aborted === aborted + 1, 5_000, 10)).toBe(true);

    model.setBehaviour({ hang: true });
    const controller = new AbortController();
    const hanging = client.chat.completions.create(
      { model: 'any', messages: [user('Hi')] },
      { signal: controller.signal },
    );
    await waitUntil(() => model.requests().active === 1, 5_000, 10);
    controller.abort();
    await expect(hanging).rejects.toThrow();
    expect(await waitUntil(() => model.requests().aborted === aborted + 2, 5_000, 10)).toBe(true);
    expect(model.requests().active).toBe(0);
  });

  it('ends what is under way when it is stopped', async () => {
    const other = await startOfflineModel({ apiKey: 'given' });
    other.setBehaviour({ hang: true });
    const impatient = new OpenAI({ baseURL: other.url, apiKey: 'given', maxRetries: 0 });
    const hanging = impatient.chat.completions.create({ model: 'any', messages: [user('Hi')] });
    const failure = expect(hanging).rejects.toThrow(APIConnectionError);
    await waitUntil(() => other.requests().active === 1, 5_000, 10);
    await other.stop();
    await failure;
  });

  it('says when its port is taken', async () => {
    const squatter = createServer();
    const { port } = await listen(squatter);
    await expect(startOfflineModel({ port })).rejects.toThrow(/EADDRINUSE/);
    squatter.close();
  });
});

describe('scripts', () => {
  it('answer in the order given, each entry once unless told otherwise, then the rules again', async () => {
    model.setScript([
      { match: 'weather', reply: [{ name: 'get_weather', arguments: { city: 'Oslo' } }] },
      { match: 'weather', reply: 'It rains.', times: 2 },
      { match: '', matchSystem: 'planner', reply: 'A plan.' },
      { match: 'broken', status: 429, retryAfterSeconds: 7 },
    ]);
    const question = user('How is the weather?');
    expect(callsOf(await chat([question]))).toEqual([['get_weather', { city: 'Oslo' }]]);
    expect([await say(question), await say(question)]).toEqual(['It rains.', 'It rains.']);
    expect(await say(question)).toMatch(/offline model/);
    expect(await say(system('You are the planner.'), user('Anything'))).toBe('A plan.');
    const refusal: unknown = await chat([user('broken')]).catch((error: unknown) => error);
    expect(refusal instanceof APIError && refusal.headers?.get('retry-after')).toBe('7');
  });

  it('can be given and looked at over the wire', async () => {
    const admin = new URL('/admin/', model.url).href;
    const headers = { authorization: `Bearer ${model.apiKey}` };
    const post = (path: string, body: unknown): Promise<Response> =>
      fetch(admin + path, { method: 'POST', headers, body: JSON.stringify(body) });
    expect((await post('script', [{ match: 'ping', reply: 'pong' }])).status).toBe(200);
    expect(await say(user('ping'))).toBe('pong');
    expect((await post('behaviour', { failNext: { status: 500, count: 1 } })).status).toBe(200);
    expect((await post('behaviour', { unknown: true })).status).toBe(400);
    await fetch(`${admin}behaviour`, { method: 'DELETE', headers });
    await expect(say(user('Hi'))).resolves.toBeDefined();
    const listed = (await (await fetch(`${admin}requests`, { headers })).json()) as {
      counters: unknown;
      requests: { path: string; outcome: string; body: unknown }[];
    };
    expect(listed.counters).toEqual(model.requests());
    expect(listed.requests.at(-1)).toMatchObject({
      path: '/chat/completions',
      outcome: 'answered',
      body: { messages: [{ role: 'user', content: 'Hi' }] },
    });
  });

  it('are for those who have the key', async () => {
    const response = await fetch(new URL('/admin/requests', model.url));
    expect(response.status).toBe(401);
  });
});
