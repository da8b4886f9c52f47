import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { signDevelopmentToken } from '../../dev/identity.ts';
import { findFreePort } from '../../dev/process.ts';
import { rowId } from '../isolation/world.ts';
import { composer, planner, planReply } from '../plans/arrange.ts';
import { createTestUser, startTestService, type TestService, type TestUser, waitFor } from '../service.ts';

// The test's own API is only there to be left alone: the server and the worker that die are processes of their own.
let service: TestService;
let port: number;
let server: ChildProcess;
let worker: ChildProcess;
const children = new Set<ChildProcess>();

beforeAll(async () => {
  service = await startTestService({ worker: false, redis: true });
  port = await findFreePort(null);
  [server, worker] = await Promise.all([startServer(), startWorker()]);
}, 60_000);
afterAll(async () => {
  for (const child of children) {
    child.kill('SIGKILL');
  }
  await service?.stop();
});

/** Starts a process of the service, with a short lease so that nobody waits long for what a dead worker held. */
async function startProcess(script: string, ready: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [script], {
    env: {
      PATH: process.env['PATH'] ?? '',
      ...service.environment,
      PORT: String(port),
      TASK_LEASE: '1000',
      LOG_LEVEL: 'info',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.add(child);
  const { promise: started, resolve, reject } = Promise.withResolvers<void>();
  child.once('exit', () => {
    children.delete(child);
    reject(new Error(`${script} ended before it started`));
  });
  child.stdout?.on('data', (chunk: Buffer) => {
    if (chunk.toString().includes(ready)) {
      resolve();
    }
  });
  await started;
  return child;
}
const startServer = () => startProcess('src/server.ts', 'api listening');
const startWorker = () => startProcess('src/worker.ts', 'worker started');

/** Kills both processes at once, as a lost machine would, and starts others in their place. */
async function killBoth(): Promise<void> {
  const ends = [once(server, 'exit'), once(worker, 'exit')];
  server.kill('SIGKILL');
  worker.kill('SIGKILL');
  await Promise.all(ends);
  [server, worker] = await Promise.all([startServer(), startWorker()]);
}

const plan = planReply([
  { key: 'facts', agent: 'Researcher', instruction: 'Collect facts.' },
  { key: 'code', agent: 'Coder', instruction: 'Write the code.' },
  { key: 'text', agent: 'Writer', instruction: 'Write the text.', dependsOn: ['facts', 'code'] },
]);

/** Each answer takes a moment, so that there is a time between any two steps. */
function script(): void {
  const delayMs = 60;
  service.model.setScript([
    { match: '', matchSystem: planner, reply: plan, delayMs, times: 99 },
    { match: '', matchSystem: composer, reply: 'All of it [Researcher].', delayMs, times: 99 },
    { match: 'Collect facts.', reply: 'Facts.', delayMs, times: 99 },
    { match: 'Write the code.', reply: 'Code.', delayMs: delayMs * 2, times: 99 },
    { match: 'Write the text.', reply: 'Text.', delayMs, times: 99 },
  ]);
}

/** Asks until the server is there again. */
async function askUntilAnswered(user: TestUser, query: string, variables: Record<string, unknown>) {
  return waitFor(
    'the server to answer',
    () =>
      user.ask(query, variables).then(
        // A decision whose answer was lost with the server stands.
        ({ data, errors }) =>
          errors.every(({ extensions }) => extensions['code'] === 'APPROVAL_ALREADY_DECIDED') ? (data ?? {}) : null,
        () => null,
      ),
    60_000,
  );
}

interface Run {
  sessionId: string;
  events: number;
}

/**
 * Lets a plan with an approval run to its end, and calls `disturb` once, as soon as so many of its events are committed.
 */
async function runPlan(name: string, after: number, disturb: () => Promise<void>): Promise<Run> {
  const token = await signDevelopmentToken(service.key, name);
  const user = createTestUser(`http://127.0.0.1:${port}/graphql`, name, token);
  await askUntilAnswered(
    user,
    'mutation { updateOrchestrator(input: { planApprovalPolicy: ALWAYS }) { orchestrator { id } } }',
    {},
  );
  const opened = await askUntilAnswered(user, 'mutation { createSession { session { id } } }', {});
  const sessionId: string = opened.createSession.session.id;
  await askUntilAnswered(user, 'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', {
    input: { sessionId, content: 'Everything about tea' },
  });
  let disturbed: Promise<void> | null = null;
  let deciding: Promise<unknown> | null = null;
  const events = await waitFor(
    'the plan to end',
    async () => {
      const rows = await service.database.owner(
        `SELECT type, data ->> 'approvalId' AS approval FROM events WHERE session_id = $1 ORDER BY sequence`,
        [rowId(sessionId)],
      );
      if (rows.length >= after) {
        disturbed ??= disturb();
      }
      const asked = rows.find((row) => row['type'] === 'approval_required');
      if (asked !== undefined) {
        const id = Buffer.from(`Approval:${asked['approval']}`).toString('base64url');
        deciding ??= askUntilAnswered(
          user,
          'mutation ($id: ID!) { decideApproval(id: $id, decision: APPROVED) { approval { state } } }',
          { id },
        ).catch((error: unknown) => error);
      }
      return (
        rows.some((row) => row['type'] === 'plan_ended') && rows.at(-1)?.['type'] === 'task_completed' && rows.length
      );
    },
    90_000,
  );
  await Promise.all([disturbed, deciding]);
  return { sessionId, events };
}

/** What a plan leaves behind, without ids and times. */
async function finalState(sessionId: string): Promise<unknown> {
  const id = [rowId(sessionId)];
  const look = service.database.owner;
  return {
    plans: await look(`SELECT state, fallback_reason, graph -> 'asks' AS asks FROM plans WHERE session_id = $1`, id),
    tasks: await look(
      `SELECT kind, input ->> 'key' AS key, state, (SELECT count(*)::int FROM task_steps WHERE task_id = tasks.id) AS steps
      FROM tasks WHERE session_id = $1 ORDER BY kind, key`,
      id,
    ),
    messages: await look('SELECT position, role, content FROM messages WHERE session_id = $1 ORDER BY position', id),
    approvals: await look('SELECT kind, state FROM approvals WHERE session_id = $1', id),
    // Attempts may begin more than once, and so may planning; nothing else is told twice.
    events: await look(
      `SELECT type, count(*)::int AS times FROM events
      WHERE session_id = $1 AND type NOT IN ('task_started', 'planning_started', 'task_progress') GROUP BY type ORDER BY type`,
      id,
    ),
  };
}

describe('a plan with an approval, whose worker and server are killed', () => {
  it('comes to the same end, between whichever two steps they die', async () => {
    script();
    const calm = await runPlan('calm', Number.POSITIVE_INFINITY, async () => undefined);
    const expected = await finalState(calm.sessionId);
    expect(expected).toMatchObject({
      plans: [{ state: 'COMPLETED', asks: true }],
      approvals: [{ kind: 'PLAN', state: 'APPROVED' }],
      messages: [{ role: 'USER' }, { role: 'ORCHESTRATOR', content: 'All of it [Researcher].' }],
    });
    // Events of one commit appear together: between them nothing can die.
    const commits = await service.database.owner(
      `SELECT max(place)::int AS after FROM (
        SELECT xmin::text AS commit, row_number() OVER (ORDER BY sequence) AS place FROM events WHERE session_id = $1
      ) AS event GROUP BY commit ORDER BY after`,
      [rowId(calm.sessionId)],
    );
    expect(commits.length).toBeGreaterThan(8);
    for (const commit of commits.slice(0, -1)) {
      const after = Number(commit['after']);
      const run = await runPlan(`killed after ${after}`, after, killBoth);
      expect(await finalState(run.sessionId), `killed after event ${after} of ${calm.events}`).toEqual(expected);
    }
  }, 900_000);
});
