import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { generateClient } from '../../codegen.ts';
import { createAnswer } from '../../examples/graphql-sse/answer.ts';
import { createLog } from '../../src/adapters/log.ts';
import { type RunningApi, startAll } from '../../src/app.ts';
import { send } from '../memory/arrange.ts';
import { startTestService, type TestService, waitFor } from '../service.ts';
import { type Gate, openGate } from './gate.ts';

const words = Array.from({ length: 60 }, (_, place) => `word${place}`);
const reply = words.join(' ');
const middle = 'word20';

interface Run {
  output: string;
  notices: string;
  exit: Promise<number | null>;
  child: ChildProcess;
}

/** Starts the example as its README says. */
function startExample(environment: Record<string, string>, ...words: string[]): Run {
  const child = spawn(process.execPath, ['examples/graphql-sse/main.ts', ...words], {
    env: { PATH: process.env['PATH'], ...environment },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const exit = once(child, 'close').then(([code]: (number | null)[]) => code ?? null);
  const run: Run = { output: '', notices: '', exit, child };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    run.output += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    run.notices += text;
  });
  return run;
}

describe('the graphql-sse example', () => {
  let service: TestService;
  let running: RunningApi;
  let gate: Gate;
  let run: Run | undefined;

  const log = createLog({ level: 'silent' });
  const start = async (...words: string[]): Promise<Run> => {
    const { token } = await service.user('alice');
    run = startExample({ RETINUE_URL: `http://127.0.0.1:${gate.port}/graphql`, RETINUE_TOKEN: token }, ...words);
    return run;
  };

  beforeEach(async () => {
    // The test's own API and worker, to be stopped and started again; the short time to stop cuts the answer off.
    service = await startTestService({ worker: false, environment: { SHUTDOWN_TIMEOUT: '300' } });
    running = await startAll(service.config, log);
    gate = await openGate(() => Number(new URL(running.url).port));
  });
  afterEach(async () => {
    run?.child.kill('SIGKILL');
    await run?.exit;
    await gate.close();
    await running.stop();
    await service.stop();
  });

  it('prints the team and the answer', async () => {
    service.model.setScript([{ match: 'Say words', reply }]);
    const example = await start('Say words');
    expect(await example.exit).toBe(0);
    expect(example.notices).toBe('');
    expect(example.output).toMatch(new RegExp(`^Team: \\w+ \\(READY\\),.+\n\\w+: ${reply}\n$`));
  });

  it('prints below the answer where in the memory it comes from', async () => {
    const alice = await service.user('alice');
    const { data } = await alice.ask('{ agents(first: 1) { edges { node { id } } } }');
    const { errors } = await send(alice, data.agents.edges[0].node.id, 'handbook', [
      { path: 'garden.md', content: '# Watering\n\nThe orchids in the hall get water on Fridays.' },
    ]);
    expect(errors).toEqual([]);
    service.model.setScript([{ match: 'orchids', reply: 'On Fridays [1].' }]);
    const example = await start('When do the orchids get water?');
    expect(await example.exit).toBe(0);
    expect(example.output).toMatch(/: On Fridays \[1\]\.\n {2}\[1\] garden\.md, lines 1–3\n$/);
  });

  const request = 'Research shade plants, then write a short list of them.';
  const askBeforePlans = async (): Promise<void> => {
    const alice = await service.user('alice');
    await alice.ask('mutation { updateOrchestrator(input: { planApprovalPolicy: ALWAYS }) { orchestrator { id } } }');
  };

  it('asks for the plan of the team, shows how it grows, and prints the one answer', async () => {
    await askBeforePlans();
    const example = await start('--team', request);
    await waitFor('the question', () => example.output.includes('Approve? (y/n)'));
    example.child.stdin?.write('y\n');
    expect(await example.exit).toBe(0);
    expect(example.notices).toBe('');
    expect(example.output).toMatch(/Your team plans:\n {2}1\. Researcher: .+\n {2}2\. Writer: .+ \(after 1\)\n/);
    expect(example.output).toMatch(/Researcher: running\n {2}Researcher: completed\n {2}Writer: running\n/);
  });

  it.each([
    ['by saying no', (example: Run) => example.child.stdin?.write('n\n')],
    ['by saying nothing', (example: Run) => example.child.stdin?.end()],
  ])('declines the plan %s', async (_case, answer) => {
    await askBeforePlans();
    const example = await start('--team', request);
    await waitFor('the question', () => example.output.includes('Approve? (y/n)'));
    answer(example);
    await example.exit;
    const { data } = await (await service.user('alice')).ask('{ approvals { edges { node { state } } } }');
    expect(data.approvals.edges).toEqual([{ node: { state: 'REJECTED' } }]);
    expect(example.output).not.toContain('running');
  });

  it.each([
    ['the connection is cut', 1, () => gate.cut()],
    [
      'the service is restarted and begins the answer anew',
      2,
      async () => {
        await running.stop();
        running = await startAll(service.config, log);
      },
    ],
    [
      'the service has a fault',
      1,
      async (example: Run) => {
        await service.database.owner('REVOKE SELECT ON users FROM app_user');
        await waitFor('the fault', () => example.notices.includes('unexpected'));
        await service.database.owner('GRANT SELECT ON users TO app_user');
      },
    ],
  ])('prints the answer once and whole when in its middle %s', async (_case, attempts, disturb) => {
    service.model.setScript([{ match: 'Say words', reply, tokenDelayMs: 40, times: 2 }]);
    const example = await start('Say words');
    await waitFor('the middle', () => example.output.includes(middle));
    await disturb(example);
    expect(example.output).not.toContain(words.at(-1));
    expect(await example.exit).toBe(0);
    expect(example.notices).toContain('again in');
    expect(example.output.slice(example.output.indexOf(': word') + 2)).toBe(`${reply}\n`);
    const { data } = await (await service.user('alice')).ask('{ tasks { edges { node { attempt } } } }');
    expect(data.tasks.edges[0].node.attempt).toBeGreaterThanOrEqual(attempts);
  });

  it('does not try again with a token that the service refuses', async () => {
    run = startExample({ RETINUE_URL: running.url, RETINUE_TOKEN: 'nonsense' }, 'Hello');
    expect(await run.exit).toBe(1);
    expect(run.notices).toContain('401');
    expect(run.notices).not.toContain('again');
  });
});

describe('an answer', () => {
  it.each<[string, [number, string][], string]>([
    ['without its pieces', [], 'one two three\n'],
    [
      'with a piece that was missed',
      [
        [0, 'one'],
        [7, ' three'],
      ],
      'one two three\n',
    ],
    [
      'begun anew in the same words',
      [
        [0, 'one'],
        [3, ' two'],
        [0, 'one'],
        [3, ' two three'],
      ],
      'one two three\n',
    ],
    [
      'begun anew in other words',
      [
        [0, 'uno'],
        [0, 'one'],
      ],
      'uno\n(again from the start)\none two three\n',
    ],
  ])('%s is written whole', (_case, pieces, expected) => {
    let output = '';
    const answer = createAnswer((text) => {
      output += text;
    });
    for (const [offset, text] of pieces) {
      answer.add(offset, text);
    }
    answer.finish('one two three');
    expect(output).toBe(expected);
  });
});

describe('generated types', () => {
  const folder = 'examples/graphql-sse';

  it('are refused to a document with a field that the schema does not have', async () => {
    const schema = await readFile('schema.graphql', 'utf8');
    const generated = generateClient({ folder, documentMode: 'string' }, schema, 'query Me { viewer { shoeSize } }');
    await expect(generated).rejects.toThrow(/shoeSize.*examples\/graphql-sse\/operations\.graphql/s);
  });
});
