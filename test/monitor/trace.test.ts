import { afterEach, describe, expect, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { startTaskWorker } from '../../src/app.ts';
import { startTestService, type TestService, type TestUser, waitFor } from '../service.ts';
import { type CollectedSpan, startCollector } from './collector.ts';

const started: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of started.splice(0).toReversed()) {
    await stop();
  }
});

/** API and worker as two processes would be: each with parts of its own. */
async function start(environment: Record<string, string>): Promise<{ service: TestService; lines: object[] }> {
  const service = await startTestService({ worker: false, environment });
  started.push(() => service.stop());
  const lines: object[] = [];
  const log = createLog({ level: 'info', destination: { write: (line) => void lines.push(JSON.parse(line)) } });
  const worker = await startTaskWorker(service.config, log);
  started.push(() => worker.stop());
  return { service, lines };
}

/** Sends a message and waits for its answer. @returns the id of the request that sent it */
async function converse(alice: TestUser, content: string, headers: Record<string, string> = {}): Promise<string> {
  const team = await alice.ask('{ agents(first: 1) { edges { node { id } } } }');
  const session = await alice.ask('mutation { createSession { session { id } } }');
  const sent = await alice.ask(
    'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }',
    {
      input: {
        sessionId: session.data.createSession.session.id,
        targetAgentId: team.data.agents.edges[0].node.id,
        content,
      },
    },
    headers,
  );
  const { id } = sent.data.sendMessage.task;
  await waitFor('the task to end', async () => {
    const { data } = await alice.ask('query ($id: ID!) { node(id: $id) { ... on Task { state } } }', { id });
    return ['COMPLETED', 'FAILED'].includes(data.node.state);
  });
  return sent.headers.get('x-request-id') ?? '';
}

const spanOf = (spans: CollectedSpan[], name: string, requestId?: string): CollectedSpan | undefined =>
  spans.find(
    (span) => span.name === name && (requestId === undefined || span.attributes['retinue.request.id'] === requestId),
  );

describe('a trace', () => {
  it('leads from the request through its task to the call of the model, over processes', async () => {
    const collector = await startCollector();
    started.push(collector.stop);
    const { service, lines } = await start({ TRACES_URL: collector.url });
    const requestId = await converse(await service.user('alice'), 'a secret that no span may hold');
    const [request, task, model] = await waitFor('all three spans', () => {
      const found = [
        spanOf(collector.spans, 'POST /graphql', requestId),
        spanOf(collector.spans, 'task AGENT_RUN'),
        spanOf(collector.spans, 'model chat'),
      ];
      return found.every((span) => span !== undefined) ? (found as CollectedSpan[]) : null;
    });
    expect(request).toMatchObject({ service: 'retinue-api', attributes: { 'http.response.status_code': 200 } });
    expect(task).toMatchObject({
      service: 'retinue-worker',
      traceId: request?.traceId,
      parentSpanId: request?.spanId,
      attributes: { 'retinue.task.kind': 'AGENT_RUN', 'retinue.task.attempt': 1 },
    });
    expect(model).toMatchObject({ traceId: request?.traceId, parentSpanId: task?.spanId });
    expect(model?.attributes['gen_ai.usage.output_tokens']).toBeGreaterThan(0);
    expect(JSON.stringify(collector.spans)).not.toContain('secret');
    expect(JSON.stringify(lines)).not.toContain('secret');
  });

  it('is nowhere unless it was asked for, and the ids of the request still reach the lines of the task', async () => {
    const { service, lines } = await start({});
    service.model.setBehaviour({ failNext: { status: 400, count: 1 } });
    const requestId = await converse(await service.user('alice'), 'hello', { 'x-request-id': 'from-my-client.1' });
    expect(requestId).toBe('from-my-client.1');
    const [row] = await service.database.owner('SELECT id, request_id, traceparent FROM tasks');
    expect(row).toMatchObject({ request_id: requestId, traceparent: null });
    expect(lines).toContainEqual(
      expect.objectContaining({ msg: 'task attempt failed', taskId: row?.['id'], attempt: 1, requestId }),
    );
  });

  it('of a client is believed from our own proxy only', async () => {
    const collector = await startCollector();
    started.push(collector.stop);
    const theirs = '4bf92f3577b34da6a3ce929d0e0e4736';
    const headers = { traceparent: `00-${theirs}-00f067aa0ba902b7-01` };
    const open = await start({ TRACES_URL: collector.url });
    await (await open.service.user('alice')).ask('{ viewer { id } }', {}, headers);
    const behindProxy = await start({ TRACES_URL: collector.url, TRUST_PROXY: 'true' });
    await (await behindProxy.service.user('alice')).ask('{ viewer { id } }', {}, headers);
    const requests = await waitFor('both requests', () => {
      const found = collector.spans.filter(({ name }) => name === 'POST /graphql');
      return found.length === 2 ? found : null;
    });
    expect(requests.map(({ traceId }) => traceId === theirs)).toEqual([false, true]);
  });

  it('that nobody receives holds up neither requests nor the stop', async () => {
    const { service } = await start({ TRACES_URL: 'http://127.0.0.1:9/v1/traces' });
    await converse(await service.user('alice'), 'hello');
    const before = performance.now();
    for (const stop of started.splice(0).toReversed()) {
      await stop();
    }
    expect(performance.now() - before).toBeLessThan(8_000);
  });
});
