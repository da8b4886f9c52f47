import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { build, type PreviewServer, preview } from 'vite';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { type RunningApi, startAll } from '../../src/app.ts';
import { type Gate, openGate } from '../examples/gate.ts';
import { startTestService, type TestService, type TestUser } from '../service.ts';
import { launchBrowser, missingBrowser, openPage } from './browser.ts';

// Set to make the pictures of the documentation anew.
const updatesScreenshot = process.env['UPDATE_SCREENSHOT'] === 'true';

const words = Array.from({ length: 40 }, (_, place) => `word${place}`);
const reply = words.join(' ');

/** An agent that wants to send a mail, arranged past the service: no tool of the tests would really send one. */
const askAQuestion = `
  WITH alice AS (SELECT id FROM users WHERE subject = $1),
  tool AS (
    INSERT INTO tools (user_id, name, description, kind, arguments_schema)
    SELECT id, 'send_mail', 'Sends a mail', 'HTTP', '{}' FROM alice RETURNING user_id, id, name
  ),
  task AS (
    INSERT INTO tasks (user_id, kind, lane_id, agent_id, session_id, state)
    SELECT lanes.user_id, 'AGENT_RUN', lanes.id, lanes.agent_id, sessions.id, 'WAITING'
    FROM alice JOIN lanes ON lanes.user_id = alice.id JOIN sessions ON sessions.user_id = alice.id
    WHERE lanes.agent_id IS NOT NULL LIMIT 1 RETURNING user_id, id, session_id
  )
  INSERT INTO approvals (user_id, kind, session_id, task_id, tool_id, tool_name, call_id, arguments, arguments_hash,
    arguments_schema, dangerous, expires_at)
  SELECT tool.user_id, 'TOOL', task.session_id, task.id, tool.id, tool.name, 'call', '{"to": "Ada@example.org"}', 'hash', '{}',
    true, now() + interval '1 hour'
  FROM tool, task`;

/** The folder of an example, built as `npx vite build` does, on an address of its own. */
async function serveBuilt(name: string, outDir: string): Promise<PreviewServer> {
  const root = join('examples', name);
  await build({ root, logLevel: 'error', build: { outDir, emptyOutDir: true } });
  return preview({ root, logLevel: 'error', build: { outDir }, preview: { port: 0, host: '127.0.0.1' } });
}

describe.skipIf(missingBrowser() !== null && process.env['CI'] !== 'true').each(['urql', 'apollo'])(
  'the %s example in a browser',
  (name) => {
    let outDir: string;
    let site: PreviewServer;
    let service: TestService;
    let running: RunningApi;
    let gate: Gate;
    let browser: Browser;
    let alice: TestUser;
    let page: Page;
    let faults: string[];

    beforeAll(async () => {
      outDir = await mkdtemp(join(tmpdir(), 'retinue-example-'));
      site = await serveBuilt(name, outDir);
      browser = await launchBrowser();
      // The test's own API and worker, to be stopped and started again.
      service = await startTestService({ worker: false, environment: { SHUTDOWN_TIMEOUT: '300' } });
      running = await startAll(service.config, createLog({ level: 'silent' }));
      gate = await openGate(() => Number(new URL(running.url).port));
    });
    afterAll(async () => {
      await browser?.close();
      await site?.close();
      await gate?.close();
      await running?.stop();
      await service?.stop();
      await rm(outDir, { recursive: true, force: true });
    });

    beforeEach(async ({ task }) => {
      alice = await service.user(`alice of ${task.id}`);
      const opened = await openPage(browser);
      ({ page, faults } = opened);
      await page.goto(site.resolvedUrls?.local[0] ?? '');
      return () => opened.context.close();
    });
    afterEach(() => service.model.reset());

    const signIn = async (token: string): Promise<void> => {
      await page.getByLabel('Address of the service').fill(`http://127.0.0.1:${gate.port}/graphql`);
      await page.getByLabel('Token').fill(token);
      await page.getByRole('button', { name: 'Sign in' }).click();
    };
    const send = async (content: string, to = 'Researcher'): Promise<void> => {
      await page.getByRole('combobox').selectOption(to);
      await page.getByLabel('Message', { exact: true }).fill(content);
      await page.getByRole('button', { name: 'Send' }).click();
    };
    const live = (): Promise<void> => page.getByText('Live', { exact: true }).waitFor();
    const answer = () => page.getByRole('article').last().getByRole('paragraph');
    const see = (text: string): Promise<void> => answer().filter({ hasText: text }).waitFor();

    it('shows the team, streams an answer and lists the conversation', async () => {
      service.model.setScript([{ match: 'Say words', reply, tokenDelayMs: 30 }]);
      await signIn(alice.token);
      await live();
      const team = page.getByRole('region', { name: 'Team' });
      await team.getByText('Researcher').waitFor();
      await send('Say words');
      await see('word5');
      expect(await answer().innerText()).not.toContain(words.at(-1));
      await team.getByText('busy').waitFor();
      await page.getByRole('region', { name: 'Work' }).getByText('done').waitFor();
      expect(await answer().innerText()).toBe(reply);
      await page.getByRole('button', { name: 'Say words' }).waitFor();
      expect(faults).toEqual([]);
    });

    it('shows a conversation again that was held elsewhere, and what is added to it there', async () => {
      const { data } = await alice.ask(`mutation { createSession(input: { title: "Elsewhere" }) { session { id } } }`);
      const sessionId = data.createSession.session.id;
      const team = await alice.ask('{ agents(first: 1) { edges { node { id } } } }');
      const write = (content: string) =>
        alice.ask(`mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }`, {
          input: { sessionId, targetAgentId: team.data.agents.edges[0].node.id, content },
        });
      service.model.setScript([
        { match: 'One', reply: 'first answer' },
        { match: 'Two', reply: 'second answer' },
      ]);
      await write('One');
      await signIn(alice.token);
      await page.getByRole('button', { name: 'Elsewhere' }).click();
      await see('first answer');
      await write('Two');
      await see('second answer');
      expect(await page.getByRole('article').count()).toBe(4);
      expect(faults).toEqual([]);
    });

    it.each([
      ['the connection is cut', async () => gate.cut()],
      [
        'the service is restarted',
        async () => {
          await running.stop();
          running = await startAll(service.config, createLog({ level: 'silent' }));
        },
      ],
    ])('shows the answer once and whole when in its middle %s', async (_case, disturb) => {
      service.model.setScript([{ match: 'Say words', reply, tokenDelayMs: 60, times: 2 }]);
      await signIn(alice.token);
      await live();
      await send('Say words');
      await see('word5');
      await disturb();
      await page.getByText('Connection lost, coming back').waitFor();
      await live();
      await page.getByRole('region', { name: 'Work' }).getByText('done').waitFor();
      await see('word39');
      expect(await answer().innerText()).toBe(reply);
      expect(await page.getByRole('article').count()).toBe(2);
    });

    it.each([
      ['Approve', 'APPROVED'],
      ['Decline', 'REJECTED'],
    ])('asks for a decision and sends it: %s', async (button, state) => {
      await alice.ask('mutation { createSession { session { id } } }');
      await service.database.owner(askAQuestion, [alice.name]);
      await signIn(alice.token);
      const questions = page.getByRole('region', { name: 'Your decision' });
      await questions.getByText('Ada@example.org').waitFor();
      await questions.getByRole('button', { name: button }).click();
      await questions.getByText('Ada@example.org').waitFor({ state: 'detached' });
      const { data } = await alice.ask('{ approvals { edges { node { state } } } }');
      expect(data.approvals.edges).toEqual([{ node: { state } }]);
      expect(faults).toEqual([]);
    });

    it('shows the plan of the team, asks for it where that is wanted, and shows its one answer', async () => {
      await alice.ask(
        'mutation { updateOrchestrator(input: { planApprovalPolicy: ALWAYS }) { orchestrator { planApprovalPolicy } } }',
      );
      await signIn(alice.token);
      await live();
      await send('Research shade plants, then write a short list of them.', 'Whole team');
      const questions = page.getByRole('region', { name: 'Your decision' });
      await questions.getByText('Your team has a plan.').waitFor();
      const plan = page.getByRole('region', { name: 'Plan' });
      await plan.getByText('waits for you', { exact: true }).waitFor();
      await questions.getByRole('button', { name: 'Approve' }).click();
      await plan.getByRole('heading', { name: 'Plan done' }).waitFor();
      expect(await plan.getByRole('listitem').filter({ hasText: 'done' }).count()).toBe(2);
      expect(await page.getByRole('article').count()).toBe(2);
      expect(await page.getByRole('article').last().getByRole('heading').innerText()).toBe('Your team');
      expect(faults).toEqual([]);
    });

    it('can stop a task', async () => {
      service.model.setScript([{ match: 'Say words', reply, tokenDelayMs: 500 }]);
      await signIn(alice.token);
      await live();
      await send('Say words');
      await page.getByRole('button', { name: 'Cancel' }).click();
      await page.getByRole('region', { name: 'Work' }).getByText('cancelled').waitFor();
      expect(faults).toEqual([]);
    });

    it('says so, and does not try again, when the token is refused', async () => {
      await signIn('nonsense');
      await page.getByText(/^Refused/).waitFor();
      expect(faults).toEqual([expect.stringMatching(/^401 /)]);
    });

    if (updatesScreenshot) {
      it('has its picture taken', async () => {
        const question = 'Which of them needs the least water?';
        service.model.setScript([
          {
            match: '',
            matchSystem: 'You are Researcher',
            reply: 'Cast-iron plant, snake plant and devil’s ivy live with little light.',
          },
          { match: '', matchSystem: 'You are Writer', reply: '1. Cast-iron plant 2. Snake plant 3. Devil’s ivy' },
          {
            match: '',
            matchSystem: 'for a team of agents',
            reply:
              'Three plants for a dark corridor [Researcher], from the most patient on [Writer]:\n' +
              '1. Cast-iron plant\n2. Snake plant\n3. Devil’s ivy',
          },
          {
            match: question,
            reply: 'The snake plant: it stores water in its leaves and can wait for weeks.',
            tokenDelayMs: 150,
          },
        ]);
        await signIn(alice.token);
        await live();
        await send('Research plants for a dark corridor, then write a short list.', 'Whole team');
        await page.getByRole('heading', { name: 'Plan done' }).waitFor();
        await send(question);
        await see('stores');
        await mkdir('docs/images', { recursive: true });
        await page.screenshot({ path: `docs/images/example-${name}.png` });
      });
    }
  },
);
