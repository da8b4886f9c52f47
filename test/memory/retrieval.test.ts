import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ChatMessage } from '../../src/adapters/llm.ts';
import { withExcerpts, withinBudget } from '../../src/runner/retrieval.ts';
import { rowId } from '../isolation/world.ts';
import { waitFor } from '../service.ts';
import { addAgent, ingest, type MemoryScene, search, startMemoryScene } from './arrange.ts';

let scene: MemoryScene;

beforeAll(async () => {
  scene = await startMemoryScene();
  await ingest(scene.user, scene.agentId, 'handbook', [
    { path: 'garden.md', content: '# Watering\n\nThe orchids in the hall get water on Fridays.' },
    { path: 'kitchen.md', content: '# Dishes\n\nThe dishwasher runs at noon.' },
  ]);
});
afterAll(() => scene?.service.stop());

/** Lets an agent answer, and waits for it. @returns the answer with its citations */
async function answer(agentId: string, content: string) {
  const session = await scene.user.ask('mutation { createSession { session { id } } }');
  const sent = await scene.user.ask(
    'mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }',
    { input: { sessionId: session.data.createSession.session.id, targetAgentId: agentId, content } },
  );
  expect(sent.errors).toEqual([]);
  const { id } = sent.data.sendMessage.task;
  return waitFor('the answer', async () => {
    const { data } = await scene.user.ask(
      `query ($id: ID!) { task(id: $id) { id state answer { content citations {
        position source path heading startLine endLine content document { path } } } } }`,
      { id },
    );
    return data.task.state === 'COMPLETED' && data.task;
  });
}

function lastPrompt(): { role: string; content: string }[] {
  const last = scene.service.model.recentRequests().findLast(({ path }) => path.includes('chat'));
  return (last?.body as { messages: { role: string; content: string }[] } | undefined)?.messages ?? [];
}

describe('an agent with a memory', () => {
  it('is given what it remembers before it answers, and the answer cites it by reference', async () => {
    scene.service.model.setScript([{ match: 'orchids', reply: 'On Fridays [1].' }]);
    const task = await answer(scene.agentId, 'When do the orchids get water?');
    expect(lastPrompt()[0]?.content).toContain('[1] garden.md, lines 1-3, Watering\n# Watering');
    expect(task.answer.citations[0]).toEqual({
      position: 1,
      source: 'handbook',
      path: 'garden.md',
      heading: 'Watering',
      startLine: 1,
      endLine: 3,
      content: expect.stringContaining('orchids'),
      document: { path: 'garden.md' },
    });
    const [event] = await scene.service.database.owner(
      `SELECT data FROM events WHERE type = 'context_retrieved' AND data ->> 'taskId' = $1`,
      [rowId(task.id)],
    );
    expect(event?.['data']).toMatchObject({ agentId: rowId(scene.agentId), degraded: false });
  });

  it('keeps its citation when the document is gone, without the text', async () => {
    const agentId = await addAgent(scene.user, 'Forgetful');
    await ingest(scene.user, agentId, 'notes', [{ path: 'a.md', content: 'The parrot is called Otto.' }]);
    scene.service.model.setScript([{ match: 'parrot', reply: 'Otto.' }]);
    const task = await answer(agentId, 'What is the parrot called?');
    await ingest(scene.user, agentId, 'notes', [{ path: 'a.md', content: 'The parrot moved out.' }]);
    const { data } = await scene.user.ask(
      'query ($id: ID!) { task(id: $id) { answer { citations { path content } } } }',
      { id: task.id },
    );
    expect(data.task.answer.citations).toEqual([{ path: 'a.md', content: null }]);
  });

  it('is not asked of where the agent is set so, or has nothing in it', async () => {
    const silent = await addAgent(scene.user, 'Silent', { retrieval: false });
    await ingest(scene.user, silent, 'handbook', [{ path: 'a.md', content: 'The orchids get tea.' }]);
    const blank = await addAgent(scene.user, 'Nothing');
    scene.service.model.setScript([]);
    const asked = scene.service.model.requests().embeddings;
    for (const agentId of [silent, blank]) {
      expect((await answer(agentId, 'orchids?')).answer.citations).toEqual([]);
      expect(lastPrompt()[0]?.content).not.toContain('<memory>');
    }
    expect(scene.service.model.requests().embeddings).toBe(asked);
  });

  it('remembers exchanges where it is set so, each once', async () => {
    const agentId = await addAgent(scene.user, 'Diarist', { rememberConversations: true });
    scene.service.model.setScript([{ match: 'badger', reply: 'The badger sleeps.' }]);
    await answer(agentId, 'What does the badger do?');
    const found = await waitFor('the exchange', async () => {
      const result = await search(scene.user, agentId, 'badger');
      return result.matches.length > 0 && result.matches;
    });
    expect(found.map(({ source, content }) => [source, content])).toEqual([
      ['conversations', 'The user: What does the badger do?\n\nDiarist: The badger sleeps.'],
    ]);
  });

  it('searches and keeps notes by its tools', async () => {
    const agentId = await addAgent(scene.user, 'Toolmaker', { retrieval: false });
    const tools = await scene.user.ask(
      `mutation { search: createTool(input: { builtIn: "search_memory", name: "look_up" }) { tool { id } }
        note: createTool(input: { builtIn: "remember", name: "keep_note" }) { tool { id } } }`,
    );
    expect(tools.errors).toEqual([]);
    for (const made of [tools.data.search, tools.data.note]) {
      const { errors } = await scene.user.ask(
        'mutation ($agentId: ID!, $toolId: ID!) { attachTool(agentId: $agentId, toolId: $toolId) { agent { id } } }',
        { agentId, toolId: made.tool.id },
      );
      expect(errors).toEqual([]);
    }
    scene.service.model.setScript([
      { match: 'keep', reply: [{ name: 'keep_note', arguments: { text: 'The gate code is 99.' } }] },
      { match: 'keep', reply: 'Kept.' },
    ]);
    await answer(agentId, 'keep this: the gate code is 99');
    expect((await search(scene.user, agentId, 'gate code')).matches).toMatchObject([
      { source: 'notes', content: 'The gate code is 99.' },
    ]);
    scene.service.model.setScript([
      { match: 'code', reply: [{ name: 'look_up', arguments: { query: 'gate code' } }] },
      { match: 'code', reply: 'It is 99.' },
    ]);
    const task = await answer(agentId, 'what is the code of the gate?');
    expect(task.answer.citations).toMatchObject([{ source: 'notes', content: 'The gate code is 99.' }]);
  });
});

describe('excerpts', () => {
  it('stand behind the instructions, and change nothing where there are none', () => {
    const messages: ChatMessage[] = [
      { role: 'system', content: 'Be kind.' },
      { role: 'user', content: 'Hello' },
    ];
    expect(withExcerpts(messages, [])).toBe(messages);
    const [system, ...rest] = withExcerpts(messages, [
      { path: 'a', heading: '', startLine: 1, endLine: 2, content: 'text' },
    ]);
    expect(system?.content).toMatch(/^Be kind\.\n\n<memory>[\s\S]*\[1\] a, lines 1-2\ntext\n<\/memory>$/);
    expect(rest).toEqual(messages.slice(1));
  });

  it('are as many as fit, and the best in any case', () => {
    const text = (length: number) => ({ content: 'x'.repeat(length) });
    expect(withinBudget([text(9_000), text(10)])).toHaveLength(1);
    expect(withinBudget([text(4_000), text(5_000), text(3_000)]).map(({ content }) => content.length)).toEqual([
      4_000, 3_000,
    ]);
  });
});
