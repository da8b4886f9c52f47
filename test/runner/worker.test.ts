import { afterEach, describe, expect, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { startTaskWorker } from '../../src/app.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

let service: TestService;
let alice: TestUser;

async function start(options: Parameters<typeof startTestService>[0]): Promise<void> {
  service = await startTestService(options);
  alice = await service.user('alice');
}
afterEach(() => service.stop());

async function send(content: string): Promise<string> {
  const team = await alice.ask('{ agents(first: 1) { edges { node { id } } } }');
  const session = await alice.ask('mutation { createSession { session { id } } }');
  const sent = await alice.ask('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', {
    input: {
      sessionId: session.data.createSession.session.id,
      targetAgentId: team.data.agents.edges[0].node.id,
      content,
    },
  });
  return sent.data.sendMessage.task.id;
}

const readTask = async (id: string) =>
  (
    await alice.ask('query ($id: ID!) { task(id: $id) { state attempt errorCode progressNote answer { content } } }', {
      id,
    })
  ).data.task;
const reaches = (id: string, state: string) =>
  waitFor(`task to be ${state}`, async () => {
    const task = await readTask(id);
    return task.state === state && task;
  });
const modelIsBusy = () => waitFor('the model to be asked', () => service.model.requests().active > 0);

describe('cancelling a task that runs', () => {
  it.each([
    ['at once, by a signal over Redis', { redis: true, separate: true, environment: { TASK_LEASE: '600000' } }],
    ['by the next heartbeat, when the signal is lost', { separate: true, environment: { TASK_LEASE: '1000' } }],
  ])('ends the call of the model %s', async (_case, options) => {
    await start(options);
    service.model.setBehaviour({ hang: true });
    const id = await send('think about it for ever');
    await modelIsBusy();
    const cancelled = await alice.ask('mutation ($id: ID!) { cancelTask(id: $id) { task { state } } }', { id });
    expect(cancelled.data.cancelTask.task).toEqual({ state: 'CANCELLED' });
    await waitFor('the call to be broken off', () => service.model.requests().aborted === 1);
    expect(await readTask(id)).toMatchObject({ state: 'CANCELLED', attempt: 1, answer: null });
  });
});

describe('a running task', () => {
  it('fails when its time is over', async () => {
    await start({ environment: { TASK_TIMEOUT: '600' } });
    service.model.setBehaviour({ hang: true });
    const id = await send('think about it for ever');
    expect(await reaches(id, 'FAILED')).toMatchObject({ errorCode: 'TASK_TIMED_OUT', attempt: 1 });
    await waitFor('the call to be broken off', () => service.model.requests().active === 0);
  });

  it('tells how far it is while a long answer is written', async () => {
    await start({});
    service.model.setScript([{ match: 'story', reply: 'Once upon a time. '.repeat(20), tokenDelayMs: 25 }]);
    const id = await send('tell a story');
    await reaches(id, 'COMPLETED');
    const told = await service.database.owner(
      `SELECT (data ->> 'progress')::float8 AS progress, data ->> 'note' AS note FROM events WHERE type = 'task_progress' ORDER BY sequence`,
    );
    expect(told.length).toBeGreaterThan(0);
    expect(told[0]).toEqual({
      progress: expect.any(Number),
      note: expect.stringMatching(/^writing the answer: \d+ characters$/),
    });
    const progress = told.map((event) => Number(event['progress']));
    expect(progress).toEqual(progress.toSorted((left, right) => left - right));
  });

  it('is started by a wake-up, not by polling', async () => {
    await start({ redis: true, separate: true, environment: { WORKER_POLL_INTERVAL: '86400000' } });
    expect(await reaches(await send('hello'), 'COMPLETED')).toMatchObject({ attempt: 1 });
  });
});

describe('a worker that stops in good order', () => {
  it('lets a running task end and claims nothing more', async () => {
    await start({ worker: false, redis: true });
    const worker = await startTaskWorker(service.config, createLog({ level: 'silent' }));
    service.model.setBehaviour({ delayMs: 500 });
    const running = await send('the last one');
    await modelIsBusy();
    const stopped = worker.stop();
    const left = await send('one too many');
    await stopped;
    expect(await readTask(running)).toMatchObject({ state: 'COMPLETED', attempt: 1 });
    expect(await readTask(left)).toMatchObject({ state: 'QUEUED', attempt: 0 });
  });

  it('hands back what it could not finish, and another one does it, once', async () => {
    await start({ worker: false, redis: true, environment: { SHUTDOWN_TIMEOUT: '100' } });
    const log = createLog({ level: 'silent' });
    const first = await startTaskWorker(service.config, log);
    service.model.setScript([
      { match: 'work', reply: 'Never said.', delayMs: 60_000 },
      { match: 'work', reply: 'Done.' },
    ]);
    const id = await send('work');
    await modelIsBusy();
    await first.stop();
    expect(await readTask(id)).toMatchObject({ state: 'QUEUED', attempt: 1 });
    const second = await startTaskWorker(service.config, log);
    expect(await reaches(id, 'COMPLETED')).toMatchObject({ attempt: 2, answer: { content: 'Done.' } });
    await second.stop();
    expect(
      await service.database.owner(
        `SELECT (SELECT count(*)::int FROM messages WHERE role = 'AGENT') AS answers, (SELECT max(crashes) FROM tasks) AS crashes`,
      ),
    ).toEqual([{ answers: 1, crashes: 0 }]);
  });
});
