import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { startTestService, type TestService, waitFor } from '../service.ts';
import { createToolUser, type ToolUser } from './agent-tools.ts';

let service: TestService;
let alice: ToolUser;

beforeEach(async () => {
  service = await startTestService();
  alice = await createToolUser(service, 'alice');
});
afterEach(() => service?.stop());

const callAgent = (agent: string, question: string) => [{ name: 'ask_agent', arguments: { agent, question } }];
const rows = (sql: string) => service.database.owner(sql);

describe('asking another agent', () => {
  it('brings its answer to the one that asked, and not into the session', async () => {
    const tool = await alice.builtIn('ask_agent');
    const boss = await alice.addAgent('Boss', [tool]);
    await alice.addAgent('Clerk');
    service.model.setScript([
      { match: 'capital', matchSystem: 'Boss', reply: callAgent('clerk', 'What is the seat of France?') },
      { match: 'seat of France', matchSystem: 'Clerk', reply: 'It is Paris.' },
      { match: 'capital', matchSystem: 'Boss', reply: 'The clerk says Paris.' },
    ]);
    expect(await alice.ask(boss, 'What is the capital?')).toBe('The clerk says Paris.');
    expect(alice.toolResults()).toContain('It is Paris.');
    expect(await rows('SELECT role, content FROM messages ORDER BY position')).toEqual([
      { role: 'USER', content: 'What is the capital?' },
      { role: 'AGENT', content: 'The clerk says Paris.' },
    ]);
    const clerk = service.model.recentRequests().find(({ body }) => JSON.stringify(body).includes('You are Clerk'));
    expect(JSON.stringify(clerk?.body)).not.toContain('What is the capital');
  });

  it('waits without a slot: with one slot in all, three agents in a row come through', async () => {
    await service.stop();
    service = await startTestService({ environment: { WORKER_SLOTS: '1' } });
    alice = await createToolUser(service, 'alice');
    const tool = await alice.builtIn('ask_agent');
    const one = await alice.addAgent('One', [tool], { maxConcurrentTasks: 1 });
    await alice.addAgent('Two', [tool], { maxConcurrentTasks: 1 });
    await alice.addAgent('Three', [], { maxConcurrentTasks: 1 });
    service.model.setScript([
      { match: 'start', matchSystem: 'You are One', reply: callAgent('Two', 'second') },
      { match: 'second', matchSystem: 'You are Two', reply: callAgent('Three', 'third') },
      { match: 'third', matchSystem: 'You are Three', reply: 'deep answer' },
      { match: 'second', matchSystem: 'You are Two', reply: 'passed on' },
      { match: 'start', matchSystem: 'You are One', reply: 'done' },
    ]);
    expect(await alice.ask(one, 'start')).toBe('done');
    expect(alice.toolResults()).toEqual(expect.arrayContaining(['deep answer', 'passed on']));
  });

  it('several at once, each answered once', async () => {
    const tool = await alice.builtIn('ask_agent');
    const boss = await alice.addAgent('Boss', [tool]);
    await alice.addAgent('Left');
    await alice.addAgent('Right');
    service.model.setScript([
      { match: 'both', matchSystem: 'Boss', reply: [...callAgent('Left', 'l?'), ...callAgent('Right', 'r?')] },
      { match: 'l?', reply: 'left answer', delayMs: 300 },
      { match: 'r?', reply: 'right answer' },
      { match: 'both', matchSystem: 'Boss', reply: 'both said' },
    ]);
    expect(await alice.ask(boss, 'ask both')).toBe('both said');
    expect(alice.toolResults()).toEqual(['left answer', 'right answer']);
    expect(await rows(`SELECT count(*)::int AS count FROM agent_calls`)).toEqual([{ count: 2 }]);
  });

  it.each<[string, string, RegExp]>([
    ['that does not exist', 'Nobody', /no such agent.*Clerk/],
    ['that asks', 'Boss', /circle/],
  ])('tells the model when it is one %s', async (_what, name, told) => {
    const tool = await alice.builtIn('ask_agent');
    const boss = await alice.addAgent('Boss', [tool]);
    await alice.addAgent('Clerk');
    service.model.setScript([
      { match: 'go', reply: callAgent(name, 'question') },
      { match: 'go', reply: 'gave up' },
    ]);
    expect(await alice.ask(boss, 'go')).toBe('gave up');
    expect(alice.toolResults()).toEqual([expect.stringMatching(told)]);
  });

  it("never reaches another user's agent, whose name is told as one that does not exist", async () => {
    const bob = await createToolUser(service, 'bob');
    await bob.addAgent('Treasurer');
    const tool = await alice.builtIn('ask_agent');
    const boss = await alice.addAgent('Boss', [tool]);
    service.model.setScript([
      { match: 'go', reply: [...callAgent('Treasurer', 'question'), ...callAgent('Made Up', 'question')] },
      { match: 'go', reply: 'gave up' },
    ]);
    await alice.ask(boss, 'go');
    const [one, other] = alice.toolResults();
    expect(one).toMatch(/no such agent/);
    expect(one).toBe(other);
  });

  it('ends a circle over several agents, and a row that grows too long', async () => {
    const tool = await alice.builtIn('ask_agent');
    const agents = ['A', 'B', 'C', 'D', 'E'];
    const ids = new Map<string, string>();
    for (const name of agents) {
      ids.set(name, await alice.addAgent(`Agent ${name}`, [tool]));
    }
    service.model.setScript([
      ...agents.map((name, place) => ({
        match: 'pass on',
        matchSystem: `You are Agent ${name}.`,
        reply: [
          ...callAgent(`Agent ${agents[place + 1] ?? 'A'}`, 'pass on'),
          ...(name === 'C' ? callAgent('Agent A', 'pass on') : []),
        ],
      })),
      ...agents.map((name) => ({ match: 'pass on', matchSystem: `You are Agent ${name}.`, reply: `end ${name}` })),
    ]);
    expect(await alice.ask(ids.get('A') ?? '', 'pass on')).toBe('end A');
    const told = alice.toolResults().join('\n');
    expect(told).toMatch(/circle/);
    expect(told).toMatch(/at most 3 times in a row/);
    expect(await rows('SELECT max(depth) AS depth FROM agent_calls')).toEqual([{ depth: 3 }]);
  });

  it('tells the model that the other failed', async () => {
    const tool = await alice.builtIn('ask_agent');
    const boss = await alice.addAgent('Boss', [tool]);
    await alice.addAgent('Clerk');
    service.model.setScript([
      { match: 'go', matchSystem: 'Boss', reply: callAgent('Clerk', 'question') },
      { match: 'question', matchSystem: 'Clerk', status: 400, reply: 'no' },
      { match: 'go', matchSystem: 'Boss', reply: 'without the clerk' },
    ]);
    expect(await alice.ask(boss, 'go')).toBe('without the clerk');
    expect(alice.toolResults()).toEqual([expect.stringMatching(/^Failed: The agent gave no answer: /)]);
  });

  it('is taken back when the one that asked is cancelled', async () => {
    const tool = await alice.builtIn('ask_agent');
    const boss = await alice.addAgent('Boss', [tool]);
    await alice.addAgent('Clerk');
    service.model.setScript([
      { match: 'go', matchSystem: 'Boss', reply: callAgent('Clerk', 'question') },
      { match: 'question', matchSystem: 'Clerk', reply: 'too late', delayMs: 60_000 },
    ]);
    const id = await alice.send(boss, 'go');
    await waitFor('the question', async () => (await alice.task(id)).state === 'WAITING');
    await alice.user.ask('mutation ($id: ID!) { cancelTask(id: $id) { task { id } } }', { id });
    await waitFor('the question to be taken back', async () => {
      const states = await rows('SELECT DISTINCT state FROM tasks');
      return states.length === 1 && states[0]?.['state'] === 'CANCELLED';
    });
    await waitFor(
      'the call to be settled',
      async () => (await rows('SELECT 1 FROM agent_calls WHERE settled_at IS NULL')).length === 0,
    );
  });

  it('tells the one that asked when the question was cancelled', async () => {
    const tool = await alice.builtIn('ask_agent');
    const boss = await alice.addAgent('Boss', [tool]);
    const clerk = await alice.addAgent('Clerk');
    service.model.setScript([
      { match: 'go', matchSystem: 'Boss', reply: callAgent('Clerk', 'question') },
      { match: 'question', matchSystem: 'Clerk', reply: 'too late', delayMs: 60_000 },
      { match: 'go', matchSystem: 'Boss', reply: 'without the clerk' },
    ]);
    const id = await alice.send(boss, 'go');
    await waitFor('the question', async () => (await alice.task(id)).state === 'WAITING');
    await alice.user.ask('mutation ($id: ID!) { cancelAgentTasks(agentId: $id) { count } }', { id: clerk });
    await waitFor('the answer', async () => (await alice.task(id)).state === 'COMPLETED');
    expect(alice.toolResults()).toEqual(['Failed: The agent gave no answer: it was cancelled']);
  });
});
