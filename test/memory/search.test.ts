import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rowId } from '../isolation/world.ts';
import { scrape } from '../monitor/scrape.ts';
import { addAgent, ingest, type MemoryScene, search, startMemoryScene } from './arrange.ts';

let scene: MemoryScene;

beforeAll(async () => {
  scene = await startMemoryScene({ environment: { METRICS_PORT: '0' } });
  await ingest(scene.user, scene.agentId, 'handbook', [
    {
      path: 'travel/trains.md',
      content: `# Travel\n\n${'Filler about nothing. '.repeat(30)}\n\n## Trains\n\nTickets for trains are booked by the office.\n`,
    },
    { path: 'travel/planes.md', content: '# Planes\n\nFlights need an approval by the team lead.\n' },
    {
      path: 'code/parser.ts',
      content: 'export function parseInvoice(text: string): Invoice {\n  return read(text);\n}\n',
    },
  ]);
  await ingest(scene.user, scene.agentId, 'blog', [
    { path: 'travel/story.txt', content: 'A story of trains in winter.' },
  ]);
});
afterAll(() => scene?.service.stop());

const paths = ({ matches }: Awaited<ReturnType<typeof search>>) => matches.map(({ path }) => path);

describe('searching a memory', () => {
  it('cites source, path, heading and lines, and is not degraded', async () => {
    const found = await search(scene.user, scene.agentId, 'how are tickets for trains booked?');
    expect(found).toMatchObject({ degraded: false, degradedReason: null });
    expect(found.matches[0]).toMatchObject({
      source: 'handbook',
      path: 'travel/trains.md',
      heading: 'Travel > Trains',
      startLine: 5,
      endLine: 7,
      content: '## Trains\n\nTickets for trains are booked by the office.',
      similarity: expect.any(Number),
    });
  });

  it('finds by words what a question only shares a name with, and by meaning what shares parts of words', async () => {
    expect(paths(await search(scene.user, scene.agentId, 'parseInvoice', { first: 1 }))).toEqual(['code/parser.ts']);
    const byMeaning = await search(scene.user, scene.agentId, 'parsing invoices', { first: 1 });
    expect(paths(byMeaning)).toEqual(['code/parser.ts']);
  });

  it.each<[what: string, filter: Record<string, unknown>, expected: string[]]>([
    ['a source', { source: 'blog' }, ['travel/story.txt']],
    ['a folder', { path: 'code' }, ['code/parser.ts']],
    ['a folder by another way to write it', { path: './code/' }, ['code/parser.ts']],
    ['a file', { path: 'travel/planes.md' }, ['travel/planes.md']],
    ['a kind', { kinds: ['CODE', 'TEXT'] }, ['code/parser.ts', 'travel/story.txt']],
    ['a time to come', { since: '2999-01-01T00:00:00Z' }, []],
    ['a time long ago', { until: '2000-01-01T00:00:00Z' }, []],
    ['the start of a name that is no folder', { path: 'cod' }, []],
  ])('keeps to %s', async (_what, filter, expected) => {
    const found = await search(scene.user, scene.agentId, 'trains planes invoice', { filter });
    expect([...new Set(paths(found))].sort()).toEqual(expected);
    expect(found.degraded).toBe(false);
  });

  it('gives as many matches as were asked for', async () => {
    expect((await search(scene.user, scene.agentId, 'trains', { first: 2 })).matches).toHaveLength(2);
  });

  it('finds nothing in a memory that was never filled, and asks no model for that', async () => {
    const agentId = await addAgent(scene.user, 'Blank');
    const asked = scene.service.model.requests().embeddings;
    expect(await search(scene.user, agentId, 'trains')).toEqual({ matches: [], degraded: false, degradedReason: null });
    expect(scene.service.model.requests().embeddings).toBe(asked);
  });

  it.each<[what: string, query: string, more: Record<string, unknown>, field: string]>([
    ['no words', '  ', {}, 'query'],
    ['too many', 'x'.repeat(4_001), {}, 'query'],
    ['U+0000', 'a\u0000', {}, 'query'],
    ['no matches', 'trains', { first: 0 }, 'first'],
    ['too many matches', 'trains', { first: 51 }, 'first'],
    ['an empty path', 'trains', { filter: { path: '/' } }, 'filter.path'],
    [
      'times in the wrong order',
      'trains',
      { filter: { since: '2026-01-02T00:00:00Z', until: '2026-01-01T00:00:00Z' } },
      'filter.until',
    ],
  ])('refuses %s', async (_what, query, more, field) => {
    await expect(search(scene.user, scene.agentId, query, more)).rejects.toThrow(
      new RegExp(`BAD_USER_INPUT.*${field}|${field}.*BAD_USER_INPUT`),
    );
  });

  it.each([
    ['operators of a text search', `trains & | ! <-> ( ) ' " \\ :* :A`],
    ['an SQL injection', `'); DROP TABLE memory_chunks; --`],
    ['no words that count', 'the of and'],
    ['a word of another memory', 'memory:00000000-0000-7000-8000-000000000000'],
    ['other scripts', '列車 поезд قطار'],
  ])('takes %s for a question like any other', async (_what, query) => {
    expect((await search(scene.user, scene.agentId, query)).degraded).toBe(false);
  });

  it('asks the model as interactive work, and what is ingested is background work', async () => {
    const waits = async (priority: string) =>
      (await scrape(scene.service.api.monitorUrl)).get(
        `retinue_model_wait_duration_seconds_count{priority="${priority}"}`,
      ) ?? 0;
    const [interactive, background] = [await waits('interactive'), await waits('background')];
    await search(scene.user, scene.agentId, 'what is asked for the first time?');
    expect([await waits('interactive'), await waits('background')]).toEqual([interactive + 1, background]);
    await ingest(scene.user, scene.agentId, 'notes', [{ path: 'a.txt', content: 'A text that is new.' }]);
    expect([await waits('interactive'), await waits('background')]).toEqual([interactive + 1, background + 1]);
  });

  it("counts what a question used as its user's, once for the same question", async () => {
    const used = async () => {
      const { data } = await scene.user.ask('{ viewer { usage { days(days: 1) { kind calls promptTokens } } } }');
      return data.viewer.usage.days.find(({ kind }: { kind: string }) => kind === 'EMBEDDING');
    };
    const before = await used();
    await search(scene.user, scene.agentId, 'who may approve of a flight?');
    const after = await used();
    expect(after.calls).toBe(before.calls + 1);
    expect(after.promptTokens).toBeGreaterThan(before.promptTokens);
    await search(scene.user, scene.agentId, 'who may approve of a flight?');
    expect(await used()).toEqual(after);
  });

  it('goes by words, and says why, when the tokens of the day are used up', async () => {
    const { data } = await scene.user.ask('{ viewer { id } }');
    const userId = rowId(data.viewer.id);
    await scene.service.database.owner('INSERT INTO quotas (user_id, tokens_per_day) VALUES ($1, 1)', [userId]);
    const asked = scene.service.model.requests().embeddings;
    const found = await search(scene.user, scene.agentId, 'booked trains');
    await scene.service.database.owner('DELETE FROM quotas WHERE user_id = $1', [userId]);
    expect(found).toMatchObject({ degraded: true, degradedReason: 'QUOTA_EXCEEDED' });
    expect(paths(found)).toContain('travel/trains.md');
    expect(scene.service.model.requests().embeddings).toBe(asked);
  });

  it('goes by words, and says why, when the model gives no vector', async () => {
    scene.service.model.setBehaviour({ failNext: { status: 500, count: 1 } });
    const found = await search(scene.user, scene.agentId, 'tickets trains');
    expect(found).toMatchObject({ degraded: true, degradedReason: 'MODEL_UNAVAILABLE' });
    expect(found.matches[0]).toMatchObject({ path: 'travel/trains.md', similarity: null });
    scene.service.model.reset();
  });
});
