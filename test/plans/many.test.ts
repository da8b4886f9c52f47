import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { auditCounts } from '../queue/audit.ts';
import { waitFor } from '../service.ts';
import { type Chatter, createChatter, startTestService, type TestService } from './arrange.ts';

const users = 10;
const plansPerUser = 5;

let service: TestService;

beforeAll(async () => {
  service = await startTestService({ environment: { WORKER_SLOTS: '40' } });
  service.model.setBehaviour({ delayMs: 20 });
});
afterAll(() => service?.stop());

async function send({ user }: Chatter, place: number): Promise<void> {
  const { data } = await user.ask('mutation { createSession { session { id } } }');
  const content = `Research topic ${place}, write code for it, then write a summary of the results`;
  const { errors } = await user.ask(
    'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }',
    { input: { sessionId: data.createSession.session.id, content } },
  );
  expect(errors).toEqual([]);
}

describe('50 plans at once of 10 users', () => {
  it('all come to their one answer, within the limits of every agent, each with its own user alone', async () => {
    const chatters = await Promise.all(
      Array.from({ length: users }, (_, place) => createChatter(service, `user ${place}`)),
    );
    await Promise.all(
      chatters.flatMap((chatter) => Array.from({ length: plansPerUser }, (_, place) => send(chatter, place))),
    );
    const look = service.database.owner;
    await waitFor(
      'all plans to end',
      async () => (await look(`SELECT id FROM plans WHERE finished_at IS NULL`)).length === 0,
      60_000,
    );
    expect(
      await look(`
        SELECT plans.state, plans.fallback_reason, count(*)::int AS plans FROM plans GROUP BY plans.state, plans.fallback_reason`),
    ).toEqual([{ state: 'COMPLETED', fallback_reason: null, plans: users * plansPerUser }]);
    // Three tasks of agents each, and one answer that stands behind its question.
    expect(
      await look(`
        SELECT plans.id FROM plans
        WHERE (SELECT count(*) FROM tasks WHERE plan_id = plans.id AND kind = 'AGENT_RUN' AND state = 'COMPLETED') <> 3
          OR (SELECT array_agg(role::text ORDER BY position) FROM messages WHERE plan_id = plans.id) <> ARRAY['USER', 'ORCHESTRATOR']
          OR (SELECT count(*) FROM events WHERE type = 'plan_ended' AND data ->> 'planId' = plans.id::text) <> 1`),
    ).toEqual([]);
    // Equal requests to an equal team need one plan of a user, or as many as were being made at the same time; never
    // another user's.
    const [cached] = await look('SELECT count(*)::int AS plans, count(DISTINCT user_id)::int AS users FROM plan_cache');
    expect(cached).toEqual({ plans: users * plansPerUser, users });
    const [most] = await look(`
      WITH runs AS (
        SELECT tasks.id, tasks.agent_id, task_steps.started_at, task_steps.finished_at
        FROM task_steps JOIN tasks ON tasks.user_id = task_steps.user_id AND tasks.id = task_steps.task_id
        WHERE tasks.agent_id IS NOT NULL
      )
      SELECT max(overlap)::int AS most FROM (
        SELECT count(*) AS overlap FROM runs AS one
        JOIN runs AS other ON other.agent_id = one.agent_id
          AND other.started_at <= one.started_at AND other.finished_at > one.started_at
        GROUP BY one.id
      ) AS counted`);
    expect(most?.['most']).toBeLessThanOrEqual(3);
    expect(
      await look(`
        SELECT user_id FROM events GROUP BY user_id
        HAVING count(*) <> max(sequence) OR max(sequence) <> (SELECT event_sequence FROM users WHERE users.id = user_id)`),
    ).toEqual([]);
    expect(await auditCounts(service.database)).toEqual([]);
  }, 90_000);
});
