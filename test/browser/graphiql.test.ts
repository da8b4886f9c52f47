import { mkdir } from 'node:fs/promises';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createDevelopmentKey, signDevelopmentToken } from '../../dev/identity.ts';
import { createTestUser, startTestService, type TestService, type TestUser } from '../service.ts';
import { launchBrowser, missingBrowser, openPage } from './browser.ts';

// Set to make the picture of the documentation anew.
const updatesScreenshot = process.env['UPDATE_SCREENSHOT'] === 'true';

// Outside CI a machine without Chromium may go without these tests; the set-up has said why in a line.
describe.skipIf(missingBrowser() !== null && process.env['CI'] !== 'true')('GraphiQL in a browser', () => {
  let service: TestService;
  let alice: TestUser;
  let browser: Browser;
  let page: Page;
  let requests: URL[];
  let faults: string[];

  beforeAll(async () => {
    const key = await createDevelopmentKey();
    service = await startTestService({
      environment: {
        TOKEN_PUBLIC_KEY: JSON.stringify(key.publicKey),
        GRAPHIQL: 'true',
        GRAPHIQL_TOKEN: await signDevelopmentToken(key, 'alice'),
        // So that the last event stays in sight.
        HEARTBEAT_INTERVAL: '60000',
      },
    });
    alice = createTestUser(service.api.url, 'alice', service.config.GRAPHIQL_TOKEN ?? '');
    browser = await launchBrowser();
  });
  afterAll(async () => {
    await browser?.close();
    await service?.stop();
  });

  beforeEach(async () => {
    const opened = await openPage(browser);
    ({ page, requests, faults } = opened);
    await page.goto(service.api.url);
    return () => opened.context.close();
  });

  const run = (): Promise<void> => page.click('.graphiql-execute-button');
  const openTab = (name: string): Promise<void> => page.click(`[role=tab] button[title="${name}"]`);
  const answer = (text: string): Promise<void> =>
    page.locator('.graphiql-response').filter({ hasText: text }).first().waitFor();

  it('loads whole from the service itself', async () => {
    await page.waitForSelector('.graphiql-execute-button');
    await page.waitForLoadState('networkidle');
    const own = new URL(service.api.url).origin;
    expect(new Set(requests.map((url) => url.origin))).toEqual(new Set([own]));
    expect(faults).toEqual([]);
  });

  it('is signed in: the first tab shows the team, also after the page was loaded again', async () => {
    await run();
    await answer('Researcher');
    await page.reload();
    await run();
    await answer('Researcher');
    expect(await page.locator('[role=tab]').allInnerTexts()).toHaveLength(7);
    // A token in the browser's storage would outlive its day and shut out the next one.
    expect(await page.evaluate('JSON.stringify(localStorage)')).not.toContain('Bearer');
    expect(faults).toEqual([]);
  });

  it('follows events live: a heartbeat, then what happens', async () => {
    await openTab('Events');
    await run();
    await answer('Heartbeat');
    const team = await alice.ask(`{ agents(first: 1) { edges { node { id } } } }`);
    const { data } = await alice.ask(`mutation { createSession { session { id } } }`);
    await alice.ask(`mutation ($input: SendMessageInput!) { sendMessage(input: $input) { task { id } } }`, {
      input: {
        sessionId: data.createSession.session.id,
        targetAgentId: team.data.agents.edges[0].node.id,
        content: 'Hello',
      },
    });
    await answer('TaskCompleted');
    expect(faults).toEqual([]);
  });

  if (updatesScreenshot) {
    it('has its picture taken', async () => {
      await run();
      await answer('Researcher');
      // The pane below shows the token.
      await page.click('[aria-label="Hide editor tools"]');
      await page.mouse.move(0, 0);
      await mkdir('docs/images', { recursive: true });
      await page.screenshot({ path: 'docs/images/graphiql.png' });
    });
  }
});
