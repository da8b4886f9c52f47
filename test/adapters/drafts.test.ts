import { Redis } from 'ioredis';
import { v7 as uuidv7 } from 'uuid';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it, vi } from 'vitest';
import { createDrafts, createProcessDrafts, type Drafts } from '../../src/adapters/drafts.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { type Delta, publishDelta, readDrafts } from '../../src/outbox.ts';
import { waitFor } from '../service.ts';

let redis: Redis;
let owner: string;

beforeAll(async () => {
  redis = new Redis(inject('redisUrl') ?? '');
  await waitFor('Redis', () => redis.status === 'ready');
});
afterAll(() => redis?.disconnect());
beforeEach(() => {
  owner = uuidv7();
});

const noWarning = (reason: string, what: string): void => {
  throw new Error(`${what}: ${reason}`);
};
const about = { taskId: 'a task' };
const first = (piece: string) => ({ name: 'answer', about, piece, first: true });
const later = (piece: string) => ({ name: 'answer', about, piece, first: false });

describe.each<[string, () => Drafts]>([
  ['in Redis', () => createDrafts(redis, noWarning)],
  ['of a process alone', createProcessDrafts],
])('a draft %s', (_place, create) => {
  it('is read with its pieces as they came', async () => {
    const drafts = create();
    drafts.add(owner, first('one'));
    drafts.add(owner, later('two'));
    expect(await drafts.read(owner)).toEqual([{ name: 'answer', about, pieces: ['one', 'two'] }]);
  });

  it('begins anew with its first piece', async () => {
    const drafts = create();
    drafts.add(owner, first('one'));
    drafts.add(owner, later('two'));
    drafts.add(owner, first('three'));
    expect(await drafts.read(owner)).toEqual([{ name: 'answer', about, pieces: ['three'] }]);
  });

  it.each([
    ['was never heard of', async () => undefined],
    [
      'was forgotten',
      async (drafts: Drafts) => {
        drafts.add(owner, first('one'));
        drafts.forget(owner, 'answer');
      },
    ],
  ])('is not begun by a later piece when the first %s', async (_case, before) => {
    const drafts = create();
    await before(drafts);
    drafts.add(owner, later('two'));
    expect(await drafts.read(owner)).toEqual([]);
  });
});

describe('a draft in Redis', () => {
  const keys = () => redis.keys(`user:${owner}:*`);
  afterEach(() => vi.restoreAllMocks());

  it('does not come back for ever by a piece that is written behind its time', async () => {
    const drafts = createDrafts(redis, noWarning);
    drafts.add(owner, first('one'));
    await Promise.all((await keys()).map((key) => redis.pexpire(key, 1)));
    await waitFor('the end of its time', async () => (await keys()).length === 0);
    drafts.add(owner, later('two'));
    expect(await drafts.read(owner)).toEqual([]);
    expect(await keys()).toEqual([]);
  });

  it('leaves nothing in Redis that has no end of its time', async () => {
    const drafts = createDrafts(redis, noWarning);
    drafts.add(owner, first('one'));
    drafts.add(owner, later('two'));
    const lives = await Promise.all((await keys()).map((key) => redis.pttl(key)));
    expect(lives).toHaveLength(2);
    expect(Math.min(...lives)).toBeGreaterThan(0);
  });

  it('costs one command for each piece behind the first', async () => {
    const drafts = createDrafts(redis, noWarning);
    drafts.add(owner, first('one'));
    const sent = vi.spyOn(redis, 'sendCommand');
    drafts.add(owner, later('two'));
    drafts.add(owner, later('three'));
    expect(sent.mock.calls.map(([{ name }]) => name)).toEqual(['rpushx', 'rpushx']);
  });
});

describe('the answers in the making', () => {
  const piece = (given: Partial<Delta>): Delta => ({
    sessionId: 'session',
    messageId: 'message',
    taskId: 'task',
    attempt: 1,
    step: 1,
    offset: 0,
    text: '',
    ...given,
  });

  it('do not mix the text of one writing with pieces of the next whose beginning was lost', async () => {
    const channel = createChannel({ url: null, log: createLog({ level: 'silent' }) });
    publishDelta(channel, owner, piece({ text: 'Let me look. ' }));
    publishDelta(channel, owner, piece({ step: 3, offset: 4, text: 'here it is' }));
    expect(await readDrafts(channel, owner)).toEqual([]);
    await channel.close();
  });

  it('are put together from pieces of the same writing', async () => {
    const channel = createChannel({ url: null, log: createLog({ level: 'silent' }) });
    publishDelta(channel, owner, piece({ text: 'Here ' }));
    publishDelta(channel, owner, piece({ offset: 5, text: 'it is.' }));
    expect(await readDrafts(channel, owner)).toEqual([piece({ text: 'Here it is.' })]);
    await channel.close();
  });
});
