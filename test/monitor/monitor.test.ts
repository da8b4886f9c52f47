import { v7 as uuidv7 } from 'uuid';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeId } from '../../src/schema/builder.ts';
import { readEvents } from '../http/event-reader.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';
import { scrape } from './scrape.ts';

let service: TestService;
let alice: TestUser;
let monitorUrl: string | null;

beforeAll(async () => {
  service = await startTestService({ redis: true, environment: { METRICS_PORT: '0' } });
  ({ monitorUrl } = service.api);
  alice = await service.user('alice');
});
afterAll(() => service.stop());

const ask = (path: string) => fetch(`${monitorUrl}${path}`, { signal: AbortSignal.timeout(10_000) });
const counted = async (series: string): Promise<number> => (await scrape(monitorUrl)).get(series) ?? 0;

async function sendHello(): Promise<void> {
  const team = await alice.ask('{ agents(first: 1) { edges { node { id } } } }');
  const session = await alice.ask('mutation { createSession { session { id } } }');
  await alice.ask('mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }', {
    input: {
      sessionId: session.data.createSession.session.id,
      targetAgentId: team.data.agents.edges[0].node.id,
      content: 'hello',
    },
  });
}

describe('a process for its operators', () => {
  it('serves metrics and health on a port of their own, and nothing else', async () => {
    expect((await ask('/metrics')).headers.get('content-type')).toMatch(/^text\/plain/);
    expect(await (await ask('/health/live')).json()).toEqual({ status: 'live' });
    expect(await (await ask('/health/ready')).json()).toEqual({
      status: 'ready',
      dependencies: { postgres: 'up', redis: 'connected', qdrant: 'not configured', model: 'up' },
    });
    expect((await ask('/graphql')).status).toBe(404);
    expect((await fetch(new URL('/metrics', service.api.url))).status).toBe(404);
  });

  it('counts requests by their kind and status, and errors by their code', async () => {
    const series = 'retinue_http_request_duration_seconds_count{kind="graphql",status="200"}';
    const [requests, refusals] = [await counted(series), await counted('retinue_errors_total{code="BAD_USER_INPUT"}')];
    await alice.ask('mutation { createAgent(input: { name: "", instructions: "" }) { agent { id } } }');
    await waitFor('the request to be counted', async () => (await counted(series)) === requests + 1);
    expect(await counted('retinue_errors_total{code="BAD_USER_INPUT"}')).toBe(refusals + 1);
  });

  it.each<[string, string, () => Promise<unknown>]>([
    ['no token', 'no_token', () => fetch(service.api.url, { method: 'POST' })],
    [
      'a token that is none',
      'bad_token',
      () => fetch(service.api.url, { method: 'POST', headers: { authorization: 'Bearer a.b.c' } }),
    ],
    [
      'an id of nothing that the caller owns',
      'not_owned',
      () =>
        alice.ask('mutation ($id: ID!) { deleteAgent(id: $id) { deletedAgentId } }', {
          id: encodeId('Agent', uuidv7()),
        }),
    ],
  ])('counts an attempt with %s', async (_what, reason, attempt) => {
    const series = `retinue_unauthorized_attempts_total{reason="${reason}"}`;
    const before = await counted(series);
    await attempt();
    expect(await counted(series)).toBe(before + 1);
  });

  it('shows the pools of its parts, claims, attempts and calls of the model', async () => {
    await sendHello();
    const attempt = 'retinue_task_attempt_duration_seconds_count{kind="AGENT_RUN",outcome="ended"}';
    await waitFor('the attempt to end', async () => (await counted(attempt)) === 1);
    const values = await scrape(monitorUrl);
    expect(values.get('retinue_tasks_claimed_total{kind="AGENT_RUN"}')).toBe(1);
    expect(values.get('retinue_model_call_duration_seconds_count{call="chat",outcome="ok"}')).toBe(1);
    expect(values.get('retinue_model_tokens_total{kind="completion"}')).toBeGreaterThan(0);
    expect(values.get('retinue_worker_slots{state="free"}')).toBe(service.config.WORKER_SLOTS);
    for (const pool of ['api', 'worker']) {
      expect(values.get(`retinue_database_connections_limit{pool="${pool}"}`)).toBe(10);
      expect(values.get(`retinue_database_connections{pool="${pool}",state="idle"}`)).toBeGreaterThan(0);
      expect(values.get(`retinue_database_waiting{pool="${pool}"}`)).toBe(0);
    }
    expect(values.get('process_resident_memory_bytes')).toBeGreaterThan(0);
  });

  it('counts tasks, approvals and workers over all users, in the leading worker', async () => {
    const values = await waitFor('the census', async () => {
      const found = await scrape(monitorUrl);
      return found.get('retinue_workers') === 1 ? found : null;
    });
    for (const state of ['BLOCKED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRYING']) {
      expect(values.get(`retinue_tasks{state="${state}"}`)).toBe(0);
    }
    expect(values.get('retinue_approvals_pending')).toBe(0);
    expect(values.get('retinue_memory_collections')).toBe(0);
  });

  it('shows its event streams, and how late events were', async () => {
    const reader = readEvents(service.api.url, alice.token);
    await reader.find('the heartbeat', () => true);
    await sendHello();
    await reader.find('the answer', ({ message }) => message?.role === 'AGENT');
    const values = await scrape(monitorUrl);
    reader.close();
    expect(values.get('retinue_event_streams')).toBe(1);
    expect(values.get('retinue_event_stream_users')).toBe(1);
    expect(values.get('retinue_events_delivered_total')).toBeGreaterThanOrEqual(5);
    const lags = values.get('retinue_event_lag_seconds_count');
    expect(lags).toBeGreaterThanOrEqual(1);
    expect(values.get('retinue_event_lag_seconds_bucket{le="+Inf"}')).toBe(lags);
    expect(values.get('retinue_event_lag_seconds_bucket{le="5"}')).toBe(lags);
    await waitFor('the stream to be over', async () => (await counted('retinue_event_streams')) === 0);
  });

  it('names no user and no text of one in any series', async () => {
    const { data } = await alice.ask('{ viewer { id } agents(first: 5) { edges { node { id name } } } }');
    const text = await (await ask('/metrics')).text();
    for (const secret of [data.viewer.id, ...data.agents.edges.map((edge: { node: { id: string } }) => edge.node.id)]) {
      expect(text).not.toContain(secret);
    }
    expect(text).not.toMatch(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}/);
  });
});
