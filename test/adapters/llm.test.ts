import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type OfflineModel, startOfflineModel } from '../../dev/offline-model/server.ts';
import { createLanguageModel, type LanguageModel } from '../../src/adapters/llm.ts';
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
    connectTimeout: 2_000,
    idleTimeout: 2_000,
    ...settings,
  });
}

function ask(model: LanguageModel, onText: (text: string) => void = () => undefined, signal?: AbortSignal) {
  return model.chat(
    {
      model: null,
      temperature: null,
      messages: [{ role: 'user', content: 'Say something.' }],
      signal: signal ?? new AbortController().signal,
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
    const failure = await failureOf(ask(connect({ connectTimeout: 300, idleTimeout: 300 })));
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
