import { afterAll, beforeAll, expect, it } from 'vitest';
import { systemClock } from '../../src/adapters/clock.ts';
import { createLog } from '../../src/adapters/log.ts';
import { createDatabase } from '../../src/adapters/postgres.ts';
import { createChannel } from '../../src/adapters/redis.ts';
import { createOperation } from '../../src/operation.ts';
import { trimEvents } from '../../src/services/upkeep.ts';
import { startTestService, type TestService } from '../service.ts';

let service: TestService;

beforeAll(async () => {
  service = await startTestService({ worker: false });
});
afterAll(() => service.stop());

it('forgets idempotency keys after a week, and no sooner', async () => {
  const user = await service.user('alice');
  for (const key of ['old', 'new']) {
    await user.ask('mutation { createSession { session { id } } }', {}, { 'idempotency-key': key });
  }
  await service.database.owner(`UPDATE idempotency_keys SET created_at = now() - interval '8 days' WHERE key = 'old'`);
  await service.database.owner(`UPDATE users SET events_checked_at = now() - interval '2 days'`);
  const database = createDatabase({
    url: service.database.workerUrl,
    poolSize: 1,
    connectionTimeout: 5_000,
    statementTimeout: 5_000,
    applicationName: 'test',
    onError: () => undefined,
  });
  const channel = createChannel({ url: null, log: createLog({ level: 'silent' }) });
  await trimEvents(database, (userId) => createOperation({ database, channel, clock: systemClock() }, userId), {
    eventDays: 30,
    eventsPerSession: 1_000,
    expiredSessionDays: 7,
  });
  await database.close();
  expect(await service.database.owner('SELECT key FROM idempotency_keys')).toEqual([{ key: 'new' }]);
});
