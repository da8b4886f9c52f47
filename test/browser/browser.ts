import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { inject } from 'vitest';

/** Why there is no browser to test in; null when there is one. Outside CI such tests may be skipped. */
export function missingBrowser(): string | null {
  const found = inject('chromium');
  return 'missing' in found ? found.missing : null;
}

/** Starts Chromium without a window. @throws Error when there is none */
export async function launchBrowser(): Promise<Browser> {
  const found = inject('chromium');
  if (!('path' in found)) {
    throw new Error(found.missing);
  }
  return chromium.launch({
    executablePath: found.path,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

export interface WatchedPage {
  context: BrowserContext;
  page: Page;
  /** What the page asked for. */
  requests: URL[];
  /** What went wrong in it: answers from 400 on, and errors that its code did not catch. */
  faults: string[];
}

/** A page with an empty storage of its own. */
export async function openPage(browser: Browser): Promise<WatchedPage> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 720 } });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const requests: URL[] = [];
  const faults: string[] = [];
  page.on('request', (request) => requests.push(new URL(request.url())));
  page.on('response', (response) => {
    if (response.status() >= 400) {
      faults.push(`${response.status()} ${response.url()}`);
    }
  });
  page.on('pageerror', (error) => faults.push(String(error)));
  return { context, page, requests, faults };
}
