import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { drawPlan } from '../../src/services/plan-mermaid.ts';
import { codeBlocks, readPages } from '../docs/pages.ts';
import { launchBrowser, missingBrowser } from './browser.ts';

// Where Mermaid's script lies. It is too large to be a dependency: CONTRIBUTING.md says how to get it and run this.
const script = process.env['MERMAID'];

const diagrams = (await readPages()).flatMap((page) =>
  codeBlocks(page)
    .filter(({ lang }) => lang === 'mermaid')
    .map(({ value }, place) => [`${page.path}, ${place + 1}`, value] as const),
);

/** What a user may call an agent or write into an instruction, so as to break out of the picture or to spoil it. */
const texts = [
  'end',
  'subgraph one',
  'click task1 "javascript:alert(1)"',
  'click task1 call alert(1)',
  'say "yes" or \'no\'',
  ')]}>|]',
  '`code` **bold** _soft_',
  '<script>alert(1)</script><img src=x onerror=alert(1)>',
  '&amp; #quot; #35;',
  '%%{init: {"theme":"dark"}}%% %% comment',
  'style task1 fill:#f00;',
  'classDef completed fill:#f00;',
  'task1@{ shape: cat }',
  'fa:fa-car fas:fa-bell',
  '$$x^2$$ $$\\frac{$$',
  'C:\\new\\table',
  '1. item',
  '日本語 हिन्दी العربية ñ 👩‍👩‍👧',
  'https://example.com/?a=b&c=d',
];

describe.skipIf(script === undefined || missingBrowser() !== null)('Mermaid', () => {
  let browser: Browser;
  let page: Page;
  const faults: string[] = [];

  beforeAll(async () => {
    browser = await launchBrowser();
    page = await browser.newPage();
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('dialog', async (dialog) => {
      faults.push(dialog.message());
      await dialog.dismiss();
    });
    await page.setContent('<div id="shown"></div>');
    await page.addScriptTag({ path: script ?? '' });
  });
  afterAll(() => browser?.close());

  /** The texts of a diagram's nodes, a line each. @throws Error when it can't be rendered */
  const render = (diagram: string): Promise<string[]> =>
    page.evaluate(`(async () => {
      const { svg } = await mermaid.render('diagram', ${JSON.stringify(diagram)});
      const shown = document.getElementById('shown');
      shown.innerHTML = svg;
      return [...shown.querySelectorAll('.nodeLabel')].map((label) => label.innerText);
    })()`);

  it.each(diagrams)('renders %s', async (_place, diagram) => {
    await expect(render(diagram)).resolves.toBeInstanceOf(Array);
  });

  it.each(texts)('shows a plan with %j as it is written, and nothing of it happens', async (text) => {
    const task = { agentName: 'Writer', instruction: text, dependsOn: [], state: 'COMPLETED' } as const;
    const shown = await render(
      drawPlan([
        { ...task, key: 'a' },
        { ...task, key: 'b', agentName: text },
      ]),
    );
    const joiner = /\u2060/g;
    expect(shown.map((label) => label.replaceAll(joiner, '').split('\n'))).toEqual([
      ['Writer', text],
      [text, text],
    ]);
    expect(faults).toEqual([]);
  });
});
