import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { signDevelopmentToken } from '../../dev/identity.ts';
import { createTestUser, startTestService, type TestService, waitFor } from '../service.ts';
import type { Held } from './api-process.ts';
import { openRawStream } from './raw-stream.ts';

const query = 'subscription { events { __typename cursor } }';
const users = 20;
const atOnce = 100;

let service: TestService;
let child: ChildProcess;
let url: string;
let tokens: string[];

beforeAll(async () => {
  // Gives database and key; the API under test is a process of its own.
  service = await startTestService({ worker: false });
  child = fork('test/events/api-process.ts', [], {
    env: {
      PATH: process.env['PATH'],
      DATABASE_URL: service.config.DATABASE_URL,
      WORKER_DATABASE_URL: service.config.WORKER_DATABASE_URL,
      REDIS_URL: inject('redisUrl') ?? undefined,
      TOKEN_ISSUER: service.config.TOKEN_ISSUER,
      TOKEN_AUDIENCE: service.config.TOKEN_AUDIENCE,
      TOKEN_PUBLIC_KEY: JSON.stringify(service.key.publicKey),
      MODEL_BASE_URL: 'http://127.0.0.1:9/v1',
      MODEL_API_KEY: 'none',
      MODEL_NAME: 'none',
      PORT: '0',
      LOG_LEVEL: 'silent',
      POOL_SIZE: '10',
      RATE_LIMIT_REQUESTS: '1000000',
      RATE_LIMIT_STREAMS: '1000000',
    },
  });
  const [ready] = (await once(child, 'message')) as [{ url: string }];
  ({ url } = ready);
  tokens = await Promise.all(
    Array.from({ length: users }, (_, number) => signDevelopmentToken(service.key, `user ${number}`)),
  );
  // A user's first request makes a team.
  await Promise.all(tokens.map((token) => createTestUser(url, 'user', token).ask('{ viewer { id } }')));
}, 120_000);
afterAll(async () => {
  child?.kill('SIGKILL');
  await service?.stop();
});

async function look(): Promise<Held> {
  child.send('look');
  const [held] = (await once(child, 'message')) as [Held];
  return held;
}

async function openAndClose(count: number): Promise<void> {
  for (let opened = 0; opened < count; opened += atOnce) {
    const streams = Array.from({ length: atOnce }, (_, place) =>
      openRawStream(url, tokens[place % users] ?? '', query),
    );
    await Promise.all(streams.map((stream) => stream.has('Heartbeat')));
    for (const stream of streams) {
      stream.close();
    }
    await waitFor('all to close', () => streams.every((stream) => stream.isClosed()));
  }
}

/** What is held once the last connections are gone. */
function settled(): Promise<Held> {
  return waitFor(
    'no stream to be left',
    async () => {
      const held = await look();
      return (held.objects['Connection'] ?? 0) + (held.objects['ServerResponse'] ?? 0) === 0 && held;
    },
    60_000,
  );
}

describe('10,000 connections that were opened and closed', () => {
  it('leave no object, socket, timer or memory behind', async () => {
    await openAndClose(1_000);
    const before = await settled();
    await openAndClose(10_000);
    const after = await settled();
    const none = { Connection: 0, Delivery: 0, Group: 0, EventFeed: 0, EventReading: 0, ServerResponse: 0 };
    const grown = (kind: string): number => (after.resources[kind] ?? 0) - (before.resources[kind] ?? 0);
    expect(after.objects).toMatchObject(none);
    // Pools of the database grow by a few; Node.js holds up to a thousand closed sockets by the parsers that it reuses.
    expect({
      sockets: Number(after.objects['Socket']) - Number(before.objects['Socket']) <= 1_000,
      handles: grown('TCPSocketWrap') < 10,
      timers: grown('Timeout') < 10,
      // Compiled code and caches move by a megabyte or two; what a single request is made of would be thirty times that.
      memory: after.heap - before.heap < 3_000_000 ? 'as before' : after.heap - before.heap,
    }).toEqual({ sockets: true, handles: true, timers: true, memory: 'as before' });
  }, 900_000);
});
