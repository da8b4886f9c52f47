import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Browser, Page } from 'playwright-core';
import { type PreviewServer, preview } from 'vite';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createLog } from '../../src/adapters/log.ts';
import { type RunningApi, startAll } from '../../src/app.ts';
import { type Gate, openGate } from '../examples/gate.ts';
import { send as remember } from '../memory/arrange.ts';
import { startTestService, type TestService, type TestUser } from '../service.ts';
import { launchBrowser, missingBrowser, openPage } from './browser.ts';

// Set to make the pictures of the documentation anew.
const updatesScreenshot = process.env['UPDATE_SCREENSHOT'] === 'true';

const run = promisify(execFile);

const words = Array.from({ length: 40 }, (_, place) => `word${place}`);
const reply = words.join(' ');

/** The folder of an example, built as its README says, on an address of its own. */
async function serveBuilt(name: string, outDir: string): Promise<PreviewServer> {
  const root = join('examples', name);
  // In a process of its own: in this one NODE_ENV is that of tests, and React would be its development build.
  await run(process.execPath, ['node_modules/vite/bin/vite.js', 'build', root, '--outDir', outDir, '--emptyOutDir'], {
    env: { PATH: process.env['PATH'] },
    timeout: 60_000,
  });
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
    const garden = '# Watering\n\nThe orchids in the hall get water on Fridays.';
    const teach = async (name: string, path = 'garden.md', content = garden): Promise<void> => {
      const { data } = await alice.ask('{ agents { edges { node { id name } } } }');
      const edges = data.agents.edges as { node: { id: string; name: string } }[];
      const agent = edges.find(({ node }) => node.name === name)?.node;
      const { errors } = await remember(alice, agent?.id ?? '', 'handbook', [{ path, content }]);
      expect(errors).toEqual([]);
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
      ['Approve', 'APPROVED', 'It is 42.'],
      ['Decline', 'REJECTED', 'I may not calculate.'],
    ])('asks for a decision about a call and sends it: %s', async (button, state, text) => {
      const { data } = await alice.ask(`mutation {
        createTool(input: { builtIn: "calculate", name: "sums", approvalPolicy: ALWAYS }) { tool { id } }
        createAgent(input: { name: "Clerk", instructions: "You are Clerk." }) { agent { id } } }`);
      const given = { agentId: data.createAgent.agent.id, toolId: data.createTool.tool.id };
      await alice.ask(
        'mutation ($agentId: ID!, $toolId: ID!) { attachTool(agentId: $agentId, toolId: $toolId) { tool { id } } }',
        given,
      );
      service.model.setScript([
        { match: 'How much', reply: [{ name: 'sums', arguments: { expression: '6 * 7' } }] },
        { match: 'How much', reply: text },
      ]);
      await signIn(alice.token);
      await live();
      await send('How much is 6 times 7?', 'Clerk');
      const questions = page.getByRole('region', { name: 'Your decision' });
      await questions.getByText('"6 * 7"').waitFor();
      await page.getByRole('region', { name: 'Work' }).getByText('waits for you').waitFor();
      await questions.getByRole('button', { name: button }).click();
      await questions.getByText('"6 * 7"').waitFor({ state: 'detached' });
      await see(text);
      const asked = await alice.ask('{ approvals { edges { node { state } } } }');
      expect(asked.data.approvals.edges).toEqual([{ node: { state } }]);
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

    it('shows below an answer where in the memory it comes from, also when it is loaded again', async () => {
      await teach('Researcher');
      service.model.setScript([{ match: 'orchids', reply: 'On Fridays [1].' }]);
      await signIn(alice.token);
      await live();
      await send('When do the orchids get water?');
      await see('On Fridays [1].');
      const cited = page.getByRole('article').last().getByRole('list', { name: 'From memory' });
      await cited.getByText('[1] garden.md, lines 1–3 (handbook)').waitFor();
      expect(await page.getByRole('list', { name: 'From memory' }).count()).toBe(1);
      await page.reload();
      await signIn(alice.token);
      await page.getByRole('button', { name: 'When do the orchids get water?' }).click();
      await cited.getByText('[1] garden.md, lines 1–3 (handbook)').waitFor();
      expect(faults).toEqual([]);
    });

    it('shows below what a task of a plan came to where that comes from', async () => {
      await teach('Researcher');
      await signIn(alice.token);
      await live();
      await send('Research when the orchids get water, then write a short list.', 'Whole team');
      const plan = page.getByRole('region', { name: 'Plan' });
      await plan.getByRole('heading', { name: 'Plan done' }).waitFor();
      await plan.getByText('Result', { exact: true }).first().click();
      await plan.getByText('[1] garden.md, lines 1–3 (handbook)').waitFor();
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
        const cited = 'Where do we keep the watering can?';
        await teach('Writer', 'house/garden.md', '# Tools\n\nThe watering can stands behind the green door.');
        service.model.setScript([
          {
            match: '',
            matchSystem: 'You are Researcher',
            reply: 'Cast-iron plant, snake plant and devil’s ivy live with little light.',
          },
          { match: cited, reply: 'Behind the green door [1].' },
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
        await send(cited, 'Writer');
        await page.getByRole('list', { name: 'From memory' }).waitFor();
        await send(question);
        await see('stores');
        await mkdir('docs/images', { recursive: true });
        await page.screenshot({ path: `docs/images/example-${name}.png` });
      });
    }
  },
);
