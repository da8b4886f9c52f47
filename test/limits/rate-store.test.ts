import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type RedisServer, startRedis } from '../../dev/redis.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createRateLimits } from '../../src/adapters/rate-limit.ts';
import { createSharedStore, type SharedStore } from '../../src/adapters/shared-store.ts';
import { waitFor } from '../service.ts';

const settings = { REQUESTS: 3, STREAMS: 3, SEND: 3, INGEST: 3, SEARCH: 3, COSTLY: 3 };
const stores: SharedStore[] = [];
let folder: string;
let redis: RedisServer;

async function start(port: number | null): Promise<void> {
  redis = await startRedis({
    folder,
    logFile: join(folder, 'log'),
    preferredPort: port,
    onSpawn: () => undefined,
    log: () => undefined,
  });
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rates-'));
  await start(null);
});
afterAll(async () => {
  for (const store of stores) {
    store.close();
  }
  await redis.process.stop();
});

it('goes on when Redis dies: each process counts by itself, and together again when it is back', async () => {
  const processes = [0, 1].map(() => {
    const store = createSharedStore({ url: redis.url, log: createLog({ level: 'silent' }) });
    stores.push(store);
    return createRateLimits(settings, store);
  });
  const areReady = (wanted: boolean) => () => stores.every((store) => store.ready() === wanted);
  /** Takes turns between the processes. @returns how many of ten uses were allowed */
  const allowed = async (user: string): Promise<number> => {
    let count = 0;
    for (let use = 0; use < 10; use += 1) {
      count += (await processes[use % 2]?.take('SEND', user))?.allowed === true ? 1 : 0;
    }
    return count;
  };
  await waitFor('the connections', areReady(true));
  expect(await allowed('before')).toBe(3);
  await redis.process.stop();
  await waitFor('Redis to be missed', areReady(false));
  expect(await allowed('while it is away')).toBe(6);
  await start(redis.port);
  await waitFor('the connections', areReady(true));
  expect(await allowed('afterwards')).toBe(3);
});
