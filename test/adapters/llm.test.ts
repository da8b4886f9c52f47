import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type OfflineModel, startOfflineModel } from '../../dev/offline-model/server.ts';
import { type ChatRequest, createLanguageModel, type LanguageModel } from '../../src/adapters/llm.ts';
import { DomainError } from '../../src/errors.ts';

let server: OfflineModel;

beforeAll(async () => {
  server = await startOfflineModel();
});
afterEach(() => server.reset());
afterAll(() => server.stop());

function connect(settings: Partial<Parameters<typeof createLanguageModel>[0]> = {}): LanguageModel {
  return createLanguageModel({
    baseUrl: server.url,
    apiKey: server.apiKey,
    defaultModel: 'offline-1',
    defaultEmbeddingModel: 'offline-embedding-1',
    connectTimeout: 2_000,
    idleTimeout: 2_000,
    ...settings,
  });
}

function ask(
  model: LanguageModel,
  onText: (text: string) => void = () => undefined,
  signal?: AbortSignal,
  more: Partial<ChatRequest> = {},
) {
  return model.chat(
    {
      model: null,
      temperature: null,
      messages: [{ role: 'user', content: 'Say something.' }],
      signal: signal ?? new AbortController().signal,
      ...more,
    },
    onText,
  );
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => null,
    (error: unknown) => error,
  );
}

describe('the language model', () => {
  it('hands out the answer piece by piece, with what it cost', async () => {
    server.setScript([{ match: '', reply: 'One two three.' }]);
    const pieces: string[] = [];
    const answer = await ask(connect(), (text) => pieces.push(text));
    expect(answer).toMatchObject({ content: 'One two three.', model: 'offline-1' });
    expect(pieces.join('')).toBe('One two three.');
    expect(answer.promptTokens).toBeGreaterThan(0);
    expect(answer.completionTokens).toBeGreaterThan(0);
  });

  it.each([
    [
      'asks it to wait',
      { failNext: { status: 429, count: 1, retryAfterSeconds: 7 } },
      { code: 'MODEL_RATE_LIMITED', retryAfter: 7 },
    ],
    ['has a fault', { failNext: { status: 503, count: 1 } }, { code: 'MODEL_UNAVAILABLE' }],
    ['rejects what it was asked', { failNext: { status: 400, count: 1 } }, { code: 'MODEL_REFUSED' }],
    ['never answers', { hang: true }, { code: 'MODEL_UNAVAILABLE' }],
    ['breaks off in the middle', { cutAfterTokens: 1 }, { code: 'MODEL_UNAVAILABLE' }],
    ['falls silent in the middle', { tokenDelayMs: 60_000 }, { code: 'MODEL_UNAVAILABLE' }],
  ])('says with a code what went wrong when the provider %s', async (_case, behaviour, expected) => {
    server.setBehaviour(behaviour);
    const failure = await failureOf(ask(connect({ connectTimeout: 1_000, idleTimeout: 1_000 })));
    expect(failure).toBeInstanceOf(DomainError);
    expect(failure).toMatchObject(expected);
  });

  it.each([
    ['a wrong key', { apiKey: 'wrong' }, 'MODEL_REFUSED'],
    ['an address where nobody listens', { baseUrl: 'http://127.0.0.1:9/v1' }, 'MODEL_UNAVAILABLE'],
  ])('says with a code that it has %s', async (_case, settings, code) => {
    expect(await failureOf(ask(connect(settings)))).toMatchObject({ code });
  });

  it('asks once: retries belong to the task engine', async () => {
    server.setBehaviour({ failNext: { status: 500, count: 5 } });
    const before = server.requests().failed;
    await failureOf(ask(connect()));
    expect(server.requests().failed - before).toBe(1);
  });

  it('gathers the calls of tools that come in pieces, several in one answer', async () => {
    const calls = [
      { name: 'add', arguments: { left: 1, right: 2 } },
      { name: 'now', arguments: {} },
    ];
    server.setScript([{ match: '', reply: calls }]);
    const answer = await ask(connect(), undefined, undefined, {
      tools: [
        { name: 'add', description: 'Adds.', argumentsSchema: { type: 'object' } },
        { name: 'now', description: 'Tells the time.', argumentsSchema: { type: 'object' } },
      ],
    });
    expect(answer.toolCalls.map((call) => ({ name: call.name, arguments: JSON.parse(call.arguments) }))).toEqual(calls);
    expect(new Set(answer.toolCalls.map(({ id }) => id)).size).toBe(2);
  });

  it('tells the model what its calls gave', async () => {
    const answer = await ask(connect(), undefined, undefined, {
      messages: [
        { role: 'user', content: 'How much is 1 + 2?' },
        { role: 'assistant', content: '', toolCalls: [{ id: 'one', name: 'add', arguments: '{"left":1,"right":2}' }] },
        { role: 'tool', callId: 'one', content: 'The sum is three hundred.' },
      ],
    });
    expect(answer.content).toContain('three hundred');
  });

  it('answers by a schema where one is asked for', async () => {
    const schema = { type: 'object', properties: { title: { type: 'string' } }, required: ['title'] };
    const answer = await ask(connect(), undefined, undefined, { answerSchema: { name: 'titled', schema } });
    expect(JSON.parse(answer.content)).toEqual({ title: expect.any(String) });
  });

  it('turns texts into vectors, in the order of the texts', async () => {
    const model = connect();
    const embed = (texts: string[]) => model.embed({ model: null, texts, signal: new AbortController().signal });
    const { vectors, promptTokens } = await embed(['a cat', 'a dog']);
    expect(vectors).toEqual([(await embed(['a cat'])).vectors[0], (await embed(['a dog'])).vectors[0]]);
    expect(vectors[0]).not.toEqual(vectors[1]);
    expect(promptTokens).toBeGreaterThan(0);
  });

  it('says with a code that embeddings failed', async () => {
    server.setBehaviour({ failNext: { status: 429, count: 1, retryAfterSeconds: 3 } });
    const failure = await failureOf(
      connect().embed({ model: null, texts: ['a cat'], signal: new AbortController().signal }),
    );
    expect(failure).toMatchObject({ code: 'MODEL_RATE_LIMITED', retryAfter: 3 });
  });

  it('ends the call with the reason of the signal, also at the provider', async () => {
    server.setBehaviour({ tokenDelayMs: 50 });
    const before = server.requests().aborted;
    const controller = new AbortController();
    const reason = new Error('cancelled by the test');
    const failure = await failureOf(ask(connect(), () => controller.abort(reason), controller.signal));
    expect(failure).toBe(reason);
    await expect.poll(() => server.requests().aborted - before).toBe(1);
  });
});
