import { connect, createServer, type Socket } from 'node:net';
import { v7 as uuidv7 } from 'uuid';
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest';
import { listen } from '../../dev/listen.ts';
import { createLog } from '../../src/adapters/log.ts';
import { type Channel, createChannel } from '../../src/adapters/redis.ts';
import { waitFor } from '../service.ts';

const log = createLog({ level: 'silent' });
const redisUrl = new URL(inject('redisUrl') ?? 'redis://missing');
let undo: AsyncDisposableStack;
let topic: string;

beforeEach(() => {
  undo = new AsyncDisposableStack();
  topic = `test:${uuidv7()}`;
});
afterEach(() => undo.disposeAsync());

async function open(url: string | null): Promise<Channel> {
  const channel = createChannel({ url, log });
  undo.defer(() => channel.close());
  await waitFor('the channel', () => channel.status() !== 'disconnected');
  return channel;
}

describe.each([
  ['over Redis', redisUrl.href],
  ['within a process', null],
])('what is told on a channel %s', (_kind, url) => {
  it('is heard, and known to be', async () => {
    const channel = await open(url);
    const heard: unknown[] = [];
    await channel.subscribe(topic, (message) => void heard.push(message));
    expect(await channel.tell(topic, { number: 1 })).toBe(1);
    await waitFor('the message', () => heard.length === 1);
    expect(heard).toEqual([{ number: 1 }]);
  });

  it('is known to be heard by nobody', async () => {
    const channel = await open(url);
    const stop = await channel.subscribe(topic, () => undefined);
    stop();
    await waitFor('nobody to listen', async () => (await channel.tell(topic, {})) === 0);
  });
});

it('is not known to be heard or not when Redis does not answer in time', async () => {
  const passages: { client: Socket; server: Socket }[] = [];
  const proxy = createServer((client) => {
    const server = connect(Number(redisUrl.port), redisUrl.hostname);
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      from.pipe(to);
      from.on('error', () => to.destroy());
    }
    passages.push({ client, server });
  });
  const { port } = await listen(proxy);
  undo.defer(() => {
    for (const { client } of passages) {
      client.destroy();
    }
    proxy.close();
  });
  const url = new URL(redisUrl);
  url.host = `127.0.0.1:${port}`;
  const channel = await open(url.href);
  await channel.subscribe(topic, () => undefined);
  expect(await channel.tell(topic, {})).toBe(1);
  // As when Redis hangs: the connections stand, and nothing goes through.
  for (const { client, server } of passages) {
    client.unpipe(server);
  }
  expect(await channel.tell(topic, {})).toBeNull();
});

it('is reached by those alone who say the same of themselves', async () => {
  const [one, other, shared, sharedToo] = [
    await open(null),
    await open(null),
    await open(redisUrl.href),
    await open(redisUrl.href),
  ];
  expect(one.reach()).not.toBe(other.reach());
  expect(shared.reach()).toBe(sharedToo.reach());
  await shared.close();
  await waitFor('the connections to end', () => shared.reach() === null);
});
